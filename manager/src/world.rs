//! The stages together, as the leader runs them: on states that grow and shrink at random, and on chosen ones.

use crate::{
    allocator::{self, subnets},
    control::{check, payloads, removal},
    dispatcher::connection::{self, AttachError, Wanted},
    plan::Context,
    store::{Action, Holder, Mutation, Snapshot},
};
use heddle_model::{
    Annotations, ClusterId, Kind, Meta, NetworkId, NodeId, PayloadId, ServiceId, TaskId, Timestamp, Version,
    cluster::{AddressPools, Cluster, ClusterSpec, JoinTokens, Role, RootCa, Secret},
    connection::Connection,
    endpoint::{Attachment, EndpointSpec, PortConfig, PublishMode},
    login::{Login, Logins, Password},
    net::{Port, Protocol},
    network::{INGRESS, Network, NetworkSpec},
    node::{Availability, Node, NodeDescription, NodeSpec, NodeState, NodeStatus},
    payload::{Content, FileMode, FilePath, Payload, PayloadFile, PayloadKind},
    service::{ImageSpec, Mode, NetworkTarget, ProcessSpec, RestartPolicy, Runtime, Service, ServiceSpec, TaskSpec},
    task::{TaskState, TaskStatus},
    update::UpdateConfig,
    workload::NetworkWish,
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

pub(crate) use crate::rehearsal::STAGES;

pub(crate) struct World {
    pub state: Snapshot,
    counter: u128,
    /// What every ready node has acknowledged; None: everything.
    acked: Option<Version>,
}

impl World {
    pub fn new() -> Self {
        let mut world = World { state: Snapshot::default(), counter: 1, acked: None };
        let secret = || Secret(String::new());
        let cluster = Cluster {
            id: ClusterId::from_random([1; 16]),
            meta: Meta::default(),
            spec: ClusterSpec {
                name: "test".into(),
                pools: AddressPools {
                    v4: "10.0.0.0/12".parse().unwrap(),
                    v4_size: 28,
                    v6: "fd00:1::/48".parse().unwrap(),
                },
                data_path_port: Port::try_from(4789).unwrap(),
                tunnel_port: Port::try_from(51820).unwrap(),
                tunnel_key_life: Duration::from_secs(86400),
                heartbeat: Duration::from_millis(300),
                task_history: 1,
                node_cert_life: Duration::from_secs(60),
                dead_manager_after: None,
            },
            root_ca: RootCa { cert_pem: String::new(), key_pem: secret() },
            join_tokens: JoinTokens { worker: secret(), manager: secret() },
            ingress_seed: 7,
            epochs: Default::default(),
            begun: 0,
            removed: BTreeMap::new(),
            users: BTreeMap::new(),
            unlock_key: None,
            rotation: None,
        };
        let ingress = world.network(INGRESS, true);
        world.write(vec![Mutation::Create(cluster.into()), Mutation::Create(ingress.into())]);
        world
    }

    pub fn random(&mut self) -> [u8; 16] {
        self.counter += 1;
        (self.counter.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)).to_be_bytes()
    }

    /// Workloads may join it, unless it is for published ports.
    pub fn network(&mut self, name: &str, ingress: bool) -> Network {
        let annotations = Annotations { name: name.into(), ..Annotations::default() };
        let spec = NetworkSpec { annotations, ingress, attachable: !ingress, ..NetworkSpec::default() };
        Network { id: NetworkId::from_random(self.random()), meta: Meta::default(), spec, allocation: None }
    }

    pub fn node(&mut self, n: u8) -> Node {
        Node {
            id: NodeId::from_random(self.random()),
            meta: Meta::default(),
            spec: NodeSpec {
                annotations: Annotations::default(),
                role: Role::Worker,
                availability: Availability::Active,
            },
            role: Role::Worker,
            description: NodeDescription {
                hostname: format!("h{n}"),
                executors: vec!["process".into(), "containerd".into()],
                ..NodeDescription::default()
            },
            status: NodeStatus { state: NodeState::Ready, ..NodeStatus::default() },
            data_path_addr: [192, 0, 2, n].into(),
            manager: None,
            ingress: None,
        }
    }

    pub fn service(&mut self, name: &str, replicas: u64, network: &NetworkId) -> Service {
        let port = PortConfig {
            protocol: Protocol::Tcp,
            target: Port::try_from(80).unwrap(),
            published: None,
            mode: PublishMode::Ingress,
        };
        Service::new(
            ServiceId::from_random(self.random()),
            ServiceSpec {
                annotations: Annotations { name: name.into(), ..Annotations::default() },
                mode: Mode::Replicated { replicas },
                task: TaskSpec {
                    runtime: Runtime::Process(ProcessSpec { command: vec!["true".into()], ..ProcessSpec::default() }),
                    restart: RestartPolicy { delay: Duration::ZERO, ..RestartPolicy::default() },
                    networks: vec![NetworkTarget { target: network.to_string(), aliases: vec![] }],
                    stop_grace: Duration::from_secs(1),
                    linger: Duration::ZERO,
                    ..TaskSpec::default()
                }
                .into(),
                endpoint: EndpointSpec { ports: vec![port], ..EndpointSpec::default() },
                update: UpdateConfig::default(),
                rollback: UpdateConfig::default(),
                rebalance: Default::default(),
            },
        )
    }

    pub fn payload(&mut self, kind: PayloadKind, name: &str, size: usize) -> Payload {
        Payload {
            id: PayloadId::from_random(self.random()),
            meta: Meta::default(),
            kind,
            annotations: Annotations { name: name.into(), ..Annotations::default() },
            content: Content(vec![7; size].into()),
        }
    }

    pub fn write(&mut self, mutations: Vec<Mutation>) {
        let at = Timestamp(self.state.version.0);
        let next = self.state.apply(Version(self.state.version.0 + 1), &Action { at, mutations }).unwrap();
        self.check_quarantine(&next);
        self.state = next;
    }

    fn acked(&self) -> Version {
        self.acked.unwrap_or(self.state.version)
    }

    /// Nobody loses an address before every ready node has acknowledged the last that was said of its holder.
    fn check_quarantine(&self, next: &Snapshot) {
        for network in self.state.networks.keys().filter(|n| next.networks.contains_key(*n)) {
            let now: BTreeMap<IpAddr, &Holder> = next.held(network).collect();
            for (addr, holder) in self.state.held(network).filter(|(addr, holder)| now.get(addr) != Some(holder)) {
                let last = match holder {
                    Holder::Task(id) => self.state.tasks[id].meta.version,
                    Holder::Connection(id) => self.state.connections[id].meta.version,
                };
                assert!(last <= self.acked(), "{addr} is free at {last}, but {} is acknowledged", self.acked());
            }
        }
    }

    /// Runs the stages until none wants anything.
    pub fn settle(&mut self) {
        for _ in 0..20 {
            let before = self.state.version;
            for stage in STAGES {
                let state = self.state.clone();
                let (now, acked) = (Timestamp(state.version.0), self.acked());
                let plan = stage(&state, &mut Context { now, acked, random: &mut || self.random() });
                if !plan.mutations.is_empty() {
                    self.write(plan.mutations);
                    self.check();
                }
            }
            if self.state.version == before {
                let held = self.state.connections.values().filter(|c| !c.released);
                assert!(held.into_iter().all(|c| self.state.nodes.contains_key(&c.node)), "held by nobody");
                return;
            }
        }
        panic!("the stages do not come to rest");
    }

    fn check(&self) {
        let state = &self.state;
        let given: Vec<_> = state.networks.values().filter_map(|n| n.allocation.as_ref()).collect();
        distinct("VNI", given.iter().map(|g| g.vni));
        let nets: Vec<_> = given.iter().flat_map(|g| [g.subnet.nets(), g.service_subnet.nets()].concat()).collect();
        for (i, a) in nets.iter().enumerate() {
            assert!(nets[i + 1..].iter().all(|b| !subnets::overlaps(a, b)), "{a} overlaps");
        }
        let connected = || state.connections.values().map(|c| &c.attachment);
        let attachments = || state.tasks.values().flat_map(|t| &t.attachments).chain(connected());
        let held = state.connections.values().filter(|c| !c.released);
        distinct("place", held.map(|c| (&c.attachment.network, &c.workload)));
        for network in state.networks.values() {
            let of = |a: &&Attachment| a.network == network.id;
            let (addrs, pools) = (attachments().filter(of).map(|a| a.addr), subnets::pools(network));
            let addrs: Vec<IpAddr> = addrs.flat_map(|a| a.addrs()).collect();
            for addr in &addrs {
                assert!(pools.iter().any(|p| p.admits(*addr).is_ok()), "{addr} is not for anybody");
            }
            assert_eq!(state.held(&network.id).count(), addrs.len());
        }
        distinct("IPv4", attachments().map(|a| a.addr.v4));
        distinct("IPv6", attachments().map(|a| a.addr.v6));
        distinct(
            "MAC",
            attachments().map(|a| a.mac).chain(state.nodes.values().filter_map(|n| Some(n.ingress.as_ref()?.mac))),
        );
        let vips = state.services.values().filter_map(|s| s.endpoint.as_ref()).flat_map(|e| &e.virtual_ips);
        let legs = || state.nodes.values().filter_map(|n| n.ingress.as_ref());
        distinct("VIP or leg", vips.map(|v| v.addr).chain(legs().map(|l| l.addr)));
        distinct("leg index", legs().map(|l| l.index));
        distinct("published port", allocator::published(state).map(|(p, n, _)| (p, n)));
    }
}

fn distinct<T: Ord + Debug>(what: &str, values: impl Iterator<Item = T>) {
    let mut seen = BTreeSet::new();
    for value in values {
        assert!(!seen.contains(&value), "{what} {value:?} is given twice");
        seen.insert(value);
    }
}

fn image() -> Runtime {
    let image = "registry.example/web:1".parse().unwrap();
    Runtime::Image(Box::new(ImageSpec { image, entrypoint: None, program: ProcessSpec::default() }))
}

fn logins(n: usize) -> Logins {
    let login = Login { username: "me".into(), password: Password(n.to_string()) };
    Logins([("registry.example".to_owned(), login)].into())
}

fn secret_file(secret: &Payload) -> PayloadFile {
    let path = FilePath::of(PayloadKind::Secret, &secret.annotations.name).unwrap();
    let (source, mode) = (secret.id.to_string(), FileMode::READABLE);
    PayloadFile { kind: PayloadKind::Secret, source, path, uid: 0, gid: 0, mode }
}

#[derive(Debug, Clone)]
pub enum Event {
    AddNode,
    RemoveNode(usize),
    NodeState(usize, bool),
    AddNetwork,
    AddService(usize, u64),
    Scale(usize, u64),
    RemoveService(usize),
    /// Every task on a node makes this step.
    Report(TaskState),
    EndTask(usize),
    Unhealthy(usize),
    RemoveNetwork(usize),
    /// If nobody uses it.
    RemoveSecret(usize),
    /// The ingress network goes, if nothing is published, and another comes.
    NewIngress,
    /// A node asks that one of a few workloads joins a network, at the address of this number if there is one.
    Connect(usize, usize, u8, Option<u8>),
    /// The same for a task, on the node where it is.
    ConnectTask(usize, usize),
    Disconnect(usize),
    /// The nodes stop to acknowledge, or do again.
    Lag(bool),
}

pub fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::AddNode),
        1 => any::<usize>().prop_map(Event::RemoveNode),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(n, up)| Event::NodeState(n, up)),
        3 => Just(Event::AddNetwork),
        3 => (any::<usize>(), 1..9u64).prop_map(|(n, r)| Event::AddService(n, r)),
        1 => (any::<usize>(), 1..12u64).prop_map(|(n, r)| Event::Scale(n, r)),
        1 => any::<usize>().prop_map(Event::RemoveService),
        1 => prop_oneof![Just(TaskState::Running), Just(TaskState::Shutdown)].prop_map(Event::Report),
        1 => any::<usize>().prop_map(Event::EndTask),
        1 => any::<usize>().prop_map(Event::Unhealthy),
        1 => any::<usize>().prop_map(Event::RemoveNetwork),
        1 => any::<usize>().prop_map(Event::RemoveSecret),
        1 => Just(Event::NewIngress),
        3 => (any::<usize>(), any::<usize>(), 0..6u8, prop::option::of(0..18u8))
            .prop_map(|(n, on, w, at)| Event::Connect(n, on, w, at)),
        3 => (any::<usize>(), any::<usize>()).prop_map(|(t, on)| Event::ConnectTask(t, on)),
        3 => any::<usize>().prop_map(Event::Disconnect),
        1 => any::<bool>().prop_map(Event::Lag),
    ]
}

impl World {
    pub fn happen(&mut self, event: Event, number: usize) {
        let state = self.state.clone();
        fn pick<T>(all: impl Iterator<Item = T>, n: usize) -> Option<T> {
            let mut all: Vec<T> = all.collect();
            let n = n.checked_rem(all.len())?;
            Some(all.swap_remove(n))
        }
        let open = || state.networks.values().filter(|n| !n.spec.ingress);
        let mutation = match event {
            Event::AddNode => Some(Mutation::Create(self.node(number as u8).into())),
            Event::RemoveNode(n) => pick(state.nodes.values(), n).map(|n| Mutation::Remove {
                kind: Kind::Node,
                id: n.id.to_string(),
                version: None,
            }),
            Event::NodeState(n, up) => pick(state.nodes.values(), n).map(|n| {
                let state = if up { NodeState::Ready } else { NodeState::Down };
                Mutation::NodeStatus { id: n.id.clone(), status: NodeStatus { state, ..NodeStatus::default() } }
            }),
            Event::AddNetwork => Some(Mutation::Create(self.network(&format!("n{number}"), false).into())),
            Event::AddService(n, replicas) => {
                pick(open(), n).filter(|_| state.ingress_network().is_some()).map(|network| {
                    let mut service = self.service(&format!("s{number}"), replicas, &network.id);
                    if number % 4 == 3 {
                        service.spec.mode = Mode::Global;
                    }
                    // Two of three have one of a few secrets.
                    if number % 3 == 2 {
                        service.spec.task.runtime = image();
                        service.log_in(logins(n));
                    }
                    let secret = state.payloads_of(PayloadKind::Secret).nth(n % 3).cloned();
                    service.spec.task.files = secret.map(|s| secret_file(&s)).into_iter().collect();
                    let more = self.payload(PayloadKind::Secret, &format!("p{number}"), 3);
                    self.write(vec![Mutation::Create(more.into())]);
                    Mutation::Create(service.into())
                })
            }
            Event::Scale(n, replicas) => pick(state.services.values(), n).map(|s| {
                let mut service = Service::clone(s);
                service.spec.mode = service.spec.mode.scaled(replicas).unwrap_or(Mode::Global);
                service.log_in(logins(n));
                Mutation::Update(service.into())
            }),
            Event::RemoveService(n) => pick(state.services.values(), n).map(|s| Mutation::Remove {
                kind: Kind::Service,
                id: s.id.to_string(),
                version: None,
            }),
            Event::Report(to) => {
                let reports: Vec<_> = state
                    .tasks
                    .values()
                    .filter(|t| t.on_node() && (to == TaskState::Running) == (t.desired == TaskState::Running))
                    .map(|t| Mutation::TaskStatus {
                        id: t.id.clone(),
                        status: TaskStatus { state: to, ..TaskStatus::default() },
                    })
                    .collect();
                self.write(reports);
                None
            }
            Event::EndTask(n) => pick(state.tasks.values(), n).map(|t| Mutation::TaskStatus {
                id: t.id.clone(),
                status: TaskStatus { state: TaskState::Failed, ..TaskStatus::default() },
            }),
            Event::Unhealthy(n) => pick(state.tasks.values().filter(|t| t.on_node()), n).map(|t| {
                Mutation::TaskStatus { id: t.id.clone(), status: TaskStatus { unhealthy: true, ..t.status.clone() } }
            }),
            Event::RemoveNetwork(n) => {
                let network = pick(open(), n).filter(|n| check::network_removal(&state, n).is_ok());
                self.write(network.map(|n| removal::network(&state, n)).unwrap_or_default());
                None
            }
            Event::RemoveSecret(n) => {
                let secret = pick(state.payloads.keys(), n);
                let removal = secret.and_then(|id| payloads::remove(&state, PayloadKind::Secret, id.as_str()).ok());
                self.write(removal.map(|(_, mutations)| mutations).unwrap_or_default());
                None
            }
            Event::NewIngress => {
                let old = state.ingress_network().filter(|n| check::network_removal(&state, n).is_ok());
                old.map(|old| {
                    self.write(removal::network(&state, old));
                    self.settle();
                    assert!(self.state.nodes.values().all(|n| n.ingress.is_none()));
                    Mutation::Create(self.network(&format!("in{number}"), true).into())
                })
            }
            Event::Connect(n, on, workload, at) => {
                if let Some((node, network)) = pick(state.nodes.keys(), n).zip(pick(open(), on)) {
                    let base = network.allocation.as_ref().map(|a| a.subnet.v4.network().to_bits());
                    let ip = base.zip(at).map(|(base, at)| Ipv4Addr::from_bits(base + u32::from(at)));
                    let workload = TaskId::from_random([workload; 16]);
                    let wish = NetworkWish { network: network.id.to_string(), ip, ..NetworkWish::default() };
                    let _ = self.attach(node, &workload, wish);
                }
                None
            }
            Event::ConnectTask(t, on) => {
                let task = pick(state.tasks.values().filter(|t| t.node.is_some()), t);
                if let Some((task, network)) = task.zip(pick(open(), on)) {
                    let wish = NetworkWish { network: network.id.to_string(), ..NetworkWish::default() };
                    let node = task.node.clone().unwrap();
                    // Only a node of the cluster can ask.
                    if state.nodes.contains_key(&node) {
                        let _ = self.attach(&node, &task.id, wish);
                    }
                }
                None
            }
            Event::Disconnect(n) => {
                if let Some(c) = pick(state.connections.values(), n) {
                    let reference = c.attachment.network.as_str();
                    self.write(connection::detach(&state, &c.node, &c.workload, reference).unwrap());
                }
                None
            }
            Event::Lag(lag) => {
                self.acked = lag.then_some(state.version);
                None
            }
        };
        self.write(mutation.into_iter().collect());
    }
}

proptest! {
    #[test]
    fn nothing_is_ever_given_twice(events in prop::collection::vec(event(), 1..40)) {
        let mut world = World::new();
        for (number, event) in events.into_iter().enumerate() {
            world.happen(event, number);
            world.settle();
        }
        // Whatever happened: with a node, and once what had to go is gone, every service gets what it wants.
        world.happen(Event::AddNode, 200);
        world.settle();
        world.report(TaskState::Shutdown);
        for service in world.state.services.values().filter(|s| s.endpoint.is_some()) {
            let wanted: Vec<_> =
                world.state.tasks_of_service(&service.id).filter(|t| t.desired == TaskState::Running).collect();
            match service.spec.mode.count() {
                Some(count) => prop_assert_eq!(wanted.len() as u64, count),
                None => {
                    let nodes: Vec<_> = wanted.iter().filter_map(|t| t.bound.clone()).collect();
                    let ready = world.state.nodes.values().filter(|n| n.status.state == NodeState::Ready);
                    let ready: BTreeSet<_> = ready.map(|n| n.id.clone()).collect();
                    prop_assert!(nodes.len() == wanted.len() && nodes.len() == ready.len(), "{nodes:?} {ready:?}");
                    prop_assert_eq!(nodes.into_iter().collect::<BTreeSet<_>>(), ready);
                }
            }
        }
        world.end();
    }
}

impl World {
    pub fn attach(&mut self, node: &NodeId, workload: &TaskId, wish: NetworkWish) -> Result<Attachment, AttachError> {
        let name = format!("w{}", &workload.as_str()[..3]);
        let wanted = Wanted { node: node.clone(), workload: workload.clone(), name, wish };
        let state = self.state.clone();
        let (place, mutations) = connection::attach(&state, &wanted, &mut || self.random())?;
        self.write(mutations);
        self.check();
        // Who asks again, gets the same and changes nothing.
        let again = connection::attach(&self.state, &wanted, &mut || [0; 16])?;
        assert_eq!((again.0.attachment, again.1), (place.attachment.clone(), Vec::new()));
        Ok(place.attachment)
    }

    /// Everything is removed, stopped and acknowledged: nothing may be left.
    fn end(&mut self) {
        self.acked = None;
        let state = self.state.clone();
        let remove = |id: &ServiceId| Mutation::Remove { kind: Kind::Service, id: id.to_string(), version: None };
        self.write(state.services.keys().map(remove).collect());
        let detach = |c: &std::sync::Arc<Connection>| connection::detach(&state, &c.node, &c.workload, "").unwrap();
        let gone: BTreeMap<_, _> = state.connections.values().flat_map(detach).map(|m| (format!("{m:?}"), m)).collect();
        self.write(gone.into_values().collect());
        self.settle();
        self.report(TaskState::Shutdown);
        assert_eq!((self.state.tasks.len(), self.state.connections.len()), (0, 0));
        assert!(self.state.networks.keys().all(|n| self.state.held(n).next().is_none()));
    }
}

impl World {
    pub fn ready_nodes(&mut self, count: u8) -> Vec<NodeId> {
        let nodes: Vec<Node> = (1..=count).map(|n| self.node(n)).collect();
        self.write(nodes.iter().cloned().map(|n| Mutation::Create(n.into())).collect());
        nodes.into_iter().map(|n| n.id).collect()
    }

    /// A service on a network of its own, with what else is to be set.
    pub fn run(&mut self, replicas: u64, set: impl FnOnce(&mut ServiceSpec)) -> ServiceId {
        let there = self.state.network_named("front").map(|n| Network::clone(n));
        let network = there.clone().unwrap_or_else(|| self.network("front", false));
        let mut service = self.service("web", replicas, &network.id);
        set(&mut service.spec);
        let id = service.id.clone();
        if there.is_none() {
            self.write(vec![Mutation::Create(network.into())]);
        }
        self.settle();
        self.write(vec![Mutation::Create(service.into())]);
        self.settle();
        id
    }

    pub fn report(&mut self, to: TaskState) {
        self.happen(Event::Report(to), 0);
        self.settle();
    }

    fn turn(&mut self, node: &NodeId, state: NodeState) {
        let status = NodeStatus { state, ..NodeStatus::default() };
        self.write(vec![Mutation::NodeStatus { id: node.clone(), status }]);
        self.settle();
    }

    /// Nodes of the tasks that should run, in order.
    fn placed(&self, service: &ServiceId) -> Vec<Option<NodeId>> {
        let wanted = self.state.tasks_of_service(service).filter(|t| t.desired == TaskState::Running);
        let mut nodes: Vec<_> = wanted.map(|t| t.node.clone()).collect();
        nodes.sort();
        nodes
    }
}

#[test]
fn replicas_are_spread_and_leave_a_node_that_is_down() {
    let mut world = World::new();
    let nodes = world.ready_nodes(3);
    let web = world.run(6, |_| ());
    world.report(TaskState::Running);
    for node in &nodes {
        assert_eq!(world.placed(&web).iter().filter(|n| n.as_ref() == Some(node)).count(), 2);
    }
    world.turn(&nodes[0], NodeState::Down);
    assert_eq!(world.placed(&web).len(), 6);
    assert!(!world.placed(&web).contains(&Some(nodes[0].clone())));
    // What was there is out of rotation, and its addresses stay taken: the node may only be cut off.
    let there: Vec<_> = world.state.tasks_on_node(&nodes[0]).collect();
    assert_eq!(there.len(), 2);
    assert!(there.iter().all(|t| !t.in_service() && !t.attachments.is_empty()));
}

#[test]
fn a_replica_that_lost_its_node_waits_for_the_one_that_leaves() {
    let mut world = World::new();
    let nodes = world.ready_nodes(2);
    let web = world.run(1, |_| ());
    world.report(TaskState::Running);
    let first = world.placed(&web).remove(0).unwrap();
    let second = nodes.into_iter().find(|n| *n != first).unwrap();
    world.turn(&first, NodeState::Down);
    assert_eq!(world.placed(&web), [Some(second.clone())]);
    // Back, with a task that has been replaced: one alone may run for a replica while its host is known.
    world.turn(&first, NodeState::Ready);
    assert_eq!(world.placed(&web), [Some(second.clone())]);
    world.write(vec![Mutation::Remove { kind: Kind::Node, id: second.to_string(), version: None }]);
    world.settle();
    assert_eq!(world.placed(&web), []);
    world.report(TaskState::Shutdown);
    assert_eq!(world.placed(&web), [Some(first)]);
}

#[test]
fn filters_say_why_nothing_fits() {
    let mut world = World::new();
    let nodes = world.ready_nodes(3);
    world.turn(&nodes[0], NodeState::Down);
    let web = world.run(3, |spec| spec.task.placement.max_replicas_per_node = 1);
    let waiting: Vec<_> = world.state.tasks_of_service(&web).filter(|t| t.node.is_none()).collect();
    assert_eq!(waiting.len(), 1);
    let said = &waiting[0].status.message;
    assert_eq!(said, "no suitable node: 2 have the most replicas allowed, 1 not ready");
}

#[test]
fn a_task_that_failed_is_followed_by_another_after_its_delay() {
    let mut world = World::new();
    world.ready_nodes(1);
    let web = world.run(1, |spec| spec.task.restart.delay = Duration::from_millis(1_000_000));
    world.report(TaskState::Running);
    let first = world.state.tasks_of_service(&web).next().unwrap().id.clone();
    let since = Timestamp(50);
    let status = TaskStatus { state: TaskState::Failed, since, ..TaskStatus::default() };
    world.write(vec![Mutation::TaskStatus { id: first.clone(), status }]);
    world.settle();
    let next = world.state.tasks_of_service(&web).find(|t| t.desired == TaskState::Running).unwrap();
    assert_eq!((next.not_before, next.slot, &next.node), (Timestamp(1_000_050), 1, &None));
    assert!(next.id != first && next.status.state == TaskState::Pending);
}

#[test]
fn surplus_replicas_go_from_the_fullest_node_first() {
    let mut world = World::new();
    let nodes = world.ready_nodes(2);
    let web = world.run(4, |_| ());
    world.report(TaskState::Running);
    let service = Service::clone(&world.state.services[&web]);
    let spec = ServiceSpec { mode: Mode::Replicated { replicas: 2 }, ..service.spec.clone() };
    world.write(vec![Mutation::Update(Service { spec, ..service }.into())]);
    world.settle();
    let mut one_each: Vec<_> = nodes.into_iter().map(Some).collect();
    one_each.sort();
    assert_eq!(world.placed(&web), one_each);
}

#[test]
fn a_leg_of_an_ingress_network_that_is_gone_is_replaced() {
    let mut world = World::new();
    world.ready_nodes(2);
    world.settle();
    let node = world.state.nodes.values().next().unwrap().clone();
    let mut leg = node.ingress.clone().unwrap();
    leg.addr.v4 = [10, 200, 0, 5].into();
    world.write(vec![Mutation::Update(Node { ingress: Some(leg.clone()), ..Node::clone(&node) }.into())]);
    world.settle();
    let given = world.state.ingress_network().unwrap().allocation.clone().unwrap();
    let now = world.state.nodes[&node.id].ingress.clone().unwrap();
    assert!(given.service_subnet.contains(now.addr.v4.into()), "{now:?}");
}
