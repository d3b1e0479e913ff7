//! Moves a service's tasks to nodes that have fewer, when that is asked for or a rule of the service says so: one at a time, each
//! when another has taken its place.

use super::{
    new_task,
    slot::{Slot, in_rotation},
};
use crate::{
    plan::{Context, Plan},
    scheduler::balance::next,
    store::{Mutation, Snapshot},
};
use heddle_model::service::{Mode, Service};
use std::collections::BTreeMap;

/// The next move, when the one before is over and nothing else goes on.
pub fn plan(
    state: &Snapshot,
    service: &Service,
    slots: &BTreeMap<u64, Slot<'_>>,
    context: &mut Context<'_>,
    plan: &mut Plan,
) {
    let by_rule = service.moves == 0;
    if (by_rule && !is_due(service, context, plan)) || service.is_updating() {
        return;
    }
    if !slots.values().all(|slot| is_at_rest(state, slot, context)) {
        return;
    }
    let (moves, rebalanced) = match next(state, service, context.now) {
        Some(slot) => {
            plan.push(Mutation::Create(new_task(service, slot, None, context.now, context).into()));
            match by_rule {
                true => (service.spec.rebalance.most.saturating_sub(1), context.now),
                false => (service.moves - 1, service.rebalanced),
            }
        }
        // Looked at again with the next change of anything.
        None if by_rule => return,
        None => (0, service.rebalanced),
    };
    plan.push(Mutation::Update(Service { moves, rebalanced, ..service.clone() }.into()));
}

/// Whether its rule may move tasks now.
fn is_due(service: &Service, context: &Context<'_>, plan: &mut Plan) -> bool {
    let every = service.spec.rebalance.every;
    if every.is_zero() || !matches!(service.spec.mode, Mode::Replicated { .. }) {
        return false;
    }
    let at = service.rebalanced.max(service.meta.created_at).plus(every);
    if context.now < at {
        plan.wake_at(at);
    }
    context.now >= at
}

/// No task of it takes another's place or has to go. What waits for a node, or will not be tried again, holds nobody up.
fn is_at_rest(state: &Snapshot, slot: &Slot<'_>, context: &Context<'_>) -> bool {
    let mut live = slot.live(state);
    let told = live.next().is_none_or(|task| !task.in_service() || in_rotation(task, context.acked));
    told && live.next().is_none() && !slot.is_leaving(state)
}
