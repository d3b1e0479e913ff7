//! All that this host has by itself, as a value.

use super::network::HostNetwork;
use heddle_model::{
    NetworkId, TaskId,
    network::{self, Driver},
    workload::{HostEndpoint, Workload},
};
use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// As kept on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostState {
    /// Grows with every change.
    #[serde(default)]
    pub revision: u64,
    /// A unique local prefix (RFC 4193) of this host's own: networks get /64s of it.
    pub ula: Ipv6Net,
    pub networks: BTreeMap<NetworkId, HostNetwork>,
    pub workloads: BTreeMap<TaskId, Workload>,
    /// Places on networks that were made here: of workloads, and of tasks that were connected while running.
    pub endpoints: BTreeMap<TaskId, Vec<HostEndpoint>>,
}

impl HostState {
    pub fn network_named(&self, name: &str) -> Option<&HostNetwork> {
        self.networks.values().find(|n| n.name() == name)
    }

    /// The network that workloads join when they name none.
    pub fn default_network(&self) -> Option<&HostNetwork> {
        self.network_named(network::DEFAULT)
    }

    pub fn endpoints_of(&self, workload: &TaskId) -> &[HostEndpoint] {
        self.endpoints.get(workload).map_or(&[], Vec::as_slice)
    }

    /// Who has a place on a network.
    pub fn on_network<'a>(&'a self, network: &'a NetworkId) -> impl Iterator<Item = (&'a TaskId, &'a HostEndpoint)> {
        let all = self.endpoints.iter().flat_map(|(id, list)| list.iter().map(move |e| (id, e)));
        all.filter(move |(_, e)| e.network == *network)
    }

    /// Addresses in use on a network.
    pub fn used(&self, network: &NetworkId) -> BTreeSet<IpAddr> {
        self.on_network(network).flat_map(|(_, e)| e.addrs.iter().copied()).collect()
    }

    /// Whether a place is a link of the workload's: on the host's network, and on none, it is not.
    pub fn is_joined(&self, endpoint: &HostEndpoint) -> bool {
        let driver = self.networks.get(&endpoint.network).map(|n| n.spec.driver);
        !matches!(driver, Some(Driver::Host | Driver::Null))
    }

    /// Whether the workload runs in the host's own network namespace.
    pub fn on_host(&self, workload: &TaskId) -> bool {
        let host = |e: &HostEndpoint| self.networks.get(&e.network).is_some_and(|n| n.spec.driver == Driver::Host);
        self.endpoints_of(workload).iter().any(host)
    }
}
