//! What one node is told: exactly the part of the cluster that its agent needs, and the difference between two such parts.
//!
//! The manager computes a `NodeView` from its store and sends differences; the agent applies them and holds the same value.

use crate::{
    ClusterId, NetworkId, NodeId, PayloadId, ServiceId, TaskId,
    endpoint::{EndpointMode, PortConfig, VirtualIp},
    login::Logins,
    net::{DualAddr, DualSubnet, Mac, Mtu, Port, Vni},
    node::IngressLeg,
    payload::Content,
    task::Task,
    tunnel::{Epoch, Epochs, PublicKey},
};
use std::{collections::BTreeMap, net::IpAddr};

/// Settings of the whole cluster that a data plane needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterView {
    pub id: ClusterId,
    pub ingress_seed: u32,
    pub data_path_port: Port,
    /// The first of the tunnel's two.
    pub tunnel_port: Port,
    pub epochs: Epochs,
}

/// A network that the node takes part in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkView {
    pub id: NetworkId,
    pub name: String,
    pub vni: Vni,
    pub subnet: DualSubnet,
    pub service_subnet: DualSubnet,
    pub mtu: Mtu,
    pub ingress: bool,
    pub internal: bool,
    /// Between hosts it goes through the tunnel, or not at all.
    pub encrypted: bool,
}

/// A node that shares a network with this one, or this node itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerView {
    pub node: NodeId,
    pub hostname: String,
    pub data_path_addr: IpAddr,
    /// Of the link that has the address, where the node knows it.
    pub data_path_mtu: Option<Mtu>,
    pub ingress: Option<IngressLeg>,
    /// Its keys of the epochs there are.
    pub keys: BTreeMap<Epoch, PublicKey>,
}

/// A service on a network of this node, or published through the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceView {
    pub id: ServiceId,
    pub name: String,
    pub mode: EndpointMode,
    pub virtual_ips: Vec<VirtualIp>,
    pub ports: Vec<PortConfig>,
}

/// A task, or a standalone workload, of any node on a network of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointView {
    pub network: NetworkId,
    pub task: TaskId,
    pub task_name: String,
    /// None: it joined by itself, and names and aliases stand for it alone.
    pub service: Option<ServiceId>,
    pub slot: u64,
    pub node: NodeId,
    pub addr: DualAddr,
    pub mac: Mac,
    pub aliases: Vec<String>,
    /// Load balancers and DNS may use it.
    pub in_service: bool,
}

/// All that one node is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    pub cluster: ClusterView,
    /// Tasks that run here.
    pub tasks: BTreeMap<TaskId, Task>,
    pub networks: BTreeMap<NetworkId, NetworkView>,
    pub peers: BTreeMap<NodeId, PeerView>,
    pub services: BTreeMap<ServiceId, ServiceView>,
    pub endpoints: BTreeMap<(NetworkId, TaskId), EndpointView>,
    /// Secrets and configs of those tasks.
    pub payloads: BTreeMap<PayloadId, Content>,
    /// Of the services whose images those tasks run.
    pub logins: BTreeMap<ServiceId, Logins>,
}

/// One thing to add or replace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Task(Box<Task>),
    Network(NetworkView),
    Peer(PeerView),
    Service(ServiceView),
    Endpoint(EndpointView),
    Payload(PayloadId, Content),
    Logins(ServiceId, Logins),
}

impl Item {
    /// Whether no disk of a node may hold it.
    pub fn is_secret(&self) -> bool {
        matches!(self, Item::Payload(..) | Item::Logins(..))
    }
}

/// One thing to forget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    Task(TaskId),
    Network(NetworkId),
    Peer(NodeId),
    Service(ServiceId),
    Endpoint(NetworkId, TaskId),
    Payload(PayloadId),
    Logins(ServiceId),
}

/// The difference between two views. Applying it twice does no harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    pub cluster: ClusterView,
    pub update: Vec<Item>,
    pub remove: Vec<Key>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.update.is_empty() && self.remove.is_empty()
    }
}

fn diff_map<K: Ord + Clone, V: PartialEq + Clone>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    item: impl Fn(K, V) -> Item,
    key: impl Fn(K) -> Key,
    out: &mut Changes,
) {
    out.update.extend(new.iter().filter(|(k, v)| old.get(k) != Some(v)).map(|(k, v)| item(k.clone(), v.clone())));
    out.remove.extend(old.keys().filter(|k| !new.contains_key(k)).map(|k| key(k.clone())));
}

impl NodeView {
    pub fn empty(cluster: ClusterView) -> Self {
        Self {
            cluster,
            tasks: BTreeMap::new(),
            networks: BTreeMap::new(),
            peers: BTreeMap::new(),
            services: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            payloads: BTreeMap::new(),
            logins: BTreeMap::new(),
        }
    }

    /// All of it, as what turns a node that knows nothing into one that knows this.
    pub fn into_changes(self) -> Changes {
        let networks = self.networks.into_values().map(Item::Network);
        let peers = self.peers.into_values().map(Item::Peer);
        let services = self.services.into_values().map(Item::Service);
        let endpoints = self.endpoints.into_values().map(Item::Endpoint);
        let payloads = self.payloads.into_iter().map(|(id, content)| Item::Payload(id, content));
        let logins = self.logins.into_iter().map(|(service, logins)| Item::Logins(service, logins));
        let tasks = self.tasks.into_values().map(|task| Item::Task(Box::new(task)));
        let secret = payloads.chain(logins);
        let update = networks.chain(peers).chain(services).chain(endpoints).chain(secret).chain(tasks).collect();
        Changes { cluster: self.cluster, update, remove: Vec::new() }
    }

    /// What turns `self` into `new`.
    pub fn diff(&self, new: &NodeView) -> Changes {
        let mut out = Changes { cluster: new.cluster.clone(), update: Vec::new(), remove: Vec::new() };
        diff_map(&self.networks, &new.networks, |_, n| Item::Network(n), Key::Network, &mut out);
        diff_map(&self.peers, &new.peers, |_, p| Item::Peer(p), Key::Peer, &mut out);
        diff_map(&self.services, &new.services, |_, s| Item::Service(s), Key::Service, &mut out);
        diff_map(&self.endpoints, &new.endpoints, |_, e| Item::Endpoint(e), |(n, t)| Key::Endpoint(n, t), &mut out);
        diff_map(&self.payloads, &new.payloads, Item::Payload, Key::Payload, &mut out);
        diff_map(&self.logins, &new.logins, Item::Logins, Key::Logins, &mut out);
        diff_map(&self.tasks, &new.tasks, |_, t| Item::Task(Box::new(t)), Key::Task, &mut out);
        out
    }

    /// Takes changes over, in place.
    pub fn apply(&mut self, changes: Changes) {
        self.cluster = changes.cluster;
        for item in changes.update {
            match item {
                Item::Task(t) => drop(self.tasks.insert(t.id.clone(), *t)),
                Item::Network(n) => drop(self.networks.insert(n.id.clone(), n)),
                Item::Peer(p) => drop(self.peers.insert(p.node.clone(), p)),
                Item::Service(s) => drop(self.services.insert(s.id.clone(), s)),
                Item::Endpoint(e) => drop(self.endpoints.insert((e.network.clone(), e.task.clone()), e)),
                Item::Payload(id, content) => drop(self.payloads.insert(id, content)),
                Item::Logins(service, logins) => drop(self.logins.insert(service, logins)),
            }
        }
        for key in changes.remove {
            match key {
                Key::Task(t) => drop(self.tasks.remove(&t)),
                Key::Network(n) => drop(self.networks.remove(&n)),
                Key::Peer(p) => drop(self.peers.remove(&p)),
                Key::Service(s) => drop(self.services.remove(&s)),
                Key::Endpoint(n, t) => drop(self.endpoints.remove(&(n, t))),
                Key::Payload(id) => drop(self.payloads.remove(&id)),
                Key::Logins(service) => drop(self.logins.remove(&service)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cluster(seed: u32) -> ClusterView {
        ClusterView {
            id: ClusterId::from_random([1; 16]),
            ingress_seed: seed,
            data_path_port: Port::try_from(4789).unwrap(),
            tunnel_port: Port::try_from(51820).unwrap(),
            epochs: Epochs::default(),
        }
    }

    fn peer(n: u8, host: u8) -> PeerView {
        PeerView {
            node: NodeId::from_random([n; 16]),
            hostname: format!("host{host}"),
            data_path_addr: IpAddr::from([10, 0, 0, host]),
            data_path_mtu: None,
            ingress: None,
            keys: BTreeMap::new(),
        }
    }

    fn endpoint(n: u8, in_service: bool) -> EndpointView {
        EndpointView {
            network: NetworkId::from_random([n % 2; 16]),
            task: TaskId::from_random([n; 16]),
            task_name: "web.1".into(),
            service: Some(ServiceId::from_random([9; 16])),
            slot: 1,
            node: NodeId::from_random([n; 16]),
            addr: DualAddr { v4: [10, 0, 1, n].into(), v6: [0xfd00, 0, 0, 0, 0, 0, 0, n.into()].into() },
            mac: Mac::from_random([n; 6]),
            aliases: vec![],
            in_service,
        }
    }

    prop_compose! {
        fn views()(
            seed in 0..3u32,
            peers in prop::collection::vec((0..6u8, 0..4u8), 0..6),
            endpoints in prop::collection::vec((0..8u8, any::<bool>()), 0..8),
        ) -> NodeView {
            let mut view = NodeView::empty(cluster(seed));
            view.peers = peers.into_iter().map(|(n, h)| peer(n, h)).map(|p| (p.node.clone(), p)).collect();
            view.endpoints = endpoints
                .into_iter()
                .map(|(n, s)| endpoint(n, s))
                .map(|e| ((e.network.clone(), e.task.clone()), e))
                .collect();
            view
        }
    }

    proptest! {
        #[test]
        fn applying_the_difference_gives_the_new_view(old in views(), new in views()) {
            let changes = old.diff(&new);
            let mut got = old.clone();
            got.apply(changes.clone());
            prop_assert_eq!(&got, &new);
            got.apply(changes);
            prop_assert_eq!(&got, &new, "twice does no harm");
            prop_assert!(new.diff(&new).is_empty());
        }
    }
}
