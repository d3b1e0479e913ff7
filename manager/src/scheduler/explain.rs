//! Why a service's tasks are where they are, and what nodes have against those that are nowhere.

use super::{
    Alike,
    filter::{Refusal, Wanted, refusals},
    is_delayed,
    load::loads,
    waits,
};
use crate::store::Snapshot;
use heddle_model::{
    NodeId, Timestamp,
    service::Service,
    task::{Choice, Task, TaskState},
};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Explanation {
    pub placed: Vec<Placed>,
    pub waiting: Vec<Waiting>,
}

#[derive(Debug)]
pub struct Placed {
    pub slot: u64,
    pub node: NodeId,
    pub why: String,
}

/// Tasks that ask the same of a node.
#[derive(Debug)]
pub struct Waiting {
    pub slots: Vec<u64>,
    /// What they wait for, if it is no node.
    pub message: String,
    /// Of each node that they may be on, in the order of host names, all that it has against them.
    pub nodes: Vec<(NodeId, Vec<Refusal>)>,
}

pub fn explain(state: &Snapshot, service: &Service, now: Timestamp) -> Explanation {
    let mut explanation = Explanation::default();
    let (mut groups, mut others) = (BTreeMap::<_, Vec<&Task>>::new(), BTreeMap::<_, Vec<u64>>::new());
    let mut tasks: Vec<_> = state.tasks_of_service(&service.id).filter(|t| t.desired == TaskState::Running).collect();
    tasks.sort_by_key(|t| (t.slot, t.meta.created_at));
    for task in tasks {
        match &task.node {
            Some(node) if task.on_node() => {
                explanation.placed.push(Placed { slot: task.slot, node: node.clone(), why: why(task) });
            }
            Some(_) => {}
            None if waits(task) && !is_delayed(task, now) => {
                groups.entry(Alike::of(state, task)).or_default().push(task);
            }
            None => others.entry(other(task, now)).or_default().push(task.slot),
        }
    }
    explanation.waiting.extend(others.into_iter().map(|(message, slots)| Waiting {
        slots,
        message,
        nodes: Vec::new(),
    }));
    if groups.is_empty() {
        return explanation;
    }
    let loads = loads(state, now);
    for tasks in groups.into_values() {
        let wanted = Wanted::by(state, tasks[0]);
        let bound = wanted.like.bound.as_ref();
        let mut nodes: Vec<_> = state.nodes.values().filter(|n| bound.is_none_or(|id| *id == n.id)).collect();
        nodes.sort_by_key(|n| (&n.description.hostname, &n.id));
        let against = nodes
            .into_iter()
            .filter_map(|node| Some((node.id.clone(), refusals(node, loads.get(&node.id)?, &wanted).collect())));
        let nodes = against.collect();
        explanation.waiting.push(Waiting {
            slots: tasks.iter().map(|t| t.slot).collect(),
            message: String::new(),
            nodes,
        });
    }
    explanation
}

/// What a task waits for that does not look for a node yet.
fn other(task: &Task, now: Timestamp) -> String {
    let wait = task.not_before.since(now);
    match task.status.state {
        TaskState::Pending => format!("the restart delay, for {:.1} s more", wait.as_secs_f64()),
        _ if task.status.error.is_empty() => format!("its addresses: {}", task.status.message),
        _ => task.status.error.clone(),
    }
}

/// By what was counted: those of the service that were to leave were none to the scheduler.
fn why(task: &Task) -> String {
    if task.bound.is_some() {
        return "the service has a task on every node that takes it".into();
    }
    let Some(Choice { failed, alike, of_service, all }) = &task.choice else {
        return "it was put there before reasons were kept".into();
    };
    let spread = &task.spec.placement.spread;
    let mut counts: Vec<_> =
        spread.iter().zip(alike).map(|(key, count)| format!("{count} of the service by {key}")).collect();
    if *failed > 0 {
        counts.push(format!("{failed} failures of late"));
    }
    counts.push(format!("{of_service} of the service"));
    counts.push(format!("{all} in all"));
    format!("no node that took it had fewer tasks: {} were there", counts.join(", "))
}
