//! The agent's one loop: takes in what the managers say and what happens here, and acts.

use super::{Status, memory::Memory};
use crate::{
    dataplane::{
        desired::{LocalHost, Sandbox, addresses, desired},
        names,
        state::{KernelState, Space, SpaceState},
    },
    dns::{Resolver, Upstream, Zone},
    executor::{ProcessExecutor, TaskProcess},
    kernel::linux::{LinuxKernel, space, watch::Watch},
    logs,
    reconciler::Reconciler,
    session::{Event, Sender},
    worker::{Todo, Worker},
};
use heddle_model::{
    NodeId, TaskId, Timestamp, assignment::NodeView, net::DualAddr, service::Runtime, task::TaskStatus,
};
use heddle_proto::v1::{self, agent_message::Message as FromAgent};
use nix::sys::signal::Signal;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::AbortHandle,
};
use tonic::transport::Channel;

/// How often running programs are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// After a pass that failed.
const RETRY: Duration = Duration::from_millis(200);

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(since.as_millis() as u64)
}

pub(super) struct Actor {
    pub(super) node: NodeId,
    pub(super) local: LocalHost,
    pub(super) executor: ProcessExecutor,
    pub(super) reconciler: Reconciler<LinuxKernel>,
    pub(super) watch: Watch,
    pub(super) worker: Worker,
    pub(super) view: Option<NodeView>,
    pub(super) revision: u64,
    /// Acknowledged in this session.
    pub(super) acked: u64,
    pub(super) gateways: BTreeMap<TaskId, DualAddr>,
    pub(super) resolvers: BTreeMap<TaskId, Resolver>,
    pub(super) zones: BTreeMap<TaskId, Zone>,
    /// Sandboxes that the kernel has.
    pub(super) sandboxes: BTreeSet<TaskId>,
    /// Statuses as last sent in this session.
    pub(super) reported: BTreeMap<TaskId, TaskStatus>,
    pub(super) followers: HashMap<String, AbortHandle>,
    pub(super) memory: Memory,
    pub(super) spoken: watch::Receiver<Option<Sender>>,
    pub(super) anew: Arc<Notify>,
    pub(super) status: watch::Sender<Status>,
    pub(super) leader: watch::Sender<Option<Channel>>,
}

impl Actor {
    pub(super) async fn run(
        mut self,
        mut heard: mpsc::Receiver<Event>,
        mut stopped: mpsc::Receiver<tokio::sync::oneshot::Sender<()>>,
    ) {
        self.memory.save();
        self.recall();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut retry_at = tokio::time::Instant::now();
        let mut dirty = true;
        loop {
            tokio::select! {
                event = heard.recv() => {
                    let Some(event) = event else { return };
                    dirty |= self.hear(event);
                    // All that has come meanwhile, in one pass.
                    while let Ok(event) = heard.try_recv() {
                        dirty |= self.hear(event);
                    }
                }
                done = stopped.recv() => {
                    let Some(done) = done else { return };
                    self.purge().await;
                    let _ = done.send(());
                    return;
                }
                change = self.watch.changed() => dirty |= self.reconciler.notice(&change),
                _ = look.tick() => {}
            }
            dirty |= self.look();
            let at = tokio::time::Instant::now();
            if (dirty && at >= retry_at) || at >= self.reconciler.due().max(retry_at) {
                dirty = match self.pass().await {
                    // A sandbox that is new lets its program start; that is another pass.
                    Ok(()) => self.look(),
                    Err(error) => {
                        tracing::warn!(error = chain(&*error), "the data plane is behind");
                        self.reconciler.distrust();
                        self.status.send_modify(|s| s.errors = vec![chain(&*error)]);
                        retry_at = tokio::time::Instant::now() + RETRY;
                        true
                    }
                };
            }
            self.report().await;
        }
    }

    /// True: something changed that the kernel should follow.
    fn hear(&mut self, event: Event) -> bool {
        match event {
            Event::Connected(channel) => {
                tracing::info!("connected to the leader");
                self.reported.clear();
                self.acked = 0;
                self.leader.send_replace(Some(channel));
                self.status.send_modify(|s| s.connected = true);
            }
            Event::Disconnected => {
                tracing::info!("no session with a leader");
                self.leader.send_replace(None);
                self.followers.drain().for_each(|(_, f)| f.abort());
                self.status.send_modify(|s| s.connected = false);
            }
            Event::Removed => self.status.send_modify(|s| s.removed = true),
            Event::Managers(managers) => {
                self.memory.managers = managers.iter().filter_map(|m| m.addr.parse().ok()).collect();
                self.status.send_modify(|s| s.managers = managers.into_iter().map(|m| m.addr).collect());
                self.memory.save();
            }
            Event::Assignments(assignments) => return self.take(*assignments),
            Event::Logs(request) => self.publish_logs(request),
            Event::CancelLogs(id) => self.followers.remove(&id).into_iter().for_each(|f| f.abort()),
        }
        false
    }

    fn take(&mut self, assignments: v1::Assignments) -> bool {
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
        let view = match self.view.take().filter(|_| !complete) {
            Some(view) => view,
            None => NodeView::empty(changes.cluster.clone()),
        };
        let view = self.view.insert(view);
        view.apply(changes);
        self.revision = revision;
        self.memory.save_view(revision, view);
        self.status.send_modify(|s| s.assigned_revision = revision);
        self.assign();
        true
    }

    fn assign(&mut self) {
        let Some(view) = &self.view else { return };
        let running: Vec<TaskId> = self.executor.list().unwrap_or_default();
        self.worker.assign(&view.tasks, &running, now());
    }

    /// What was assigned before the daemon was restarted: names resolve and drift is repaired before a manager answers.
    fn recall(&mut self) {
        if let Some(assignments) = self.memory.view() {
            self.take(assignments);
            // Kept by another run: nothing may be added to it but a complete one.
            self.revision = 0;
        }
    }

    /// Looks at the programs and does what is due. True: the kernel should follow.
    fn look(&mut self) -> bool {
        let before: BTreeSet<TaskId> = self.wanted_sandboxes();
        let mut processes = BTreeMap::new();
        for id in self.worker.tasks.iter().filter(|(_, l)| l.needs_sandbox()).map(|(id, _)| id) {
            match self.executor.state(id) {
                Ok(state) => drop(processes.insert(id.clone(), state)),
                Err(error) => {
                    tracing::warn!(task = %id, %error, "cannot look at a task");
                    return false;
                }
            }
        }
        let sandboxes = self.sandboxes.clone();
        for todo in self.worker.advance(&processes, |id| sandboxes.contains(id), now()) {
            let done = match &todo {
                Todo::Start(id) => self.start(id),
                Todo::Term(id) => self.executor.signal(id, Signal::SIGTERM),
                Todo::Kill(id) => self.executor.signal(id, Signal::SIGKILL),
            };
            if let (Err(error), Todo::Start(id)) = (&done, &todo) {
                self.worker.reject(id, error.to_string(), now());
            }
        }
        let running = processes.values().filter(|p| matches!(p, TaskProcess::Running { .. })).count() as u32;
        if self.status.borrow().running != running {
            self.status.send_modify(|s| s.running = running);
        }
        self.wanted_sandboxes() != before
    }

    fn wanted_sandboxes(&self) -> BTreeSet<TaskId> {
        self.worker.tasks.iter().filter(|(_, l)| l.needs_sandbox()).map(|(id, _)| id.clone()).collect()
    }

    fn start(&self, id: &TaskId) -> io::Result<()> {
        let Some(local) = self.worker.tasks.get(id) else { return Ok(()) };
        let task = &local.task;
        let Runtime::Process(process) = &task.spec.runtime;
        let hostname = process.hostname.clone().unwrap_or_else(|| task.id.short().to_owned());
        let Space::Named(netns) = names::task_space(id) else { return Ok(()) };
        let variables = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
            ("HOME", "/root".to_owned()),
            ("HOSTNAME", hostname.clone()),
            ("HEDDLE_TASK", task.name()),
            ("HEDDLE_SERVICE", task.service_name.clone()),
            ("HEDDLE_SLOT", task.slot.to_string()),
            ("HEDDLE_NODE", nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned()),
        ];
        let env = variables.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let mut hosts = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
        for addr in task.attachments.iter().flat_map(|a| a.addr.addrs()) {
            hosts.push_str(&format!("{addr} {hostname}\n"));
        }
        let files =
            [("/etc/resolv.conf", "nameserver 127.0.0.11\noptions ndots:0\n".to_owned()), ("/etc/hosts", hosts)];
        let files = files.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        tracing::info!(task = task.name(), "starting");
        self.executor.start(id, process, &hostname, &space::path(&netns), env, files)
    }

    /// Brings the kernel and the resolvers to what is wanted.
    async fn pass(&mut self) -> anyhow::Result<()> {
        let Some(view) = &self.view else { return Ok(()) };
        let wanted = self.wanted_sandboxes();
        let outward =
            wanted.iter().filter(|id| self.worker.tasks.get(*id).is_some_and(|l| addresses::wanted(view, &l.task)));
        let outward: BTreeSet<TaskId> = outward.cloned().collect();
        self.gateways = addresses::assign(&self.local.gateway, &outward, &self.gateways);
        let sandbox = |id: &TaskId| {
            let task = self.worker.tasks.get(id)?.task.clone();
            Some((id.clone(), Sandbox { task, gateway_addr: self.gateways.get(id).copied() }))
        };
        let sandboxes: BTreeMap<TaskId, Sandbox> = wanted.iter().filter_map(sandbox).collect();
        let revision = self.revision;
        // Sockets of a resolver would keep a namespace alive.
        self.resolvers.retain(|id, _| wanted.contains(id));
        self.zones.retain(|id, _| wanted.contains(id));
        let state = desired(view, &sandboxes, &self.local);
        let steps = self.reconciler.reconcile(&state).await?;
        for (id, sandbox) in &sandboxes {
            if !self.resolvers.contains_key(id) {
                let resolver = Resolver::start(&names::task_space(id), Upstream::default()).await?;
                self.resolvers.insert(id.clone(), resolver);
                self.zones.remove(id);
            }
            let zone = Zone::of(view, &sandbox.task);
            if let Some(resolver) = self.resolvers.get(id).filter(|_| self.zones.get(id) != Some(&zone)) {
                resolver.set(zone.clone());
                self.zones.insert(id.clone(), zone);
            }
        }
        if steps > 0 {
            tracing::debug!(steps, revision, "the kernel follows");
        }
        self.sandboxes = wanted;
        let closed = self.reconciler.closed().iter().cloned().collect();
        self.status.send_modify(|s| {
            s.applied_revision = revision;
            s.errors = closed;
        });
        let worker = &self.worker;
        self.executor.prune(|id| worker.tasks.contains_key(id))?;
        Ok(())
    }

    /// Tells the leader what it does not know yet.
    async fn report(&mut self) {
        let Some(speak) = self.spoken.borrow().clone() else { return };
        let mut updates = Vec::new();
        for (id, local) in &self.worker.tasks {
            if self.reported.get(id) != Some(&local.status) {
                self.reported.insert(id.clone(), local.status.clone());
                let status = Some(local.status.clone().into());
                updates.push(v1::TaskReport { task: id.to_string(), status });
            }
        }
        self.reported.retain(|id, _| self.worker.tasks.contains_key(id));
        if !updates.is_empty() {
            let _ = speak.send(FromAgent::Status(v1::TaskStatusUpdate { tasks: updates })).await;
        }
        let acked = self.status.borrow().applied_revision;
        if acked > 0 && self.acked != acked {
            self.acked = acked;
            let _ = speak.send(FromAgent::Ack(v1::Ack { revision: acked })).await;
        }
    }

    fn publish_logs(&mut self, request: v1::LogRequest) {
        let Some(channel) = self.leader.borrow().clone() else { return };
        let source = |id: &String| {
            let task: TaskId = id.parse().ok()?;
            let local = self.worker.tasks.get(&task);
            let name = local.map_or_else(|| task.short().to_owned(), |l| l.task.name());
            let dir = self.executor.log_dir(&task);
            Some(logs::Source { name, node: self.node.to_string(), dir, task })
        };
        let sources = request.tasks.iter().filter_map(source).collect();
        let id = request.id.clone();
        self.followers.retain(|_, f| !f.is_finished());
        self.followers.insert(id, tokio::spawn(logs::publish(channel, request, sources)).abort_handle());
    }

    async fn purge(&mut self) {
        for id in self.executor.list().unwrap_or_default() {
            let _ = self.executor.signal(&id, Signal::SIGKILL);
        }
        self.resolvers.clear();
        let nothing = KernelState { spaces: BTreeMap::from([(Space::Host, SpaceState::default())]) };
        for _ in 0..20 {
            self.reconciler.distrust();
            match self.reconciler.reconcile(&nothing).await {
                Ok(_) => break,
                Err(error) => tracing::warn!(%error, "cannot take everything away yet"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        // What the kernel still does in its own time must not meet a cluster that is joined next.
        self.memory.forget();
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(&format!(": {source}"));
        next = source.source();
    }
    text
}
