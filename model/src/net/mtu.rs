//! Link MTUs and what encapsulation takes from them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Outer IPv4 20 + UDP 8 + VXLAN 8 + inner Ethernet 14 bytes (RFC 7348, section 5).
pub const VXLAN_OVERHEAD_V4: u16 = 50;
/// The same over an IPv6 underlay.
pub const VXLAN_OVERHEAD_V6: u16 = 70;

/// Outer IPv4 20 + UDP 8 + WireGuard's header 16 and tag 16 bytes (WireGuard: Next Generation Kernel Network Tunnel, 5.4.6).
pub const WIREGUARD_OVERHEAD_V4: u16 = 60;
/// The same over an IPv6 underlay.
pub const WIREGUARD_OVERHEAD_V6: u16 = 80;

/// Largest IP packet a link carries, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mtu(pub u16);

impl Mtu {
    pub const ETHERNET: Mtu = Mtu(1500);
    /// The least that IPv6 works with (RFC 8200, section 5).
    pub const MIN_V6: Mtu = Mtu(1280);

    /// What is left inside VXLAN whose outer header is IPv4 or IPv6.
    pub fn inside_vxlan(self, outer: &std::net::IpAddr) -> Mtu {
        let overhead = if outer.is_ipv4() { VXLAN_OVERHEAD_V4 } else { VXLAN_OVERHEAD_V6 };
        Mtu(self.0.saturating_sub(overhead))
    }

    /// What is left inside WireGuard between ends with such addresses.
    pub fn inside_wireguard(self, outer: &std::net::IpAddr) -> Mtu {
        let overhead = if outer.is_ipv4() { WIREGUARD_OVERHEAD_V4 } else { WIREGUARD_OVERHEAD_V6 };
        Mtu(self.0.saturating_sub(overhead))
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
