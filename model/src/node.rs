//! A host in the cluster.

use crate::{
    Annotations, Meta, NodeId, Timestamp,
    cluster::Role,
    net::{DualAddr, Mac, Mtu, Port, Protocol},
    tunnel::TunnelEnd,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// Whether the scheduler may use a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    #[default]
    Active,
    /// Keeps its tasks, gets no new one.
    Pause,
    /// Loses its tasks.
    Drain,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    pub annotations: Annotations,
    /// The role the node should have; the role it has is in its certificate.
    pub role: Role,
    pub availability: Availability,
}

/// What a daemon says of its host when its session starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDescription {
    pub hostname: String,
    pub os: String,
    pub arch: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub version: String,
    /// Subnets the host routes elsewhere: overlays must not overlap them.
    pub host_subnets: Vec<IpNet>,
    /// MTU of the link that carries the data path.
    pub data_path_mtu: Option<Mtu>,
    /// Ports below the ephemeral range that processes of the host listen on: services cannot publish them.
    #[serde(default)]
    pub listening: Vec<(Protocol, Port)>,
    /// Executors that work here, such as `process`.
    pub executors: Vec<String>,
    /// None: this host cannot encrypt, and takes no part in networks that are encrypted.
    #[serde(default)]
    pub tunnel: Option<TunnelEnd>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Known, but no session yet since the leader changed.
    #[default]
    Unknown,
    Ready,
    /// No heartbeat within the detection window.
    Down,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub state: NodeState,
    pub message: String,
    /// When `state` last changed.
    pub since: Timestamp,
}

/// A manager's place in raft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerStatus {
    pub raft_id: u64,
    /// Where the control API listens.
    pub addr: SocketAddr,
}

/// A node's own leg in the ingress network: the address it enters from, and the MAC by which replies find it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressLeg {
    /// Connection mark of this node in every ingress workload; 1 to 65535, unique in the cluster.
    pub index: u16,
    pub addr: DualAddr,
    pub mac: Mac,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    pub meta: Meta,
    pub spec: NodeSpec,
    pub role: Role,
    pub description: NodeDescription,
    pub status: NodeStatus,
    /// Tunnel end point of the data path.
    pub data_path_addr: IpAddr,
    pub manager: Option<ManagerStatus>,
    pub ingress: Option<IngressLeg>,
}
