//! Keeps as many tasks as a service wants: makes them, replaces those that ended, whose node is gone or that are out of date,
//! takes them away.
//!
//! ```text
//! places   which slots there should be                                     job       services whose tasks end by themselves
//! slot     one replica: the task that stands for it, those before it, and what is next
//! update   which replicas an update replaces now, and how far it is        restart   whether and when an ended task is followed
//! drain    when a task that has to go may be stopped                        reaper    what has ended is forgotten
//! balance  tasks that move to nodes with fewer, when asked to
//! ```

mod balance;
mod connection;
mod drain;
mod job;
mod places;
mod reaper;
mod restart;
mod slot;
#[cfg(test)]
mod tests;
mod update;

pub use job::ended;
pub use reaper::reap;

use crate::{
    plan::{Context, Plan},
    store::{Mutation, Snapshot},
};
use heddle_model::{
    Meta, NodeId, TaskId, Timestamp,
    endpoint::PublishMode,
    service::Service,
    task::{Task, TaskState, TaskStatus},
};
use slot::{Asked, Slot, fill};
use std::{collections::BTreeMap, sync::Arc};

pub fn plan(state: &Snapshot, context: &mut Context<'_>) -> Plan {
    let mut plan = Plan::default();
    for service in state.services.values().filter(|s| s.endpoint.is_some()) {
        match service.spec.mode.is_job() {
            true => job::plan(state, service, context, &mut plan),
            false => keep(state, service, context, &mut plan),
        }
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

fn slots<'a>(tasks: impl Iterator<Item = &'a Arc<Task>>) -> BTreeMap<u64, Slot<'a>> {
    let mut slots: BTreeMap<u64, Slot<'_>> = BTreeMap::new();
    for task in tasks {
        slots.entry(task.slot).or_default().push(task);
    }
    slots
}

fn kept<'a>(state: &'a Snapshot, service: &Service) -> BTreeMap<u64, Slot<'a>> {
    slots(state.tasks_of_service(&service.id).filter(|t| t.desired != TaskState::Remove))
}

/// How many tasks a service should have, one of each slot.
pub fn wanted(state: &Snapshot, service: &Service) -> u64 {
    service.spec.mode.count().unwrap_or_else(|| places::of(state, service, &kept(state, service)).wanted)
}

/// Whatever ends is followed by another.
fn keep(state: &Snapshot, service: &Service, context: &mut Context<'_>, plan: &mut Plan) {
    let mut slots = kept(state, service);
    let places = places::of(state, service, &slots);
    for slot in &places.surplus {
        slots.remove(slot).iter().flat_map(Slot::tasks).for_each(|t| want(t, TaskState::Remove, plan));
    }
    let step = update::plan(state, service, &slots, places.wanted, context, plan);
    if step.service.is_none() && places.surplus.is_empty() && places.missing.is_empty() {
        balance::plan(state, service, &slots, context, plan);
    }
    if let Some(next) = step.service {
        let turns = next.spec != service.spec || !next.is_updating();
        plan.push(Mutation::Update(next.into()));
        if turns {
            // The tasks are looked at anew, by what counts from now on.
            return;
        }
    }
    let asked = Asked::by(service);
    for (number, slot) in &slots {
        fill(state, &asked, slot, step.slots.contains(number), context, plan);
    }
    for (slot, bound) in places.missing {
        plan.push(Mutation::Create(new_task(service, slot, bound, context.now, context).into()));
    }
}

fn new_task(
    service: &Service,
    slot: u64,
    bound: Option<NodeId>,
    not_before: Timestamp,
    context: &mut Context<'_>,
) -> Task {
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
        bound,
        choice: None,
        attachments: Vec::new(),
        host_ports: ports.filter(|p| p.mode == PublishMode::Host).cloned().collect(),
        desired: TaskState::Running,
        stop: false,
        started: None,
        not_before,
        status: TaskStatus { since: context.now, message: "created".into(), ..TaskStatus::default() },
    }
}
