//! A manager that begins a cluster anew: alone, with what it knows itself or what a backup has.

use crate::{
    backup::Backup,
    manager::{Manager, ManagerError},
    raft::{contact::LOST, damage, recover},
    store::now,
    vault::Vault,
};
use heddle_model::node::Node;
use heddle_plumbing::tls::Credentials;
use std::{io, net::SocketAddr, path::Path};

/// What became of a cluster whose majority was lost.
#[derive(Debug)]
pub struct Anew {
    /// Host names of the managers that are none any more.
    pub former: Vec<String>,
    /// Writes that are kept, though a majority may never have had them.
    pub unsure: u64,
}

impl Manager {
    /// Goes on as the only manager, with all that is stored in `dir`. No manager may be running there.
    pub async fn begin_anew(
        dir: &Path,
        vault: &Vault,
        credentials: &Credentials,
        addr: SocketAddr,
    ) -> Result<(Self, Anew), ManagerError> {
        let failed = |source: io::Error| ManagerError::State { dir: dir.display().to_string(), source };
        let (log, _) = damage::open(dir, vault.key(), false).await?;
        let stored = log.stored().map_err(failed)?;
        let (state, unsure) = recover::newest(&stored)?;
        let own = credentials.identity().node;
        let (mut mutations, former) = recover::without_others(&state, &own, now());
        mutations.extend(recover::itself(&state, &own, addr));
        let fresh = recover::alone(&state, mutations, now(), &own, recover::next_term(&stored))?;
        log.replace(fresh).await.map_err(failed)?;
        let manager = Self::run(dir, log, vault, credentials, false).await?;
        manager.leads().await?;
        Ok((manager, Anew { former, unsure }))
    }

    /// Whether this manager leads a majority, or hears of somebody who does.
    pub async fn has_majority(&self) -> bool {
        self.forward().leader().await.is_ok() && self.store.contact().ago(self.store.raft()) <= LOST
    }

    /// Makes the cluster of a backup again in `dir`, where nothing may be yet, with this node as its only manager.
    pub async fn restore(
        dir: &Path,
        vault: &Vault,
        credentials: &Credentials,
        backup: &Backup,
        node: Node,
    ) -> Result<Self, ManagerError> {
        let failed = |source: io::Error| ManagerError::State { dir: dir.display().to_string(), source };
        let log = damage::open_empty(dir, vault.key()).await.map_err(failed)?;
        let own = node.id.clone();
        let mutations = recover::in_place_of_others(&backup.state, node, now());
        let fresh = recover::alone(&backup.state, mutations, now(), &own, recover::FIRST_TERM)?;
        log.replace(fresh).await.map_err(failed)?;
        let manager = Self::run(dir, log, vault, credentials, false).await?;
        manager.leads().await?;
        Ok(manager)
    }
}
