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

/// Every subnet in use but a network's own, each with whose it is: a sentence part.
fn in_use(state: &Snapshot, except: Option<&NetworkId>) -> impl Iterator<Item = (IpNet, impl FnOnce() -> String)> {
    let networks = state.networks.values().filter(move |n| Some(&n.id) != except);
    let of_networks = networks.flat_map(|network| {
        let wanted = network.spec.pools.iter().map(|p| p.subnet);
        let given = network.allocation.iter().flat_map(|a| [a.subnet.nets(), a.service_subnet.nets()].concat());
        wanted.chain(given).map(|net| (net, network.spec.annotations.name.as_str(), "network"))
    });
    let of_hosts = state.nodes.values().flat_map(|node| {
        node.description.host_subnets.iter().map(|net| (*net, node.description.hostname.as_str(), "host"))
    });
    of_networks.chain(of_hosts).map(|(net, name, kind)| (net, move || format!("{kind} {name} ({net})")))
}

/// Who has some of this subnet already: a sentence part.
pub fn taken_by(state: &Snapshot, subnet: &IpNet, except: Option<&NetworkId>) -> Option<String> {
    in_use(state, except).find(|(net, _)| overlaps(net, subnet)).map(|(_, whose)| whose())
}

/// First and last address as numbers.
fn span(net: &IpNet) -> (u128, u128) {
    match net {
        IpNet::V4(n) => (n.network().to_bits().into(), n.broadcast().to_bits().into()),
        IpNet::V6(n) => (n.network().to_bits(), n.broadcast().to_bits()),
    }
}

/// From which end of a pool a subnet is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Low,
    High,
}

/// The first subnet of this length in a pool, from one of its ends, that overlaps with none of these. What is taken is stepped
/// over as a whole, however large it is.
fn free(pool: IpNet, length: u8, taken: &[IpNet], end: End) -> Option<IpNet> {
    let (first, last) = span(&pool);
    let size = u32::from(pool.max_prefix_len().checked_sub(length)?);
    let most = (1u128 << length.checked_sub(pool.prefix_len())?) - 1;
    let number = |addr: u128| (addr.clamp(first, last) - first) >> size;
    let within = |(from, to): &(u128, u128)| *from <= last && *to >= first;
    let same = |net: &&IpNet| matches!(net, IpNet::V4(_)) == matches!(pool, IpNet::V4(_));
    let spans = taken.iter().filter(same).map(span).filter(within);
    let mut spans: Vec<(u128, u128)> = spans.map(|(from, to)| (number(from), number(to))).collect();
    spans.sort_unstable();
    let found = match end {
        End::Low => spans.iter().try_fold(0, |next, (from, to)| match next {
            next if *from > next => Err(next),
            next => Ok(next.max(to + 1)),
        }),
        // By where they end: one that begins later may lie within one that ends later.
        End::High => {
            spans.sort_unstable_by_key(|(_, to)| std::cmp::Reverse(*to));
            spans.iter().try_fold(most, |next, (from, to)| match from.checked_sub(1) {
                _ if *to < next => Err(next),
                // Nothing is below.
                None => Ok(most + 1),
                Some(below) => Ok(next.min(below)),
            })
        }
    };
    let number = match found {
        Ok(number) | Err(number) => Some(number).filter(|n| *n <= most)?,
    };
    let addr = first + (number << size);
    let addr = match pool {
        IpNet::V4(_) => IpAddr::from(Ipv4Addr::from_bits(addr as u32)),
        IpNet::V6(_) => IpAddr::from(Ipv6Addr::from_bits(addr)),
    };
    IpNet::new(addr, length).ok()
}

fn free_v4(pool: Ipv4Net, length: u8, taken: &[IpNet], end: End) -> Option<Ipv4Net> {
    match free(pool.into(), length, taken, end)? {
        IpNet::V4(net) => Some(net),
        IpNet::V6(_) => None,
    }
}

fn free_v6(pool: Ipv6Net, taken: &[IpNet], end: End) -> Option<Ipv6Net> {
    match free(pool.into(), V6, taken, end)? {
        IpNet::V6(net) => Some(net),
        IpNet::V4(_) => None,
    }
}

/// Chooses what the network's spec leaves open: task subnets from the low end of the pools, service subnets from the high
/// end. None: the pools are used up.
pub fn choose(
    state: &Snapshot,
    pools: &AddressPools,
    network: &Network,
    also: &[IpNet],
) -> Option<(DualSubnet, DualSubnet)> {
    let given = network.spec.pools.iter().map(|p| p.subnet);
    let others = in_use(state, Some(&network.id)).map(|(net, _)| net);
    let mut taken: Vec<IpNet> = also.iter().copied().chain(given.clone()).chain(others).collect();
    let given_v4 = given.clone().find_map(|net| match net {
        IpNet::V4(n) => Some(n),
        IpNet::V6(_) => None,
    });
    let given_v6 = given.clone().find_map(|net| match net {
        IpNet::V6(n) => Some(n),
        IpNet::V4(_) => None,
    });
    let v4 = given_v4.or_else(|| free_v4(pools.v4, pools.v4_size, &taken, End::Low))?;
    let v6 = given_v6.or_else(|| free_v6(pools.v6, &taken, End::Low))?;
    taken.extend([IpNet::from(v4), IpNet::from(v6)]);
    let size = SERVICE_V4.max(pools.v4.prefix_len() + 1);
    let service_v4 = free_v4(pools.v4, size, &taken, End::High)?;
    let service_v6 = free_v6(pools.v6, &taken, End::High)?;
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
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_taken_is_stepped_over_however_large_it_is() {
        let pool = net("fd00::/16");
        let from = |end, taken: &[&str]| free(pool, 64, &taken.iter().map(|t| net(t)).collect::<Vec<_>>(), end);
        assert_eq!(from(End::Low, &[]), Some(net("fd00::/64")));
        assert_eq!(from(End::High, &[]), Some(net("fd00:ffff:ffff:ffff::/64")));
        assert_eq!(from(End::Low, &["fd00::/17"]), Some(net("fd00:8000::/64")));
        assert_eq!(from(End::High, &["fd00:8000::/17", "fd00:7fff::/128"]), Some(net("fd00:7fff:ffff:ffff::/64")));
        for end in [End::Low, End::High] {
            assert_eq!(from(end, &["fd00::/8"]), None);
            assert_eq!(from(end, &["fd00::/17", "fd00:8000::/17"]), None);
        }
        assert_eq!(free(net("10.0.0.0/24"), 16, &[], End::Low), None, "a pool has no subnet larger than itself");
    }

    proptest! {
        /// As a look at each, one after the other, finds it.
        #[test]
        fn the_first_free_one_is_found(
            taken in prop::collection::vec((0u8..64, 26u8..33), 0..12),
            length in 26u8..31,
            high: bool,
        ) {
            let pool = net("10.1.2.0/26");
            let other = net("fd00::/64");
            let at = |n: u8, len: u8| IpNet::new([10, 1, 2, n].into(), len).unwrap().trunc();
            let taken: Vec<IpNet> = taken.into_iter().map(|(n, len)| at(n, len)).chain([other, net("10.1.3.0/24")]).collect();
            let mut all: Vec<IpNet> = pool.subnets(length).unwrap().collect();
            if high {
                all.reverse();
            }
            let wanted = all.into_iter().find(|n| !taken.iter().any(|t| overlaps(t, n)));
            prop_assert_eq!(free(pool, length, &taken, if high { End::High } else { End::Low }), wanted);
        }
    }

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
