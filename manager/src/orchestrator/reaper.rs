//! Forgets what has ended, and gives its addresses back.

use super::{connection, drain};
use crate::{
    plan::{Context, Plan},
    store::{Mutation, Snapshot},
};
use heddle_model::{
    Kind, Version,
    task::{Task, TaskState},
};
use std::{collections::BTreeMap, sync::Arc};

/// Forgets tasks that ended: at once when they are to be removed, else when the slot's history is full. Before that, gives
/// their addresses back, once every ready node has stopped using them. Places on overlays that hosts asked for end alike. Tasks that nobody is led to any more may stop.
pub fn reap(state: &Snapshot, context: &mut Context<'_>) -> Plan {
    let mut plan = Plan::default();
    connection::reap(state, context, &mut plan);
    drain::release(state, context, &mut plan);
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
        } else if task.desired == TaskState::Shutdown && !counts(state, task) {
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

/// A job's slot is done by it, however it was to go.
fn counts(state: &Snapshot, task: &Task) -> bool {
    let service = state.services.get(&task.service).filter(|s| s.spec.mode.is_job());
    task.status.state == TaskState::Complete && service.is_some_and(|s| s.spec_version == task.spec_version)
}

fn settled(task: &Task, acked: Version) -> bool {
    task.attachments.is_empty() || acked >= task.meta.version
}

fn remove(task: &Task) -> Mutation {
    Mutation::Remove { kind: Kind::Task, id: task.id.to_string(), version: Some(task.meta.version) }
}
