//! Finds a node for every task that waits for one.
//!
//! ```text
//! attribute ── constraint ─┐
//!                          ├─> filter (what a node has against a task) ─> candidates (the best first) ─> plan
//!                   load ──┘                    │
//!                                               ├─> explain: why a task is there, or nowhere
//!                                               └─> balance: which task would be better off elsewhere
//! ```

mod attribute;
pub mod balance;
mod candidates;
pub mod constraint;
pub mod explain;
mod filter;
mod load;
#[cfg(test)]
mod tests;

pub use attribute::{Attribute, UnknownAttribute};

use crate::{
    plan::{Context, Plan},
    store::{Mutation, Snapshot},
};
use candidates::Candidates;
pub use filter::Refusal;
use filter::{Wanted, is_encrypted};
use heddle_model::{
    NodeId, ServiceId, Timestamp, Version,
    task::{Task, TaskState},
};
use load::loads;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Tasks that ask the same of a node.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Alike<'a> {
    service: &'a ServiceId,
    version: Version,
    encrypted: bool,
    bound: Option<&'a NodeId>,
}

impl<'a> Alike<'a> {
    fn of(state: &Snapshot, task: &'a Task) -> Self {
        let (service, version, bound) = (&task.service, task.spec_version, task.bound.as_ref());
        Alike { service, version, encrypted: is_encrypted(state, task), bound }
    }
}

/// So far two hosts' clocks may be apart with nothing wrong.
const CLOCKS_DIFFER: Duration = Duration::from_secs(5);

/// Whether it waits for a node.
fn waits(task: &Task) -> bool {
    task.status.state == TaskState::Pending && task.node.is_none() && task.desired == TaskState::Running
}

/// Whether the delay before it starts again is not over. Much further off than the delay is only a time by the clock of another
/// host, which is ahead: nobody waits for that.
fn is_delayed(task: &Task, now: Timestamp) -> bool {
    let wait = task.not_before.since(now);
    !wait.is_zero() && wait <= task.spec.restart.delay * 2 + CLOCKS_DIFFER
}

pub fn plan(state: &Snapshot, context: &mut Context<'_>) -> Plan {
    let mut plan = Plan::default();
    let waiting = |task: &&Arc<Task>| waits(task);
    if !state.tasks.values().any(|t| waiting(&t)) {
        return plan;
    }
    let mut loads = loads(state, context.now);
    let mut groups: BTreeMap<Alike<'_>, Vec<&Task>> = BTreeMap::new();
    for task in state.tasks.values().filter(waiting) {
        if is_delayed(task, context.now) {
            plan.wake_at(task.not_before);
        } else {
            groups.entry(Alike::of(state, task)).or_default().push(task);
        }
    }
    let mut placed = Vec::new();
    for tasks in groups.into_values() {
        let mut candidates = Candidates::new(state, &loads, Wanted::by_all(state, &tasks));
        for task in tasks {
            let mut next = Task::clone(task);
            match candidates.place(state, &mut loads) {
                Ok((node, choice)) => {
                    next.node = Some(node);
                    next.choice = Some(choice);
                    next.status.state = TaskState::Assigned;
                    next.status.since = context.now;
                    next.status.message = "assigned to a node".into();
                }
                Err(reason) if next.status.message != reason => next.status.message = reason,
                Err(_) => continue,
            }
            placed.push(next);
        }
    }
    // What is written together goes to few nodes then: each hears of its tasks at once, and not of one after the other.
    // Those that fit nowhere can wait.
    placed.sort_by_cached_key(|task| (task.node.is_none(), task.node.clone()));
    plan.mutations.extend(placed.into_iter().map(|task| Mutation::Update(task.into())));
    plan
}
