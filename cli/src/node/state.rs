//! What a daemon keeps on disk of its place in a cluster.

use anyhow::{Context, Result};
use heddle_manager::vault::Vault;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    pub advertise: SocketAddr,
    pub listen: Vec<SocketAddr>,
    pub data_path: IpAddr,
    /// Managers that were known when it joined.
    pub managers: Vec<SocketAddr>,
}

/// Paths below the state directory.
pub struct Paths {
    pub root: PathBuf,
}

impl Paths {
    fn node(&self) -> PathBuf {
        self.root.join("node.json")
    }

    pub fn certificates(&self) -> PathBuf {
        self.root.join("certificates")
    }

    pub fn raft(&self) -> PathBuf {
        self.root.join("raft")
    }

    /// The agent's own: what it keeps of a cluster it forgets by itself, the rest stays.
    pub fn agent(&self) -> PathBuf {
        self.root.join("agent")
    }

    /// None: this host is in no cluster.
    pub fn load(&self) -> Result<Option<NodeState>> {
        match fs::read(self.node()) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).context("node.json cannot be read")?)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).context("node.json cannot be read"),
        }
    }

    /// The last thing written when a node enters a cluster, so that a half-made one counts as none.
    pub fn save(&self, state: &NodeState) -> Result<()> {
        let draft = self.root.join("node.json.new");
        fs::write(&draft, serde_json::to_vec_pretty(state)?)?;
        fs::File::open(&draft)?.sync_all()?;
        fs::rename(draft, self.node())?;
        Ok(())
    }

    /// Of a manager that is none any more.
    pub fn forget_raft(&self) -> Result<()> {
        remove(&self.raft()).with_context(|| format!("cannot remove {}", self.raft().display()))?;
        Vault::forget(&self.certificates()).context("cannot remove the key of the manager's state")
    }

    /// Forgets the cluster, first of all that there was one.
    pub fn clear(&self) -> Result<()> {
        for path in [self.node(), self.certificates(), self.raft()] {
            remove(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
