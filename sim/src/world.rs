//! What every run starts from: which hosts there are, and the first objects of their cluster.

use crate::net::At;
use heddle_manager::{ambient, raft::raft_id, store::Mutation};
use heddle_model::{
    Annotations, ClusterId, Meta, NetworkId, NodeId, ServiceId,
    cluster::{AddressPools, Cluster, ClusterSpec, JoinTokens, Role, RootCa, Secret},
    endpoint::{EndpointSpec, PortConfig, PublishMode},
    net::{Port, Protocol},
    network::{self, Network, NetworkSpec},
    node::{Availability, ManagerStatus, Node, NodeDescription, NodeSpec, NodeStatus},
    service::{
        Mode, NetworkTarget, ProcessSpec, RestartCondition, RestartPolicy, Runtime, Service, ServiceSpec, TaskSpec,
    },
    update::UpdateConfig,
};
use rand::RngExt;
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// Hosts that may be managers, and those that are from the start.
pub const MANAGERS: usize = 5;
pub const FIRST: usize = 3;
/// Every host has an agent; the last ones nothing else.
pub const HOSTS: usize = 7;
/// Where the clients are.
pub const OUTSIDE: At = HOSTS;
/// Services whose label clients write and read.
pub const REGISTERS: usize = 3;
pub const LABEL: &str = "value";
/// A service with a task on every host, and a job.
pub const EVERYWHERE: &str = "everywhere";
pub const BATCH: &str = "batch";
/// Tasks of the job that run to their end, and of them at once.
const COMPLETIONS: u64 = 3;
const AT_ONCE: u64 = 2;

#[derive(Debug)]
pub struct World {
    nodes: Vec<NodeId>,
}

fn port(n: u16) -> Port {
    #[allow(clippy::expect_used)]
    Port::try_from(n).expect("not 0")
}

fn named(name: &str) -> Annotations {
    Annotations { name: name.into(), labels: BTreeMap::new() }
}

impl World {
    pub fn new() -> Self {
        Self { nodes: (0..HOSTS).map(|_| NodeId::from_random(ambient::random())).collect() }
    }

    pub fn node(&self, at: At) -> NodeId {
        self.nodes[at].clone()
    }

    pub fn at(&self, node: &NodeId) -> Option<At> {
        self.nodes.iter().position(|n| n == node)
    }

    pub fn any_manager(&self) -> At {
        ambient::rng().random_range(0..MANAGERS)
    }

    pub fn addr(&self, at: At) -> IpAddr {
        [192, 0, 2, at as u8 + 1].into()
    }

    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(300)
    }

    pub fn description(&self) -> NodeDescription {
        NodeDescription { executors: vec!["process".into()], ..NodeDescription::default() }
    }

    pub fn manager_status(&self, at: At) -> ManagerStatus {
        ManagerStatus { addr: SocketAddr::new(self.addr(at), 2377), raft_id: raft_id(&self.nodes[at]) }
    }

    fn host(&self, at: At) -> Node {
        let role = if at < FIRST { Role::Manager } else { Role::Worker };
        Node {
            id: self.node(at),
            meta: Meta::default(),
            spec: NodeSpec { annotations: Annotations::default(), role, availability: Availability::Active },
            role,
            description: NodeDescription { hostname: format!("h{at}"), ..self.description() },
            status: NodeStatus::default(),
            data_path_addr: self.addr(at),
            manager: (at < FIRST).then(|| self.manager_status(at)),
            ingress: None,
        }
    }

    fn cluster(&self) -> Cluster {
        let secret = || Secret(String::new());
        let pools = AddressPools {
            v4: "10.0.0.0/12".parse().unwrap_or_default(),
            v4_size: 26,
            v6: "fd00:1::/48".parse().unwrap_or_default(),
        };
        let spec = ClusterSpec {
            name: "simulated".into(),
            pools,
            data_path_port: port(4789),
            tunnel_port: port(51820),
            tunnel_key_life: Duration::from_secs(86400),
            heartbeat: self.heartbeat(),
            task_history: 1,
            node_cert_life: Duration::from_secs(86400),
            dead_manager_after: None,
        };
        Cluster {
            id: ClusterId::from_random(ambient::random()),
            meta: Meta::default(),
            spec,
            root_ca: RootCa { cert_pem: String::new(), key_pem: secret() },
            join_tokens: JoinTokens { worker: secret(), manager: secret() },
            ingress_seed: 7,
            epochs: Default::default(),
            begun: 0,
            removed: Default::default(),
            users: Default::default(),
            unlock_key: None,
            rotation: None,
        }
    }

    fn network(&self, name: &str, ingress: bool) -> Network {
        let spec = NetworkSpec { annotations: named(name), ingress, attachable: !ingress, ..NetworkSpec::default() };
        Network { id: NetworkId::from_random(ambient::random()), meta: Meta::default(), spec, allocation: None }
    }

    /// A service with a published port on the network. Its updates take seconds.
    pub fn service(&self, name: &str, mode: Mode, network: &NetworkId) -> Service {
        let published =
            PortConfig { protocol: Protocol::Tcp, target: port(80), published: None, mode: PublishMode::Ingress };
        let task = TaskSpec {
            runtime: Runtime::Process(ProcessSpec { command: vec!["true".into()], ..ProcessSpec::default() }),
            restart: RestartPolicy { delay: Duration::from_millis(500), ..RestartPolicy::default() },
            networks: vec![NetworkTarget { target: network.to_string(), aliases: vec![] }],
            stop_grace: Duration::from_secs(1),
            linger: Duration::ZERO,
            ..TaskSpec::default()
        };
        Service::new(
            ServiceId::from_random(ambient::random()),
            ServiceSpec {
                annotations: named(name),
                mode,
                task: task.into(),
                endpoint: EndpointSpec { ports: vec![published], ..EndpointSpec::default() },
                update: UpdateConfig {
                    parallelism: 2,
                    monitor: Duration::from_millis(500),
                    deadline: Duration::from_secs(10),
                    ..UpdateConfig::default()
                },
                rollback: Default::default(),
                rebalance: Default::default(),
            },
        )
    }

    /// Cluster, hosts, networks and services.
    pub fn objects(&self) -> Vec<Mutation> {
        let (ingress, plain) = (self.network(network::INGRESS, true), self.network("plain", false));
        let registers = (0..REGISTERS).map(|n| self.service(&register(n), Mode::Replicated { replicas: 2 }, &plain.id));
        let job = Mode::ReplicatedJob { completions: COMPLETIONS, concurrent: AT_ONCE };
        let mut batch = self.service(BATCH, job, &plain.id);
        batch.spec.task.restart.condition = RestartCondition::OnFailure;
        let others = [self.service(EVERYWHERE, Mode::Global, &plain.id), batch];
        let mut objects = vec![self.cluster().into()];
        objects.extend((0..HOSTS).map(|at| self.host(at).into()));
        objects.extend(registers.chain(others).map(Into::into));
        objects.extend([ingress.into(), plain.into()]);
        objects.into_iter().map(Mutation::Create).collect()
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// The host that a manager's address is of.
pub fn host_at(addr: &str) -> Option<At> {
    match addr.parse::<SocketAddr>().ok()?.ip() {
        IpAddr::V4(ip) => usize::from(ip.octets()[3]).checked_sub(1),
        IpAddr::V6(_) => None,
    }
}

pub fn register(n: usize) -> String {
    format!("register-{n}")
}
