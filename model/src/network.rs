//! A network that spans the cluster.

use crate::{
    Annotations, Meta, NetworkId,
    net::{DualSubnet, Mtu, Vni},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Name of the network that carries published ports.
pub const INGRESS: &str = "ingress";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    #[default]
    Overlay,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    pub annotations: Annotations,
    pub driver: Driver,
    /// Carries published ports; there is at most one such network.
    pub ingress: bool,
    /// No way out through the gateway bridge.
    pub internal: bool,
    pub attachable: bool,
    /// At most one subnet of each family; the allocator chooses what is missing.
    pub subnets: Vec<IpNet>,
    /// Lower than what the data path allows; the data path's own when absent.
    pub mtu: Option<Mtu>,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// What the allocator chose for a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAllocation {
    pub vni: Vni,
    /// Task addresses. The first address of each is kept for a gateway.
    pub subnet: DualSubnet,
    /// Virtual addresses of services; on the ingress network, the legs of nodes. Never overlaps a task subnet.
    pub service_subnet: DualSubnet,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub id: NetworkId,
    pub meta: Meta,
    pub spec: NetworkSpec,
    /// None until the allocator has seen it.
    pub allocation: Option<NetworkAllocation>,
}
