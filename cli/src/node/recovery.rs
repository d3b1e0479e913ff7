//! A cluster that begins anew on this host: from what its manager has, or from a backup.

use super::{
    first,
    member::{Daemon, not_in_cluster},
    serving,
};
use anyhow::{Context, Result, bail};
use heddle_manager::{
    backup, ca,
    manager::Manager,
    vault::{UnlockKey, Vault},
};
use heddle_model::{NodeId, cluster::Role};
use heddle_plumbing::tls::{self, Credentials};
use heddle_proto::v1;

impl Daemon {
    /// Goes on as the only manager. If that fails, the manager is as it was.
    pub async fn force_new_cluster(&self) -> Result<v1::ForceNewClusterResponse> {
        let mut slot = self.member.lock().await;
        slot.refuse_locked()?;
        let Some(member) = slot.as_mut() else {
            bail!(
                "this host is in no cluster and has nothing to go on with: use `heddle init`, or `heddle cluster restore`"
            );
        };
        let Some(manager) = &member.manager else {
            if member.credentials.identity().role == Role::Manager {
                bail!(member.does_not_run());
            }
            bail!("this node is a worker and does not have the cluster's state: run the command on a manager");
        };
        if manager.has_majority().await {
            bail!("a majority of the managers answers: use `heddle node demote` for those that are gone");
        }
        member.port = None;
        manager.shutdown().await;
        let (dir, own) = (self.paths.raft(), member.state.advertise);
        let vault = manager.vault().clone();
        let begun = Manager::begin_anew(&dir, &vault, &member.credentials, own).await;
        let (manager, anew) = match begun {
            Ok((manager, anew)) => (manager, Ok(anew)),
            Err(e) => (Manager::start(&dir, &vault, &member.credentials, false).await?, Err(e)),
        };
        member.port = Some(serving::serve(&member.state, &member.credentials, &manager).await?);
        member.manager = Some(manager.clone());
        member.renewal.abort();
        let (state, credentials) = (&member.state, &member.credentials);
        member.renewal = self.renew(state, credentials, Some(manager));
        self.roles.notify_one();
        let anew = anew?;
        member.state.managers = vec![own];
        self.paths.save(&member.state)?;
        tracing::warn!(former = ?anew.former, unsure = anew.unsure, "the cluster goes on with this manager alone");
        Ok(v1::ForceNewClusterResponse {
            node: member.credentials.identity().node.to_string(),
            former_managers: anew.former,
            unsure: anew.unsure,
        })
    }

    /// Makes the cluster of a backup again, with this host as its only manager.
    pub async fn restore(&self, request: v1::RestoreRequest, file: &[u8]) -> Result<v1::RestoreResponse> {
        let mut member = self.member.lock().await;
        not_in_cluster(&member)?;
        let backup = backup::read(file)?;
        let state = self.place(&request.advertise_addr, &request.listen_addr, &request.data_path_addr)?;
        let cluster = backup.cluster.clone();
        let node = NodeId::from_random(rand::random());
        let (key, csr) = tls::new_key_and_csr()?;
        let cert = ca::certificate(&cluster, &node, Role::Manager, &csr)?;
        let credentials = Credentials::new(key, cert, cluster.trusted_pem())?;
        let object = first::manager_node(&node, &state);
        let unlock_key = cluster.unlock_key.as_ref().map(|key| key.0.parse::<UnlockKey>()).transpose()?;
        let made = async {
            let vault = Vault::make(&self.paths.certificates(), unlock_key)?;
            vault.save(&credentials)?;
            let manager = Manager::restore(&self.paths.raft(), &vault, &credentials, &backup, object).await?;
            let started = self.start(state.clone(), credentials, Some(manager), Some(vault), true).await?;
            self.paths.save(&state)?;
            anyhow::Ok(started)
        };
        self.take(&mut member, made.await).await.context("the backup is not restored")?;
        tracing::info!(%node, cluster = %cluster.id, "cluster restored");
        Ok(v1::RestoreResponse {
            node: node.to_string(),
            cluster: cluster.id.to_string(),
            worker_token: ca::token_text(&cluster, Role::Worker),
            manager_addr: state.advertise.to_string(),
            made_at_ms: backup.made_at.0,
        })
    }
}
