//! Which slots a service should have, and for which node each is.

use super::slot::Slot;
use crate::{scheduler::constraint::Constraint, store::Snapshot};
use heddle_model::{
    NodeId,
    node::{Availability, Node, NodeState},
    service::Service,
    update::{UpdateState, UpdateStatus},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Slots to give up.
    pub surplus: BTreeSet<u64>,
    /// Slots to make, and the node of each if it is for one.
    pub missing: Vec<(u64, Option<NodeId>)>,
    /// How many there are then.
    pub wanted: u64,
}

pub fn of(state: &Snapshot, service: &Service, slots: &BTreeMap<u64, Slot<'_>>) -> Places {
    let Some(count) = service.spec.mode.count() else { return everywhere(state, service, slots) };
    let most = slots.len().saturating_sub(count as usize);
    let surplus = if service.spec.mode.is_job() { unfinished(slots, most) } else { idle(state, slots, most) };
    let free = (1..).filter(|slot| !slots.contains_key(slot));
    let missing = free.take((count as usize).saturating_sub(slots.len())).map(|slot| (slot, None)).collect();
    Places { surplus, missing, wanted: count }
}

/// First those that do not run, then those of the fullest nodes, then the highest numbers.
fn idle(state: &Snapshot, slots: &BTreeMap<u64, Slot<'_>>, count: usize) -> BTreeSet<u64> {
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

/// What is done is not done again: that goes last.
fn unfinished(slots: &BTreeMap<u64, Slot<'_>>, count: usize) -> BTreeSet<u64> {
    let mut order: Vec<_> = slots.iter().map(|(number, slot)| (slot.is_done(), Reverse(*number))).collect();
    order.sort();
    order.into_iter().take(count).map(|(_, Reverse(number))| number).collect()
}

/// One for each node that takes such tasks. One that is paused keeps its own and gets none. A job's stay where they are until that
/// node says how they ended, and when they have.
fn everywhere(state: &Snapshot, service: &Service, slots: &BTreeMap<u64, Slot<'_>>) -> Places {
    let constraints = Constraint::all(&service.spec.task);
    let is_job = service.spec.mode.is_job();
    let takes = |node: &Node| {
        let there = is_job || node.status.state != NodeState::Down;
        there && node.spec.availability != Availability::Drain && constraints.iter().all(|c| c.admits(node))
    };
    let (mut held, mut surplus) = (BTreeSet::new(), BTreeSet::new());
    for (number, slot) in slots {
        let node = slot.bound().and_then(|id| state.nodes.get(id));
        let stays = node
            .filter(|n| (is_job && slot.is_done()) || (takes(n) && !is_left_over(state, service, *number, slot, n)));
        if !stays.is_some_and(|n| held.insert(&n.id)) {
            surplus.insert(*number);
        }
    }
    let without = state.nodes.values().filter(|n| takes(n) && is_open(n) && !held.contains(&n.id));
    let free = (1..).filter(|slot| !slots.contains_key(slot));
    let missing: Vec<_> = free.zip(without.map(|n| Some(n.id.clone()))).collect();
    let wanted = (held.len() + missing.len()) as u64;
    Places { surplus, missing, wanted }
}

/// Whether a node gets new tasks.
pub fn is_open(node: &Node) -> bool {
    node.status.state == NodeState::Ready && node.spec.availability == Availability::Active
}

/// An update has passed it by, since its node was paused: now its turn has come.
fn is_left_over(state: &Snapshot, service: &Service, number: u64, slot: &Slot<'_>, node: &Node) -> bool {
    let over = |u: &UpdateStatus| {
        matches!(u.state, UpdateState::Completed | UpdateState::RollbackCompleted) && !u.failed.contains(&number)
    };
    let mut live = slot.live(state).peekable();
    let outdated = live.peek().is_some() && live.all(|t| t.spec_version != service.spec_version);
    outdated && is_open(node) && service.update.as_ref().is_some_and(over)
}
