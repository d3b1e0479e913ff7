//! Dual-stack addresses and subnets: everything on an overlay has one of each family.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One IPv4 and one IPv6 subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DualSubnet {
    pub v4: Ipv4Net,
    pub v6: Ipv6Net,
}

impl DualSubnet {
    pub fn nets(&self) -> [IpNet; 2] {
        [self.v4.into(), self.v6.into()]
    }

    pub fn contains(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(a) => self.v4.contains(&a),
            IpAddr::V6(a) => self.v6.contains(&a),
        }
    }
}

/// One IPv4 and one IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DualAddr {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl DualAddr {
    pub fn addrs(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// A unique local prefix (RFC 4193, section 3.2.2) of 40 random bits, the low ones of `random`.
pub fn unique_local(random: u64) -> Ipv6Net {
    let global = u128::from(random & 0xff_ffff_ffff);
    Ipv6Net::new_assert(Ipv6Addr::from_bits(0xfd << 120 | global << 80), 48)
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("subnet {0:?} is not an address and a prefix length without host bits, such as 10.1.0.0/24 or fd00:1::/64")]
pub struct BadSubnet(pub String);

/// Parses a subnet in CIDR form and refuses host bits, so that what was typed is what is used.
pub fn parse_subnet(s: &str) -> Result<IpNet, BadSubnet> {
    let bad = || BadSubnet(s.to_owned());
    let net: IpNet = s.parse().map_err(|_| bad())?;
    if net.trunc() == net { Ok(net) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unique_local_prefixes_keep_forty_bits() {
        assert_eq!(unique_local(0), "fd00::/48".parse().unwrap());
        assert_eq!(unique_local(u64::MAX), "fdff:ffff:ffff::/48".parse().unwrap());
    }

    #[test]
    fn subnets_have_no_host_bits() {
        for good in ["10.1.0.0/24", "fd00:1::/64", "10.0.0.0/8"] {
            assert!(parse_subnet(good).is_ok(), "{good}");
        }
        for bad in ["10.1.0.1/24", "10.1.0.0", "10.1.0.0/33", "x/24", "fd00::1/64", ""] {
            assert_eq!(parse_subnet(bad), Err(BadSubnet(bad.to_owned())));
        }
    }
}
