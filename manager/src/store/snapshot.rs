//! All objects at one version, as an immutable value that is cheap to clone, with the indices that readers need.

use super::{
    Action, Conflict, Mutation,
    index::{Holder, Index, same_place, same_places},
};
use heddle_model::{
    ConnectionId, Kind, Meta, NetworkId, NodeId, Object, PayloadId, ServiceId, TaskId, Timestamp, Version,
    cluster::Cluster,
    connection::Connection,
    endpoint::Attachment,
    net::Mtu,
    network::Network,
    node::Node,
    payload::{Payload, PayloadKind},
    service::Service,
    task::{Task, TaskState},
};
use imbl::OrdMap;
use serde::Serialize;
use std::{convert::Infallible, net::IpAddr, str::FromStr, sync::Arc};

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
    pub payloads: OrdMap<PayloadId, Arc<Payload>>,
    index: Index,
}

/// An `Object` that the state has, encoded alike.
#[derive(Serialize)]
pub enum Stored<'a> {
    Cluster(&'a Cluster),
    Node(&'a Node),
    Network(&'a Network),
    Service(&'a Service),
    Task(&'a Task),
    Connection(&'a Connection),
    Payload(&'a Payload),
}

impl From<Stored<'_>> for Object {
    fn from(stored: Stored<'_>) -> Object {
        match stored {
            Stored::Cluster(o) => o.clone().into(),
            Stored::Node(o) => o.clone().into(),
            Stored::Network(o) => o.clone().into(),
            Stored::Service(o) => o.clone().into(),
            Stored::Task(o) => o.clone().into(),
            Stored::Connection(o) => o.clone().into(),
            Stored::Payload(o) => o.clone().into(),
        }
    }
}

impl Snapshot {
    pub fn tasks_of_service(&self, id: &ServiceId) -> impl Iterator<Item = &Arc<Task>> {
        self.index.tasks_of.get(id).into_iter().flat_map(OrdMap::values)
    }

    pub fn tasks_on_node(&self, id: &NodeId) -> impl Iterator<Item = &Arc<Task>> {
        self.index.tasks_on.get(id).into_iter().flat_map(OrdMap::values)
    }

    /// Those that have an address of the network.
    pub fn tasks_in_network(&self, id: &NetworkId) -> impl Iterator<Item = &Arc<Task>> {
        self.index.tasks_in.get(id).into_iter().flat_map(OrdMap::values)
    }

    pub fn count_in_network(&self, id: &NetworkId) -> usize {
        self.index.tasks_in.get(id).map_or(0, OrdMap::len)
    }

    /// Those that were given up too, until their addresses are free.
    pub fn connections_on_node(&self, id: &NodeId) -> impl Iterator<Item = &Arc<Connection>> {
        self.index.connections_on.get(id).into_iter().flat_map(OrdMap::values)
    }

    /// Those that were given up too, until their addresses are free.
    pub fn connections_to(&self, id: &NetworkId) -> impl Iterator<Item = &Arc<Connection>> {
        self.index.connections_in.get(id).into_iter().flat_map(OrdMap::values)
    }

    /// The addresses of a network that tasks and connections have, in order.
    pub fn held<'a>(&'a self, id: &'a NetworkId) -> impl Iterator<Item = (IpAddr, &'a Holder)> {
        let first = (id.clone(), IpAddr::from([0, 0, 0, 0]));
        let from = self.index.holders.range(first..);
        from.take_while(move |((n, _), _)| n == id).map(|((_, addr), holder)| (*addr, holder))
    }

    pub fn holder(&self, id: &NetworkId, addr: IpAddr) -> Option<&Holder> {
        self.index.holders.get(&(id.clone(), addr))
    }

    /// Nodes whose data path ends at the address.
    pub fn nodes_at(&self, addr: &IpAddr) -> impl Iterator<Item = &Arc<Node>> {
        self.index.nodes_at.get(addr).into_iter().flatten().filter_map(|id| self.nodes.get(id))
    }

    /// Nodes that have a place in raft.
    pub fn managers(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.index.managers.iter().filter_map(|id| self.nodes.get(id))
    }

    /// The least MTU that any node's data path leaves inside a network's VXLAN, in a tunnel or not.
    pub fn least_mtu(&self, tunnel: bool) -> Option<Mtu> {
        let inside = if tunnel { &self.index.inside_tunnel } else { &self.index.inside };
        inside.get_min().map(|(mtu, _)| *mtu)
    }

    /// What the lists of readers are made of, to see what changed in them.
    pub fn index(&self) -> &Index {
        &self.index
    }

    pub fn service_named(&self, name: &str) -> Option<&Arc<Service>> {
        let id = self.index.names.get(&(Kind::Service, name.to_owned()))?;
        self.services.get(&id.parse::<ServiceId>().ok()?)
    }

    pub fn network_named(&self, name: &str) -> Option<&Arc<Network>> {
        let id = self.index.names.get(&(Kind::Network, name.to_owned()))?;
        self.networks.get(&id.parse::<NetworkId>().ok()?)
    }

    pub fn payloads_of(&self, kind: PayloadKind) -> impl Iterator<Item = &Arc<Payload>> {
        self.payloads.values().filter(move |p| p.kind == kind)
    }

    pub fn payload_named(&self, kind: PayloadKind, name: &str) -> Option<&Arc<Payload>> {
        let id = self.index.names.get(&(kind.into(), name.to_owned()))?;
        self.payloads.get(&id.parse::<PayloadId>().ok()?)
    }

    pub fn ingress_network(&self) -> Option<&Arc<Network>> {
        self.index.ingress.get_min().and_then(|id| self.networks.get(id))
    }

    /// Every object, each kind in order of id: what a raft snapshot holds.
    pub fn objects(&self) -> impl Iterator<Item = Object> + '_ {
        self.stored().map(Object::from)
    }

    /// The same, to be encoded where they are.
    pub fn stored(&self) -> impl Iterator<Item = Stored<'_>> {
        let cluster = self.cluster.iter().map(|o| Stored::Cluster(o));
        let nodes = self.nodes.values().map(|o| Stored::Node(o));
        let networks = self.networks.values().map(|o| Stored::Network(o));
        let services = self.services.values().map(|o| Stored::Service(o));
        let tasks = self.tasks.values().map(|o| Stored::Task(o));
        let connections = self.connections.values().map(|o| Stored::Connection(o));
        let payloads = self.payloads.values().map(|o| Stored::Payload(o));
        cluster.chain(nodes).chain(networks).chain(services).chain(tasks).chain(connections).chain(payloads)
    }

    /// The value that `objects` came from.
    pub fn from_objects(version: Version, objects: impl IntoIterator<Item = Object>) -> Self {
        let Ok(snapshot) = Self::try_from_objects::<Infallible>(version, objects.into_iter().map(Ok));
        snapshot
    }

    /// The same of objects that are still to be read. What follows an error is not.
    pub fn try_from_objects<E>(
        version: Version,
        objects: impl IntoIterator<Item = Result<Object, E>>,
    ) -> Result<Self, E> {
        let mut snapshot = Snapshot { version, ..Snapshot::default() };
        for object in objects {
            snapshot.put(object?);
        }
        Ok(snapshot)
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
                self.tasks.get(id).is_some_and(|t| t.status.may_become(status) && t.status != *status)
            }
            Mutation::NodeStatus { id, status } => self.nodes.get(id).is_some_and(|n| n.status != *status),
            Mutation::NodeDescription { id, description } => {
                self.nodes.get(id).is_some_and(|n| n.description != *description)
            }
            Mutation::NodeDataPath { id, addr } => self.nodes.contains_key(id) && self.nodes_at(addr).next().is_none(),
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
        match self.index.names.get(&(object.kind(), name.to_owned())) {
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
        if let Object::Service(s) = object {
            for file in &s.spec.task.files {
                if !file.source.parse::<PayloadId>().is_ok_and(|id| self.payloads.contains_key(&id)) {
                    return Err(Conflict::NotFound { kind: file.kind.into(), id: file.source.clone() });
                }
            }
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
        let user = match kind {
            Kind::Network => {
                let network = id.parse::<NetworkId>().ok();
                network.and_then(|n| self.connections_to(&n).next().map(|c| c.id.to_string()))
            }
            Kind::Secret | Kind::Config => self.services.values().find(|s| s.uses(id)).map(|s| s.id.to_string()),
            Kind::Cluster | Kind::Node | Kind::Service | Kind::Task | Kind::Connection => None,
        };
        match user {
            Some(by) => Err(Conflict::InUse { kind, id: id.to_owned(), by }),
            None => Ok(()),
        }
    }

    fn meta(&self, kind: Kind, id: &str) -> Option<Meta> {
        fn of<Id: FromStr + Ord, T: Clone>(map: &OrdMap<Id, Arc<T>>, id: &str, meta: fn(&T) -> &Meta) -> Option<Meta> {
            map.get(&id.parse::<Id>().ok()?).map(|o| meta(o).clone())
        }
        match kind {
            Kind::Cluster => self.cluster.as_ref().filter(|c| c.id.as_str() == id).map(|c| c.meta.clone()),
            Kind::Node => of(&self.nodes, id, |o| &o.meta),
            Kind::Network => of(&self.networks, id, |o| &o.meta),
            Kind::Service => of(&self.services, id, |o| &o.meta),
            Kind::Task => of(&self.tasks, id, |o| &o.meta),
            Kind::Connection => of(&self.connections, id, |o| &o.meta),
            Kind::Secret | Kind::Config => of(&self.payloads, id, |o| &o.meta),
        }
    }

    fn put(&mut self, object: Object) {
        let Some(object) = self.replace(object) else { return };
        self.take(object.kind(), object.id());
        if let Some(name) = object.unique_name() {
            self.index.names.insert((object.kind(), name.to_owned()), object.id().to_owned());
        }
        match object {
            Object::Cluster(o) => self.cluster = Some(Arc::new(o)),
            Object::Node(o) => {
                self.index.list_node(&o);
                self.nodes.insert(o.id.clone(), Arc::new(o));
            }
            Object::Network(o) => {
                self.index.list_network(&o);
                self.networks.insert(o.id.clone(), Arc::new(o));
            }
            Object::Service(o) => drop(self.services.insert(o.id.clone(), Arc::new(o))),
            Object::Task(mut o) => {
                self.share_spec(&mut o);
                let task = Arc::new(o);
                self.index.list_task(&task);
                self.tasks.insert(task.id.clone(), task);
            }
            Object::Connection(o) => {
                let connection = Arc::new(o);
                self.index.list_connection(&connection);
                self.connections.insert(connection.id.clone(), connection);
            }
            Object::Payload(o) => drop(self.payloads.insert(o.id.clone(), Arc::new(o))),
        }
    }

    /// Reports come more often than anything else, and change nothing of what an object is found by. None: it is done.
    fn replace(&mut self, object: Object) -> Option<Object> {
        match object {
            Object::Node(o) if self.nodes.get(&o.id).is_some_and(|old| same_place(old, &o)) => {
                self.nodes.insert(o.id.clone(), Arc::new(o));
                None
            }
            Object::Task(mut o) if self.tasks.get(&o.id).is_some_and(|old| same_places(old, &o)) => {
                self.share_spec(&mut o);
                let task = Arc::new(o);
                self.index.relist_task(&task);
                self.tasks.insert(task.id.clone(), task);
                None
            }
            other => Some(other),
        }
    }

    /// Encoded, every task has a spec of its own. In memory it is its service's.
    fn share_spec(&self, task: &mut Task) {
        let Some(service) = self.services.get(&task.service) else { return };
        let known = [Some(&service.spec), service.previous.as_ref().map(|p| &p.spec)];
        if let Some(same) = known.into_iter().flatten().find(|spec| spec.task == task.spec) {
            task.spec = same.task.clone();
        }
    }

    fn take(&mut self, kind: Kind, id: &str) {
        let name = match kind {
            Kind::Cluster => {
                self.cluster.take_if(|c| c.id.as_str() == id);
                None
            }
            Kind::Node => {
                if let Some(old) = remove(&mut self.nodes, id) {
                    self.index.unlist_node(&old);
                }
                None
            }
            Kind::Network => remove(&mut self.networks, id).map(|old| {
                self.index.unlist_network(&old);
                old.spec.annotations.name.clone()
            }),
            Kind::Service => remove(&mut self.services, id).map(|old| old.spec.annotations.name.clone()),
            Kind::Task => {
                if let Some(old) = remove(&mut self.tasks, id) {
                    self.index.unlist_task(&old);
                }
                None
            }
            Kind::Connection => {
                if let Some(old) = remove(&mut self.connections, id) {
                    self.index.unlist_connection(&old);
                }
                None
            }
            Kind::Secret | Kind::Config => remove(&mut self.payloads, id).map(|old| old.annotations.name.clone()),
        };
        if let Some(name) = name {
            self.index.names.remove(&(kind, name));
        }
    }
}

fn remove<Id: FromStr + Ord + Clone, T>(map: &mut OrdMap<Id, Arc<T>>, id: &str) -> Option<Arc<T>> {
    map.remove(&id.parse::<Id>().ok()?)
}

/// An object's places on networks, and who has their addresses.
fn places(object: &Object) -> (&[Attachment], Option<Holder>) {
    match object {
        Object::Task(t) => (&t.attachments, Some(Holder::Task(t.id.clone()))),
        Object::Connection(c) => (std::slice::from_ref(&c.attachment), Some(Holder::Connection(c.id.clone()))),
        Object::Cluster(_) | Object::Node(_) | Object::Network(_) | Object::Service(_) | Object::Payload(_) => {
            (&[], None)
        }
    }
}
