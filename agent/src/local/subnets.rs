//! Which subnets a network of this host gets.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

pub fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// docker's default address pools: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/16 in parts of /20.
fn candidates_v4() -> impl Iterator<Item = IpNet> {
    let large = (17..=31).map(|n| Ipv4Net::new_assert(Ipv4Addr::new(172, n, 0, 0), 16));
    let small = (0..16).map(|n| Ipv4Net::new_assert(Ipv4Addr::new(192, 168, n * 16, 0), 20));
    // Hosts that have more networks than that get parts of a range that the defaults of nobody use.
    let many = (0..=255).flat_map(|a| (0..16).map(move |b| Ipv4Addr::new(10, 200u8.wrapping_add(a), b * 16, 0)));
    let many = many.take_while(|a| a.octets()[1] >= 200).map(|a| Ipv4Net::new_assert(a, 20));
    large.chain(small).chain(many).map(IpNet::V4)
}

fn candidates_v6(ula: Ipv6Net) -> impl Iterator<Item = IpNet> {
    let base = ula.network().to_bits();
    (0..=u128::from(u16::MAX)).map(move |n| IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(base | n << 64), 64)))
}

fn first_free(candidates: impl Iterator<Item = IpNet>, taken: &[IpNet]) -> Option<IpNet> {
    let mut candidates = candidates;
    candidates.find(|net| !taken.iter().any(|t| overlaps(t, net)))
}

/// The first IPv4 subnet that overlaps with nothing taken. None: the pools are used up.
pub fn free_v4(taken: &[IpNet]) -> Option<IpNet> {
    first_free(candidates_v4(), taken)
}

/// The same for IPv6, of this host's own /48.
pub fn free_v6(ula: Ipv6Net, taken: &[IpNet]) -> Option<IpNet> {
    first_free(candidates_v6(ula), taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pools_come_in_dockers_order_and_avoid_what_is_taken() {
        assert_eq!(free_v4(&[]), "172.17.0.0/16".parse().ok());
        let taken = ["172.17.3.0/24", "172.18.0.0/15"].map(|n| n.parse().unwrap());
        assert_eq!(free_v4(&taken), "172.20.0.0/16".parse().ok());
        let taken = ["172.16.0.0/12", "192.168.0.0/17"].map(|n| n.parse().unwrap());
        assert_eq!(free_v4(&taken), "192.168.128.0/20".parse().ok());
        assert_eq!(free_v4(&["0.0.0.0/0".parse().unwrap()]), None);
        let ula = "fd12:3456:789a::/48".parse().unwrap();
        assert_eq!(free_v6(ula, &["fd12:3456:789a::/64".parse().unwrap()]), "fd12:3456:789a:1::/64".parse().ok());
    }

    #[test]
    fn hundreds_of_networks_fit() {
        let mut taken = Vec::new();
        while let Some(net) = free_v4(&taken) {
            assert!(!taken.iter().any(|t| overlaps(t, &net)));
            taken.push(net);
        }
        assert!(taken.len() > 500, "{}", taken.len());
    }
}
