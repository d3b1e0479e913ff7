//! Subnets of networks, and the addresses in them.

use crate::store::Snapshot;
use heddle_model::{
    NetworkId,
    cluster::AddressPools,
    net::{DualAddr, DualSubnet, Pool},
    network::{Network, NetworkAllocation},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Prefix lengths of service subnets: 1021 services a network.
const SERVICE_V4: u8 = 22;
const V6: u8 = 64;

pub fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Who has some of this subnet already: a sentence part.
pub fn taken_by(state: &Snapshot, subnet: &IpNet, except: Option<&NetworkId>) -> Option<String> {
    for network in state.networks.values().filter(|n| Some(&n.id) != except) {
        let wanted = network.spec.pools.iter().map(|p| p.subnet);
        let given = network.allocation.iter().flat_map(|a| [a.subnet.nets(), a.service_subnet.nets()].concat());
        if let Some(net) = wanted.chain(given).find(|net| overlaps(net, subnet)) {
            return Some(format!("network {} ({net})", network.spec.annotations.name));
        }
    }
    for node in state.nodes.values() {
        if let Some(net) = node.description.host_subnets.iter().find(|net| overlaps(net, subnet)) {
            return Some(format!("host {} ({net})", node.description.hostname));
        }
    }
    None
}

fn nth_v4(pool: &Ipv4Net, len: u8, n: u64) -> Option<Ipv4Net> {
    let room = 1u64 << len.checked_sub(pool.prefix_len())?;
    let base = u64::from(pool.network().to_bits()) + n.checked_shl(32 - u32::from(len))?;
    (n < room).then(|| Ipv4Net::new(Ipv4Addr::from_bits(base as u32), len).ok()).flatten()
}

fn nth_v6(pool: &Ipv6Net, n: u64) -> Option<Ipv6Net> {
    let room = 1u128 << V6.checked_sub(pool.prefix_len())?.min(63);
    let base = pool.network().to_bits() + (u128::from(n) << 64);
    (u128::from(n) < room).then(|| Ipv6Net::new(Ipv6Addr::from_bits(base), V6).ok()).flatten()
}

/// Chooses what the network's spec leaves open: task subnets from the low end of the pools, service subnets from the high
/// end. None: the pools are used up.
pub fn choose(
    state: &Snapshot,
    pools: &AddressPools,
    network: &Network,
    also: &[IpNet],
) -> Option<(DualSubnet, DualSubnet)> {
    let mut taken: Vec<IpNet> = also.to_vec();
    let free = |net: IpNet, taken: &[IpNet]| {
        !taken.iter().any(|t| overlaps(t, &net)) && taken_by(state, &net, Some(&network.id)).is_none()
    };
    let given_v4 = network.spec.pools.iter().find_map(|p| match p.subnet {
        IpNet::V4(n) => Some(n),
        IpNet::V6(_) => None,
    });
    let given_v6 = network.spec.pools.iter().find_map(|p| match p.subnet {
        IpNet::V6(n) => Some(n),
        IpNet::V4(_) => None,
    });
    taken.extend(network.spec.pools.iter().map(|p| p.subnet));
    let low_v4 = || (0..).map_while(|n| nth_v4(&pools.v4, pools.v4_size, n)).find(|n| free((*n).into(), &taken));
    let v4 = given_v4.or_else(low_v4)?;
    let low_v6 = || (0..).map_while(|n| nth_v6(&pools.v6, n)).find(|n| free((*n).into(), &taken));
    let v6 = given_v6.or_else(low_v6)?;
    taken.extend([IpNet::from(v4), IpNet::from(v6)]);
    let size = SERVICE_V4.max(pools.v4.prefix_len() + 1);
    let count = 1u64 << (size - pools.v4.prefix_len());
    let service_v4 = (0..count).rev().filter_map(|n| nth_v4(&pools.v4, size, n)).find(|n| free((*n).into(), &taken))?;
    let last = 1u64 << V6.saturating_sub(pools.v6.prefix_len()).min(32);
    let service_v6 = (0..last).rev().filter_map(|n| nth_v6(&pools.v6, n)).find(|n| free((*n).into(), &taken))?;
    Some((DualSubnet { v4, v6 }, DualSubnet { v4: service_v4, v6: service_v6 }))
}

/// What members of a network get addresses from, IPv4 first.
pub fn pools(network: &Network) -> Vec<Pool> {
    let mut pools = network.pools();
    if network.spec.ingress {
        for pool in &mut pools {
            // Answers to published ports are routed by each subnet's first address, whatever gateway was named.
            let first = Pool::new(pool.subnet).gateway();
            if pool.admits(first).is_ok() {
                pool.aux.insert("answers to published ports".into(), first);
            }
        }
    }
    pools
}

/// Virtual addresses of services; on the ingress network, the legs of nodes.
pub fn service_pools(given: &NetworkAllocation) -> Vec<Pool> {
    given.service_subnet.nets().into_iter().map(Pool::new).collect()
}

/// The addresses in use on every network.
#[derive(Default)]
pub struct Used {
    addrs: BTreeMap<NetworkId, BTreeSet<IpAddr>>,
    /// Below these numbers of a network's two ranges nothing is free any more: a plan takes only.
    low: BTreeMap<NetworkId, [u64; 2]>,
}

impl Used {
    pub fn of(&mut self, network: &NetworkId) -> &mut BTreeSet<IpAddr> {
        self.addrs.entry(network.clone()).or_default()
    }

    /// A free address of each family, looked for from number `start` upward and around. None: one of the pools is full.
    pub fn give_from(&mut self, network: &NetworkId, pools: &[Pool], start: u64) -> Option<DualAddr> {
        let used = self.of(network);
        // The same start for both, so that the two addresses of a pair look alike.
        let room = pools.iter().map(Pool::room).min().filter(|room| *room > 0)?;
        let mut free = pools.iter().filter_map(|p| p.free(used, start % room));
        let (Some(IpAddr::V4(v4)), Some(IpAddr::V6(v6))) = (free.next(), free.next()) else { return None };
        let addr = DualAddr { v4, v6 };
        used.extend(addr.addrs());
        Some(addr)
    }

    /// The lowest free address of each family.
    pub fn give(&mut self, network: &NetworkId, pools: &[Pool]) -> Option<DualAddr> {
        let [v4, v6] = pools else { return None };
        let used = self.addrs.entry(network.clone()).or_default();
        let low = self.low.entry(network.clone()).or_default();
        let (a4, a6) = (v4.free(used, low[0])?, v6.free(used, low[1])?);
        *low = [v4.number(a4), v6.number(a6)];
        used.extend([a4, a6]);
        match (a4, a6) {
            (IpAddr::V4(v4), IpAddr::V6(v6)) => Some(DualAddr { v4, v6 }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_addresses_come_in_order_until_none_is_left() {
        let network = NetworkId::from_random([1; 16]);
        let pools = ["10.1.0.0/16", "fd00::/64"].map(|s| Pool::new(s.parse().unwrap()));
        let mut used = Used::default();
        used.of(&network).insert("10.1.0.3".parse().unwrap());
        let mut given: Vec<DualAddr> = Vec::new();
        while let Some(addr) = used.give(&network, &pools) {
            given.push(addr);
        }
        assert_eq!(given.len(), 65536 - 4);
        assert_eq!(given[1], DualAddr { v4: [10, 1, 0, 4].into(), v6: "fd00::3".parse().unwrap() });
        assert!(given.is_sorted());
    }
}
