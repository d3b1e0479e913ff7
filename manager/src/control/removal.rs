//! What goes when something is removed.

use crate::{
    dispatcher::connection,
    store::{Mutation, Snapshot},
};
use heddle_model::{
    Kind, Timestamp,
    cluster::Cluster,
    network::Network,
    node::Node,
    task::{Task, TaskState},
};

/// A node goes with its places on overlays, and its certificate counts no more; its tasks count as ended, whatever they
/// still do.
pub fn node(state: &Snapshot, node: &Node, why: &str, now: Timestamp) -> Vec<Mutation> {
    let mut mutations =
        vec![Mutation::Remove { kind: Kind::Node, id: node.id.to_string(), version: Some(node.meta.version) }];
    for task in state.tasks_on_node(&node.id).filter(|t| t.on_node()) {
        let mut task = Task::clone(task);
        task.status.state = TaskState::Orphaned;
        task.status.since = now;
        task.status.message = why.to_owned();
        mutations.push(Mutation::Update(task.into()));
    }
    if let Some(cluster) = &state.cluster {
        let mut cluster = Cluster::clone(cluster);
        cluster.remove(node.id.clone(), now);
        mutations.push(Mutation::Update(cluster.into()));
    }
    mutations.extend(state.connections_on_node(&node.id).filter_map(|c| connection::release(c)));
    mutations
}

/// A network goes with what is left of it: places that were given up, and the nodes' legs in the ingress network.
pub fn network(state: &Snapshot, network: &Network) -> Vec<Mutation> {
    let remove = |kind, id: String, version| Mutation::Remove { kind, id, version: Some(version) };
    let connections = state.connections_to(&network.id);
    let mut mutations: Vec<_> =
        connections.map(|c| remove(Kind::Connection, c.id.to_string(), c.meta.version)).collect();
    for node in state.nodes.values().filter(|n| network.spec.ingress && n.ingress.is_some()) {
        mutations.push(Mutation::Update(Node { ingress: None, ..Node::clone(node) }.into()));
    }
    mutations.push(remove(Kind::Network, network.id.to_string(), network.meta.version));
    mutations
}
