//! Keeps as many tasks as a service wants: makes them, replaces those that ended, whose node is gone or that are out of date,
//! takes them away.
//!
//! ```text
//! slot     one replica: the task that stands for it, those before it, and what is next
//! update   which replicas an update replaces now, and how far it is        restart   whether and when an ended task is followed
//! drain    when a task that has to go may be stopped                        reaper    what has ended is forgotten
//! ```

mod connection;
mod drain;
mod reaper;
mod restart;
mod slot;
#[cfg(test)]
mod tests;
mod update;

pub use reaper::reap;

use crate::{
    plan::{Context, Plan},
    store::{Mutation, Snapshot},
};
use heddle_model::{
    Meta, TaskId, Timestamp,
    endpoint::PublishMode,
    node::NodeState,
    service::{Mode, Service},
    task::{Task, TaskState, TaskStatus},
};
use slot::{Slot, fill};
use std::collections::{BTreeMap, BTreeSet};

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

/// A task that no balancer leads to may be stopped at once; the others wait until that is so.
fn want(task: &Task, desired: TaskState, plan: &mut Plan) {
    if task.desired < desired {
        // One that became unhealthy may not have left all of them.
        let led_to = task.desired == TaskState::Running && task.status.state == TaskState::Running;
        let stop = task.stop || !led_to;
        plan.push(Mutation::Update(Task { desired, stop, ..task.clone() }.into()));
    }
}

fn replicate(state: &Snapshot, service: &Service, context: &mut Context<'_>, plan: &mut Plan) {
    let Mode::Replicated { replicas } = service.spec.mode;
    let mut slots: BTreeMap<u64, Slot<'_>> = BTreeMap::new();
    for task in state.tasks_of_service(&service.id).filter(|t| t.desired != TaskState::Remove) {
        slots.entry(task.slot).or_default().push(task);
    }
    let surplus = surplus(state, &slots, replicas);
    for slot in &surplus {
        slots.remove(slot).iter().flat_map(Slot::tasks).for_each(|t| want(t, TaskState::Remove, plan));
    }
    let step = update::plan(state, service, &slots, context, plan);
    if let Some(next) = step.service {
        let turns = next.spec != service.spec || !next.is_updating();
        plan.push(Mutation::Update(next.into()));
        if turns {
            // The tasks are looked at anew, by what counts from now on.
            return;
        }
    }
    for (number, slot) in &slots {
        fill(state, service, slot, step.slots.contains(number), context, plan);
    }
    let free = (1..).filter(|slot| !slots.contains_key(slot));
    for slot in free.take((replicas as usize).saturating_sub(slots.len())) {
        plan.push(Mutation::Create(new_task(service, slot, context.now, context).into()));
    }
}

/// The slots to give up: first those that do not run, then those of the fullest nodes, then the highest numbers.
fn surplus(state: &Snapshot, slots: &BTreeMap<u64, Slot<'_>>, replicas: u64) -> BTreeSet<u64> {
    let count = slots.len().saturating_sub(replicas as usize);
    let mut order: Vec<(bool, usize, u64)> = Vec::new();
    let mut on_node: BTreeMap<_, usize> = BTreeMap::new();
    let active = |slot: &Slot<'_>| slot.tasks().find(|t| t.in_service()).map(|t| t.node.clone());
    let mut rows: Vec<_> = slots.iter().map(|(number, slot)| (*number, active(slot).flatten())).collect();
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
        stop: false,
        started: None,
        not_before,
        status: TaskStatus { since: context.now, message: "created".into(), ..TaskStatus::default() },
    }
}
