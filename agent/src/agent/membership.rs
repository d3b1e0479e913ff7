//! The agent's part in a cluster: what the managers said, and what they were told.

use super::{memory::Memory, picture::Status};
use crate::{
    dataplane::desired::LocalHost,
    executor::Executor,
    host,
    keyring::Keyring,
    logs,
    session::{Event, Sender},
    worker::Worker,
};
use heddle_model::{TaskId, assignment::NodeView, node::NodeReport, task::TaskStatus};
use heddle_proto::v1::{self, agent_message::Message as FromAgent};
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::AbortHandle,
};
use tonic::transport::Channel;

/// Ends its session when dropped.
pub struct Membership {
    pub local: LocalHost,
    /// Where its manager is reached, on a manager.
    pub manager_addr: Option<IpAddr>,
    pub keys: Arc<Keyring>,
    pub view: Option<Arc<NodeView>>,
    pub revision: u64,
    /// Nothing of a cluster was in the kernel when it began, so nothing is lost before the first assignments.
    pub fresh: bool,
    /// Acknowledged in this session.
    pub acked: u64,
    /// Statuses as last sent in this session.
    pub reported: BTreeMap<TaskId, TaskStatus>,
    /// What goes wrong here, as last sent in this session.
    pub complained: NodeReport,
    pub followers: HashMap<String, AbortHandle>,
    pub memory: Memory,
    pub heard: mpsc::Receiver<Event>,
    pub spoken: watch::Receiver<Option<Sender>>,
    pub anew: Arc<Notify>,
    pub session: AbortHandle,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.session.abort();
        self.followers.values().for_each(AbortHandle::abort);
    }
}

/// What there is to do after something was heard.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The kernel should follow.
    pub assignments: bool,
    /// They are whole, as at the start of a session: what this host asked for can be compared with what the managers know.
    pub complete: bool,
}

impl Membership {
    pub fn hear(
        &mut self,
        event: Event,
        status: &watch::Sender<Status>,
        leader: &watch::Sender<Option<Channel>>,
        worker: &Worker,
        executor: &Executor,
    ) -> Heard {
        let mut heard = Heard::default();
        match event {
            Event::Connected(channel) => {
                tracing::info!("connected to the leader");
                self.reported.clear();
                self.acked = 0;
                self.complained = NodeReport::default();
                leader.send_replace(Some(channel));
                status.send_modify(|s| s.connected = true);
            }
            Event::Disconnected => {
                tracing::info!("no session with a leader");
                leader.send_replace(None);
                self.followers.drain().for_each(|(_, f)| f.abort());
                status.send_modify(|s| s.connected = false);
            }
            Event::Wish(wish) => status.send_modify(|s| s.wish = Some(wish)),
            Event::Removed => status.send_modify(|s| s.removed = true),
            Event::Managers(managers) => {
                self.memory.managers = managers.iter().filter_map(|m| m.addr.parse().ok()).collect();
                status.send_modify(|s| s.managers = managers.into_iter().map(|m| m.addr).collect());
                self.memory.save();
            }
            Event::Assignments(assignments) => {
                let complete = assignments.r#type() == v1::assignments::Type::Complete;
                heard.assignments = self.take(*assignments, status);
                heard.complete = complete && heard.assignments;
            }
            Event::Logs(request) => self.publish_logs(request, leader, worker, executor),
            Event::CancelLogs(id) => self.followers.remove(&id).into_iter().for_each(|f| f.abort()),
        }
        heard
    }

    fn take(&mut self, assignments: v1::Assignments, status: &watch::Sender<Status>) -> bool {
        let complete = assignments.r#type() == v1::assignments::Type::Complete;
        if !complete && assignments.applies_to != self.revision {
            tracing::warn!(has = self.revision, wants = assignments.applies_to, "a gap in the assignments");
            self.anew.notify_one();
            return false;
        }
        let revision = assignments.results_in;
        let changes = match assignments.into_changes() {
            Ok(changes) => changes,
            Err(error) => {
                tracing::error!(%error, "cannot read the assignments");
                self.anew.notify_one();
                return false;
            }
        };
        let mut view = match self.view.take().filter(|_| !complete) {
            Some(view) => view,
            None => Arc::new(NodeView::empty(changes.cluster.clone())),
        };
        Arc::make_mut(&mut view).apply(changes);
        self.revision = revision;
        self.memory.save_view(revision, &view);
        self.view = Some(view);
        self.follow();
        status.send_modify(|s| s.assigned_revision = revision);
        true
    }

    /// Takes along what of this host's own the view decides: keys of its epochs and no others.
    pub fn follow(&mut self) {
        let Some(view) = &self.view else { return };
        if let Err(error) = self.keys.hold(view.cluster.epochs.all()) {
            tracing::error!(%error, "cannot make or remove keys of the tunnel");
        }
        self.local.tunnel = self.keys.end();
        if view.networks.values().any(|n| n.encrypted) {
            let mtu = host::mtu_of(self.local.data_path_addr);
            self.local.data_path_mtu = mtu.unwrap_or(self.local.data_path_mtu);
        }
    }

    /// What was assigned before the daemon was restarted: names resolve and drift is repaired before a manager answers.
    pub fn recall(&mut self, status: &watch::Sender<Status>) {
        if let Some(assignments) = self.memory.view() {
            self.take(assignments, status);
            // Kept by another run: nothing may be added to it but a complete one.
            self.revision = 0;
        }
    }

    /// Tells the leader what it does not know yet.
    pub async fn report(&mut self, worker: &Worker, applied: u64, complaints: NodeReport) {
        let Some(speak) = self.spoken.borrow().clone() else { return };
        let mut updates = Vec::new();
        let tasks = worker.tasks.iter().filter(|(_, l)| l.job.task().is_some());
        for (id, local) in tasks {
            if self.reported.get(id) != Some(&local.status) {
                self.reported.insert(id.clone(), local.status.clone());
                let status = Some(local.status.clone().into());
                updates.push(v1::TaskReport { task: id.to_string(), status });
            }
        }
        self.reported.retain(|id, _| worker.tasks.contains_key(id));
        if !updates.is_empty() {
            let _ = speak.send(FromAgent::Status(v1::TaskStatusUpdate { tasks: updates })).await;
        }
        if applied > 0 && self.acked != applied {
            self.acked = applied;
            let _ = speak.send(FromAgent::Ack(v1::Ack { revision: applied })).await;
        }
        if self.complained != complaints {
            self.complained.clone_from(&complaints);
            let _ = speak.send(FromAgent::Report(complaints.into())).await;
        }
    }

    fn publish_logs(
        &mut self,
        request: v1::LogRequest,
        leader: &watch::Sender<Option<Channel>>,
        worker: &Worker,
        executor: &Executor,
    ) {
        let Some(channel) = leader.borrow().clone() else { return };
        let source = |id: &String| {
            let task: TaskId = id.parse().ok()?;
            let local = worker.tasks.get(&task);
            let name = local.map_or_else(|| task.short().to_owned(), |l| l.job.name());
            let dir = executor.task_dir(&task);
            Some(logs::Source { name, node: self.local.node.to_string(), dir, task })
        };
        let sources = request.tasks.iter().filter_map(source).collect();
        let id = request.id.clone();
        self.followers.retain(|_, f| !f.is_finished());
        self.followers.insert(id, tokio::spawn(logs::publish(channel, request, sources)).abort_handle());
    }
}
