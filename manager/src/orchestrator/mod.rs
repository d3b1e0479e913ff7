//! Keeps as many tasks as a service wants: makes them, replaces those that ended or whose node is gone, takes them away.

mod connection;

use crate::{
    plan::{Context, Plan},
    store::{Mutation, Snapshot},
};
use heddle_model::{
    Kind, Meta, TaskId, Timestamp, Version,
    endpoint::PublishMode,
    node::{Availability, NodeState},
    service::{Mode, RestartCondition, Service},
    task::{Task, TaskState, TaskStatus},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub fn plan(state: &Snapshot, context: &mut Context<'_>) -> Plan {
    let mut plan = Plan::default();
    for service in state.services.values().filter(|s| s.endpoint.is_some()) {
        replicate(state, service, context, &mut plan);
    }
    for task in state.tasks.values().filter(|t| !state.services.contains_key(&t.service)) {
        want(task, TaskState::Remove, &mut plan);
    }
    plan
}

fn want(task: &Task, desired: TaskState, plan: &mut Plan) {
    if task.desired < desired {
        plan.push(Mutation::Update(Task { desired, ..task.clone() }.into()));
    }
}

fn replicate(state: &Snapshot, service: &Service, context: &mut Context<'_>, plan: &mut Plan) {
    let Mode::Replicated { replicas } = service.spec.mode;
    let mut slots: BTreeMap<u64, Vec<&Arc<Task>>> = BTreeMap::new();
    for task in state.tasks_of_service(&service.id).filter(|t| t.desired != TaskState::Remove) {
        slots.entry(task.slot).or_default().push(task);
    }
    let surplus = surplus(state, &slots, replicas);
    for slot in &surplus {
        slots.remove(slot).unwrap_or_default().iter().for_each(|t| want(t, TaskState::Remove, plan));
    }
    for (slot, tasks) in &slots {
        replace(state, service, *slot, tasks, context, plan);
    }
    let free = (1..).filter(|slot| !slots.contains_key(slot));
    for slot in free.take((replicas as usize).saturating_sub(slots.len())) {
        plan.push(Mutation::Create(new_task(service, slot, context.now, context).into()));
    }
}

/// The slots to give up: first those that do not run, then those of the fullest nodes, then the highest numbers.
fn surplus(state: &Snapshot, slots: &BTreeMap<u64, Vec<&Arc<Task>>>, replicas: u64) -> BTreeSet<u64> {
    let count = slots.len().saturating_sub(replicas as usize);
    let mut order: Vec<(bool, usize, u64)> = Vec::new();
    let mut on_node: BTreeMap<_, usize> = BTreeMap::new();
    let active = |tasks: &[&Arc<Task>]| tasks.iter().find(|t| t.in_service()).map(|t| t.node.clone());
    let mut rows: Vec<_> = slots.iter().map(|(slot, tasks)| (*slot, active(tasks).flatten())).collect();
    rows.sort();
    for (slot, node) in rows {
        let nth = node.as_ref().map_or(0, |n| {
            let n = on_node.entry(n.clone()).or_default();
            *n += 1;
            *n
        });
        let ready = node.and_then(|n| state.nodes.get(&n)).is_some_and(|n| n.status.state == NodeState::Ready);
        order.push((!ready, nth, slot));
    }
    order.sort();
    order.iter().rev().take(count).map(|(_, _, slot)| *slot).collect()
}

fn lost(state: &Snapshot, task: &Task) -> bool {
    task.node.as_ref().is_some_and(|id| {
        state
            .nodes
            .get(id)
            .is_none_or(|n| n.status.state == NodeState::Down || n.spec.availability == Availability::Drain)
    })
}

fn replace(
    state: &Snapshot,
    service: &Service,
    slot: u64,
    tasks: &[&Arc<Task>],
    context: &mut Context<'_>,
    plan: &mut Plan,
) {
    let Some(newest) = tasks.iter().max_by_key(|t| (t.meta.created_at, t.id.clone())) else { return };
    let not_before = if newest.desired != TaskState::Running {
        context.now
    } else if newest.status.state.is_terminal() {
        match restart_at(service, newest, tasks) {
            Some(at) => at,
            None => return,
        }
    } else if lost(state, newest) {
        context.now
    } else {
        if newest.not_before > context.now {
            plan.wake_at(newest.not_before);
        }
        return;
    };
    want(newest, TaskState::Shutdown, plan);
    plan.push(Mutation::Create(new_task(service, slot, not_before, context).into()));
}

/// When a task that ended is to be followed by another; None: never.
fn restart_at(service: &Service, ended: &Task, slot: &[&Arc<Task>]) -> Option<Timestamp> {
    let policy = &service.spec.task.restart;
    let failed = ended.status.state != TaskState::Complete;
    let wanted = match policy.condition {
        RestartCondition::None => false,
        RestartCondition::OnFailure => failed,
        RestartCondition::Any => true,
    };
    let in_window =
        |t: &&&Arc<Task>| policy.window.is_zero() || ended.status.since.since(t.status.since) <= policy.window;
    let attempts = slot.iter().filter(|t| t.status.state.is_terminal()).filter(in_window).count() as u64;
    let left = policy.max_attempts == 0 || attempts <= policy.max_attempts;
    (wanted && left).then(|| ended.status.since.plus(policy.delay))
}

fn new_task(service: &Service, slot: u64, not_before: Timestamp, context: &mut Context<'_>) -> Task {
    let ports = service.endpoint.iter().flat_map(|e| &e.ports);
    Task {
        id: TaskId::from_random((context.random)()),
        meta: Meta::default(),
        service: service.id.clone(),
        service_name: service.spec.annotations.name.clone(),
        slot,
        spec: service.spec.task.clone(),
        spec_version: service.spec_version,
        node: None,
        attachments: Vec::new(),
        host_ports: ports.filter(|p| p.mode == PublishMode::Host).cloned().collect(),
        desired: TaskState::Running,
        not_before,
        status: TaskStatus { since: context.now, message: "created".into(), ..TaskStatus::default() },
    }
}

/// Forgets tasks that ended: at once when they are to be removed, else when the slot's history is full. Before that, gives
/// their addresses back, once every ready node has stopped using them. Places on overlays that hosts asked for end alike.
pub fn reap(state: &Snapshot, context: &mut Context<'_>) -> Plan {
    let mut plan = Plan::default();
    connection::reap(state, context, &mut plan);
    let mut history: BTreeMap<(&str, u64), Vec<&Arc<Task>>> = BTreeMap::new();
    let keep = state.cluster.as_ref().map_or(0, |c| c.spec.task_history as usize);
    for task in state.tasks.values() {
        let unplaced = task.node.is_none() && task.desired > TaskState::Running;
        if !task.status.state.is_terminal() && !unplaced {
            continue;
        }
        if !settled(task, context.acked) {
            continue;
        }
        if task.desired == TaskState::Remove || unplaced {
            plan.push(remove(task));
        } else if !task.attachments.is_empty() {
            plan.push(Mutation::Update(Task { attachments: Vec::new(), ..Task::clone(task) }.into()));
        } else if task.desired == TaskState::Shutdown {
            history.entry((task.service.as_str(), task.slot)).or_default().push(task);
        }
    }
    for (_, mut tasks) in history {
        tasks.sort_by_key(|t| (t.meta.created_at, t.id.clone()));
        let attempts = tasks.first().map_or(0, |t| t.spec.restart.max_attempts as usize + 1);
        let surplus = tasks.len().saturating_sub(keep.max(attempts));
        plan.mutations.extend(tasks.iter().take(surplus).map(|t| remove(t)));
    }
    plan
}

fn settled(task: &Task, acked: Version) -> bool {
    task.attachments.is_empty() || acked >= task.meta.version
}

fn remove(task: &Task) -> Mutation {
    Mutation::Remove { kind: Kind::Task, id: task.id.to_string(), version: Some(task.meta.version) }
}
