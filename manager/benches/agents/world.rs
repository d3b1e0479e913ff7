//! What there is: nodes, a service that all nodes are told of, and one of many tasks that nobody else is told of.

use super::stage::{self, Stage};
use heddle_manager::store::{Mutation, Snapshot};
use heddle_model::{
    Annotations, Meta, NetworkId, NodeId, ServiceId,
    cluster::{Cluster, Role},
    endpoint::{EndpointSpec, PortConfig, PublishMode},
    net::{Port, Protocol},
    network::{Network, NetworkSpec},
    service::{Mode, NetworkTarget, ProcessSpec, Runtime, Service, ServiceSpec, TaskSpec},
    task::TaskState,
};
use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

fn named(name: &str) -> Annotations {
    Annotations { name: name.into(), ..Annotations::default() }
}

/// The manager is no worker here.
pub async fn nodes(stage: &Stage, count: usize) -> Vec<(NodeId, IpAddr)> {
    let store = &stage.manager.store;
    let mut cluster = Cluster::clone(store.snapshot().cluster.as_ref().unwrap());
    cluster.spec.heartbeat = Duration::from_millis(300);
    store.write(vec![Mutation::Update(cluster.into())]).await.unwrap();
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 1));
    let nodes = (0..count).map(|n| (NodeId::from_random(rand::random()), Ipv4Addr::from(first + n as u32).into()));
    let nodes: Vec<(NodeId, IpAddr)> = nodes.collect();
    for some in nodes.chunks(500) {
        let node = |(id, addr): &(NodeId, IpAddr)| {
            let mut node = stage::node(id, Role::Worker, 2);
            node.data_path_addr = *addr;
            Mutation::Create(node.into())
        };
        store.write(some.iter().map(node).collect()).await.unwrap();
    }
    nodes
}

fn service(name: &str, replicas: u64, networks: Vec<NetworkTarget>, ports: Vec<PortConfig>) -> Service {
    let task = TaskSpec {
        runtime: Runtime::Process(ProcessSpec { command: vec!["true".into()], ..ProcessSpec::default() }),
        networks,
        linger: Duration::ZERO,
        ..TaskSpec::default()
    };
    Service::new(
        ServiceId::from_random(rand::random()),
        ServiceSpec {
            annotations: named(name),
            mode: Mode::Replicated { replicas },
            task: task.into(),
            endpoint: EndpointSpec { ports, ..EndpointSpec::default() },
            update: Default::default(),
            rollback: Default::default(),
            rebalance: Default::default(),
        },
    )
}

/// On a network of its own, and published: one task on each of so many nodes.
pub async fn front(stage: &Stage, replicas: usize) -> ServiceId {
    let spec = NetworkSpec { annotations: named("front"), ..NetworkSpec::default() };
    let network = Network { id: NetworkId::from_random(rand::random()), meta: Meta::default(), spec, allocation: None };
    let target = NetworkTarget { target: network.id.to_string(), aliases: Vec::new() };
    let port = PortConfig {
        protocol: Protocol::Tcp,
        target: Port::try_from(80).unwrap(),
        published: None,
        mode: PublishMode::Ingress,
    };
    let mut service = service("front", replicas as u64, vec![target], vec![port]);
    service.spec.task.placement.max_replicas_per_node = 1;
    let id = service.id.clone();
    stage.manager.store.write(vec![Mutation::Create(network.into()), Mutation::Create(service.into())]).await.unwrap();
    id
}

pub fn many(replicas: u64) -> Service {
    service("many", replicas, Vec::new(), Vec::new())
}

pub fn running(state: &Snapshot, service: &ServiceId) -> usize {
    state.tasks_of_service(service).filter(|t| t.status.state == TaskState::Running).count()
}
