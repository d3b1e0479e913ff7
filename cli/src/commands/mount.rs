//! The flags of what a program sees at paths of its own.

use clap::Args;
use heddle_model::container::Mount;

#[derive(Debug, Args)]
pub struct MountFlags {
    /// What the program sees at a path: type=volume,source=NAME,target=PATH[,readonly], without a source a volume that goes with
    /// the task; type=bind,source=PATH,target=PATH[,readonly]; or type=tmpfs,target=PATH[,tmpfs-size=64m][,tmpfs-mode=1777]
    #[arg(long)]
    mount: Vec<Mount>,
    /// The same in short: NAME:TARGET[:ro] for a volume, PATH:TARGET[:ro] for a bind mount, TARGET for a volume without a name
    #[arg(short, long, value_name = "[NAME|PATH:]TARGET[:ro]", value_parser = Mount::short)]
    volume: Vec<Mount>,
}

impl MountFlags {
    pub fn made(&self) -> Vec<Mount> {
        self.mount.iter().chain(&self.volume).cloned().collect()
    }
}
