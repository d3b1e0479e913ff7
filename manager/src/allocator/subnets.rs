//! Subnets of networks, and the addresses in them.

use crate::store::Snapshot;
use heddle_model::{
    NetworkId,
    cluster::AddressPools,
    net::{DualAddr, DualSubnet},
    network::Network,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
};

/// Prefix lengths of service subnets: 1021 services a network.
const SERVICE_V4: u8 = 22;
const V6: u8 = 64;
/// The network's own address and the gateway's come first.
const FIRST: u32 = 2;

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

/// Addresses for tasks that a subnet has.
pub fn capacity(subnet: &DualSubnet) -> u64 {
    let v4 = 1u64 << (32 - subnet.v4.prefix_len());
    let v6 = 1u128 << (128 - subnet.v6.prefix_len()).min(64);
    v4.saturating_sub(u64::from(FIRST) + 1).min(u64::try_from(v6).unwrap_or(u64::MAX).saturating_sub(u64::from(FIRST)))
}

pub fn nth(subnet: &DualSubnet, n: u32) -> DualAddr {
    DualAddr {
        v4: Ipv4Addr::from_bits(subnet.v4.network().to_bits() + n),
        v6: Ipv6Addr::from_bits(subnet.v6.network().to_bits() + u128::from(n)),
    }
}

/// The numbers in use of every subnet. Both addresses of a pair have the same number.
#[derive(Default)]
pub struct Used(BTreeMap<NetworkId, BTreeSet<u32>>);

impl Used {
    pub fn take(&mut self, network: &NetworkId, subnet: &DualSubnet, addr: &DualAddr) {
        if let Some(n) = addr.v4.to_bits().checked_sub(subnet.v4.network().to_bits()) {
            self.0.entry(network.clone()).or_default().insert(n);
        }
    }

    /// A free address, looked for from number `from` upward and around. None: the subnet is full.
    pub fn give(&mut self, network: &NetworkId, subnet: &DualSubnet, from: u32) -> Option<DualAddr> {
        let room = u32::try_from(capacity(subnet)).unwrap_or(u32::MAX);
        let used = self.0.entry(network.clone()).or_default();
        let start = from.checked_rem(room)?;
        let n = (0..room).map(|i| FIRST + (start + i) % room).find(|n| !used.contains(n))?;
        used.insert(n);
        Some(nth(subnet, n))
    }
}
