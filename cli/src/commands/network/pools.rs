//! Which `--gateway`, `--ip-range` and `--aux-address` belongs to which `--subnet`: that which contains it (docker's rule).

use heddle_model::net::{BadSubnet, Pool, parse_subnet};
use ipnet::IpNet;
use std::net::IpAddr;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolsError {
    #[error(transparent)]
    Subnet(#[from] BadSubnet),
    #[error("subnets {0} and {1} overlap: use subnets that do not")]
    Overlap(IpNet, IpNet),
    #[error("--{flag} {value}: no --subnet is given; give the one that contains it")]
    NoSubnet { flag: &'static str, value: String },
    #[error("--{flag} {value} is in no subnet of this network: use one of {subnets}")]
    Nowhere { flag: &'static str, value: String, subnets: String },
    #[error("--{flag} {value}: subnet {subnet} has {other} already; give one for each subnet")]
    Twice { flag: &'static str, value: String, subnet: IpNet, other: String },
}

#[derive(Debug, Default)]
pub struct Flags<'a> {
    pub subnets: &'a [String],
    pub gateways: &'a [IpAddr],
    pub ranges: &'a [String],
    pub aux: &'a [(String, IpAddr)],
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

fn home<'a>(
    pools: &'a mut [Pool],
    flag: &'static str,
    value: &str,
    contains: impl Fn(&IpNet) -> bool,
) -> Result<&'a mut Pool, PoolsError> {
    let subnets: Vec<_> = pools.iter().map(|p| p.subnet.to_string()).collect();
    let value = value.to_owned();
    if subnets.is_empty() {
        return Err(PoolsError::NoSubnet { flag, value });
    }
    let nowhere = PoolsError::Nowhere { flag, value, subnets: subnets.join(", ") };
    pools.iter_mut().find(|p| contains(&p.subnet)).ok_or(nowhere)
}

pub fn pools(flags: &Flags) -> Result<Vec<Pool>, PoolsError> {
    let mut pools: Vec<Pool> = Vec::new();
    for text in flags.subnets {
        let subnet = parse_subnet(text)?;
        if let Some(other) = pools.iter().find(|p| overlap(&p.subnet, &subnet)) {
            return Err(PoolsError::Overlap(other.subnet, subnet));
        }
        pools.push(Pool::new(subnet));
    }
    for gateway in flags.gateways {
        let (flag, value) = ("gateway", gateway.to_string());
        let pool = home(&mut pools, flag, &value, |s| s.contains(gateway))?;
        if let Some(other) = pool.gateway.replace(*gateway) {
            return Err(PoolsError::Twice { flag, value, subnet: pool.subnet, other: other.to_string() });
        }
    }
    for text in flags.ranges {
        let (flag, range) = ("ip-range", parse_subnet(text)?);
        let pool = home(&mut pools, flag, text, |s| s.contains(&range))?;
        if let Some(other) = pool.range.replace(range) {
            let value = text.clone();
            return Err(PoolsError::Twice { flag, value, subnet: pool.subnet, other: other.to_string() });
        }
    }
    for (name, addr) in flags.aux {
        let value = format!("{name}={addr}");
        let pool = home(&mut pools, "aux-address", &value, |s| s.contains(addr))?;
        pool.aux.insert(name.clone(), *addr);
    }
    Ok(pools)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(all: &[&str]) -> Vec<String> {
        all.iter().map(|s| (*s).to_owned()).collect()
    }

    fn ips(all: &[&str]) -> Vec<IpAddr> {
        all.iter().map(|s| s.parse().unwrap()).collect()
    }

    fn said(subnets: &[&str], gateways: &[&str], ranges: &[&str]) -> String {
        let (subnets, gateways, ranges) = (texts(subnets), ips(gateways), texts(ranges));
        let flags = Flags { subnets: &subnets, gateways: &gateways, ranges: &ranges, aux: &[] };
        pools(&flags).unwrap_err().to_string()
    }

    #[test]
    fn each_goes_to_the_subnet_that_contains_it() {
        let (subnets, gateways) = (texts(&["10.1.0.0/24", "fd00::/64"]), ips(&["fd00::9", "10.1.0.254"]));
        let (ranges, aux) = (texts(&["10.1.0.64/26"]), [("router".to_owned(), "fd00::7".parse().unwrap())]);
        let flags = Flags { subnets: &subnets, gateways: &gateways, ranges: &ranges, aux: &aux };
        let made = pools(&flags).unwrap();
        assert_eq!(made[0].gateway, Some(ips(&["10.1.0.254"])[0]));
        assert_eq!(made[0].range, Some("10.1.0.64/26".parse().unwrap()));
        assert!(made[0].aux.is_empty());
        assert_eq!(made[1].gateway, Some(ips(&["fd00::9"])[0]));
        assert_eq!(made[1].aux["router"], ips(&["fd00::7"])[0]);
    }

    #[test]
    fn what_has_no_place_is_named_with_the_subnets() {
        let both = ["10.1.0.0/24", "fd00::/64"];
        for (got, want) in [
            (
                said(&both, &["10.2.0.1"], &[]),
                "--gateway 10.2.0.1 is in no subnet of this network: use one of 10.1.0.0/24, fd00::/64",
            ),
            (said(&[], &["10.2.0.1"], &[]), "--gateway 10.2.0.1: no --subnet is given; give the one that contains it"),
            (
                said(&both, &[], &["10.1.0.0/16"]),
                "--ip-range 10.1.0.0/16 is in no subnet of this network: use one of 10.1.0.0/24, fd00::/64",
            ),
            (
                said(&both, &["10.1.0.1", "10.1.0.2"], &[]),
                "--gateway 10.1.0.2: subnet 10.1.0.0/24 has 10.1.0.1 already; give one for each subnet",
            ),
            (
                said(&["10.1.0.0/24", "10.1.0.0/25"], &[], &[]),
                "subnets 10.1.0.0/24 and 10.1.0.0/25 overlap: use subnets that do not",
            ),
        ] {
            assert_eq!(got, want);
        }
    }
}
