//! Makes the tunnel's keys anew, epoch after epoch, so that nothing under way is lost.
//!
//! ```text
//! idle ── due, or asked for ──> next: every host makes keys and learns the others'
//!  ^                              │ all ready hosts have a key, and their kernels all keys
//!  └── kernels follow, a pause ── current: hosts send by the new keys, and still take what comes by the old
//! ```
//!
//! Hosts that are down are not waited for: once back they make keys of the current epoch. By schedule nothing begins while
//! one is down, so that a host that only the managers cannot reach keeps its peers.

use crate::{
    plan::{Context, Plan},
    store::{Mutation, Snapshot},
};
use heddle_model::{
    Timestamp, Version,
    cluster::Cluster,
    node::{Node, NodeState},
    tunnel::Epochs,
};
use std::{sync::Arc, time::Duration};

/// What was sent by the old keys has arrived by then.
const LINGER: Duration = Duration::from_secs(2);

pub fn plan(state: &Snapshot, context: &mut Context<'_>) -> Plan {
    let mut plan = Plan::default();
    if let Some(cluster) = &state.cluster
        && let Some(epochs) = advance(state, cluster, context, &mut plan)
    {
        plan.push(Mutation::Update(Cluster { epochs, ..Cluster::clone(cluster) }.into()));
    }
    plan
}

fn advance(state: &Snapshot, cluster: &Cluster, context: &Context<'_>, plan: &mut Plan) -> Option<Epochs> {
    let (epochs, since) = (cluster.epochs, context.now);
    if epochs.next.is_some() {
        let reached = waits_for(state, cluster).is_empty() && context.acked >= newest(state, cluster);
        return reached.then(|| Epochs {
            current: epochs.next.unwrap_or(epochs.current),
            next: None,
            retiring: Some(epochs.current),
            since,
        });
    }
    let (wait, ready) = match epochs.retiring {
        Some(_) => (LINGER, context.acked >= cluster.meta.version),
        None => (cluster.spec.tunnel_key_life, state.nodes.values().all(|n| n.status.state == NodeState::Ready)),
    };
    let due = epochs.since.plus(wait);
    if context.now < due {
        plan.wake_at(due);
        return None;
    }
    match epochs.retiring {
        _ if !ready => None,
        Some(_) => Some(Epochs { retiring: None, since, ..epochs }),
        None => Some(begin(epochs, since)),
    }
}

/// The first step to new keys.
pub fn begin(epochs: Epochs, since: Timestamp) -> Epochs {
    Epochs { next: Some(epochs.current.following()), since, ..epochs }
}

/// The version that every kernel must have reached before the hosts send by the next keys.
fn newest(state: &Snapshot, cluster: &Cluster) -> Version {
    let nodes = state.nodes.values().map(|n| n.meta.version);
    nodes.max().map_or(cluster.meta.version, |n| n.max(cluster.meta.version))
}

/// The hosts that have to make keys of the next epoch still.
pub fn waits_for<'a>(state: &'a Snapshot, cluster: &Cluster) -> Vec<&'a Arc<Node>> {
    let Some(next) = cluster.epochs.next else { return Vec::new() };
    let lacks = |n: &&Arc<Node>| n.description.tunnel.as_ref().is_some_and(|t| !t.keys.contains_key(&next));
    state.nodes.values().filter(|n| n.status.state == NodeState::Ready).filter(lacks).collect()
}

/// What a change of keys waits for, in a sentence.
pub fn why_not_yet(state: &Snapshot) -> String {
    let waits: Vec<_> = state.cluster.iter().flat_map(|c| waits_for(state, c)).collect();
    let names: Vec<_> = waits.iter().map(|n| n.description.hostname.as_str()).collect();
    match names.as_slice() {
        [] => "the keys change still: not every host has said that its kernel follows".into(),
        names => format!("the keys change still: no new key yet from {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dispatcher::assignment::{mtu, view},
        world::World,
    };
    use heddle_model::{
        NodeId,
        net::Mtu,
        network::ENCRYPTED,
        node::NodeStatus,
        tunnel::{Backend, Epoch, PublicKey, TunnelEnd},
    };
    use std::collections::{BTreeMap, BTreeSet};

    const DAY: u64 = 86_400_000;

    fn pass(world: &mut World, now: u64, acked: Version) -> Plan {
        let plan =
            plan(&world.state, &mut Context { now: Timestamp(now), acked, random: &mut || unreachable!("no chance") });
        world.write(plan.mutations.clone());
        plan
    }

    fn tell(world: &mut World, node: &NodeId, epochs: &[u32]) {
        let mut description = world.state.nodes[node].description.clone();
        let keys = epochs.iter().map(|e| (Epoch(*e), PublicKey([*e as u8; 32]))).collect();
        description.tunnel = Some(TunnelEnd { backend: Backend::Kernel, keys });
        world.write(vec![Mutation::NodeDescription { id: node.clone(), description }]);
    }

    fn epochs(world: &World) -> (u32, Option<u32>, Option<u32>) {
        let e = world.state.cluster.as_ref().unwrap().epochs;
        (e.current.0, e.next.map(|e| e.0), e.retiring.map(|e| e.0))
    }

    #[test]
    fn keys_change_hands_when_every_kernel_has_them() {
        let mut world = World::new();
        // The third cannot encrypt: nobody waits for it.
        let nodes = world.ready_nodes(3);
        let (a, b) = (nodes[0].clone(), nodes[1].clone());
        tell(&mut world, &a, &[1]);
        tell(&mut world, &b, &[1]);
        let idle = pass(&mut world, DAY - 1, Version(u64::MAX));
        assert_eq!((epochs(&world), idle.wake), ((1, None, None), Some(Timestamp(DAY))));
        pass(&mut world, DAY, Version(u64::MAX));
        assert_eq!(epochs(&world), (1, Some(2), None));
        tell(&mut world, &a, &[1, 2]);
        pass(&mut world, DAY + 1, Version(u64::MAX));
        assert_eq!(epochs(&world), (1, Some(2), None), "b has no key yet");
        let before = world.state.version;
        tell(&mut world, &b, &[1, 2]);
        pass(&mut world, DAY + 2, before);
        assert_eq!(epochs(&world), (1, Some(2), None), "the kernels do not know b's key yet");
        let both = world.state.version;
        pass(&mut world, DAY + 3, both);
        assert_eq!(epochs(&world), (2, None, Some(1)));
        pass(&mut world, DAY + 10_000, both);
        assert_eq!(epochs(&world), (2, None, Some(1)), "somebody may send by the old keys");
        let switched = world.state.version;
        let early = pass(&mut world, DAY + 4, switched);
        assert_eq!((epochs(&world), early.wake), ((2, None, Some(1)), Some(Timestamp(DAY + 2003))));
        pass(&mut world, DAY + 2003, switched);
        assert_eq!(epochs(&world), (2, None, None));
    }

    #[test]
    fn nothing_begins_by_itself_while_a_host_is_down() {
        let mut world = World::new();
        let node = world.ready_nodes(1).remove(0);
        tell(&mut world, &node, &[1]);
        let down = NodeStatus { state: NodeState::Down, ..NodeStatus::default() };
        world.write(vec![Mutation::NodeStatus { id: node, status: down }]);
        pass(&mut world, 2 * DAY, Version(u64::MAX));
        assert_eq!(epochs(&world), (1, None, None));
    }

    #[test]
    fn tasks_of_encrypted_networks_run_where_there_is_a_tunnel() {
        let mut world = World::new();
        let nodes = world.ready_nodes(3);
        tell(&mut world, &nodes[1], &[1]);
        let mut network = world.network("front", false);
        network.spec.options.insert(ENCRYPTED.into(), String::new());
        world.write(vec![Mutation::Create(network.into())]);
        world.run(4, |_| {});
        let on: BTreeSet<_> = world.state.tasks.values().map(|t| t.node.clone()).collect();
        assert_eq!(on, BTreeSet::from([Some(nodes[1].clone())]));
        let front = world.state.network_named("front").unwrap();
        assert_eq!(mtu(&world.state, front), Mtu(1390), "1500 less WireGuard's 60 and VXLAN's 50");
        let view = view(&world.state, &nodes[1]).unwrap();
        assert!(view.networks[&front.id].encrypted);
        assert_eq!(view.peers[&nodes[1]].keys, BTreeMap::from([(Epoch(1), PublicKey([1; 32]))]));
        assert!(view.peers[&nodes[0]].keys.is_empty());
    }
}
