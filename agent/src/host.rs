//! What this host is and has, read from the system.

pub mod links;

use crate::local::network::Surroundings;
use heddle_model::{
    net::{DualSubnet, Mtu, Port, Protocol},
    node::{NodeDescription, Trust},
    service::Runtime,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Listening ports from here up are the kernel's to give out (ip_local_port_range), so they come and go.
const EPHEMERAL: u16 = 32768;
/// Where the gateway bridge looks for a subnet of its own: docker's order.
const GATEWAYS: std::ops::RangeInclusive<u8> = 18..=31;
const GATEWAY_V6: Ipv6Net =
    Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xfd48, 0x6564, 0x646c, 0x6500, 0, 0, 0, 0), 64);

pub fn describe(data_path: IpAddr) -> NodeDescription {
    let uname = nix::sys::utsname::uname().ok();
    let text = |f: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
        uname.as_ref().map_or_else(String::new, |u| f(u).to_string_lossy().into_owned())
    };
    NodeDescription {
        hostname: text(|u| u.nodename()),
        os: "linux".into(),
        arch: text(|u| u.machine()),
        cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        memory_bytes: memory(),
        version: env!("CARGO_PKG_VERSION").into(),
        host_subnets: subnets().into_iter().collect(),
        data_path_mtu: mtu_of(data_path),
        executors: vec![Runtime::PROCESS.into()],
        listening: listening().into_iter().collect(),
        tunnel: None,
        trust: Trust::default(),
        labels: BTreeMap::new(),
        generic: BTreeMap::new(),
    }
}

fn memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Subnets that the host routes by way of links that are not ours.
pub fn subnets() -> BTreeSet<IpNet> {
    subnets_v4().into_iter().chain(subnets_v6()).collect()
}

/// From /proc/net/ipv6_route: destination, prefix length in hexadecimal, and the flags and the device last.
fn subnets_v6() -> BTreeSet<IpNet> {
    // linux/ipv6_route.h: an address of the host's own, and what stands for one.
    const RTF_LOCAL: u32 = 0x8000_0000;
    const RTF_ANYCAST: u32 = 0x0010_0000;
    let text = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    let ours = ours();
    let route = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let addr = u128::from_str_radix(fields.first()?, 16).ok().map(Ipv6Addr::from_bits)?;
        let len = u8::from_str_radix(fields.get(1)?, 16).ok()?;
        let dev = fields.last()?;
        let flags = u32::from_str_radix(fields.get(fields.len().checked_sub(2)?)?, 16).ok()?;
        let foreign = *dev != "lo" && !ours.contains(*dev) && flags & (RTF_LOCAL | RTF_ANYCAST) == 0;
        // Link-local and multicast prefixes are on every link.
        let global = !addr.is_unicast_link_local() && !addr.is_multicast() && len > 0;
        Ipv6Net::new(addr, len).ok().filter(|_| foreign && global).map(IpNet::V6)
    };
    text.lines().filter_map(route).collect()
}

/// From /proc/net/route.
fn subnets_v4() -> BTreeSet<IpNet> {
    let text = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let ours = ours();
    let route = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let number = |i: usize| u32::from_str_radix(fields.get(i)?, 16).ok().map(u32::swap_bytes);
        let foreign = !ours.contains(*fields.first()?);
        let net = Ipv4Net::with_netmask(Ipv4Addr::from_bits(number(1)?), Ipv4Addr::from_bits(number(7)?)).ok()?;
        (foreign && net.prefix_len() > 0).then_some(IpNet::V4(net))
    };
    text.lines().skip(1).filter_map(route).collect()
}

/// The interface that has this address, and its index.
pub fn interface_of(addr: IpAddr) -> Option<String> {
    let all = nix::ifaddrs::getifaddrs().ok()?;
    all.into_iter().find(|i| ip(i.address.as_ref()) == Some(addr)).map(|i| i.interface_name)
}

fn ip(address: Option<&nix::sys::socket::SockaddrStorage>) -> Option<IpAddr> {
    let address = address?;
    let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

/// Addresses of an interface, IPv4 first, without link-local ones.
pub fn addresses_of(interface: &str) -> Vec<IpAddr> {
    let all = nix::ifaddrs::getifaddrs().into_iter().flatten().filter(|i| i.interface_name == interface);
    let mut addrs: Vec<_> = all.filter_map(|i| ip(i.address.as_ref())).collect();
    addrs.retain(|a| !matches!(a, IpAddr::V6(a) if a.is_unicast_link_local()));
    addrs.sort();
    addrs
}

/// The addresses of this host's links that are not ours, without link-local ones.
pub fn addresses() -> Vec<(String, IpAddr)> {
    let ours = ours();
    let all = nix::ifaddrs::getifaddrs().into_iter().flatten().filter(|i| !ours.contains(&i.interface_name));
    let mut found: Vec<_> = all.filter_map(|i| Some((i.interface_name, ip(i.address.as_ref())?))).collect();
    found.retain(|(_, a)| !matches!(a, IpAddr::V6(a) if a.is_unicast_link_local()));
    found.sort();
    found
}

/// The interfaces that lead out of this host, with a global address, that are not ours.
pub fn outward() -> BTreeSet<String> {
    let all = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let ours = ours();
    let outward = all.filter(|i| ip(i.address.as_ref()).is_some_and(|a| !a.is_loopback()));
    let names = outward.map(|i| i.interface_name);
    names.filter(|n| !ours.contains(n) && !addresses_of(n).is_empty()).collect()
}

/// The links of this host that are ours.
fn ours() -> BTreeSet<String> {
    let links = links::read().inspect_err(|error| tracing::warn!(%error, "the links of this host cannot be read"));
    links.into_iter().flatten().filter(|(_, l)| l.ours).map(|(name, _)| name.to_string()).collect()
}

/// MTU of the link that has this address.
pub fn mtu_of(addr: IpAddr) -> Option<Mtu> {
    let text = fs::read_to_string(format!("/sys/class/net/{}/mtu", interface_of(addr)?)).ok();
    // Another sysfs than this network namespace's may be mounted: then the kernel is asked through a socket.
    text.and_then(|t| t.trim().parse().ok()).map(Mtu)
}

/// Ports below the ephemeral range that processes listen on.
pub fn listening() -> BTreeSet<(Protocol, Port)> {
    sockets("/proc/net").into_iter().filter(|(_, port)| port.get() < EPHEMERAL).collect()
}

/// Ports that processes listen on in the network namespace of one of them.
pub fn listening_beside(pid: u32) -> BTreeSet<(Protocol, Port)> {
    sockets(&format!("/proc/{pid}/net"))
}

fn sockets(dir: &str) -> BTreeSet<(Protocol, Port)> {
    const LISTEN: &str = "0A";
    const UNCONNECTED: &str = "07";
    let mut found = BTreeSet::new();
    for (file, protocol, state) in [
        ("tcp", Protocol::Tcp, LISTEN),
        ("tcp6", Protocol::Tcp, LISTEN),
        ("udp", Protocol::Udp, UNCONNECTED),
        ("udp6", Protocol::Udp, UNCONNECTED),
    ] {
        let text = fs::read_to_string(format!("{dir}/{file}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            let port = fields.get(1).and_then(|a| u16::from_str_radix(a.rsplit(':').next()?, 16).ok());
            let port = port.and_then(|p| Port::try_from(p).ok());
            if let Some(port) = port.filter(|_| fields.get(3) == Some(&state)) {
                found.insert((protocol, port));
            }
        }
    }
    found
}

/// What a new network of this host must fit beside, the cluster's networks aside.
pub fn surroundings() -> Surroundings {
    let facts = links::facts().inspect_err(|error| tracing::warn!(%error, "the links of this host cannot be read"));
    let facts = facts.unwrap_or_default();
    Surroundings {
        routes: subnets().into_iter().collect(),
        taken: Vec::new(),
        ipv6: has_ipv6(),
        links: link_names(),
        facts,
    }
}

/// Whether the kernel has IPv6 and it is not turned off.
pub fn has_ipv6() -> bool {
    fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6").is_ok_and(|v| v.trim() == "0")
}

/// Names of all links, from the first column of /proc/net/dev.
fn link_names() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    text.lines().filter_map(|l| Some(l.split_once(':')?.0.trim().to_owned())).collect()
}

/// A subnet for the gateway bridge that nothing else uses, or the one given before. `own` are those of this host's networks.
pub fn gateway_subnet(before: Option<Ipv4Net>, own: &[IpNet]) -> io::Result<DualSubnet> {
    let taken: Vec<IpNet> = subnets().into_iter().chain(own.iter().copied()).collect();
    let free = |net: &Ipv4Net| !taken.iter().any(|t| t.contains(&IpNet::V4(*net)) || IpNet::V4(*net).contains(t));
    let candidates = GATEWAYS.filter_map(|n| Ipv4Net::new(Ipv4Addr::new(172, n, 0, 0), 16).ok());
    let v4 = before.or_else(|| candidates.into_iter().find(free));
    let v4 = v4.ok_or_else(|| io::Error::other("no free subnet for the gateway bridge in 172.18.0.0 to 172.31.0.0"))?;
    Ok(DualSubnet { v4, v6: GATEWAY_V6 })
}

/// A host that forwards IPv6 stops listening to its routers, unless it is told to go on (accept_ra 2; ip-sysctl.rst). Hosts
/// that get their address or default route that way would lose it some time after we start forwarding.
pub fn keep_router_advertisements() -> io::Result<()> {
    for entry in fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten() {
        let file = entry?.path().join("accept_ra");
        if fs::read_to_string(&file).is_ok_and(|value| value.trim() == "1") {
            fs::write(&file, "2")?;
        }
    }
    Ok(())
}
