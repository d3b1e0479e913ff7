//! All objects at one version, as an immutable value that is cheap to clone, with the indices that readers need.

use super::{Action, Conflict, Mutation};
use heddle_model::{
    ConnectionId, Kind, Meta, NetworkId, NodeId, Object, ServiceId, TaskId, Timestamp, Version,
    cluster::Cluster,
    connection::Connection,
    endpoint::Attachment,
    network::Network,
    node::Node,
    service::Service,
    task::{Task, TaskState},
};
use imbl::{OrdMap, OrdSet};
use std::{net::IpAddr, sync::Arc};

/// Who has an address of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    Task(TaskId),
    Connection(ConnectionId),
}

/// Never changed in place by readers; raft's apply makes the next one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Raft log index of the last applied action.
    pub version: Version,
    pub cluster: Option<Arc<Cluster>>,
    pub nodes: OrdMap<NodeId, Arc<Node>>,
    pub networks: OrdMap<NetworkId, Arc<Network>>,
    pub services: OrdMap<ServiceId, Arc<Service>>,
    pub tasks: OrdMap<TaskId, Arc<Task>>,
    pub connections: OrdMap<ConnectionId, Arc<Connection>>,
    by_service: OrdMap<ServiceId, OrdSet<TaskId>>,
    by_node: OrdMap<NodeId, OrdSet<TaskId>>,
    connections_by_node: OrdMap<NodeId, OrdSet<ConnectionId>>,
    connections_by_network: OrdMap<NetworkId, OrdSet<ConnectionId>>,
    holders: OrdMap<(NetworkId, IpAddr), Holder>,
    names: OrdMap<(Kind, String), String>,
}

impl Snapshot {
    pub fn tasks_of_service(&self, id: &ServiceId) -> impl Iterator<Item = &Arc<Task>> {
        self.by_service.get(id).into_iter().flatten().filter_map(|t| self.tasks.get(t))
    }

    pub fn tasks_on_node(&self, id: &NodeId) -> impl Iterator<Item = &Arc<Task>> {
        self.by_node.get(id).into_iter().flatten().filter_map(|t| self.tasks.get(t))
    }

    /// Those that were given up too, until their addresses are free.
    pub fn connections_on_node(&self, id: &NodeId) -> impl Iterator<Item = &Arc<Connection>> {
        self.connections_by_node.get(id).into_iter().flatten().filter_map(|c| self.connections.get(c))
    }

    /// Those that were given up too, until their addresses are free.
    pub fn connections_to(&self, id: &NetworkId) -> impl Iterator<Item = &Arc<Connection>> {
        self.connections_by_network.get(id).into_iter().flatten().filter_map(|c| self.connections.get(c))
    }

    /// The addresses of a network that tasks and connections have, in order.
    pub fn held<'a>(&'a self, id: &'a NetworkId) -> impl Iterator<Item = (IpAddr, &'a Holder)> {
        let first = (id.clone(), IpAddr::from([0, 0, 0, 0]));
        self.holders.range(first..).take_while(move |((n, _), _)| n == id).map(|((_, addr), holder)| (*addr, holder))
    }

    pub fn holder(&self, id: &NetworkId, addr: IpAddr) -> Option<&Holder> {
        self.holders.get(&(id.clone(), addr))
    }

    pub fn service_named(&self, name: &str) -> Option<&Arc<Service>> {
        let id = self.names.get(&(Kind::Service, name.to_owned()))?;
        self.services.get(&id.parse::<ServiceId>().ok()?)
    }

    pub fn network_named(&self, name: &str) -> Option<&Arc<Network>> {
        let id = self.names.get(&(Kind::Network, name.to_owned()))?;
        self.networks.get(&id.parse::<NetworkId>().ok()?)
    }

    pub fn ingress_network(&self) -> Option<&Arc<Network>> {
        self.networks.values().find(|n| n.spec.ingress)
    }

    /// Every object, each kind in order of id: what a raft snapshot holds.
    pub fn objects(&self) -> impl Iterator<Item = Object> + '_ {
        let cluster = self.cluster.iter().map(|o| Object::Cluster((**o).clone()));
        let nodes = self.nodes.values().map(|o| Object::Node((**o).clone()));
        let networks = self.networks.values().map(|o| Object::Network((**o).clone()));
        let services = self.services.values().map(|o| Object::Service((**o).clone()));
        let tasks = self.tasks.values().map(|o| Object::Task((**o).clone()));
        let connections = self.connections.values().map(|o| Object::Connection((**o).clone()));
        cluster.chain(nodes).chain(networks).chain(services).chain(tasks).chain(connections)
    }

    /// The value that `objects` came from.
    pub fn from_objects(version: Version, objects: impl IntoIterator<Item = Object>) -> Self {
        let mut snapshot = Snapshot { version, ..Snapshot::default() };
        objects.into_iter().for_each(|o| snapshot.put(o));
        snapshot
    }

    /// Applies one transaction at raft log index `version`: the next snapshot, or the conflict. Deterministic.
    pub fn apply(&self, version: Version, action: &Action) -> Result<Snapshot, Conflict> {
        let mut next = self.clone();
        next.version = version;
        for mutation in &action.mutations {
            next.mutate(version, action.at, mutation)?;
        }
        Ok(next)
    }

    /// Whether a report would change something; whatever is no report would.
    pub fn is_news(&self, mutation: &Mutation) -> bool {
        match mutation {
            Mutation::Create(_) | Mutation::Update(_) | Mutation::Remove { .. } => true,
            Mutation::TaskStatus { id, status } => {
                self.tasks.get(id).is_some_and(|t| t.status.state <= status.state && t.status != *status)
            }
            Mutation::NodeStatus { id, status } => self.nodes.get(id).is_some_and(|n| n.status != *status),
            Mutation::NodeDescription { id, description } => {
                self.nodes.get(id).is_some_and(|n| n.description != *description)
            }
            Mutation::NodeDataPath { id, addr } => {
                self.nodes.contains_key(id) && !self.nodes.values().any(|n| n.data_path_addr == *addr)
            }
        }
    }

    fn mutate(&mut self, version: Version, at: Timestamp, mutation: &Mutation) -> Result<(), Conflict> {
        match mutation {
            Mutation::Create(object) => {
                let (kind, id) = (object.kind(), object.id().to_owned());
                if self.meta(kind, &id).is_some() {
                    return Err(Conflict::Exists { kind, id });
                }
                self.check_name(object)?;
                self.check_places(object)?;
                self.stamp(object.clone(), Meta { version, created_at: at, updated_at: at });
            }
            Mutation::Update(object) => {
                let stored = self.expect(object.kind(), object.id(), Some(object.meta().version))?;
                self.check_name(object)?;
                self.check_places(object)?;
                self.stamp(object.clone(), Meta { version, created_at: stored.created_at, updated_at: at });
            }
            Mutation::Remove { kind, id, version } => {
                self.expect(*kind, id, *version)?;
                self.check_unused(*kind, id)?;
                self.take(*kind, id);
            }
            Mutation::TaskStatus { id, status } => {
                if let Some(task) = self.tasks.get(id).filter(|_| self.is_news(mutation)) {
                    let mut task = Task::clone(task);
                    task.status = status.clone();
                    if status.state == TaskState::Running {
                        task.started.get_or_insert(at);
                    }
                    self.restamp(task.into(), version, at);
                }
            }
            Mutation::NodeStatus { id, status } => {
                if let Some(node) = self.nodes.get(id).filter(|_| self.is_news(mutation)) {
                    let node = Node { status: status.clone(), ..Node::clone(node) };
                    self.restamp(node.into(), version, at);
                }
            }
            Mutation::NodeDescription { id, description } => {
                if let Some(node) = self.nodes.get(id).filter(|_| self.is_news(mutation)) {
                    let node = Node { description: description.clone(), ..Node::clone(node) };
                    self.restamp(node.into(), version, at);
                }
            }
            Mutation::NodeDataPath { id, addr } => {
                if let Some(node) = self.nodes.get(id).filter(|_| self.is_news(mutation)) {
                    let node = Node { data_path_addr: *addr, ..Node::clone(node) };
                    self.restamp(node.into(), version, at);
                }
            }
        }
        Ok(())
    }

    fn restamp(&mut self, object: Object, version: Version, at: Timestamp) {
        let created_at = object.meta().created_at;
        self.stamp(object, Meta { version, created_at, updated_at: at });
    }

    fn stamp(&mut self, mut object: Object, meta: Meta) {
        if let Object::Service(service) = &mut object {
            service.spec_version = self.spec_version(service).unwrap_or(meta.version);
        }
        *object.meta_mut() = meta;
        self.put(object);
    }

    /// Of the stored spec, or the one before it, if it makes the same tasks.
    fn spec_version(&self, service: &Service) -> Option<Version> {
        let old = self.services.get(&service.id)?;
        let before = old.previous.iter().map(|p| (&p.spec, p.spec_version));
        let mut known = std::iter::once((&old.spec, old.spec_version)).chain(before);
        known.find(|(spec, _)| spec.makes_same_tasks(&service.spec)).map(|(_, version)| version)
    }

    fn expect(&self, kind: Kind, id: &str, expected: Option<Version>) -> Result<Meta, Conflict> {
        let stored = self.meta(kind, id).ok_or_else(|| Conflict::NotFound { kind, id: id.to_owned() })?;
        match expected {
            Some(expected) if expected != stored.version => {
                Err(Conflict::Stale { kind, id: id.to_owned(), expected, stored: stored.version })
            }
            _ => Ok(stored),
        }
    }

    fn check_name(&self, object: &Object) -> Result<(), Conflict> {
        let Some(name) = object.unique_name() else { return Ok(()) };
        match self.names.get(&(object.kind(), name.to_owned())) {
            Some(owner) if owner != object.id() => {
                Err(Conflict::NameTaken { kind: object.kind(), name: name.to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Plans are made side by side: what two of them gave away is refused to the second.
    fn check_places(&self, object: &Object) -> Result<(), Conflict> {
        if let (Object::Network(n), Some(other)) = (object, self.ingress_network())
            && n.spec.ingress
            && n.id != other.id
        {
            return Err(Conflict::SecondIngress { id: other.id.clone() });
        }
        if let Object::Connection(c) = object
            && !self.networks.contains_key(&c.attachment.network)
        {
            return Err(Conflict::NotFound { kind: Kind::Network, id: c.attachment.network.to_string() });
        }
        let (attachments, own) = places(object);
        for attachment in attachments {
            for addr in attachment.addr.addrs() {
                if self.holder(&attachment.network, addr).is_some_and(|holder| Some(holder) != own.as_ref()) {
                    return Err(Conflict::AddressTaken { network: attachment.network.clone(), addr });
                }
            }
        }
        Ok(())
    }

    fn check_unused(&self, kind: Kind, id: &str) -> Result<(), Conflict> {
        let network = id.parse::<NetworkId>().ok().filter(|_| kind == Kind::Network);
        match network.and_then(|n| self.connections_to(&n).next().map(|c| c.id.to_string())) {
            Some(by) => Err(Conflict::InUse { kind, id: id.to_owned(), by }),
            None => Ok(()),
        }
    }

    fn get(&self, kind: Kind, id: &str) -> Option<Object> {
        match kind {
            Kind::Cluster => self.cluster.as_ref().filter(|c| c.id.as_str() == id).map(|c| Cluster::clone(c).into()),
            Kind::Node => self.nodes.get(&id.parse::<NodeId>().ok()?).map(|o| Node::clone(o).into()),
            Kind::Network => self.networks.get(&id.parse::<NetworkId>().ok()?).map(|o| Network::clone(o).into()),
            Kind::Service => self.services.get(&id.parse::<ServiceId>().ok()?).map(|o| Service::clone(o).into()),
            Kind::Task => self.tasks.get(&id.parse::<TaskId>().ok()?).map(|o| Task::clone(o).into()),
            Kind::Connection => {
                self.connections.get(&id.parse::<ConnectionId>().ok()?).map(|o| Connection::clone(o).into())
            }
        }
    }

    fn meta(&self, kind: Kind, id: &str) -> Option<Meta> {
        self.get(kind, id).map(|o| o.meta().clone())
    }

    fn put(&mut self, object: Object) {
        self.take(object.kind(), object.id());
        if let Some(name) = object.unique_name() {
            self.names.insert((object.kind(), name.to_owned()), object.id().to_owned());
        }
        if let (attachments, Some(holder)) = places(&object) {
            let addrs = attachments.iter().flat_map(|a| a.addr.addrs().map(|addr| (a.network.clone(), addr)));
            self.holders.extend(addrs.map(|key| (key, holder.clone())));
        }
        match object {
            Object::Cluster(o) => self.cluster = Some(Arc::new(o)),
            Object::Node(o) => drop(self.nodes.insert(o.id.clone(), Arc::new(o))),
            Object::Network(o) => drop(self.networks.insert(o.id.clone(), Arc::new(o))),
            Object::Service(o) => drop(self.services.insert(o.id.clone(), Arc::new(o))),
            Object::Task(o) => {
                self.by_service.entry(o.service.clone()).or_default().insert(o.id.clone());
                if let Some(node) = &o.node {
                    self.by_node.entry(node.clone()).or_default().insert(o.id.clone());
                }
                self.tasks.insert(o.id.clone(), Arc::new(o));
            }
            Object::Connection(o) => {
                let network = o.attachment.network.clone();
                self.connections_by_network.entry(network).or_default().insert(o.id.clone());
                self.connections_by_node.entry(o.node.clone()).or_default().insert(o.id.clone());
                self.connections.insert(o.id.clone(), Arc::new(o));
            }
        }
    }

    fn take(&mut self, kind: Kind, id: &str) {
        let Some(old) = self.get(kind, id) else { return };
        if let Some(name) = old.unique_name() {
            self.names.remove(&(kind, name.to_owned()));
        }
        for attachment in places(&old).0 {
            for addr in attachment.addr.addrs() {
                self.holders.remove(&(attachment.network.clone(), addr));
            }
        }
        match old {
            Object::Cluster(_) => self.cluster = None,
            Object::Node(o) => drop(self.nodes.remove(&o.id)),
            Object::Network(o) => drop(self.networks.remove(&o.id)),
            Object::Service(o) => drop(self.services.remove(&o.id)),
            Object::Task(o) => {
                self.tasks.remove(&o.id);
                unlist(&mut self.by_service, &o.service, &o.id);
                if let Some(node) = &o.node {
                    unlist(&mut self.by_node, node, &o.id);
                }
            }
            Object::Connection(o) => {
                self.connections.remove(&o.id);
                unlist(&mut self.connections_by_network, &o.attachment.network, &o.id);
                unlist(&mut self.connections_by_node, &o.node, &o.id);
            }
        }
    }
}

/// An object's places on networks, and who has their addresses.
fn places(object: &Object) -> (&[Attachment], Option<Holder>) {
    match object {
        Object::Task(t) => (&t.attachments, Some(Holder::Task(t.id.clone()))),
        Object::Connection(c) => (std::slice::from_ref(&c.attachment), Some(Holder::Connection(c.id.clone()))),
        Object::Cluster(_) | Object::Node(_) | Object::Network(_) | Object::Service(_) => (&[], None),
    }
}

fn unlist<K: Ord + Clone, V: Ord + Clone>(index: &mut OrdMap<K, OrdSet<V>>, key: &K, value: &V) {
    if let Some(mut set) = index.remove(key) {
        set.remove(value);
        if !set.is_empty() {
            index.insert(key.clone(), set);
        }
    }
}
