//! One run of one replica. A task is never restarted: a new one takes its slot.

use crate::{
    Meta, NodeId, ServiceId, TaskId, Timestamp, Version,
    endpoint::{Attachment, PortConfig},
    service::TaskSpec,
    shared::Shared,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// States in the order a task passes them; it never goes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    #[default]
    New,
    /// Has its addresses, waits for a node.
    Pending,
    Assigned,
    Accepted,
    Preparing,
    Ready,
    Starting,
    Running,
    Complete,
    Shutdown,
    Failed,
    Rejected,
    Remove,
    Orphaned,
}

impl TaskState {
    pub const ALL: [TaskState; 14] = [
        TaskState::New,
        TaskState::Pending,
        TaskState::Assigned,
        TaskState::Accepted,
        TaskState::Preparing,
        TaskState::Ready,
        TaskState::Starting,
        TaskState::Running,
        TaskState::Complete,
        TaskState::Shutdown,
        TaskState::Failed,
        TaskState::Rejected,
        TaskState::Remove,
        TaskState::Orphaned,
    ];

    /// Past `Running`: nothing of the task runs any more.
    pub fn is_terminal(self) -> bool {
        self > TaskState::Running
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            TaskState::New => "new",
            TaskState::Pending => "pending",
            TaskState::Assigned => "assigned",
            TaskState::Accepted => "accepted",
            TaskState::Preparing => "preparing",
            TaskState::Ready => "ready",
            TaskState::Starting => "starting",
            TaskState::Running => "running",
            TaskState::Complete => "complete",
            TaskState::Shutdown => "shutdown",
            TaskState::Failed => "failed",
            TaskState::Rejected => "rejected",
            TaskState::Remove => "remove",
            TaskState::Orphaned => "orphaned",
        }
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    pub state: TaskState,
    /// When `state` was reached.
    pub since: Timestamp,
    pub message: String,
    /// Why the task failed or cannot be placed; empty if it did not.
    pub error: String,
    /// Of the task's first process, as the host sees it.
    pub pid: Option<u32>,
    pub exit_code: Option<i32>,
    /// Its health check has failed for good: it is to be stopped, and has failed.
    #[serde(default)]
    pub unhealthy: bool,
}

impl TaskStatus {
    /// Whether this may be followed by that: no state is gone back to, and what is unhealthy stays so until it ends.
    pub fn may_become(&self, next: &TaskStatus) -> bool {
        let recovers = self.unhealthy && !next.unhealthy && !next.state.is_terminal();
        self.state <= next.state && !recovers
    }

    /// With sentences that are as long as one of a node's report may be.
    pub fn bounded(mut self) -> Self {
        [&mut self.message, &mut self.error].into_iter().for_each(crate::node::shorten);
        self
    }
}

/// What the scheduler counted where it put a task, before it did: no other node that took the task had less, looked at in this
/// order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Tasks of the service that had failed there of late, if they were many.
    #[serde(default)]
    pub failed: u32,
    /// Tasks of the service, for each of its spread preferences, on nodes that are alike in that.
    #[serde(default)]
    pub alike: Box<[u32]>,
    /// Tasks of the service on the node that were to stay there.
    pub of_service: u32,
    /// Tasks on the node.
    pub all: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    pub id: TaskId,
    pub meta: Meta,
    pub service: ServiceId,
    pub service_name: String,
    /// Which replica this is, from 1.
    pub slot: u64,
    /// All tasks of one version of a service hold the same.
    pub spec: Shared<TaskSpec>,
    /// `Service.spec_version` it was made from.
    pub spec_version: Version,
    pub node: Option<NodeId>,
    /// Of a service with a task on every node: the one that this is for.
    #[serde(default)]
    pub bound: Option<NodeId>,
    /// Why its node was the best.
    #[serde(default)]
    pub choice: Option<Choice>,
    pub attachments: Vec<Attachment>,
    /// Ports published on the task's own node (mode host).
    pub host_ports: Vec<PortConfig>,
    /// Running, Shutdown or Remove.
    pub desired: TaskState,
    /// No balancer leads to it any more: its node may stop it.
    #[serde(default)]
    pub stop: bool,
    /// When it was first told to run, by the leader's clock.
    #[serde(default)]
    pub started: Option<Timestamp>,
    /// Not started before this time (restart delay).
    pub not_before: Timestamp,
    pub status: TaskStatus,
}

impl Task {
    /// `web.1.<id>`, the task's own name in DNS and in tables.
    pub fn name(&self) -> String {
        format!("{}.{}.{}", self.service_name, self.slot, self.id)
    }

    /// Whether load balancers and DNS may send anything to it.
    pub fn in_service(&self) -> bool {
        self.status.state == TaskState::Running && self.desired == TaskState::Running && !self.status.unhealthy
    }

    /// Whether it has to leave its node, though it may not be stopped yet.
    pub fn has_to_go(&self) -> bool {
        self.desired > TaskState::Running || self.status.unhealthy
    }

    /// Whether it may still have processes and kernel objects on its node.
    pub fn on_node(&self) -> bool {
        self.node.is_some() && !self.status.state.is_terminal()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unhealthy_ends_and_is_never_well_again() {
        let status = |state, unhealthy| TaskStatus { state, unhealthy, ..TaskStatus::default() };
        let well = status(TaskState::Running, false);
        let unhealthy = status(TaskState::Running, true);
        assert!(well.may_become(&unhealthy) && !unhealthy.may_become(&well));
        assert!(!status(TaskState::Starting, true).may_become(&well));
        for end in [true, false].map(|unhealthy| status(TaskState::Failed, unhealthy)) {
            assert!(unhealthy.may_become(&end) && !end.may_become(&unhealthy));
        }
    }
}
