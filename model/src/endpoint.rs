//! How services and tasks are reached.

use crate::{
    NetworkId,
    net::{DualAddr, Mac, Port, Protocol},
};
use serde::{Deserialize, Serialize};

/// Who answers on a published port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// Every node, through the routing mesh.
    #[default]
    Ingress,
    /// Only nodes that run a task.
    Host,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortConfig {
    pub protocol: Protocol,
    pub target: Port,
    /// None in a spec asks the allocator for one; never None in a service's `endpoint`.
    pub published: Option<Port>,
    pub mode: PublishMode,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointMode {
    /// One virtual address per network, balanced in the client's namespace.
    #[default]
    Vip,
    /// The name resolves to all tasks.
    DnsRr,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSpec {
    pub mode: EndpointMode,
    pub ports: Vec<PortConfig>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualIp {
    pub network: NetworkId,
    pub addr: DualAddr,
}

/// What the allocator chose for a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub ports: Vec<PortConfig>,
    pub virtual_ips: Vec<VirtualIp>,
}

/// A task's place on one network. The MAC is random and not derived from the address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub network: NetworkId,
    pub addr: DualAddr,
    pub mac: Mac,
    pub aliases: Vec<String>,
}
