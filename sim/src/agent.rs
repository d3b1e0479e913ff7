//! The agent of a node as managers see it: takes assignments, works on tasks, acknowledges, reports.

use crate::{
    host::Guest,
    net::{At, Net, Outbound},
    world::{BATCH, World},
};
use heddle_manager::ambient;
use heddle_model::{
    NodeId, TaskId,
    assignment::NodeView,
    fence::Fence,
    node::NodeDescription,
    task::{TaskState, TaskStatus},
};
use heddle_proto::v1::{
    self, agent_message::Message as FromAgent, assignments::Type, manager_message::Message as ToAgent,
};
use rand::RngExt;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};

const OPEN_LIMIT: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(150);

/// What outlives the agent's process: on a disk, or in the kernel.
#[derive(Debug, Default)]
pub struct Kept {
    pub view: Option<NodeView>,
    /// Revision that the host has made its own.
    pub revision: u64,
    pub acked: u64,
    pub tasks: BTreeMap<TaskId, TaskState>,
    /// Those whose checks have failed.
    unhealthy: BTreeSet<TaskId>,
    /// What it should never have been told.
    pub wrong: Vec<String>,
}

/// Runs until it is aborted.
pub async fn run(at: At, node: NodeId, net: Net, world: Arc<World>, kept: Arc<Mutex<Kept>>) {
    let mut agent =
        Agent { at, node, net, world, kept, fence: Fence::default(), open: false, silent_since: Instant::now() };
    let mut next = None;
    loop {
        let manager = next.take().unwrap_or_else(|| agent.world.any_manager());
        next = agent.session(manager).await;
        if std::mem::take(&mut agent.open) {
            agent.silent_since = Instant::now();
        }
        if next.is_none() {
            tokio::time::sleep(RETRY).await;
        }
    }
}

struct Agent {
    at: At,
    node: NodeId,
    net: Net,
    world: Arc<World>,
    kept: Arc<Mutex<Kept>>,
    /// Whether the leader of this session is believed, and when the last such session ended.
    fence: Fence,
    open: bool,
    silent_since: Instant,
}

type Wire = Outbound<v1::AgentMessage>;

fn say(wire: &mut Wire, message: FromAgent) -> bool {
    wire.send(v1::AgentMessage { message: Some(message) })
}

/// Where a task goes by itself from here, if it is to run.
fn onward(state: TaskState) -> TaskState {
    match state {
        TaskState::Assigned => TaskState::Accepted,
        TaskState::Accepted => TaskState::Preparing,
        TaskState::Preparing => TaskState::Ready,
        TaskState::Ready => TaskState::Starting,
        TaskState::Starting => TaskState::Running,
        other => other,
    }
}

impl Agent {
    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One session with one manager. Where to go next, if that is known.
    async fn session(&mut self, manager: At) -> Option<At> {
        let (down, mut heard) = mpsc::channel(256);
        let (node, at) = (self.node.clone(), self.at);
        let open = move |guest: Arc<Guest>| async move { guest.serve(node, at, down) };
        let mut wire = match self.net.call((self.at, manager), OPEN_LIMIT, open).await {
            Ok(Ok(wire)) => wire,
            Ok(Err(leader)) => return leader.and_then(|l| self.world.at(&l)).filter(|l| *l != manager),
            Err(_) => return None,
        };
        let description = NodeDescription { hostname: format!("h{}", self.at), ..self.world.description() };
        let data_path_addr = self.world.addr(self.at).to_string();
        let hello = v1::Hello { description: Some(description.into()), data_path_addr, tasks: Vec::new() };
        say(&mut wire, FromAgent::Hello(hello));
        self.kept().acked = 0;
        let mut reported = BTreeMap::new();
        let mut beat = tokio::time::interval(self.world.heartbeat());
        let mut work = tokio::time::interval(Duration::from_millis(60));
        loop {
            let open = tokio::select! {
                biased;
                message = heard.recv() => match message?.message? {
                    ToAgent::Assignments(assignments) => self.take(assignments),
                    ToAgent::Session(info) => {
                        let silence = if self.open { Duration::ZERO } else { self.silent_since.elapsed() };
                        self.open = self.fence.admits(info.term, silence);
                        self.open
                    }
                    ToAgent::Redirect(_) | ToAgent::Logs(_) | ToAgent::CancelLogs(_) | ToAgent::Beat(_) => true,
                },
                _ = beat.tick() => say(&mut wire, FromAgent::Heartbeat(v1::Heartbeat { answer: true })),
                _ = work.tick() => {
                    self.work();
                    self.report(&mut wire, &mut reported)
                }
            };
            if !open {
                return None;
            }
        }
    }

    /// False: there is a gap, and only a new session can fill it.
    fn take(&self, assignments: v1::Assignments) -> bool {
        let kept = &mut *self.kept();
        let complete = assignments.r#type() == Type::Complete;
        if !complete && assignments.applies_to != kept.revision {
            return false;
        }
        let revision = assignments.results_in;
        if revision < kept.revision {
            kept.wrong.push(format!("{} has revision {} and was told {revision}", self.at, kept.revision));
        }
        let changes = match assignments.into_changes() {
            Ok(changes) => changes,
            Err(error) => {
                kept.wrong.push(format!("{} cannot read its assignments: {error}", self.at));
                return false;
            }
        };
        let mut view = kept.view.take().filter(|_| !complete);
        let next = view.get_or_insert_with(|| NodeView::empty(changes.cluster.clone()));
        next.apply(changes);
        (kept.view, kept.revision) = (view, revision);
        true
    }

    /// Brings every task one step further.
    fn work(&self) {
        let kept = &mut *self.kept();
        let Some(view) = &kept.view else { return };
        kept.tasks.retain(|id, _| view.tasks.contains_key(id));
        kept.unhealthy.retain(|id| view.tasks.contains_key(id));
        for (id, task) in &view.tasks {
            let state = kept.tasks.entry(id.clone()).or_insert(TaskState::Assigned);
            if state.is_terminal() {
                continue;
            }
            let fate: f64 = ambient::rng().random();
            let unhealthy = kept.unhealthy.contains(id);
            *state = match (task.desired, fate) {
                (_, f) if f < 0.7 && task.stop && unhealthy => TaskState::Failed,
                (_, f) if f < 0.7 && task.stop => TaskState::Shutdown,
                (TaskState::Running, f) if f < 0.001 => TaskState::Failed,
                (TaskState::Running, f) if f < 0.002 => {
                    kept.unhealthy.insert(id.clone());
                    *state
                }
                (TaskState::Running, f) if f < 0.3 && *state == TaskState::Running && task.service_name == BATCH => {
                    TaskState::Complete
                }
                (TaskState::Running, f) if f < 0.7 && !unhealthy => onward(*state),
                _ => *state,
            };
        }
    }

    /// Tells what the manager has not heard in this session.
    fn report(&self, wire: &mut Wire, reported: &mut BTreeMap<TaskId, (TaskState, bool)>) -> bool {
        let kept = &mut *self.kept();
        let since = ambient::now();
        let all = kept.tasks.iter().map(|(id, state)| (id.clone(), (*state, kept.unhealthy.contains(id))));
        let news: Vec<_> = all.filter(|(id, seen)| reported.get(id) != Some(seen)).collect();
        let report = |(id, (state, unhealthy)): &(TaskId, (TaskState, bool))| {
            let status = TaskStatus { state: *state, unhealthy: *unhealthy, since, ..TaskStatus::default() };
            v1::TaskReport { task: id.to_string(), status: Some(status.into()) }
        };
        let tasks: Vec<_> = news.iter().map(report).collect();
        reported.extend(news);
        let told = tasks.is_empty() || say(wire, FromAgent::Status(v1::TaskStatusUpdate { tasks }));
        let acked = kept.acked == kept.revision || say(wire, FromAgent::Ack(v1::Ack { revision: kept.revision }));
        kept.acked = kept.revision;
        told && acked
    }
}
