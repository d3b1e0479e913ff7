//! Managers' stores, as managers make them, without the loops that plan.

use crate::{
    dir,
    wire::{Voters, Wire},
};
use heddle_manager::{
    manager::raft_config,
    raft::{LogStore, Machine, Raft, TypeConfig},
    store::{Mutation, Store},
};
use heddle_model::{
    Annotations, Meta, NodeId, Timestamp,
    cluster::Role,
    node::{Availability, Node, NodeDescription, NodeSpec, NodeState, NodeStatus},
};
use heddle_plumbing::seal::Key;
use openraft::BasicNode;
use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

pub struct Cluster {
    stores: Vec<Store>,
    _dir: tempfile::TempDir,
}

fn id(n: u64) -> NodeId {
    NodeId::from_random(u128::from(n).to_be_bytes())
}

fn node(n: u64) -> Node {
    let spec = NodeSpec { annotations: Annotations::default(), role: Role::Worker, availability: Availability::Active };
    Node {
        id: id(n),
        meta: Meta::default(),
        spec,
        role: Role::Worker,
        description: NodeDescription::default(),
        status: NodeStatus::default(),
        data_path_addr: std::net::Ipv4Addr::from(n as u32).into(),
        manager: None,
        ingress: None,
    }
}

impl Cluster {
    /// With so many nodes that report.
    pub async fn of(voters: u64, nodes: u64) -> Self {
        let (dir, rafts) = (dir(), Voters::default());
        let config = Arc::new(raft_config("bench").validate().unwrap());
        let mut stores = Vec::new();
        for n in 1..=voters {
            let log = LogStore::open(&dir.path().join(format!("{n}.redb")), &Key::new([7; 32])).unwrap();
            let (machine, state) = Machine::open(log.clone()).unwrap();
            let wire = Wire::<TypeConfig, Machine> { voters: rafts.clone(), to: n };
            let raft: Raft = Raft::new(n, config.clone(), wire, log, machine).await.unwrap();
            rafts.write().unwrap().insert(n, raft.clone());
            stores.push(Store::new(raft, state));
        }
        let members: BTreeMap<u64, BasicNode> = (1..=voters).map(|n| (n, BasicNode::new(n.to_string()))).collect();
        stores[0].raft().initialize(members).await.unwrap();
        let cluster = Self { stores, _dir: dir };
        let made = (0..nodes).map(|n| Mutation::Create(node(n).into())).collect();
        cluster.leader().await.write(made).await.unwrap();
        cluster
    }

    async fn leader(&self) -> &Store {
        loop {
            if let Some(leader) = self.stores.iter().find(|s| s.is_leader()) {
                return leader;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What one client writes as its nth: what a node reports.
    pub fn writer(
        &self,
    ) -> impl Fn(u64, u64) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Clone + Send + 'static {
        let store = self.stores.iter().find(|s| s.is_leader()).unwrap().clone();
        move |client, nth| {
            let store = store.clone();
            let status = NodeStatus { state: NodeState::Ready, message: "reported".into(), since: Timestamp(nth) };
            Box::pin(async move {
                store.write(vec![Mutation::NodeStatus { id: id(client), status }]).await.unwrap();
            })
        }
    }

    pub async fn end(self) {
        for store in &self.stores {
            store.raft().shutdown().await.unwrap();
        }
    }
}
