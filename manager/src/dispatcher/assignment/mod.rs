//! What one node is told: all of it at first, then what changed.
//!
//! ```text
//! item      each thing that a node is told of, from the state of all
//! changes   what is different for one node between two states: what may be, is looked at in both
//! concern   which nodes a change may be anything to
//! ```
//!
//! Nothing is kept for a node but the state that it was told: two states share what is the same in them, so the difference
//! costs as much as there is of it, and not as much as there are nodes, tasks and services.

mod changes;
mod concern;
mod item;
#[cfg(test)]
mod tests;

pub use changes::changes;
pub use concern::{Concerned, concerned};
pub use item::mtu;

use crate::store::Snapshot;
use heddle_model::{NodeId, assignment::NodeView, task::Task};

/// None: there is no such node, or no cluster yet.
pub fn view(state: &Snapshot, node: &NodeId) -> Option<NodeView> {
    state.nodes.get(node)?;
    let mut view = NodeView::empty(item::cluster(state)?);
    let tasks = state.tasks_on_node(node).filter(|t| item::here(t));
    view.tasks = tasks.map(|t| (t.id.clone(), Task::clone(t))).collect();
    let on = item::networks(state, node);
    view.networks = on.iter().filter_map(|id| item::network(state, id)).map(|n| (n.id.clone(), n)).collect();
    view.peers = state.nodes.keys().filter_map(|id| item::peer(state, id)).map(|p| (p.node.clone(), p)).collect();
    let services = state.services.keys().filter_map(|id| item::service(state, id, &on));
    view.services = services.map(|s| (s.id.clone(), s)).collect();
    for network in &on {
        let tasks = state.tasks_in_network(network).filter_map(|t| item::task(state, t, network));
        let connections = state.connections_to(network).filter_map(|c| item::connection(state, c));
        view.endpoints.extend(tasks.chain(connections).map(|e| ((e.network.clone(), e.task.clone()), e)));
    }
    let payloads = item::payloads(state, node).into_iter();
    view.payloads = payloads.filter_map(|id| Some((id.clone(), item::payload(state, &id)?))).collect();
    let services = item::services_with_logins(state, node).into_iter();
    view.logins = services.filter_map(|id| Some((id.clone(), item::logins(state, &id)?))).collect();
    Some(view)
}

/// Whether nodes are told the same of the cluster itself.
pub fn same_cluster(old: &Snapshot, new: &Snapshot) -> bool {
    item::cluster(old) == item::cluster(new)
}
