//! Services whose tasks end by themselves: each slot once, and only so many at a time. A change of the tasks is another run, in
//! which nothing of the one before counts.

use super::{
    new_task, places, restart,
    slot::{Slot, fill},
    want,
};
use crate::{
    plan::{Context, Plan},
    store::{Mutation, Snapshot},
};
use heddle_model::{
    service::Service,
    task::{Task, TaskState},
};
use std::collections::BTreeMap;

pub fn plan(state: &Snapshot, service: &Service, context: &mut Context<'_>, plan: &mut Plan) {
    for task in state.tasks_of_service(&service.id).filter(|t| t.spec_version != service.spec_version) {
        want(task, TaskState::Remove, plan);
    }
    let mut slots = slots(state, service);
    let places = places::of(state, service, &slots);
    for number in &places.surplus {
        slots.remove(number).iter().flat_map(Slot::tasks).for_each(|t| want(t, TaskState::Remove, plan));
    }
    let undone = || slots.values().filter(|slot| !slot.is_done());
    for slot in undone() {
        fill(state, service, slot, false, context, plan);
    }
    let open = undone().filter(|slot| !is_given_up(service, slot)).count();
    let most = service.spec.mode.at_once().map_or(usize::MAX, |n| n as usize);
    for (slot, bound) in places.missing.into_iter().take(most.saturating_sub(open)) {
        plan.push(Mutation::Create(new_task(service, slot, bound, context.now, context).into()));
    }
}

/// What counts in this run.
fn slots<'a>(state: &'a Snapshot, service: &Service) -> BTreeMap<u64, Slot<'a>> {
    let counts = |t: &&std::sync::Arc<Task>| t.spec_version == service.spec_version && t.desired != TaskState::Remove;
    super::slots(state.tasks_of_service(&service.id).filter(counts))
}

/// Its last task failed, and is followed by none.
fn is_given_up(service: &Service, slot: &Slot<'_>) -> bool {
    let ended = |t: &&Task| t.desired == TaskState::Running && t.status.state.is_terminal();
    slot.newest().filter(ended).is_some_and(|t| restart::at(service, t, slot).is_none())
}

/// Slots that are done, and those that failed for good.
pub fn ended(state: &Snapshot, service: &Service) -> (u64, u64) {
    let slots = slots(state, service);
    let done = slots.values().filter(|slot| slot.is_done()).count() as u64;
    let failed = slots.values().filter(|slot| !slot.is_done() && is_given_up(service, slot)).count() as u64;
    (done, failed)
}
