//! One subnet of a network with what of it may be given out.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A subnet as an operator names it: docker's `--subnet`, `--gateway`, `--ip-range` and `--aux-address`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    pub subnet: IpNet,
    /// The first host address when absent.
    pub gateway: Option<IpAddr>,
    /// Where addresses are given out from; the whole subnet when absent.
    pub range: Option<IpNet>,
    /// Addresses in use by others, by name.
    #[serde(default)]
    pub aux: BTreeMap<String, IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    #[error("gateway {gateway} is outside the subnet {subnet}: use an address of it")]
    Gateway { gateway: IpAddr, subnet: IpNet },
    #[error("gateway {gateway} is {what} of subnet {subnet}: use another")]
    GatewayReserved { gateway: IpAddr, what: &'static str, subnet: IpNet },
    #[error(
        "subnet {subnet} overlaps with {range}, the {what} addresses: use a private one such as 10.1.0.0/24 or fd00:1::/64"
    )]
    Special { subnet: IpNet, range: IpNet, what: &'static str },
    #[error("IP range {range} is outside the subnet {subnet}: use a part of it")]
    Range { range: IpNet, subnet: IpNet },
    #[error("auxiliary address {name}={addr} is outside the subnet {subnet}: use an address of it")]
    Aux { name: String, addr: IpAddr, subnet: IpNet },
    #[error("auxiliary address {name}={addr} is the gateway: use another")]
    AuxIsGateway { name: String, addr: IpAddr },
    #[error("address {addr} is outside the subnet {subnet}: use an address of it")]
    Outside { addr: IpAddr, subnet: IpNet },
    #[error("address {addr} is {what} of subnet {subnet}: use another")]
    Reserved { addr: IpAddr, what: &'static str, subnet: IpNet },
    #[error("address {addr} is kept for {name:?} (--aux-address): use another")]
    Kept { addr: IpAddr, name: String },
}

/// Addresses that no host can have for itself, or not beyond one link (RFC 6890).
const SPECIAL: [(IpNet, &str); 7] = {
    const fn v4(a: u8, len: u8) -> IpNet {
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, 0, 0, 0), len))
    }
    const fn v6(a: u16, len: u8) -> IpNet {
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, 0, 0, 0, 0, 0, 0, 0), len))
    }
    [
        (v4(0, 8), "unspecified"),
        (v4(127, 8), "loopback"),
        (v4(224, 4), "multicast"),
        (v4(240, 4), "reserved"),
        (v6(0, 8), "unspecified, loopback and mapped"),
        (v6(0xfe80, 10), "link-local"),
        (v6(0xff00, 8), "multicast"),
    ]
};

/// An address as a number: the same arithmetic for both families.
fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => a.to_bits().into(),
        IpAddr::V6(a) => a.to_bits(),
    }
}

fn addr(v4: bool, bits: u128) -> IpAddr {
    if v4 { Ipv4Addr::from_bits(bits as u32).into() } else { Ipv6Addr::from_bits(bits).into() }
}

fn is_v4(net: &IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}

impl Pool {
    pub fn new(subnet: IpNet) -> Self {
        Self { subnet, gateway: None, range: None, aux: BTreeMap::new() }
    }

    /// Whether the subnet can be a network's, and everything lies in it.
    pub fn check(&self) -> Result<(), PoolError> {
        let subnet = self.subnet;
        let overlaps = |range: &IpNet| range.contains(&subnet) || subnet.contains(range);
        if let Some((range, what)) = SPECIAL.into_iter().find(|(range, _)| overlaps(range)) {
            return Err(PoolError::Special { subnet, range, what });
        }
        if let Some(gateway) = self.gateway.filter(|g| !subnet.contains(g)) {
            return Err(PoolError::Gateway { gateway, subnet });
        }
        if let Some((gateway, what)) = self.gateway.and_then(|g| Some((g, self.edge(g)?))) {
            return Err(PoolError::GatewayReserved { gateway, what, subnet });
        }
        if let Some(range) = self.range.filter(|r| is_v4(r) != is_v4(&subnet) || !subnet.contains(r)) {
            return Err(PoolError::Range { range, subnet });
        }
        for (name, addr) in &self.aux {
            let (name, addr) = (name.clone(), *addr);
            if !subnet.contains(&addr) {
                return Err(PoolError::Aux { name, addr, subnet });
            }
            if addr == self.gateway() {
                return Err(PoolError::AuxIsGateway { name, addr });
            }
        }
        Ok(())
    }

    /// The gateway's address: the one given, or the first host address of the range (docker's rule) or subnet.
    pub fn gateway(&self) -> IpAddr {
        let net = self.range.unwrap_or(self.subnet);
        let network = bits(net.network());
        // The network's own address is nobody's, but where the range begins later its first address is a host's.
        let first = if network == bits(self.subnet.network()) { network + 1 } else { network };
        self.gateway.unwrap_or_else(|| addr(is_v4(&self.subnet), first))
    }

    /// What an address of the subnet is kept for, if anything.
    fn reserved(&self, at: IpAddr) -> Option<&'static str> {
        if at == self.gateway() { Some("the gateway") } else { self.edge(at) }
    }

    /// Whether an address stands for the subnet itself, or for all in it.
    fn edge(&self, at: IpAddr) -> Option<&'static str> {
        let small = self.subnet.max_prefix_len() - self.subnet.prefix_len() < 2;
        if !small && at == self.subnet.network() {
            Some("the network address")
        } else if !small && is_v4(&self.subnet) && at == self.subnet.broadcast() {
            Some("the broadcast address")
        } else {
            None
        }
    }

    /// Whether somebody may ask for this address.
    pub fn admits(&self, at: IpAddr) -> Result<(), PoolError> {
        let subnet = self.subnet;
        if !subnet.contains(&at) {
            return Err(PoolError::Outside { addr: at, subnet });
        }
        if let Some(what) = self.reserved(at) {
            return Err(PoolError::Reserved { addr: at, what, subnet });
        }
        match self.aux.iter().find(|(_, a)| **a == at) {
            Some((name, _)) => Err(PoolError::Kept { addr: at, name: name.clone() }),
            None => Ok(()),
        }
    }

    /// How many addresses the range has to give out when none is in use.
    pub fn room(&self) -> u64 {
        let net = self.range.unwrap_or(self.subnet);
        let (v4, size) = (is_v4(&net), u32::from(net.max_prefix_len() - net.prefix_len()));
        let mut kept: BTreeSet<IpAddr> = self.aux.values().copied().collect();
        kept.extend([self.gateway(), self.subnet.network()]);
        if v4 {
            kept.insert(self.subnet.broadcast());
        }
        let kept = kept.into_iter().filter(|a| net.contains(a) && self.admits(*a).is_err()).count();
        (1u64 << size.min(62)) - kept as u64
    }

    /// Which address of the range this is, as `free` counts; 0 for one before it.
    pub fn number(&self, at: IpAddr) -> u64 {
        let first = bits(self.range.unwrap_or(self.subnet).network());
        u64::try_from(bits(at).saturating_sub(first)).unwrap_or(u64::MAX)
    }

    /// A free address, looked for from number `start` of the range upward and around. None: the range is full.
    pub fn free(&self, used: &BTreeSet<IpAddr>, start: u64) -> Option<IpAddr> {
        let net = self.range.unwrap_or(self.subnet);
        let (v4, base) = (is_v4(&net), bits(net.network()));
        let host_bits = u32::from(net.max_prefix_len() - net.prefix_len());
        // More than this is never used up, and the search must end.
        let room = 1u128 << host_bits.min(62);
        // At most so many addresses can be in the way.
        let tries = (used.len() + self.aux.len() + 4) as u128;
        let at = |n: u128| addr(v4, base + (u128::from(start) + n) % room);
        (0..room.min(tries)).map(at).find(|a| !used.contains(a) && self.admits(*a).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool(subnet: &str) -> Pool {
        Pool::new(subnet.parse().unwrap())
    }

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    #[test]
    fn the_gateway_comes_first_unless_it_is_named() {
        assert_eq!(pool("10.1.0.0/24").gateway(), ip("10.1.0.1"));
        assert_eq!(pool("fd00::/64").gateway(), ip("fd00::1"));
        let range = Some("10.1.0.64/26".parse().unwrap());
        assert_eq!(Pool { range, ..pool("10.1.0.0/24") }.gateway(), ip("10.1.0.64"));
        let named = Pool { gateway: Some(ip("10.1.0.254")), ..pool("10.1.0.0/24") };
        assert_eq!(named.gateway(), ip("10.1.0.254"));
        assert_eq!(named.free(&BTreeSet::new(), 0), Some(ip("10.1.0.1")));
    }

    #[test]
    fn what_lies_outside_is_refused_with_its_name() {
        let wrong = Pool { gateway: Some(ip("10.2.0.1")), ..pool("10.1.0.0/24") };
        assert_eq!(
            wrong.check().unwrap_err().to_string(),
            "gateway 10.2.0.1 is outside the subnet 10.1.0.0/24: use an address of it"
        );
        let range = Some("10.1.0.0/16".parse().unwrap());
        assert!(matches!(Pool { range, ..pool("10.1.0.0/24") }.check(), Err(PoolError::Range { .. })));
        let aux = BTreeMap::from([("router".to_owned(), ip("10.1.0.1"))]);
        assert!(matches!(Pool { aux, ..pool("10.1.0.0/24") }.check(), Err(PoolError::AuxIsGateway { .. })));
        let aux = BTreeMap::from([("router".to_owned(), ip("10.1.0.9"))]);
        let kept = Pool { aux, ..pool("10.1.0.0/24") };
        assert_eq!(kept.check(), Ok(()));
        for (at, part) in
            [("10.1.0.0", "network"), ("10.1.0.255", "broadcast"), ("10.1.0.1", "gateway"), ("10.1.0.9", "router")]
        {
            let said = kept.admits(ip(at)).unwrap_err().to_string();
            assert!(said.contains(part), "{at}: {said}");
        }
        assert_eq!(kept.admits(ip("10.1.0.2")), Ok(()));
    }

    #[test]
    fn a_subnet_has_addresses_for_hosts_and_a_gateway_that_is_one() {
        for (subnet, part) in [
            ("0.0.0.0/0", "0.0.0.0/8"),
            ("127.0.0.0/24", "loopback"),
            ("224.1.0.0/16", "multicast"),
            ("fe80::/64", "link-local"),
            ("::/64", "loopback"),
            ("ff02::/64", "multicast"),
        ] {
            let said = pool(subnet).check().unwrap_err().to_string();
            assert!(said.contains(part) && said.contains("10.1.0.0/24"), "{said}");
        }
        for (gateway, part) in [("10.1.0.0", "the network address"), ("10.1.0.255", "the broadcast address")] {
            let said = Pool { gateway: Some(ip(gateway)), ..pool("10.1.0.0/24") }.check().unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(pool("169.254.7.0/24").check(), Ok(()));
    }

    proptest! {
        #[test]
        fn every_address_is_given_once_and_then_no_more(start: u64, len in 25u8..31) {
            let pool = Pool::new(IpNet::new(ip("10.1.0.0"), len).unwrap());
            let mut used = BTreeSet::new();
            while let Some(at) = pool.free(&used, start) {
                prop_assert!(pool.admits(at).is_ok());
                prop_assert!(used.insert(at), "{} twice", at);
            }
            prop_assert_eq!(used.len(), (1usize << (32 - len)) - 3);
            prop_assert_eq!(used.len() as u64, pool.room());
        }

        #[test]
        fn the_room_is_what_can_be_given_out(
            gateway in prop::option::of(0..64u8),
            range in prop::option::of((0..8u8, 28..33u8)),
            aux in prop::collection::btree_set(0..64u8, 0..4),
            v6: bool,
        ) {
            let at = |n: u8| if v6 { ip(&format!("fd00::{n:x}")) } else { ip(&format!("10.1.0.{n}")) };
            let net = |n: u8, len: u8| IpNet::new(at(n), if v6 { len + 96 } else { len }).unwrap().trunc();
            let pool = Pool {
                gateway: gateway.map(at),
                range: range.map(|(n, len)| net(n * 8, len)),
                aux: aux.into_iter().map(|n| (n.to_string(), at(n))).collect(),
                ..Pool::new(net(0, 26))
            };
            let mut used = BTreeSet::new();
            while let Some(at) = pool.free(&used, 3) {
                prop_assert!(used.insert(at), "{} twice", at);
                prop_assert_eq!(pool.free(&BTreeSet::new(), pool.number(at)), Some(at));
            }
            prop_assert_eq!(used.len() as u64, pool.room());
        }
    }
}
