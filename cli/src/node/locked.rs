//! A manager that waits for its unlock key. Its node's private key is encrypted like everything else of the manager's, so nobody
//! can be asked meanwhile: the host goes on with what it was last told. Its programs run, its data plane is kept and mended.

use super::{
    member::{Daemon, Slot},
    state::NodeState,
};
use anyhow::{Result, bail};
use heddle_manager::vault::{Locked, UnlockKey};
use heddle_plumbing::{caller::NodeIdentity, tls::Credentials};
use heddle_proto::v1;
use tokio::sync::watch;

pub const REFUSAL: &str = "this manager is locked: run `heddle unlock`";

pub struct Waiting {
    pub state: NodeState,
    pub identity: NodeIdentity,
    key: Locked,
    /// Where the agent waits for them.
    credentials: watch::Sender<Option<Credentials>>,
}

impl Daemon {
    pub async fn wait(&self, state: NodeState, identity: NodeIdentity, key: Locked) -> Result<Waiting> {
        let (credentials, none) = watch::channel(None);
        self.attach(&state, identity.node.clone(), none, true, false).await?;
        tracing::warn!("{REFUSAL}");
        Ok(Waiting { state, identity, key, credentials })
    }

    /// Takes the manager up again. With a wrong key, or if that fails, it stays locked.
    pub async fn unlock(&self, key: &str) -> Result<v1::UnlockResponse> {
        let mut slot = self.member.lock().await;
        let Slot::Locked(waiting) = &*slot else { bail!("this host has no manager that is locked") };
        let key: UnlockKey = key.parse()?;
        let vault = waiting.key.unlock(&key)?;
        let credentials = Credentials::load(&self.paths.certificates(), Some(vault.key()))?;
        let manager = self.resume(&waiting.state, &vault, &credentials).await?;
        let started =
            self.start_manager(waiting.state.clone(), credentials.clone(), manager.clone(), Some(vault)).await;
        let member = match (started, manager) {
            (Ok(member), _) => member,
            (Err(e), manager) => {
                if let Some(manager) = manager {
                    manager.shutdown().await;
                }
                return Err(e);
            }
        };
        waiting.credentials.send_replace(Some(credentials));
        *slot = Slot::Inside(member);
        self.roles.notify_one();
        let node = slot.as_ref().map(|m| m.credentials.identity().node.to_string()).unwrap_or_default();
        tracing::info!("this manager is unlocked");
        Ok(v1::UnlockResponse { node })
    }
}
