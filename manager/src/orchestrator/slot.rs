//! One replica of a service: the tasks that stand, stood and will stand for it.

use super::{new_task, restart, want};
use crate::{
    plan::{Context, Plan},
    scheduler::constraint::Constraint,
    store::{Mutation, Snapshot},
};
use heddle_model::{
    NodeId, Timestamp, Version,
    node::{Availability, Node, NodeState},
    service::Service,
    task::{Task, TaskState},
    update::Order,
};
use std::sync::Arc;

/// Its tasks, but those that are to be removed.
#[derive(Debug, Default)]
pub struct Slot<'a> {
    tasks: Vec<&'a Task>,
}

/// Whether every ready node's balancers lead to it.
pub fn in_rotation(task: &Task, acked: Version) -> bool {
    task.in_service() && acked >= task.meta.version
}

/// Its node is down or gone.
pub fn is_lost(state: &Snapshot, task: &Task) -> bool {
    let gone = |id| state.nodes.get(id).is_none_or(|n| n.status.state == NodeState::Down);
    task.node.as_ref().is_some_and(gone)
}

/// Its node is to have no tasks.
fn is_drained(state: &Snapshot, task: &Task) -> bool {
    let node = task.node.as_ref().and_then(|id| state.nodes.get(id));
    node.is_some_and(|n| n.spec.availability == Availability::Drain)
}

/// What a service asks of its slots in one pass.
pub struct Asked<'s> {
    pub service: &'s Service,
    /// Those of its spec.
    pub constraints: Vec<Constraint>,
}

impl<'s> Asked<'s> {
    pub fn by(service: &'s Service) -> Self {
        Self { service, constraints: Constraint::all(&service.spec.task) }
    }

    /// Its node is not one any more that the service may be on.
    fn is_misplaced(&self, state: &Snapshot, task: &Task) -> bool {
        let node = task.node.as_ref().and_then(|id| state.nodes.get(id));
        let admits = |n: &Arc<Node>| self.constraints.iter().all(|c| c.admits(n));
        task.spec_version == self.service.spec_version && node.is_some_and(|n| !admits(n))
    }
}

impl<'a> Slot<'a> {
    pub fn push(&mut self, task: &'a Task) {
        let key = |t: &Task| (t.meta.created_at, t.id.clone());
        let at = self.tasks.partition_point(|t| key(t) < key(task));
        self.tasks.insert(at, task);
    }

    /// Oldest first.
    pub fn tasks(&self) -> impl DoubleEndedIterator<Item = &'a Task> + '_ {
        self.tasks.iter().copied()
    }

    pub fn newest(&self) -> Option<&'a Task> {
        self.tasks.last().copied()
    }

    /// The node that it is for, if it is for one.
    pub fn bound(&self) -> Option<&'a NodeId> {
        self.newest().and_then(|t| t.bound.as_ref())
    }

    /// Whether a task of it has come to its end by itself, and well.
    pub fn is_done(&self) -> bool {
        self.tasks().any(|t| t.status.state == TaskState::Complete)
    }

    /// Those that run, or may come to, oldest first.
    pub fn live<'s>(&'s self, state: &'s Snapshot) -> impl DoubleEndedIterator<Item = &'a Task> + 's {
        let lives = |t: &&Task| !t.has_to_go() && !t.status.state.is_terminal();
        self.tasks().filter(lives).filter(|t| !is_lost(state, t))
    }

    /// The one that is as the service wants it now.
    pub fn current(&self, state: &Snapshot, service: &Service) -> Option<&'a Task> {
        self.live(state).rfind(|t| t.spec_version == service.spec_version)
    }

    /// The one that stands for it: as wanted now, or else the newest that serves, or at least lives.
    fn keeper(&self, state: &Snapshot, service: &Service) -> Option<&'a Task> {
        let serving = || self.live(state).rfind(|t| t.in_service());
        self.current(state, service).or_else(serving).or_else(|| self.live(state).next_back())
    }

    /// Whether a task that has to go is still on its node.
    pub fn is_leaving(&self, state: &Snapshot) -> bool {
        self.tasks().any(|t| t.has_to_go() && t.on_node() && !is_lost(state, t))
    }
}

/// What is next for a slot. `step`: an update replaces its task now.
pub fn fill(
    state: &Snapshot,
    asked: &Asked<'_>,
    slot: &Slot<'_>,
    step: bool,
    context: &mut Context<'_>,
    plan: &mut Plan,
) {
    let service = asked.service;
    for task in slot.tasks().filter(|t| !t.status.state.is_terminal()) {
        // One that is unhealthy ends as one that fails by itself. If it is the newest, it is looked at then.
        let followed = slot.newest().is_some_and(|t| t.id != task.id);
        if is_lost(state, task) || (task.status.unhealthy && followed) {
            want(task, TaskState::Shutdown, plan);
        }
    }
    let next = match slot.keeper(state, service) {
        Some(keeper) => {
            relieve(state, slot, keeper, context, plan);
            follow(state, asked, slot, keeper, step, context, plan)
        }
        None => refill(state, service, slot, step, context, plan),
    };
    if let Some(at) = next {
        plan.push(Mutation::Create(new_task(service, number(slot), slot.bound().cloned(), at, context).into()));
    }
}

/// The others go: at once if they do not serve, else when every balancer has the one that stays.
fn relieve(state: &Snapshot, slot: &Slot<'_>, keeper: &Task, context: &Context<'_>, plan: &mut Plan) {
    if keeper.not_before > context.now {
        plan.wake_at(keeper.not_before);
    }
    for other in slot.live(state).filter(|t| t.id != keeper.id) {
        if !other.in_service() || in_rotation(keeper, context.acked) {
            want(other, TaskState::Shutdown, plan);
        }
    }
}

/// When the task that stands for a slot is to have another beside it; None: not now, or it has to end before that.
fn follow(
    state: &Snapshot,
    asked: &Asked<'_>,
    slot: &Slot<'_>,
    keeper: &Task,
    step: bool,
    context: &Context<'_>,
    plan: &mut Plan,
) -> Option<Timestamp> {
    let drained = is_drained(state, keeper) || asked.is_misplaced(state, keeper);
    let service = asked.service;
    let away = drained || (keeper.spec_version != service.spec_version && service.is_updating());
    let tried = slot.newest().filter(|t| t.desired == TaskState::Running && t.status.state.is_terminal());
    if let Some(failed) = tried {
        // What should have taken its place.
        let again = restart::at(service, failed, slot).filter(|_| away);
        if again.is_some() || !away {
            want(failed, TaskState::Shutdown, plan);
        }
        return again;
    }
    let failing = slot.newest().is_some_and(|t| t.desired == TaskState::Running && t.status.unhealthy && t.on_node());
    if failing || !(step || drained) {
        return None;
    }
    match service.update_config().order {
        Order::StartFirst => Some(context.now),
        Order::StopFirst => {
            want(keeper, TaskState::Shutdown, plan);
            None
        }
    }
}

fn number(slot: &Slot<'_>) -> u64 {
    slot.newest().map_or(1, |t| t.slot)
}

/// When a slot in which nothing lives gets its next task; None: not now.
fn refill(
    state: &Snapshot,
    service: &Service,
    slot: &Slot<'_>,
    step: bool,
    context: &Context<'_>,
    plan: &mut Plan,
) -> Option<Timestamp> {
    let newest = slot.newest()?;
    if slot.is_leaving(state) {
        return None;
    }
    let ended = newest.desired == TaskState::Running && newest.status.state.is_terminal();
    if !ended {
        return Some(context.now);
    }
    let at = if step { Some(context.now) } else { restart::at(service, newest, slot) };
    if at.is_some() {
        want(newest, TaskState::Shutdown, plan);
    }
    at
}
