//! What only the leader does: runs the deciding stages whenever something changed, and watches that nodes report.

use crate::{
    allocator, ambient, autopilot, ca,
    dispatcher::Sessions,
    membership, orchestrator,
    plan::{Context, Stage},
    scheduler,
    store::{Mutation, Snapshot, Store, WriteError, now},
    tunnel,
};
use heddle_model::{
    Object, Timestamp, Version, limits,
    node::{NodeState, NodeStatus},
};
use heddle_plumbing::metrics;
use std::{collections::VecDeque, sync::Arc, time::Duration};
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
    ("root", ca::rotation::plan),
];
/// How often leadership is looked at, and heartbeats and managers for each thousand nodes: as many report as much more seldom.
const TICK: Duration = Duration::from_millis(100);
/// Acknowledgements that come within this time are looked at together.
const GATHER: Duration = Duration::from_millis(5);
/// Mutations of one transaction, and bytes of the specs of tasks in it: a longer plan is written as several, in order.
const MOST: usize = 1000;
const MOST_BYTES: u64 = 8 << 20;
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
        if looked.is_none_or(|at| at.elapsed() >= look_after(store.snapshot().nodes.len())) {
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
                pass(&store, &sessions, since).await.map(|next| {
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

fn look_after(nodes: usize) -> Duration {
    TICK * nodes.div_ceil(1000).max(1) as u32
}

/// Every stage once; the earliest time at which one wants to run again.
async fn pass(store: &Store, sessions: &Sessions, since: Instant) -> Result<Option<Timestamp>, WriteError> {
    let mut wake = None;
    for (name, stage) in STAGES {
        let state = store.snapshot();
        let acked = sessions.min_ready(&state);
        let began = Instant::now();
        let plan = stage(&state, &mut Context { now: now(), acked, random: &mut ambient::random::<16> });
        wake = [wake, plan.wake].into_iter().flatten().min();
        if !plan.mutations.is_empty() {
            tracing::debug!(stage = name, mutations = plan.mutations.len(), "planned");
            let written = write(store, sessions, since, plan.mutations).await;
            metrics::pass(name, began.elapsed(), written.is_ok());
            match written {
                // A report came in between: the other stages need not wait for that this one plans anew.
                Err(WriteError::Conflict(error)) => {
                    tracing::debug!(stage = name, %error, "planned anew");
                    wake = Some(now());
                }
                written => written?,
            }
        } else {
            metrics::pass(name, began.elapsed(), true);
        }
    }
    Ok(wake)
}

/// Nodes that fail meanwhile are noticed all the same.
async fn write(store: &Store, sessions: &Sessions, since: Instant, mutations: Vec<Mutation>) -> Result<(), WriteError> {
    let mut rest = VecDeque::from(mutations);
    let mut looked = Instant::now();
    while !rest.is_empty() {
        let next = rest.drain(..first_part(&rest)).collect();
        store.write(next).await?;
        if looked.elapsed() >= look_after(store.snapshot().nodes.len()) {
            watch_nodes(store, sessions, since).await?;
            looked = Instant::now();
        }
    }
    Ok(())
}

/// How many of the first mutations are one transaction.
fn first_part(mutations: &VecDeque<Mutation>) -> usize {
    let mut bytes = 0;
    let fits = |mutation: &&Mutation| {
        bytes += match mutation {
            Mutation::Create(Object::Task(task)) | Mutation::Update(Object::Task(task)) => limits::size(&task.spec),
            _ => 0,
        };
        bytes <= MOST_BYTES
    };
    let part = mutations.iter().take(MOST).take_while(fits).count().max(1);
    let is = |n: usize, kind: fn(&Mutation) -> bool| mutations.get(n).is_some_and(kind);
    // What takes the place of another is not cut off from what ends that one: the delay between them would be lost.
    let apart = is(part, |m| matches!(m, Mutation::Create(_))) && is(part - 1, |m| matches!(m, Mutation::Update(_)));
    if apart && part > 1 { part - 1 } else { part }
}

async fn watch_nodes(store: &Store, sessions: &Sessions, leads_since: Instant) -> Result<(), WriteError> {
    if lost(&store.snapshot(), sessions, leads_since).is_empty() {
        return Ok(());
    }
    // It may be this manager that was held up. Then it reads first what was said meanwhile, and whether it leads still.
    tokio::time::sleep(TICK).await;
    let state = store.snapshot();
    let lost = lost(&state, sessions, leads_since);
    if lost.is_empty() || !store.is_leader() {
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
    let heartbeat = cluster.spec.heartbeat_among(state.nodes.len());
    let (limit, grace) = (heartbeat * MISSED, GRACE.max(heartbeat * GRACE_HEARTBEATS));
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
    use heddle_model::task::Task;

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
    fn a_long_plan_is_cut_where_that_harms_nothing() {
        let mut world = World::new();
        world.ready_nodes(1);
        world.run(1, |_| {});
        world.settle();
        let task = Task::clone(world.state.tasks.values().next().unwrap());
        let (new, old) = (|| Mutation::Create(task.clone().into()), || Mutation::Update(task.clone().into()));
        let parts = |mut all: VecDeque<Mutation>| {
            let mut parts = Vec::new();
            while !all.is_empty() {
                parts.push(all.drain(..first_part(&all)).count());
            }
            parts
        };
        assert_eq!(parts((0..MOST * 2 + 1).map(|_| new()).collect()), [MOST, MOST, 1]);
        // The last of the first part would be cut off from what takes its place.
        let pairs = (0..MOST).flat_map(|_| [old(), new()]);
        assert_eq!(parts([new()].into_iter().chain(pairs).collect()), [MOST - 1, MOST, 2]);
        let mut large = task.clone();
        let program = large.spec.runtime.program_mut();
        program.command.push("x".repeat(5 << 20));
        let large = || Mutation::Create(large.clone().into());
        assert_eq!(parts([large(), large(), new()].into()), [1, 2], "as many bytes as fit, and never none");
    }

    #[test]
    fn a_new_leader_gives_nodes_the_time_that_their_heartbeats_need() {
        let sessions = Sessions::default();
        let (usual, slow) = (Duration::from_millis(300), Duration::from_secs(2));
        for (heartbeat, led, count) in [(usual, 1, 0), (usual, 4, 2), (slow, 15, 0), (slow, 21, 2)] {
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
        assert_eq!(lost_after(heartbeat, &sessions, Duration::from_secs(60)), 2);
    }
}
