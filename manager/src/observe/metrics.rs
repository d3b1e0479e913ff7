//! What a manager tells of itself when its numbers are asked for.

use crate::{dispatcher::Sessions, store::Snapshot, store::Store};
use heddle_model::node::NodeState;
use metrics::gauge;
use openraft::async_runtime::WatchReceiver;
use std::collections::BTreeMap;

/// Sets all that is a state; what happens is counted where it happens.
pub fn observe(store: &Store, sessions: &Sessions) {
    raft(store);
    let state = store.snapshot();
    objects(&state);
    nodes(&state);
    let behind = sessions.behind(&state);
    gauge!("heddle_dispatcher_sessions").set(sessions.open() as f64);
    gauge!("heddle_dispatcher_nodes_behind").set(behind.values().filter(|n| **n > 0).count() as f64);
    gauge!("heddle_dispatcher_revisions_behind_max").set(behind.values().max().copied().unwrap_or(0) as f64);
}

fn raft(store: &Store) {
    let raft = store.raft().metrics().borrow_watched().clone();
    let index = |id: Option<u64>| id.unwrap_or(0) as f64;
    let truth = |is: bool| f64::from(u8::from(is));
    let voters = raft.membership_config.voter_ids().count();
    gauge!("heddle_raft_term").set(raft.current_term as f64);
    gauge!("heddle_raft_is_leader").set(truth(store.is_leader()));
    gauge!("heddle_raft_has_leader").set(truth(raft.current_leader.is_some()));
    gauge!("heddle_raft_voters").set(voters as f64);
    gauge!("heddle_raft_learners").set((raft.membership_config.nodes().count() - voters) as f64);
    gauge!("heddle_raft_last_log_index").set(index(raft.last_log_index));
    gauge!("heddle_raft_committed_index").set(index(raft.local_committed.map(|id| id.index)));
    gauge!("heddle_raft_last_applied_index").set(index(raft.last_applied.map(|id| id.index)));
    gauge!("heddle_raft_snapshot_index").set(index(raft.snapshot.map(|id| id.index)));
}

fn objects(state: &Snapshot) {
    gauge!("heddle_store_revision").set(state.version.0 as f64);
    for (kind, count) in [
        ("node", state.nodes.len()),
        ("network", state.networks.len()),
        ("service", state.services.len()),
        ("task", state.tasks.len()),
        ("connection", state.connections.len()),
    ] {
        gauge!("heddle_store_objects", "kind" => kind).set(count as f64);
    }
}

fn nodes(state: &Snapshot) {
    let mut counts = BTreeMap::from([("unknown", 0), ("ready", 0), ("down", 0)]);
    for node in state.nodes.values() {
        let state = match node.status.state {
            NodeState::Unknown => "unknown",
            NodeState::Ready => "ready",
            NodeState::Down => "down",
        };
        *counts.entry(state).or_default() += 1;
    }
    for (state, count) in counts {
        gauge!("heddle_nodes", "state" => state).set(f64::from(count));
    }
}
