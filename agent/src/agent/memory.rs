//! What the agent keeps on disk, so that a restarted daemon goes on as before although no manager answers. What secrets and
//! configs hold is not of it: a task that is to be started needs a manager for that.

use heddle_model::assignment::NodeView;
use heddle_proto::v1;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

const MEMORY: &str = "memory.json";
const VIEW: &str = "assignments.bin";

/// Small things that seldom change.
#[derive(Default, Serialize, Deserialize)]
pub struct Memory {
    #[serde(skip)]
    dir: PathBuf,
    pub managers: Vec<SocketAddr>,
    pub gateway: Option<ipnet::Ipv4Net>,
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    fs::write(&draft, bytes)?;
    fs::rename(&draft, path)
}

impl Memory {
    /// Nothing is known in a directory that is new.
    pub fn open(dir: &Path) -> Self {
        let stored = fs::read(dir.join(MEMORY)).ok().and_then(|b| serde_json::from_slice(&b).ok());
        Memory { dir: dir.to_owned(), ..stored.unwrap_or_default() }
    }

    pub fn save(&self) {
        let written = serde_json::to_vec(self).map_err(io::Error::other);
        if let Err(error) = written.and_then(|b| write_whole(&self.dir.join(MEMORY), &b)) {
            tracing::warn!(%error, "cannot keep the agent's memory");
        }
    }

    /// The assignments as last heard, complete but for secrets and configs.
    pub fn save_view(&self, revision: u64, view: &NodeView) {
        let bytes = prost::Message::encode_to_vec(&v1::Assignments::without_secrets(revision, view.clone()));
        if let Err(error) = write_whole(&self.dir.join(VIEW), &bytes) {
            tracing::warn!(%error, "cannot keep the assignments");
        }
    }

    pub fn view(&self) -> Option<v1::Assignments> {
        let stored = fs::read(self.dir.join(VIEW)).ok()?;
        <v1::Assignments as prost::Message>::decode(stored.as_slice()).ok()
    }

    /// Everything of the agent's.
    pub fn forget(&self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}
