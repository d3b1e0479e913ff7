//! What the agent says of itself and its host to those who ask: snapshots, published when something changed.

use crate::{
    dataplane::desired::{Balancer, Sandbox},
    session::Wish,
    underlay::Below,
    worker::{Job, Worker},
};
use heddle_model::{
    NetworkId, NodeId, TaskId,
    assignment::NodeView,
    net::DualSubnet,
    node::NodeReport,
    task::TaskStatus,
    tunnel::{Epoch, PublicKey},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// Of the daemon.
#[derive(Debug, Clone, Default)]
pub struct Status {
    pub connected: bool,
    pub managers: Vec<String>,
    pub assigned_revision: u64,
    pub applied_revision: u64,
    pub errors: Vec<String>,
    /// What is wrong below the overlays.
    pub below: Below,
    pub running: u32,
    pub removed: bool,
    /// None: no manager has said so yet.
    pub wish: Option<Wish>,
}

impl Status {
    /// What the managers are told of this.
    pub fn report(&self) -> NodeReport {
        NodeReport { errors: self.errors.clone(), warnings: self.below.warnings() }.bounded()
    }
}

/// One task or workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobPicture {
    pub job: Job,
    pub status: TaskStatus,
}

impl JobPicture {
    /// Whether its program may run yet, or once more.
    pub fn may_run(&self) -> bool {
        self.job.task().is_none() || !self.status.state.is_terminal()
    }
}

/// Passes over one state of the host that may fail before its operator hears that the kernel refuses it: the next one may
/// do, when somebody else was just changing the same.
const PATIENCE: u32 = 3;

/// The kernel lets nothing pass that depends on what it refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stalled {
    /// `HostState::revision` that cannot be reached.
    pub host_revision: u64,
    /// How often that was tried.
    pub passes: u32,
    pub reason: String,
}

/// What runs here and on which networks.
#[derive(Debug, Clone, Default)]
pub struct Picture {
    /// `HostState::revision` that the kernel has reached.
    pub host_revision: u64,
    pub jobs: BTreeMap<TaskId, JobPicture>,
    /// Those that the kernel has.
    pub sandboxes: Arc<BTreeMap<TaskId, Sandbox>>,
    /// Why a sandbox is not there, or not whole.
    pub failures: BTreeMap<TaskId, String>,
    /// Why a network of this host is not whole.
    pub networks: BTreeMap<NetworkId, String>,
    /// The last pass came to nothing.
    pub stalled: Option<Stalled>,
    /// None: this host is in no cluster.
    pub member: Option<MemberPicture>,
}

#[derive(Debug, Clone)]
pub struct MemberPicture {
    pub node: NodeId,
    pub view: Option<Arc<NodeView>>,
    pub data_path_addr: IpAddr,
    /// Where its manager is reached, on a manager.
    pub manager_addr: Option<IpAddr>,
    pub gateway: DualSubnet,
    pub balancer: Balancer,
}

/// A host as this host's end of the tunnel knows it, by one of its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelPicture {
    pub epoch: Epoch,
    pub key: PublicKey,
    /// None: no host of the cluster has the key.
    pub hostname: Option<String>,
    pub endpoint: Option<SocketAddr>,
    /// How long ago. None: there was none yet, or what came of it has expired.
    pub last_handshake: Option<Duration>,
    /// Bytes.
    pub sent: u64,
    pub received: u64,
}

impl Picture {
    /// Notes that a pass came to nothing.
    pub fn stall(&mut self, host_revision: u64, reason: String) {
        let before = self.stalled.as_ref().filter(|s| s.host_revision == host_revision).map_or(0, |s| s.passes);
        self.stalled = Some(Stalled { host_revision, passes: before + 1, reason });
    }

    /// Why the kernel does not get to this state of the host, if it has shown to refuse it.
    pub fn refusal(&self, host_revision: u64) -> Option<&str> {
        let stalled = self.stalled.as_ref().filter(|s| s.host_revision >= host_revision && s.passes >= PATIENCE);
        stalled.map(|s| s.reason.as_str())
    }

    /// False: nothing of the jobs has changed.
    pub fn see(&mut self, worker: &Worker) -> bool {
        let same = self.jobs.len() == worker.tasks.len()
            && self.jobs.iter().all(|(id, p)| {
                worker.tasks.get(id).is_some_and(|local| local.status == p.status && local.job == p.job)
            });
        if !same {
            let picture = |l: &crate::worker::Local| JobPicture { job: l.job.clone(), status: l.status.clone() };
            self.jobs = worker.tasks.iter().map(|(id, local)| (id.clone(), picture(local))).collect();
        }
        !same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pass_that_failed_is_no_refusal_and_a_new_state_has_new_tries() {
        let mut picture = Picture::default();
        for _ in 1..PATIENCE {
            picture.stall(7, "no".into());
            assert_eq!(picture.refusal(7), None);
        }
        picture.stall(7, "no".into());
        assert_eq!((picture.refusal(7), picture.refusal(6), picture.refusal(8)), (Some("no"), Some("no"), None));
        picture.stall(8, "still no".into());
        assert_eq!(picture.refusal(7), None);
    }
}
