//! Who has which address around the gateway bridge.

use super::super::names;
use heddle_model::{
    TaskId,
    net::{DualAddr, DualSubnet},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Numbers in the gateway subnet that are not for tasks: the network's own and the bridge's at its start, the link to the
/// ingress namespace at its end.
const BRIDGE: u32 = 1;
const FIRST_TASK: u32 = 2;
const LINK: u32 = 4;

fn nth(subnet: &DualSubnet, n: u32) -> DualAddr {
    DualAddr {
        v4: Ipv4Addr::from_bits(subnet.v4.network().to_bits() + n),
        v6: Ipv6Addr::from_bits(subnet.v6.network().to_bits() + u128::from(n)),
    }
}

/// The bridge's own addresses: the default gateway of workloads.
pub fn bridge_addr(subnet: &DualSubnet) -> DualAddr {
    nth(subnet, BRIDGE)
}

/// The link between the host and its ingress namespace: the last four addresses of the gateway subnet. It is no port of the
/// bridge: where bridged frames are filtered (bridge-nf-call-iptables), a translation to a neighbour on the same bridge
/// would not be routed, and isolated ports would not let it pass.
pub fn link_subnet(subnet: &DualSubnet) -> DualSubnet {
    let v4 = subnet.v4.broadcast().to_bits() - (LINK - 1);
    let v6 = subnet.v6.broadcast().to_bits() - u128::from(LINK - 1);
    DualSubnet {
        v4: Ipv4Net::new_assert(Ipv4Addr::from_bits(v4), 30),
        v6: Ipv6Net::new_assert(Ipv6Addr::from_bits(v6), 126),
    }
}

/// The host's end of that link.
pub fn entry_addr(subnet: &DualSubnet) -> DualAddr {
    nth(&link_subnet(subnet), 1)
}

/// The ingress namespace's end of it: where published ports are translated to.
pub fn ingress_addr(subnet: &DualSubnet) -> DualAddr {
    nth(&link_subnet(subnet), 2)
}

/// Gives every task in `tasks` an address, keeping those that were given before. A task that finds the subnet full is left
/// out. Where a task looks first comes from its id, so that an address just released is not the next one given.
pub fn assign(
    subnet: &DualSubnet,
    tasks: &BTreeSet<TaskId>,
    given: &BTreeMap<TaskId, DualAddr>,
) -> BTreeMap<TaskId, DualAddr> {
    let last = (subnet.v4.broadcast().to_bits() - subnet.v4.network().to_bits()).saturating_sub(LINK - 1);
    let slots = u64::from(last.saturating_sub(FIRST_TASK));
    let number = |addr: &DualAddr| {
        let n = addr.v4.to_bits().checked_sub(subnet.v4.network().to_bits())?;
        ((FIRST_TASK..last).contains(&n) && nth(subnet, n) == *addr).then_some(n)
    };
    let mut out: BTreeMap<TaskId, DualAddr> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for (task, addr) in given.iter().filter(|(task, _)| tasks.contains(*task)) {
        if number(addr).is_some_and(|n| taken.insert(n)) {
            out.insert(task.clone(), *addr);
        }
    }
    for task in tasks {
        if out.contains_key(task) || taken.len() as u64 >= slots {
            continue;
        }
        let digest = names::hash(&[b"gateway address", task.as_str().as_bytes()]);
        let start = digest[..8].iter().fold(0u64, |n, b| n << 8 | u64::from(*b)) % slots;
        let free = (0..slots).map(|i| FIRST_TASK + ((start + i) % slots) as u32).find(|n| taken.insert(*n));
        if let Some(n) = free {
            out.insert(task.clone(), nth(subnet, n));
        }
    }
    out
}

/// An address with the prefix length of its subnet.
pub fn with_prefix(addr: IpAddr, net: IpNet) -> IpNet {
    IpNet::new(addr, net.prefix_len()).unwrap_or(net)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(v4: &str) -> DualSubnet {
        DualSubnet { v4: v4.parse().unwrap(), v6: "fd00:18::/64".parse().unwrap() }
    }

    fn tasks(range: std::ops::Range<u8>) -> BTreeSet<TaskId> {
        range.map(|n| TaskId::from_random([n; 16])).collect()
    }

    #[test]
    fn nobody_shares_an_address_and_nobody_loses_one() {
        let net = subnet("172.18.0.0/24");
        let first = assign(&net, &tasks(0..100), &BTreeMap::new());
        assert_eq!(first.len(), 100);
        let second = assign(&net, &tasks(50..200), &first);
        assert_eq!(second.len(), 150);
        assert!(tasks(50..100).iter().all(|t| first[t] == second[t]));
        let distinct: BTreeSet<_> = second.values().collect();
        assert_eq!(distinct.len(), 150);
        assert!(
            second
                .values()
                .all(|a| net.v4.contains(&a.v4) && !link_subnet(&net).v4.contains(&a.v4) && *a > bridge_addr(&net))
        );
        assert_eq!(assign(&net, &tasks(50..200), &second), second);
    }

    #[test]
    fn a_full_subnet_leaves_the_rest_without() {
        let net = subnet("172.18.0.0/28");
        assert_eq!(assign(&net, &tasks(0..20), &BTreeMap::new()).len(), 10);
    }

    #[test]
    fn an_address_of_another_subnet_is_not_kept() {
        let one = tasks(0..1);
        let old = assign(&subnet("172.18.0.0/24"), &one, &BTreeMap::new());
        let net = subnet("172.19.0.0/24");
        assert!(assign(&net, &one, &old).values().all(|a| net.v4.contains(&a.v4)));
    }
}
