//! A workload's namespace that should exist, and its places on networks.

use heddle_model::{
    NetworkId, TaskId,
    net::{DualAddr, IfName, Mac},
    workload::HostPort,
};
use std::net::IpAddr;

/// A place on one network, of this host or the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    pub network: NetworkId,
    /// `ethN`, in the workload.
    pub dev: IfName,
    /// At most one of each family.
    pub addrs: Vec<IpAddr>,
    pub mac: Mac,
    /// Of the legs that lead outside, the one with the highest has the default route.
    pub gateway_priority: i32,
}

/// Of a task or a standalone workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    pub id: TaskId,
    /// That an operator knows it by.
    pub name: String,
    pub legs: Vec<Leg>,
    /// On the gateway bridge; None: no way out by it.
    pub gateway: Option<(IfName, DualAddr)>,
    /// Ports of this host that lead here.
    pub ports: Vec<HostPort>,
}
