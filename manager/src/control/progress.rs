//! How far a service is from what is wanted, told from the state and the acknowledgements.

use crate::{dispatcher::Sessions, orchestrator, store::Snapshot};
use heddle_model::{
    ServiceId, Version,
    node::NodeState,
    task::{Task, TaskState},
};
use heddle_proto::v1;
use std::collections::{BTreeMap, BTreeSet};

/// Tasks that fit on a screen.
const SHOWN: u64 = 20;

pub fn of(state: &Snapshot, id: &ServiceId, sessions: &Sessions) -> v1::ServiceProgress {
    let service = state.services.get(id);
    let acked = sessions.min_ready(state);
    let mut out = v1::ServiceProgress {
        desired: service.map_or(0, |s| orchestrator::wanted(state, s)),
        job: service.filter(|s| s.spec.mode.is_job()).map(|s| {
            let (completed, failed) = orchestrator::ended(state, s);
            v1::JobProgress { completed, failed }
        }),
        moves: service.map_or(0, |s| s.moves),
        update: service.and_then(|s| s.update.clone()).map(Into::into),
        ..v1::ServiceProgress::default()
    };
    let mut newest = Version(0);
    let (mut reasons, mut failures) = (BTreeSet::new(), Vec::new());
    let reachable = |t: &Task| {
        let node = t.node.as_ref().and_then(|n| state.nodes.get(n));
        node.is_some_and(|n| n.status.state == NodeState::Ready)
    };
    for task in state.tasks_of_service(id) {
        newest = newest.max(task.meta.version);
        if task.in_service() {
            out.running += 1;
            let in_rotation = u64::from(acked >= task.meta.version);
            out.in_rotation += in_rotation;
            let current = service.is_some_and(|s| s.spec_version == task.spec_version);
            out.current += if current { in_rotation } else { 0 };
        } else if task.desired == TaskState::Running {
            reasons.extend(reason(task));
        } else if task.on_node() && reachable(task) {
            out.stopping += 1;
        }
        if task.desired != TaskState::Running && !task.status.error.is_empty() && service.is_some() {
            failures.push(format!("{}: {}", task.name(), task.status.error));
        }
    }
    if out.desired <= SHOWN {
        out.tasks = tasks(state, id, acked);
    }
    newest = newest.max(service.map_or(Version(0), |s| s.meta.version));
    let behind =
        state.nodes.values().filter(|n| n.status.state == NodeState::Ready && sessions.reached_by(&n.id) < newest);
    out.waiting_for = behind.map(|n| n.description.hostname.clone()).collect();
    if out.running < out.desired {
        reasons.extend(failures);
    }
    if out.running < out.desired || service.is_some_and(|s| s.is_updating()) {
        out.reasons = reasons.into_iter().collect();
    }
    out.gone = out.desired == 0 && out.running == 0 && out.stopping == 0 && out.waiting_for.is_empty();
    out
}

/// Of each slot the task that is to run, or else the one that goes.
fn tasks(state: &Snapshot, id: &ServiceId, acked: Version) -> Vec<v1::TaskProgress> {
    let mut slots: BTreeMap<u64, &Task> = BTreeMap::new();
    for task in state.tasks_of_service(id).filter(|t| !t.status.state.is_terminal()) {
        let counts = |t: &Task| (t.desired <= TaskState::Running, t.meta.created_at);
        let shown = slots.entry(task.slot).or_insert(task);
        if counts(task) > counts(shown) {
            *shown = task;
        }
    }
    let of = |task: &Task| {
        let node = task.node.as_ref().and_then(|n| state.nodes.get(n));
        v1::TaskProgress {
            name: format!("{}.{}", task.service_name, task.slot),
            state: v1::TaskState::from(task.status.state).into(),
            hostname: node.map(|n| n.description.hostname.clone()).unwrap_or_default(),
            in_rotation: task.in_service() && acked >= task.meta.version,
            message: reason(task).unwrap_or_default(),
        }
    };
    slots.into_values().map(of).collect()
}

fn reason(task: &Task) -> Option<String> {
    let text = if task.status.error.is_empty() { &task.status.message } else { &task.status.error };
    let waits = match task.status.state {
        // For its health check to succeed.
        TaskState::Starting => task.spec.may_be_checked(),
        state => state <= TaskState::Pending,
    };
    (waits || !task.status.error.is_empty()).then(|| text.clone())
}
