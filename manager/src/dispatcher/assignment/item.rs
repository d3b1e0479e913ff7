//! Each thing that a node is told of, from the state of all; None: it is not told of it.

use crate::store::Snapshot;
use heddle_model::{
    NetworkId, NodeId, PayloadId, ServiceId,
    assignment::{ClusterView, EndpointView, NetworkView, PeerView, ServiceView},
    connection::Connection,
    endpoint::{Attachment, PublishMode},
    login::Logins,
    net::Mtu,
    network::Network,
    node::{Node, NodeState},
    payload::Content,
    service::Service,
    task::{Task, TaskState},
    tunnel::{Epoch, Epochs, PublicKey},
};
use std::collections::{BTreeMap, BTreeSet};

/// The MTU inside a network now: the least that any node's data path allows, or less if the network's spec says so.
pub fn mtu(state: &Snapshot, network: &Network) -> Mtu {
    let least = state.least_mtu(network.spec.encrypted()).unwrap_or(Mtu::ETHERNET);
    network.spec.mtu.map_or(least, |m| m.min(least))
}

pub fn cluster(state: &Snapshot) -> Option<ClusterView> {
    state.cluster.as_ref().map(|cluster| ClusterView {
        id: cluster.id.clone(),
        ingress_seed: cluster.ingress_seed,
        data_path_port: cluster.spec.data_path_port,
        tunnel_port: cluster.spec.tunnel_port,
        epochs: cluster.epochs,
    })
}

/// The networks that a node is on: its tasks' and workloads', and the one that all are on.
pub fn networks(state: &Snapshot, node: &NodeId) -> BTreeSet<NetworkId> {
    let attached = state.tasks_on_node(node).filter(|t| here(t)).flat_map(|t| t.attachments.iter());
    let connected = state.connections_on_node(node).filter(|c| !c.released).map(|c| &c.attachment);
    let ids = attached.chain(connected).map(|a| &a.network).chain(state.ingress_network().map(|n| &n.id));
    let given = |id: &&NetworkId| state.networks.get(*id).is_some_and(|n| n.allocation.is_some());
    ids.filter(given).cloned().collect()
}

pub fn network(state: &Snapshot, id: &NetworkId) -> Option<NetworkView> {
    let network = state.networks.get(id)?;
    let given = network.allocation.as_ref()?;
    Some(NetworkView {
        id: network.id.clone(),
        name: network.spec.annotations.name.clone(),
        vni: given.vni,
        subnet: given.subnet,
        service_subnet: given.service_subnet,
        mtu: mtu(state, network),
        ingress: network.spec.ingress,
        internal: network.spec.internal,
        encrypted: network.spec.encrypted(),
    })
}

/// A host's public keys that are of use now.
fn keys(node: &Node, epochs: &Epochs) -> BTreeMap<Epoch, PublicKey> {
    let known = node.description.tunnel.iter().flat_map(|t| &t.keys);
    known.filter(|(epoch, _)| epochs.all().any(|e| e == **epoch)).map(|(epoch, key)| (*epoch, *key)).collect()
}

/// It is down, and its host joined again as another node: two peers at one address would be one too many.
fn replaced(state: &Snapshot, node: &Node) -> bool {
    let after = |n: &Node| (n.meta.created_at, &n.id) > (node.meta.created_at, &node.id);
    node.status.state == NodeState::Down && state.nodes_at(&node.data_path_addr).any(|n| after(n))
}

pub fn peer(state: &Snapshot, id: &NodeId) -> Option<PeerView> {
    let peer = state.nodes.get(id).filter(|n| !replaced(state, n))?;
    let epochs = &state.cluster.as_ref()?.epochs;
    Some(PeerView {
        node: peer.id.clone(),
        hostname: peer.description.hostname.clone(),
        data_path_addr: peer.data_path_addr,
        data_path_mtu: peer.description.data_path_mtu,
        ingress: peer.ingress.clone(),
        keys: keys(peer, epochs),
    })
}

pub fn is_published(service: &Service) -> bool {
    service.endpoint.iter().flat_map(|e| &e.ports).any(|p| p.mode == PublishMode::Ingress)
}

/// To a node on these networks.
pub fn service(state: &Snapshot, id: &ServiceId, on: &BTreeSet<NetworkId>) -> Option<ServiceView> {
    let service = state.services.get(id)?;
    let endpoint = service.endpoint.as_ref()?;
    let near = || service.spec.task.networks.iter().any(|t| on.iter().any(|n| n.as_str() == t.target));
    if !is_published(service) && !near() {
        return None;
    }
    let vips = endpoint.virtual_ips.iter().filter(|v| on.contains(&v.network));
    Some(ServiceView {
        id: service.id.clone(),
        name: service.spec.annotations.name.clone(),
        mode: service.spec.endpoint.mode,
        virtual_ips: vips.cloned().collect(),
        ports: endpoint.ports.clone(),
    })
}

/// Whether the task's node has to do with it.
pub fn here(task: &Task) -> bool {
    task.on_node() && task.status.state >= TaskState::Assigned
}

pub fn in_service(state: &Snapshot, task: &Task) -> bool {
    task.in_service() && state.services.contains_key(&task.service)
}

/// Where a network leads to the task.
pub fn task(state: &Snapshot, task: &Task, network: &NetworkId) -> Option<EndpointView> {
    let node = task.node.as_ref().filter(|_| here(task))?;
    let Attachment { addr, mac, aliases, .. } = task.attachments.iter().find(|a| a.network == *network)?;
    Some(EndpointView {
        network: network.clone(),
        task: task.id.clone(),
        task_name: task.name(),
        service: Some(task.service.clone()),
        slot: task.slot,
        node: node.clone(),
        addr: *addr,
        mac: *mac,
        aliases: aliases.clone(),
        in_service: in_service(state, task),
    })
}

/// The secrets and configs of a node's tasks.
pub fn payloads(state: &Snapshot, node: &NodeId) -> BTreeSet<PayloadId> {
    let files = state.tasks_on_node(node).filter(|t| here(t)).flat_map(|t| &t.spec.files);
    files.filter_map(|f| f.source.parse().ok()).collect()
}

pub fn payload(state: &Snapshot, id: &PayloadId) -> Option<Content> {
    state.payloads.get(id).map(|p| p.content.clone())
}

/// The services that show a login to the registries of a node's tasks.
pub fn services_with_logins(state: &Snapshot, node: &NodeId) -> BTreeSet<ServiceId> {
    let tasks = state.tasks_on_node(node).filter(|t| here(t) && t.spec.runtime.image().is_some());
    tasks.filter(|t| logins(state, &t.service).is_some()).map(|t| t.service.clone()).collect()
}

pub fn logins(state: &Snapshot, service: &ServiceId) -> Option<Logins> {
    state.services.get(service).map(|s| s.logins.clone()).filter(|logins| !logins.0.is_empty())
}

pub fn is_up(state: &Snapshot, node: &NodeId) -> bool {
    state.nodes.get(node).is_some_and(|n| n.status.state != NodeState::Down)
}

/// Where a network leads to a workload that joined it by itself.
pub fn connection(state: &Snapshot, connection: &Connection) -> Option<EndpointView> {
    (!connection.released).then(|| EndpointView {
        network: connection.attachment.network.clone(),
        task: connection.workload.clone(),
        task_name: connection.name.clone(),
        service: None,
        slot: 0,
        node: connection.node.clone(),
        addr: connection.attachment.addr,
        mac: connection.attachment.mac,
        aliases: connection.attachment.aliases.clone(),
        in_service: is_up(state, &connection.node),
    })
}
