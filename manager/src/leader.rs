//! What only the leader does: runs the deciding stages whenever something changed, and watches that nodes report.

use crate::{
    allocator, ambient, autopilot,
    dispatcher::Sessions,
    membership, orchestrator,
    plan::{Context, Stage},
    scheduler,
    store::{Mutation, Snapshot, Store, WriteError, now},
    tunnel,
};
use heddle_model::{
    Timestamp, Version,
    node::{NodeState, NodeStatus},
};
use heddle_plumbing::metrics;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// In this order. Each sees what those before it wrote.
const STAGES: &[(&str, Stage)] = &[
    ("allocator", allocator::plan),
    ("orchestrator", orchestrator::plan),
    ("allocator", allocator::plan),
    ("scheduler", scheduler::plan),
    ("reaper", orchestrator::reap),
    ("tunnel", tunnel::plan),
];
/// How often leadership and heartbeats are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Acknowledgements that come within this time are looked at together.
const GATHER: Duration = Duration::from_millis(5);
/// Mutations of one transaction: a longer plan is written as several, in order.
const MOST: usize = 1000;
/// Heartbeats that may be missing.
const MISSED: u32 = 3;
/// Nodes need time to find a new leader: this, and so many heartbeats.
const GRACE: Duration = Duration::from_secs(3);
const GRACE_HEARTBEATS: u32 = 10;

/// Runs until cancelled; does nothing while another manager leads.
pub async fn run(store: Store, sessions: Arc<Sessions>, cancel: CancellationToken) {
    let mut state = store.watch();
    let mut acks = sessions.watch();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut leads_since: Option<Instant> = None;
    let mut looked: Option<Instant> = None;
    let mut wake: Option<Timestamp> = None;
    let mut reached = Version(0);
    let mut dirty = true;
    loop {
        // In this order: whichever it is, all of it is looked at.
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            changed = state.changed() => if changed.is_err() { return } else { dirty = true },
            _ = acks.changed() => {
                tokio::time::sleep(GATHER).await;
                acks.mark_unchanged();
                dirty |= sessions.min_ready(&store.snapshot()) != reached;
            }
            _ = tick.tick() => {}
        }
        if !store.is_leader() {
            leads_since = None;
            dirty = true;
            continue;
        }
        let since = *leads_since.get_or_insert_with(Instant::now);
        let mut result = Ok(());
        if looked.is_none_or(|at| at.elapsed() >= TICK) {
            membership::settle(&store).await;
            result = watch_nodes(&store, &sessions, since).await;
            if result.is_ok() {
                result = autopilot::tidy(&store, since).await;
            }
            looked = Some(Instant::now());
        }
        let due = wake.is_some_and(|at| at <= now());
        let result = match result {
            Ok(()) if dirty || due => {
                state.mark_unchanged();
                acks.mark_unchanged();
                reached = sessions.min_ready(&store.snapshot());
                pass(&store, &sessions).await.map(|next| {
                    dirty = false;
                    wake = next;
                })
            }
            other => other,
        };
        if let Err(error) = result {
            tracing::debug!(%error, "leader pass ended early");
        }
    }
}

/// Every stage once; the earliest time at which one wants to run again.
async fn pass(store: &Store, sessions: &Sessions) -> Result<Option<Timestamp>, WriteError> {
    let mut wake = None;
    for (name, stage) in STAGES {
        let state = store.snapshot();
        let acked = sessions.min_ready(&state);
        let began = Instant::now();
        let plan = stage(&state, &mut Context { now: now(), acked, random: &mut ambient::random::<16> });
        wake = [wake, plan.wake].into_iter().flatten().min();
        if !plan.mutations.is_empty() {
            tracing::debug!(stage = name, mutations = plan.mutations.len(), "planned");
            let written = write(store, plan.mutations).await;
            metrics::pass(name, began.elapsed(), written.is_ok());
            written?;
        } else {
            metrics::pass(name, began.elapsed(), true);
        }
    }
    Ok(wake)
}

async fn write(store: &Store, mutations: Vec<Mutation>) -> Result<(), WriteError> {
    let mut rest = mutations.into_iter();
    while rest.len() > 0 {
        store.write(rest.by_ref().take(MOST).collect()).await?;
    }
    Ok(())
}

async fn watch_nodes(store: &Store, sessions: &Sessions, leads_since: Instant) -> Result<(), WriteError> {
    let state = store.snapshot();
    let lost = lost(&state, sessions, leads_since);
    if lost.is_empty() {
        return Ok(());
    }
    store.write(lost.clone()).await?;
    for lost in lost {
        if let Mutation::NodeStatus { id, .. } = lost {
            let host = state.nodes.get(&id).map_or("", |n| &n.description.hostname);
            tracing::info!(node = %id, host, "node is down");
        }
    }
    Ok(())
}

fn lost(state: &Snapshot, sessions: &Sessions, leads_since: Instant) -> Vec<Mutation> {
    let Some(cluster) = &state.cluster else { return Vec::new() };
    let limit = cluster.spec.heartbeat * MISSED;
    let grace = GRACE.max(cluster.spec.heartbeat * GRACE_HEARTBEATS);
    // What was heard before this manager led, or led again, says nothing: nodes report to the leader alone.
    let silent = |id| match sessions.last_seen(id).filter(|at| *at >= leads_since) {
        Some(at) => at.elapsed() > limit,
        None => leads_since.elapsed() > grace,
    };
    let reported = state.nodes.values().filter(|n| n.status.state == NodeState::Ready);
    reported
        .filter(|n| silent(&n.id))
        .map(|n| {
            let message = format!("no heartbeat for {} ms", limit.as_millis());
            let status = NodeStatus { state: NodeState::Down, message, since: now() };
            Mutation::NodeStatus { id: n.id.clone(), status }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    fn lost_after(heartbeat: Duration, sessions: &Sessions, led: Duration) -> usize {
        let mut world = World::new();
        world.ready_nodes(2);
        if let Some(cluster) = &mut world.state.cluster {
            let mut changed = (**cluster).clone();
            changed.spec.heartbeat = heartbeat;
            *cluster = changed.into();
        }
        lost(&world.state, sessions, Instant::now() - led).len()
    }

    #[test]
    fn a_new_leader_gives_nodes_the_time_that_their_heartbeats_need() {
        let sessions = Sessions::default();
        let (usual, slow) = (Duration::from_millis(300), Duration::from_secs(2));
        for (heartbeat, led, count) in [(usual, 2, 0), (usual, 4, 2), (slow, 19, 0), (slow, 21, 2)] {
            assert_eq!(lost_after(heartbeat, &sessions, Duration::from_secs(led)), count, "{heartbeat:?} {led}");
        }
    }

    #[test]
    fn what_a_manager_heard_when_it_led_before_does_not_count() {
        let sessions = Sessions::default();
        for node in World::new().ready_nodes(2) {
            sessions.begin(&node, tokio::sync::mpsc::channel(1).0);
        }
        let heartbeat = Duration::from_millis(1);
        std::thread::sleep(heartbeat * 2 * MISSED);
        assert_eq!(lost_after(heartbeat, &sessions, Duration::ZERO), 0);
        assert_eq!(lost_after(heartbeat, &sessions, Duration::from_secs(1)), 2);
    }
}
