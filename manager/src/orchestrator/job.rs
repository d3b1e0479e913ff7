//! Services whose tasks end by themselves: each slot once, and only so many at a time. A change of the tasks is another run, in
//! which nothing of the one before counts.

use super::{
    new_task, places, restart,
    slot::{Asked, Slot, fill, is_lost},
    want,
};
use crate::{
    plan::{Context, Plan},
    store::{Mutation, Snapshot},
};
use heddle_model::{
    NodeId,
    node::NodeState,
    service::Service,
    task::{Task, TaskState},
};
use std::{collections::BTreeMap, sync::Arc};

pub fn plan(state: &Snapshot, service: &Service, context: &mut Context<'_>, plan: &mut Plan) {
    for task in state.tasks_of_service(&service.id).filter(|t| t.spec_version != service.spec_version) {
        want(task, TaskState::Remove, plan);
    }
    // What has to go is still at work until it is gone.
    let is_former = |t: &Task| t.spec_version != service.spec_version;
    let leaves = |t: &&Arc<Task>| (t.desired == TaskState::Remove || is_former(t)) && t.on_node() && !is_lost(state, t);
    let leaving: Vec<_> = state.tasks_of_service(&service.id).filter(leaves).collect();
    if leaving.iter().any(|t| is_former(t)) {
        return;
    }
    let mut slots = slots(state, service);
    let places = places::of(state, service, &slots);
    for number in &places.surplus {
        slots.remove(number).iter().flat_map(Slot::tasks).for_each(|t| want(t, TaskState::Remove, plan));
    }
    let (done, undone): (Vec<_>, Vec<_>) = slots.values().partition(|slot| slot.is_done());
    // A node that was thought to be down had finished it, while another had begun.
    for twin in done.into_iter().flat_map(Slot::tasks).filter(|t| !t.status.state.is_terminal()) {
        want(twin, TaskState::Shutdown, plan);
    }
    let asked = Asked::by(service);
    let down = |id: &NodeId| state.nodes.get(id).is_some_and(|n| n.status.state == NodeState::Down);
    // What is bound to a node that is down may go on there: nobody else could do it.
    for slot in undone.iter().filter(|slot| !slot.bound().is_some_and(down)) {
        fill(state, &asked, slot, false, context, plan);
    }
    let open = leaving.len() + undone.iter().filter(|slot| !is_given_up(service, slot)).count();
    let most = service.spec.mode.at_once().map_or(usize::MAX, |n| n as usize);
    let free = |(slot, _): &(u64, Option<NodeId>)| leaving.iter().all(|t| t.slot != *slot);
    for (slot, bound) in places.missing.into_iter().filter(free).take(most.saturating_sub(open)) {
        plan.push(Mutation::Create(new_task(service, slot, bound, context.now, context).into()));
    }
}

/// What counts in this run.
fn slots<'a>(state: &'a Snapshot, service: &Service) -> BTreeMap<u64, Slot<'a>> {
    let counts = |t: &&Arc<Task>| t.spec_version == service.spec_version && t.desired != TaskState::Remove;
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
