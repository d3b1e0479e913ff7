//! A network: one that spans the cluster, or one that a host has for itself.

use crate::{
    Annotations, Meta, NetworkId,
    net::{DualSubnet, Mtu, Pool, Vni},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// Name of the network that carries published ports.
pub const INGRESS: &str = "ingress";
/// Name of the network that a host's workloads join when they name none.
pub const DEFAULT: &str = "bridge";
/// Name of the network, and network target, that is the host's own.
pub const HOST: &str = "host";
/// Name of the network that has a loopback alone.
pub const NONE: &str = "none";
/// Name of the bridge by which members of overlays reach the world; docker's `docker_gwbridge`.
pub const GATEWAY: &str = "heddle_gwbridge";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    #[default]
    Overlay,
    Bridge,
    Host,
    Null,
    Macvlan,
    Ipvlan,
}

/// Where a network is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// On every host; docker calls it swarm.
    Cluster,
    /// On the host that made it; docker calls it local.
    Host,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("driver {0:?}: use bridge, overlay, macvlan or ipvlan")]
pub struct BadDriver(pub String);

impl Driver {
    pub const fn as_str(self) -> &'static str {
        match self {
            Driver::Overlay => "overlay",
            Driver::Bridge => "bridge",
            Driver::Host => "host",
            Driver::Null => "null",
            Driver::Macvlan => "macvlan",
            Driver::Ipvlan => "ipvlan",
        }
    }

    pub const fn scope(self) -> Scope {
        match self {
            Driver::Overlay => Scope::Cluster,
            Driver::Bridge | Driver::Host | Driver::Null | Driver::Macvlan | Driver::Ipvlan => Scope::Host,
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The drivers that an operator may name: there is one `host` and one `none` on every host, made by nobody.
impl FromStr for Driver {
    type Err = BadDriver;
    fn from_str(s: &str) -> Result<Self, BadDriver> {
        let named = [Driver::Overlay, Driver::Bridge, Driver::Macvlan, Driver::Ipvlan];
        named.into_iter().find(|d| d.as_str() == s).ok_or_else(|| BadDriver(s.to_owned()))
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    pub annotations: Annotations,
    pub driver: Driver,
    /// Carries published ports; there is at most one such network.
    pub ingress: bool,
    /// No way out.
    pub internal: bool,
    /// Standalone workloads may join; meaningful in the cluster's scope.
    pub attachable: bool,
    /// At most one of each family; what is missing is chosen.
    pub pools: Vec<Pool>,
    /// None: wherever the kernel has it (always on an overlay).
    #[serde(default)]
    pub ipv4: Option<bool>,
    #[serde(default)]
    pub ipv6: Option<bool>,
    /// Lower than what the data path allows; the data path's own when absent.
    pub mtu: Option<Mtu>,
    /// The driver's options, by docker's names.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// What the allocator chose for a network of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAllocation {
    pub vni: Vni,
    /// Task addresses. The first address of each is kept for a gateway.
    pub subnet: DualSubnet,
    /// Virtual addresses of services; on the ingress network, the legs of nodes. Never overlaps a task subnet.
    pub service_subnet: DualSubnet,
}

/// A network of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub id: NetworkId,
    pub meta: Meta,
    pub spec: NetworkSpec,
    /// None until the allocator has seen it.
    pub allocation: Option<NetworkAllocation>,
}

/// The option, by docker's name, that asks for encryption between hosts.
pub const ENCRYPTED: &str = "encrypted";

impl NetworkSpec {
    /// What it carries between hosts goes through the tunnel, or not at all. As with docker, an option without a value
    /// counts.
    pub fn encrypted(&self) -> bool {
        self.options.get(ENCRYPTED).is_some_and(|value| value != "false")
    }
}

impl Network {
    /// What members get addresses from, IPv4 first: as the spec says, where it says something. Empty until it is allocated.
    pub fn pools(&self) -> Vec<Pool> {
        let named = |net| self.spec.pools.iter().find(|p| p.subnet == net).cloned();
        let nets = self.allocation.iter().flat_map(|a| a.subnet.nets());
        nets.map(|net| named(net).unwrap_or_else(|| Pool::new(net))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_names_the_drivers_that_can_be_made() {
        assert_eq!("macvlan".parse(), Ok(Driver::Macvlan));
        for bad in ["host", "null", "Bridge", ""] {
            assert_eq!(bad.parse::<Driver>(), Err(BadDriver(bad.to_owned())));
        }
    }
}
