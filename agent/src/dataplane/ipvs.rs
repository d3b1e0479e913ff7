//! Virtual services of IPVS as values. What is observed and is not as one of ours would be is `Other`, and so is mended.

use heddle_model::net::{Port, Protocol};
use std::{collections::BTreeMap, fmt, net::IpAddr};

/// What packets a service takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum IpvsKey {
    Mark { v6: bool, mark: u32 },
    Addr { addr: IpAddr, protocol: Protocol, port: Port },
}

impl IpvsKey {
    pub const fn is_ipv6(&self) -> bool {
        match self {
            IpvsKey::Mark { v6, .. } => *v6,
            IpvsKey::Addr { addr, .. } => addr.is_ipv6(),
        }
    }
}

impl fmt::Display for IpvsKey {
    /// As ipvsadm writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IpvsKey::Mark { v6, mark } => write!(f, "-f {mark}{}", if *v6 { " -6" } else { "" }),
            IpvsKey::Addr { addr, protocol, port } => {
                let flag = if *protocol == Protocol::Udp { "-u" } else { "-t" };
                write!(f, "{flag} {}", std::net::SocketAddr::new(*addr, port.get()))
            }
        }
    }
}

/// How a service chooses among its destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheduler {
    /// One after the other.
    Rr,
    /// The same, by weight.
    Wrr,
    /// The one with the fewest connections.
    Lc,
    /// By hash of the client's address, or of its address and port: alike on hosts that have the same destinations.
    Mh { ports: bool },
    /// Observed, never wanted: another one, or options that we never set.
    Other,
}

impl Scheduler {
    /// By the kernel's name, which is that of the module `ip_vs_NAME`. None: nothing that can be asked for.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Scheduler::Rr => Some("rr"),
            Scheduler::Wrr => Some("wrr"),
            Scheduler::Lc => Some("lc"),
            Scheduler::Mh { .. } => Some("mh"),
            Scheduler::Other => None,
        }
    }
}

/// A virtual service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpvsService {
    pub scheduler: Scheduler,
    pub destinations: BTreeMap<(IpAddr, u16), IpvsDestination>,
}

/// Forwarding is always NAT (masquerading in IPVS's words: the source stays).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum IpvsDestination {
    /// 0 drains: what is established goes on, nothing new comes.
    Weight(u32),
    /// Observed, never wanted: forwarded in another way, or with limits.
    Other,
}

/// How long a flow without packets is known, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpvsTimeouts {
    pub tcp: u32,
    /// After a FIN.
    pub tcp_fin: u32,
    pub udp: u32,
}

impl IpvsTimeouts {
    /// The kernel's own.
    pub const KERNEL: Self = Self { tcp: 15 * 60, tcp_fin: 2 * 60, udp: 5 * 60 };
    /// Those of connection tracking: with the kernel's own, a connection that is idle for a quarter of an hour hangs
    /// (moby#31208).
    pub const CONNTRACK: Self = Self { tcp: 5 * 24 * 3600, tcp_fin: 2 * 60, udp: 2 * 60 };
}
