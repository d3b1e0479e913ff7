//! What one node is told, from the state of all.

use crate::store::Snapshot;
use heddle_model::{
    NetworkId, NodeId,
    assignment::{ClusterView, EndpointView, NetworkView, NodeView, PeerView, ServiceView},
    connection::Connection,
    endpoint::PublishMode,
    net::Mtu,
    network::Network,
    node::{Node, NodeState},
    service::Service,
    task::{Task, TaskState},
    tunnel::{Epoch, Epochs, PublicKey},
};
use std::collections::{BTreeMap, BTreeSet};

/// The MTU inside a network now: the least that any node's data path allows, or less if the network's spec says so.
pub fn mtu(state: &Snapshot, network: &Network) -> Mtu {
    let inside = |n: &Node| {
        let link = n.description.data_path_mtu.unwrap_or(Mtu::ETHERNET);
        let outer = if network.spec.encrypted() { link.inside_wireguard(&n.data_path_addr) } else { link };
        outer.inside_vxlan(&n.data_path_addr)
    };
    let least = state.nodes.values().map(|n| inside(n)).min().unwrap_or(Mtu::ETHERNET);
    network.spec.mtu.map_or(least, |m| m.min(least))
}

/// A host's public keys that are of use now.
fn keys(node: &Node, epochs: &Epochs) -> BTreeMap<Epoch, PublicKey> {
    let known = node.description.tunnel.iter().flat_map(|t| &t.keys);
    known.filter(|(epoch, _)| epochs.all().any(|e| e == **epoch)).map(|(epoch, key)| (*epoch, *key)).collect()
}

fn here(task: &Task) -> bool {
    task.on_node() && task.status.state >= TaskState::Assigned
}

/// It is down, and its host joined again as another node: two peers at one address would be one too many.
fn replaced(state: &Snapshot, node: &Node) -> bool {
    let after = |n: &Node| (n.meta.created_at, &n.id) > (node.meta.created_at, &node.id);
    let down = node.status.state == NodeState::Down;
    down && state.nodes.values().any(|n| n.data_path_addr == node.data_path_addr && after(n))
}

/// None: there is no such node, or no cluster yet.
pub fn view(state: &Snapshot, node: &NodeId) -> Option<NodeView> {
    let cluster = state.cluster.as_ref()?;
    state.nodes.get(node)?;
    let mut view = NodeView::empty(ClusterView {
        id: cluster.id.clone(),
        ingress_seed: cluster.ingress_seed,
        data_path_port: cluster.spec.data_path_port,
        tunnel_port: cluster.spec.tunnel_port,
        epochs: cluster.epochs,
    });
    let tasks = state.tasks_on_node(node).filter(|t| here(t));
    view.tasks = tasks.map(|t| (t.id.clone(), Task::clone(t))).collect();

    let attached = view.tasks.values().flat_map(|t| t.attachments.iter().map(|a| a.network.clone()));
    let connected = state.connections_on_node(node).filter(|c| !c.released).map(|c| c.attachment.network.clone());
    let ids: BTreeSet<NetworkId> =
        attached.chain(connected).chain(state.ingress_network().map(|n| n.id.clone())).collect();
    for network in ids.iter().filter_map(|id| state.networks.get(id)) {
        let Some(given) = &network.allocation else { continue };
        let network = NetworkView {
            id: network.id.clone(),
            name: network.spec.annotations.name.clone(),
            vni: given.vni,
            subnet: given.subnet,
            service_subnet: given.service_subnet,
            mtu: mtu(state, network),
            ingress: network.spec.ingress,
            internal: network.spec.internal,
            encrypted: network.spec.encrypted(),
        };
        view.networks.insert(network.id.clone(), network);
    }
    for peer in state.nodes.values().filter(|n| !replaced(state, n)) {
        let peer = PeerView {
            node: peer.id.clone(),
            hostname: peer.description.hostname.clone(),
            data_path_addr: peer.data_path_addr,
            data_path_mtu: peer.description.data_path_mtu,
            ingress: peer.ingress.clone(),
            keys: keys(peer, &cluster.epochs),
        };
        view.peers.insert(peer.node.clone(), peer);
    }
    let services = state.services.values().filter_map(|s| service(s, &view));
    view.services = services.map(|s| (s.id.clone(), s)).collect();
    for task in state.tasks.values().filter(|t| here(t)) {
        for attachment in task.attachments.iter().filter(|a| view.networks.contains_key(&a.network)) {
            let Some(on) = &task.node else { continue };
            let endpoint = EndpointView {
                network: attachment.network.clone(),
                task: task.id.clone(),
                task_name: task.name(),
                service: Some(task.service.clone()),
                slot: task.slot,
                node: on.clone(),
                addr: attachment.addr,
                mac: attachment.mac,
                aliases: attachment.aliases.clone(),
                in_service: task.in_service() && state.services.contains_key(&task.service),
            };
            view.endpoints.insert((endpoint.network.clone(), endpoint.task.clone()), endpoint);
        }
    }
    for network in view.networks.keys() {
        for connection in state.connections_to(network).filter(|c| !c.released) {
            let endpoint = joined(state, connection);
            view.endpoints.insert((endpoint.network.clone(), endpoint.task.clone()), endpoint);
        }
    }
    Some(view)
}

fn joined(state: &Snapshot, connection: &Connection) -> EndpointView {
    let up = state.nodes.get(&connection.node).is_some_and(|n| n.status.state != NodeState::Down);
    EndpointView {
        network: connection.attachment.network.clone(),
        task: connection.workload.clone(),
        task_name: connection.name.clone(),
        service: None,
        slot: 0,
        node: connection.node.clone(),
        addr: connection.attachment.addr,
        mac: connection.attachment.mac,
        aliases: connection.attachment.aliases.clone(),
        in_service: up,
    }
}

fn service(service: &Service, view: &NodeView) -> Option<ServiceView> {
    let endpoint = service.endpoint.as_ref()?;
    let published = endpoint.ports.iter().any(|p| p.mode == PublishMode::Ingress);
    let reaches = |t: &str| view.networks.keys().any(|n| n.as_str() == t);
    let near = service.spec.task.networks.iter().any(|t| reaches(&t.target));
    if !published && !near {
        return None;
    }
    let vips = endpoint.virtual_ips.iter().filter(|v| view.networks.contains_key(&v.network));
    Some(ServiceView {
        id: service.id.clone(),
        name: service.spec.annotations.name.clone(),
        mode: service.spec.endpoint.mode,
        virtual_ips: vips.cloned().collect(),
        ports: endpoint.ports.clone(),
    })
}
