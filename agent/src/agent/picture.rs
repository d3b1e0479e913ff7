//! What the agent says of itself and its host to those who ask: snapshots, published when something changed.

use crate::{
    dataplane::desired::{Balancer, Sandbox},
    worker::{Job, Worker},
};
use heddle_model::{NodeId, TaskId, assignment::NodeView, net::DualSubnet, task::TaskStatus};
use std::{collections::BTreeMap, sync::Arc};

/// Of the daemon.
#[derive(Debug, Clone, Default)]
pub struct Status {
    pub connected: bool,
    pub managers: Vec<String>,
    pub assigned_revision: u64,
    pub applied_revision: u64,
    pub errors: Vec<String>,
    pub running: u32,
    pub removed: bool,
}

/// One task or workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobPicture {
    pub job: Job,
    pub status: TaskStatus,
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
    /// None: this host is in no cluster.
    pub member: Option<MemberPicture>,
}

#[derive(Debug, Clone)]
pub struct MemberPicture {
    pub node: NodeId,
    pub view: Option<Arc<NodeView>>,
    pub gateway: DualSubnet,
    pub balancer: Balancer,
}

impl Picture {
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
