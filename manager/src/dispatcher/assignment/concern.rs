//! Which nodes a change may be anything to. Too many cost a look at both states each; too few would be told nothing.

use super::{changes::changed, item};
use crate::store::Snapshot;
use heddle_model::{
    NetworkId, NodeId,
    cluster::{RootCa, RootRotation},
    connection::Connection,
    node::{Node, NodeState},
    service::Service,
    task::Task,
};
use std::{collections::BTreeSet, sync::Arc};

/// Whose agents are to be told something, perhaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Concerned {
    All,
    Some(BTreeSet<NodeId>),
}

impl Concerned {
    pub fn includes(&self, node: &NodeId) -> bool {
        match self {
            Concerned::All => true,
            Concerned::Some(nodes) => nodes.contains(node),
        }
    }
}

/// By what changed from the one state to the other.
pub fn concerned(old: &Snapshot, new: &Snapshot) -> Concerned {
    let cluster = item::cluster(old) != item::cluster(new) || roots(old) != roots(new);
    let nodes = || changed(&old.nodes, &new.nodes);
    let peers = || nodes().iter().any(|id| Face::of(old.nodes.get(id)) != Face::of(new.nodes.get(id)));
    if cluster || !changed(&old.networks, &new.networks).is_empty() || peers() {
        return Concerned::All;
    }
    let (mut networks, mut concerned) = (BTreeSet::new(), BTreeSet::new());
    for id in changed(&old.services, &new.services) {
        let (was, is) = (old.services.get(&id), new.services.get(&id));
        if was.map(|s| &s.logins) != is.map(|s| &s.logins) {
            let tasks = [old, new].into_iter().flat_map(|s| s.tasks_of_service(&id));
            concerned.extend(tasks.filter_map(|t| t.node.clone()));
        }
        if service_as_told(was) == service_as_told(is) {
            continue;
        }
        if was.into_iter().chain(is).any(|s| item::is_published(s)) {
            return Concerned::All;
        }
        let targets = was.into_iter().chain(is).flat_map(|s| &s.spec.task.networks);
        networks.extend(targets.filter_map(|t| t.target.parse::<NetworkId>().ok()));
        // Those of its tasks.
        let tasks = [old, new].into_iter().flat_map(|s| s.tasks_of_service(&id)).collect::<Vec<_>>();
        networks.extend(tasks.iter().flat_map(|t| &t.attachments).map(|a| a.network.clone()));
    }
    for id in changed(&old.tasks, &new.tasks) {
        let (was, is) = (old.tasks.get(&id), new.tasks.get(&id));
        let at = was.into_iter().chain(is);
        concerned.extend(at.clone().filter_map(|t| t.node.clone()));
        if was.map(|t| endpoint_as_told(t)) != is.map(|t| endpoint_as_told(t)) {
            networks.extend(at.flat_map(|t| &t.attachments).map(|a| a.network.clone()));
        }
    }
    for id in changed(&old.connections, &new.connections) {
        let at = [old, new].into_iter().filter_map(|s| s.connections.get(&id));
        for Connection { node, attachment, .. } in at.map(|c| &**c) {
            concerned.insert(node.clone());
            networks.insert(attachment.network.clone());
        }
    }
    for network in networks {
        if [old, new].iter().any(|s| s.ingress_network().is_some_and(|n| n.id == network)) {
            return Concerned::All;
        }
        // To look at each of them costs more than that every node looks at what changed.
        if new.count_in_network(&network) > new.nodes.len() {
            return Concerned::All;
        }
        concerned.extend(new.tasks_in_network(&network).filter_map(|t| t.node.clone()));
        concerned.extend(new.connections_to(&network).map(|c| c.node.clone()));
    }
    Concerned::Some(concerned)
}

/// What sessions tell of whom to believe.
fn roots(state: &Snapshot) -> Option<(&RootCa, &Option<RootRotation>)> {
    state.cluster.as_ref().map(|c| (&c.root_ca, &c.rotation))
}

/// What others are told of a node, and it of itself.
#[derive(PartialEq)]
struct Face<'a> {
    down: bool,
    role: heddle_model::cluster::Role,
    addr: std::net::IpAddr,
    hostname: &'a str,
    mtu: Option<heddle_model::net::Mtu>,
    tunnel: Option<&'a heddle_model::tunnel::TunnelEnd>,
    manager: Option<&'a heddle_model::node::ManagerStatus>,
    ingress: Option<&'a heddle_model::node::IngressLeg>,
}

impl<'a> Face<'a> {
    fn of(node: Option<&'a Arc<Node>>) -> Option<Self> {
        node.map(|n| Face {
            down: n.status.state == NodeState::Down,
            role: n.next_role(),
            addr: n.data_path_addr,
            hostname: &n.description.hostname,
            mtu: n.description.data_path_mtu,
            tunnel: n.description.tunnel.as_ref(),
            manager: n.manager.as_ref(),
            ingress: n.ingress.as_ref(),
        })
    }
}

/// What a node that is concerned is told of a service.
fn service_as_told(service: Option<&Arc<Service>>) -> impl PartialEq {
    let told = |s: &Arc<Service>| {
        let spec = &s.spec;
        (s.endpoint.clone(), spec.annotations.name.clone(), spec.endpoint.mode, spec.task.networks.clone())
    };
    service.map(told)
}

/// What changes in what others are told of a task.
fn endpoint_as_told(task: &Task) -> impl PartialEq + '_ {
    (item::here(task), task.in_service(), &task.node, &task.attachments)
}
