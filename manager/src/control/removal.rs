//! What goes when something is removed.

use crate::store::{Mutation, Snapshot};
use heddle_model::{Kind, network::Network, node::Node};

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
