//! A network of this host: making and removing one, decided from what there is.

use super::{
    driver::{self, OptionError, bridge, facts::HostFacts, ipvlan, macvlan, parent::Refusal},
    state::HostState,
    subnets,
};
use crate::dataplane::{desired, own};
use heddle_model::{
    Annotations, NetworkId, Timestamp,
    net::{IfName, Mtu, Pool, PoolError},
    network::{self, Driver, NetworkSpec, Scope},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// As kept on disk. What the spec left open is chosen when it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostNetwork {
    pub id: NetworkId,
    pub created_at: Timestamp,
    pub spec: NetworkSpec,
    /// At most one of each family, each with its gateway.
    pub pools: Vec<Pool>,
    /// The 802.1Q sub-interface that is the parent is made and removed with the network.
    #[serde(default)]
    pub owns_parent: bool,
}

impl HostNetwork {
    pub fn name(&self) -> &str {
        &self.spec.annotations.name
    }

    /// Made with the host, not by anybody.
    pub fn is_builtin(&self) -> bool {
        [network::DEFAULT, network::HOST, network::NONE].contains(&self.name())
    }

    /// Whether its members find each other by name: on docker's default bridge they do not.
    pub fn resolves(&self) -> bool {
        !self.is_builtin()
    }

    pub fn pool(&self, v4: bool) -> Option<&Pool> {
        self.pools.iter().find(|p| matches!(p.subnet, IpNet::V4(_)) == v4)
    }

    pub fn pool_of(&self, addr: IpAddr) -> Option<&Pool> {
        self.pool(addr.is_ipv4())
    }

    /// With the prefix length of its subnet.
    pub fn with_prefix(&self, addr: IpAddr) -> Option<IpNet> {
        IpNet::new(addr, self.pool_of(addr)?.subnet.prefix_len()).ok()
    }
}

/// What of the host a new network must fit beside.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Subnets that the host routes somewhere.
    pub routes: Vec<IpNet>,
    /// Subnets of others that meet ours on this host, each with a word about whose they are.
    pub taken: Vec<(IpNet, String)>,
    /// The kernel has IPv6 and it is not turned off.
    pub ipv6: bool,
    /// Names of all links of the host.
    pub links: BTreeSet<String>,
    /// What links there are, for the drivers whose links lie on one.
    pub facts: HostFacts,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("network name {0:?}: use 1 to 63 of a-z, A-Z, 0-9, '_', '.' and '-', beginning with a letter or digit")]
    Name(String),
    #[error("network {0:?} exists already: choose another name")]
    Exists(String),
    #[error("driver {0} makes a network of the cluster, not of one host")]
    NotOfHosts(Driver),
    #[error("--attachable and --ingress are for overlay networks")]
    ClusterOnly,
    #[error("more than one {family} subnet: a network has one of each family")]
    Family { family: &'static str },
    #[error("an {family} subnet with {family} switched off: leave one of the two out")]
    Contradiction { family: &'static str },
    #[error("a network needs IPv4, IPv6 or both: --ipv4=false and --ipv6=false leave nothing")]
    NoFamily,
    #[error("subnet {0} has no room: use at most /30, or /126 for IPv6")]
    TooSmall(IpNet),
    #[error("subnet {subnet} overlaps with {with}: choose one that is free")]
    Overlap { subnet: IpNet, with: String },
    #[error("every subnet of the default pools is in use on this host: give a free one with --subnet")]
    Exhausted,
    #[error(
        "IPv6 is turned off in this host's kernel (net.ipv6.conf.all.disable_ipv6): turn it on or leave --ipv6 out"
    )]
    NoIpv6,
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error(transparent)]
    Option(#[from] OptionError),
    #[error(transparent)]
    Parent(#[from] Refusal),
    #[error("MTU {0} is out of range: use {min} to 65535", min = 68)]
    Mtu(Mtu),
    #[error("bridge name {0:?} is in use by a link of this host: choose another")]
    LinkExists(String),
    #[error("network {0} is one of every host's own: it cannot be removed")]
    Builtin(String),
    #[error("network {name} is used by {by}: disconnect or remove it first")]
    InUse { name: String, by: String },
}

/// docker's rule for names.
fn check_name(name: &str) -> Result<(), NetworkError> {
    let edge = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let good = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if edge && good && name.len() <= 63 { Ok(()) } else { Err(NetworkError::Name(name.to_owned())) }
}

/// Every subnet in use, with whose it is.
fn taken(state: &HostState, around: &Surroundings) -> Vec<(IpNet, String)> {
    let own = state.networks.values().flat_map(|n| n.pools.iter().map(|p| (p.subnet, format!("network {}", n.name()))));
    let routes = around.routes.iter().map(|net| (*net, "a route of this host".to_owned()));
    own.chain(around.taken.iter().cloned()).chain(routes).collect()
}

/// Whether members are hosts of a network that the host itself may be in: then its subnet is one that the host routes.
fn shares_a_link(spec: &NetworkSpec) -> bool {
    matches!(spec.driver, Driver::Macvlan | Driver::Ipvlan) && spec.options.contains_key(driver::PARENT)
}

/// The pools of a new network: what the spec names, checked, and what it leaves open, chosen.
fn pools(state: &HostState, spec: &NetworkSpec, around: &Surroundings) -> Result<Vec<Pool>, NetworkError> {
    let taken = taken(state, around);
    let nets: Vec<IpNet> = taken.iter().map(|(net, _)| *net).collect();
    let mut out = Vec::new();
    for (family, v4, asked) in [("IPv4", true, spec.ipv4), ("IPv6", false, spec.ipv6)] {
        let named: Vec<&Pool> = spec.pools.iter().filter(|p| matches!(p.subnet, IpNet::V4(_)) == v4).collect();
        let wanted = asked.unwrap_or(v4 || around.ipv6 || !named.is_empty());
        match named.as_slice() {
            [_, _, ..] => return Err(NetworkError::Family { family }),
            [_] if !wanted => return Err(NetworkError::Contradiction { family }),
            _ if !wanted => continue,
            _ if !v4 && !around.ipv6 => return Err(NetworkError::NoIpv6),
            [pool] => {
                pool.check()?;
                if pool.subnet.max_prefix_len() - pool.subnet.prefix_len() < 2 {
                    return Err(NetworkError::TooSmall(pool.subnet));
                }
                let meets = |(net, _): &&(IpNet, String)| {
                    let routed = around.routes.contains(net) && shares_a_link(spec);
                    !routed && subnets::overlaps(net, &pool.subnet)
                };
                if let Some((net, who)) = taken.iter().find(meets) {
                    return Err(NetworkError::Overlap { subnet: pool.subnet, with: format!("{who} ({net})") });
                }
                out.push(Pool { gateway: Some(pool.gateway()), ..(*pool).clone() });
            }
            [] => {
                let free = if v4 { subnets::free_v4(&nets) } else { subnets::free_v6(state.ula, &nets) };
                let pool = Pool::new(free.ok_or(NetworkError::Exhausted)?);
                out.push(Pool { gateway: Some(pool.gateway()), ..pool });
            }
        }
    }
    if out.is_empty() { Err(NetworkError::NoFamily) } else { Ok(out) }
}

/// A new network as the spec wants it, or what is wrong. Nothing of it is in the kernel yet.
pub fn create(
    state: &HostState,
    spec: NetworkSpec,
    around: &Surroundings,
    id: NetworkId,
    now: Timestamp,
) -> Result<HostNetwork, NetworkError> {
    check_name(&spec.annotations.name)?;
    if spec.driver.scope() != Scope::Host {
        return Err(NetworkError::NotOfHosts(spec.driver));
    }
    if spec.attachable || spec.ingress {
        return Err(NetworkError::ClusterOnly);
    }
    let name = spec.annotations.name.clone();
    if state.network_named(&name).is_some() || name == network::GATEWAY || name == network::INGRESS {
        return Err(NetworkError::Exists(name));
    }
    if let Some(mtu) = driver::mtu_of(&spec)?.filter(|m| m.0 < 68) {
        return Err(NetworkError::Mtu(mtu));
    }
    if spec.driver == Driver::Bridge {
        let name = bridge::Options::parse(&spec.options)?.name;
        // Links that are not made yet have names too.
        let taken = |n: &IfName| {
            own::host_name(n.as_str())
                || around.links.contains(n.as_str())
                || state.networks.values().any(|other| desired::link_of(other).as_ref() == Some(n))
        };
        if let Some(name) = name.filter(taken) {
            return Err(NetworkError::LinkExists(name.to_string()));
        }
    }
    let others: Vec<&HostNetwork> = state.networks.values().collect();
    let owns_parent = match spec.driver {
        Driver::Macvlan => {
            macvlan::check(&macvlan::Options::parse(&spec.options)?, &around.facts, &others)?.owns_parent()
        }
        Driver::Ipvlan => ipvlan::check(&ipvlan::Options::parse(&spec.options)?, &around.facts, &others)?.owns_parent(),
        Driver::Bridge | Driver::Overlay | Driver::Host | Driver::Null => false,
    };
    let pools = pools(state, &spec, around)?;
    Ok(HostNetwork { id, created_at: now, spec, pools, owns_parent })
}

/// Whether a network may go.
pub fn removal(state: &HostState, network: &HostNetwork) -> Result<(), NetworkError> {
    let name = network.name().to_owned();
    if network.is_builtin() {
        return Err(NetworkError::Builtin(name));
    }
    let mut users = state.on_network(&network.id).map(|(id, _)| match state.workloads.get(id) {
        Some(workload) => format!("workload {}", workload.spec.annotations.name),
        None => format!("task {}", id.short()),
    });
    match users.next() {
        None => Ok(()),
        Some(first) => {
            let more = users.count();
            let by = if more == 0 { first } else { format!("{first} and {more} more") };
            Err(NetworkError::InUse { name, by })
        }
    }
}

/// The networks that every host has from the start.
pub fn builtin(
    state: &HostState,
    around: &Surroundings,
    mut id: impl FnMut() -> NetworkId,
    now: Timestamp,
) -> Vec<HostNetwork> {
    let mut out = Vec::new();
    for (name, driver) in
        [(network::DEFAULT, Driver::Bridge), (network::HOST, Driver::Host), (network::NONE, Driver::Null)]
    {
        if state.network_named(name).is_some() {
            continue;
        }
        let annotations = Annotations { name: name.into(), labels: BTreeMap::new() };
        let spec = NetworkSpec { annotations, driver, ..NetworkSpec::default() };
        let pools = match driver {
            // A host whose pools are used up has no default network with addresses, and says so when it is joined.
            Driver::Bridge => pools(state, &spec, around).unwrap_or_default(),
            _ => Vec::new(),
        };
        out.push(HostNetwork { id: id(), created_at: now, spec, pools, owns_parent: false });
    }
    out
}

#[cfg(test)]
mod tests;
