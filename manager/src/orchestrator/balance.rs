//! Moves a service's tasks to nodes that have fewer, when that is asked for: one at a time, each when another has taken its place.

use super::{
    new_task,
    slot::{Slot, in_rotation},
};
use crate::{
    plan::{Context, Plan},
    scheduler::balance::next,
    store::{Mutation, Snapshot},
};
use heddle_model::service::Service;
use std::collections::BTreeMap;

/// The next move, when the one before is over and nothing else goes on.
pub fn plan(
    state: &Snapshot,
    service: &Service,
    slots: &BTreeMap<u64, Slot<'_>>,
    context: &mut Context<'_>,
    plan: &mut Plan,
) {
    if service.moves == 0 || service.is_updating() || !slots.values().all(|slot| is_at_rest(state, slot, context)) {
        return;
    }
    let moves = match next(state, service, context.now) {
        Some(slot) => {
            plan.push(Mutation::Create(new_task(service, slot, None, context.now, context).into()));
            service.moves - 1
        }
        None => 0,
    };
    plan.push(Mutation::Update(Service { moves, ..service.clone() }.into()));
}

/// No task of it takes another's place or has to go. What waits for a node, or will not be tried again, holds nobody up.
fn is_at_rest(state: &Snapshot, slot: &Slot<'_>, context: &Context<'_>) -> bool {
    let mut live = slot.live(state);
    let told = live.next().is_none_or(|task| !task.in_service() || in_rotation(task, context.acked));
    told && live.next().is_none() && !slot.is_leaving(state)
}
