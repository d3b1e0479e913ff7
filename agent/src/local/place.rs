//! A workload's place on a network of this host: which addresses it gets, or why it gets none.

use super::{
    driver::{macvlan, parent::Refusal},
    network::HostNetwork,
    state::HostState,
};
use crate::dataplane::names;
use heddle_model::{
    TaskId,
    net::{Mac, PoolError},
    network::Driver,
    workload::{HostEndpoint, NetworkWish},
};
use std::{collections::BTreeSet, net::IpAddr};

/// Docker's limit for names that others resolve.
const LONGEST_ALIAS: usize = 63;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    #[error("{workload} is connected to network {network} already")]
    Twice { workload: String, network: String },
    #[error("network {0} goes with no other: name it alone")]
    Alone(String),
    #[error("network {0} cannot be joined or left by what runs: name it when the workload is made")]
    Fixed(String),
    #[error("--ip and aliases are for networks that were made: the default network has neither")]
    Default,
    #[error("network {network} has no {family}: leave the address {addr} out")]
    NoFamily { network: String, family: &'static str, addr: IpAddr },
    #[error("network {network}")]
    Address { network: String, source: PoolError },
    #[error("network {network}: address {addr} is in use by {by}: use another")]
    InUse { network: String, addr: IpAddr, by: String },
    #[error("network {network}")]
    Parent { network: String, source: Refusal },
    #[error("network {network}: no free address in {subnet}")]
    Full { network: String, subnet: String },
    #[error("network {network}: MAC address {mac} is in use: use another")]
    MacInUse { network: String, mac: Mac },
    #[error("MAC address {0} cannot be an interface's: use one whose first byte is even, such as 02:42:0a:01:00:05")]
    BadMac(Mac),
    #[error("alias {0:?} is not a name of 1 to 63 of a-z, A-Z, 0-9, '_', '.' and '-'")]
    Alias(String),
    #[error("network {0} has no subnet: every subnet of the default pools was in use when this host started")]
    NoSubnet(String),
    #[error("{0} is on as many networks as a workload can be")]
    TooMany(String),
}

/// What the new place is for and where random choices start.
pub struct Newcomer<'a> {
    pub id: &'a TaskId,
    pub name: &'a str,
    /// Numbers of `ethN` that are taken in the workload.
    pub links: &'a BTreeSet<u8>,
    pub mac: Mac,
}

fn who(state: &HostState, id: &TaskId) -> String {
    state.workloads.get(id).map_or_else(|| format!("task {}", id.short()), |w| w.spec.annotations.name.clone())
}

pub fn check_alias(alias: &str) -> Result<(), PlaceError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let fits = (1..=LONGEST_ALIAS).contains(&alias.len()) && alias.bytes().all(good);
    if fits { Ok(()) } else { Err(PlaceError::Alias(alias.to_owned())) }
}

/// The first number of a link that is free.
pub fn free_link(taken: &BTreeSet<u8>, name: &str) -> Result<u8, PlaceError> {
    (0..u8::MAX).find(|n| !taken.contains(n)).ok_or_else(|| PlaceError::TooMany(name.to_owned()))
}

/// The MAC of an address: whoever has it next has the same one, so that neighbours who knew the one before reach it at once.
/// `other` where there is no address, or somebody asked for that MAC.
fn mac(state: &HostState, network: &HostNetwork, addrs: &[IpAddr], other: Mac) -> Mac {
    let of = |addr: &IpAddr| names::local_mac(&["leg", network.id.as_str(), &addr.to_string()]);
    let free = |mac: &Mac| state.on_network(&network.id).all(|(_, e)| e.mac != *mac);
    addrs.first().map(of).filter(free).unwrap_or(other)
}

/// The place, or why there is none. Nothing is changed.
pub fn place(
    state: &HostState,
    network: &HostNetwork,
    wish: &NetworkWish,
    new: &Newcomer<'_>,
) -> Result<HostEndpoint, PlaceError> {
    let name = || network.name().to_owned();
    let here = state.endpoints_of(new.id);
    if here.iter().any(|e| e.network == network.id) {
        return Err(PlaceError::Twice { workload: new.name.to_owned(), network: name() });
    }
    let alone = |n: &HostNetwork| matches!(n.spec.driver, Driver::Host | Driver::Null);
    let other = here.iter().filter_map(|e| state.networks.get(&e.network)).find(|n| alone(n));
    if let Some(other) = other {
        return Err(PlaceError::Alone(other.name().to_owned()));
    }
    if alone(network) && !new.links.is_empty() {
        return Err(PlaceError::Alone(name()));
    }
    let asked = [wish.ip.map(IpAddr::V4), wish.ip6.map(IpAddr::V6)];
    if network.is_builtin() && (asked.iter().any(Option::is_some) || !wish.aliases.is_empty()) {
        return Err(PlaceError::Default);
    }
    wish.aliases.iter().try_for_each(|alias| check_alias(alias))?;
    if network.spec.driver == Driver::Macvlan
        && let Ok(options) = macvlan::Options::parse(&network.spec.options)
    {
        let full = |source| PlaceError::Parent { network: name(), source };
        macvlan::admit(&options, state.on_network(&network.id).count()).map_err(full)?;
    }
    if network.spec.driver == Driver::Bridge && network.pools.is_empty() {
        return Err(PlaceError::NoSubnet(name()));
    }
    if let Some(mac) = wish.mac.filter(|m| !m.is_unicast()) {
        return Err(PlaceError::BadMac(mac));
    }
    if let Some(mac) = wish.mac.filter(|m| state.on_network(&network.id).any(|(_, e)| e.mac == *m)) {
        return Err(PlaceError::MacInUse { network: name(), mac });
    }
    let mut addrs = Vec::new();
    // Both families by one number: a MAC that goes with the IPv4 address is then always the IPv6 address's too.
    let mut number = 0;
    for (v4, family, asked) in [(true, "IPv4", asked[0]), (false, "IPv6", asked[1])] {
        match (network.pool(v4), asked) {
            (None, Some(addr)) => return Err(PlaceError::NoFamily { network: name(), family, addr }),
            (None, None) => {}
            (Some(pool), asked) => {
                let used = state.used(&network.id);
                let addr = match asked {
                    Some(addr) => {
                        pool.admits(addr).map_err(|source| PlaceError::Address { network: name(), source })?;
                        if used.contains(&addr) {
                            let by = state.on_network(&network.id).find(|(_, e)| e.addrs.contains(&addr));
                            let by = by.map_or_else(String::new, |(id, _)| who(state, id));
                            return Err(PlaceError::InUse { network: name(), addr, by });
                        }
                        addr
                    }
                    None => {
                        let full = || PlaceError::Full { network: name(), subnet: pool.subnet.to_string() };
                        pool.free(&used, number).ok_or_else(full)?
                    }
                };
                number = pool.number(addr);
                addrs.push(addr);
            }
        }
    }
    Ok(HostEndpoint {
        network: network.id.clone(),
        index: free_link(new.links, new.name)?,
        addrs: addrs.clone(),
        mac: wish.mac.unwrap_or_else(|| mac(state, network, &addrs, new.mac)),
        aliases: wish.aliases.clone(),
        gateway_priority: wish.gateway_priority,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::tests::bridge_network;
    use std::collections::BTreeMap;

    fn placed(state: &mut HostState, n: u8, wish: &NetworkWish) -> HostEndpoint {
        let (id, links) = (TaskId::from_random([n; 16]), BTreeSet::new());
        let new = Newcomer { id: &id, name: "w", links: &links, mac: Mac::from_random([9, n, 0, 0, 0, 0]) };
        let made = place(state, &bridge_network(1, &[], false), wish, &new).unwrap();
        state.endpoints.insert(id, vec![made.clone()]);
        made
    }

    #[test]
    fn an_address_keeps_its_mac_whoever_has_it() {
        let network = bridge_network(1, &[], false);
        let mut state = HostState {
            revision: 0,
            ula: "fd00::/48".parse().unwrap(),
            networks: BTreeMap::from([(network.id.clone(), network)]),
            workloads: BTreeMap::new(),
            endpoints: BTreeMap::new(),
        };
        let any = NetworkWish::default();
        let (first, second) = (placed(&mut state, 1, &any), placed(&mut state, 2, &any));
        assert!(first.mac != second.mac && first.addrs != second.addrs);
        state.endpoints.remove(&TaskId::from_random([1; 16]));
        assert_eq!(placed(&mut state, 3, &any).mac, first.mac);
        // Somebody asked for the MAC of an address that is free.
        state.endpoints.remove(&TaskId::from_random([3; 16]));
        let wish = NetworkWish { mac: Some(first.mac), ip: "10.221.0.9".parse().ok(), ..any.clone() };
        let fourth = placed(&mut state, 4, &wish);
        assert_eq!(fourth.mac, first.mac);
        assert!(fourth.addrs.last().is_some_and(|v6| v6.to_string().ends_with("::9")), "{:?}", fourth.addrs);
        assert_ne!(placed(&mut state, 5, &any).mac, first.mac);
    }
}
