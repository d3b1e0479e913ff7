//! A manager of a cluster of its own, served on loopback as a daemon serves it, and nodes that joined it.

use heddle_manager::{ca, manager::Manager, raft::raft_id, store::Mutation, vault::Vault};
use heddle_model::{
    Annotations, ClusterId, Meta, NodeId,
    cluster::{AddressPools, Cluster, ClusterSpec, Role},
    net::Port,
    node::{Availability, ManagerStatus, Node, NodeDescription, NodeSpec, NodeStatus},
};
use heddle_plumbing::tls::{self, Credentials};
use heddle_proto::v1;
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};
use tonic::{Status, transport::Channel};

pub struct Stage {
    pub manager: Manager,
    pub addr: SocketAddr,
    pub credentials: Credentials,
    _dir: tempfile::TempDir,
}

fn cluster(id: ClusterId) -> Cluster {
    let spec = ClusterSpec {
        name: "test".into(),
        pools: AddressPools { v4: "10.0.0.0/8".parse().unwrap(), v4_size: 24, v6: "fd00:1::/48".parse().unwrap() },
        data_path_port: Port::try_from(4789).unwrap(),
        tunnel_port: Port::try_from(51820).unwrap(),
        tunnel_key_life: Duration::from_secs(86400),
        heartbeat: Duration::from_secs(60),
        task_history: 1,
        node_cert_life: Duration::from_secs(3600),
        dead_manager_after: None,
    };
    Cluster {
        root_ca: ca::new_root(&id).unwrap(),
        id,
        meta: Meta::default(),
        spec,
        join_tokens: ca::new_tokens(rand::random()),
        ingress_seed: 1,
        epochs: Default::default(),
        begun: 0,
        removed: BTreeMap::new(),
        users: BTreeMap::new(),
        unlock_key: None,
        rotation: None,
    }
}

/// A node as `init` and `join` make it.
pub fn node(id: &NodeId, role: Role, n: u8) -> Node {
    let manager = Some(ManagerStatus { raft_id: raft_id(id), addr: SocketAddr::from(([127, 0, 0, n], 1)) });
    Node {
        id: id.clone(),
        meta: Meta::default(),
        spec: NodeSpec { annotations: Annotations::default(), role, availability: Availability::Active },
        role,
        description: NodeDescription::default(),
        status: NodeStatus::default(),
        data_path_addr: [127, 0, 0, n].into(),
        manager: manager.filter(|_| role == Role::Manager),
        ingress: None,
    }
}

impl Stage {
    pub async fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = tls::listen(([127, 0, 0, 1], 0).into()).unwrap();
        let addr = listener.local_addr().unwrap();
        let (cluster, id) = (cluster(ClusterId::from_random(rand::random())), NodeId::from_random(rand::random()));
        let credentials = certificate(&cluster, &id, Role::Manager);
        let manager = Manager::first(dir.path(), &Vault::make(dir.path(), None).unwrap(), &credentials).await.unwrap();
        let mut own = node(&id, Role::Manager, 1);
        own.manager = Some(ManagerStatus { raft_id: raft_id(&id), addr });
        manager.bootstrap(cluster, own, Vec::new()).await.unwrap();
        let incoming = tls::incoming(listener, &credentials, Default::default());
        tokio::spawn(manager.server().serve_with_incoming(incoming));
        Self { manager, addr, credentials, _dir: dir }
    }

    pub fn certificate(&self, id: &NodeId, role: Role) -> Credentials {
        certificate(self.manager.store.snapshot().cluster.as_ref().unwrap(), id, role)
    }

    /// A node of the cluster, with its certificate.
    pub async fn joined(&self, role: Role, n: u8) -> Credentials {
        let id = NodeId::from_random([n; 16]);
        self.manager.store.write(vec![Mutation::Create(node(&id, role, n).into())]).await.unwrap();
        self.certificate(&id, role)
    }

    pub fn dial(&self, who: &Credentials) -> Channel {
        tls::dial(self.addr, who)
    }

    /// TLS without a certificate, as a joiner has it.
    pub fn dial_bare(&self) -> Channel {
        tls::dial_pinned(self.addr, &self.credentials.roots_pem()).unwrap()
    }
}

pub fn certificate(cluster: &Cluster, id: &NodeId, role: Role) -> Credentials {
    let (key, csr) = tls::new_key_and_csr().unwrap();
    let cert = ca::issue(&cluster.root_ca, &cluster.id, id, role, &csr, Duration::from_secs(600)).unwrap();
    Credentials::new(key, cert, cluster.root_ca.cert_pem.clone()).unwrap()
}

/// Calls any method with an empty message.
pub async fn call(channel: &Channel, path: &str) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let answer = grpc.server_streaming(tonic::Request::new(()), path.parse().unwrap(), codec).await?;
    answer.into_inner().message().await.map(drop)
}

pub fn hello(node: &Credentials, n: u8) -> v1::AgentMessage {
    let description = v1::NodeDescription {
        hostname: format!("h-{}", node.identity().node),
        executors: vec!["process".into()],
        ..v1::NodeDescription::default()
    };
    let hello =
        v1::Hello { description: Some(description), data_path_addr: format!("127.0.0.{n}"), ..v1::Hello::default() };
    v1::AgentMessage { message: Some(v1::agent_message::Message::Hello(hello)) }
}
