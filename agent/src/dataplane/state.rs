//! Kernel objects as values: what is wanted and what is there, in the same type. Only objects of ours appear in it.
//! Everything is keyed by (namespace, name), never by interface index.

use super::firewall::{Cut, Place};
use super::ipvs::{IpvsKey, IpvsService, IpvsTimeouts};
use super::mode::{IpvlanFlag, IpvlanMode, MacvlanMode};
use super::wireguard::Tunnel;
use heddle_model::{
    net::{IfName, Mac, Mtu, Port, Vni},
    tunnel::Backend,
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

/// A network namespace: the host's own, or one of ours in /run/netns, whose name begins with `hd-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    Host,
    Named(String),
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Space::Host => f.write_str("host"),
            Space::Named(name) => f.write_str(name),
        }
    }
}

/// All of our objects on this host. `Space::Host` is always present; a named space is present if it exists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelState {
    pub spaces: BTreeMap<Space, SpaceState>,
}

/// Our objects in one namespace. Named spaces are wholly ours, so all of their links, tables and so on are listed, save
/// what the kernel makes by itself (lo, its addresses, kernel routes and rules, link-local addresses). In the host's space
/// only what `own` recognises is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpaceState {
    pub links: BTreeMap<IfName, Link>,
    pub addresses: BTreeSet<(IfName, IpNet)>,
    pub routes: BTreeSet<Route>,
    pub rules: BTreeSet<PolicyRule>,
    /// Permanent neighbour entries.
    pub neighbours: BTreeMap<(IfName, IpAddr), Mac>,
    /// Static forwarding entries.
    pub fdb: BTreeMap<FdbKey, FdbTarget>,
    pub tables: BTreeMap<TableId, Table>,
    /// What the WireGuard links know; one that knows no key of its own is not in it.
    pub tunnels: BTreeMap<IfName, Tunnel>,
    pub ipvs: BTreeMap<IpvsKey, IpvsService>,
    /// Observed, never wanted: destinations that drain and have no established connection left.
    pub ipvs_idle: BTreeSet<(IpvsKey, (IpAddr, u16))>,
    /// None: the kernel's own.
    pub ipvs_timeouts: Option<IpvsTimeouts>,
    /// Rules of ours in foreign chains, which let pass what we forward; in the host's space only.
    pub passes: BTreeSet<Place>,
    /// Observed, never wanted: where a foreign firewall drops what we forward.
    pub cuts: BTreeMap<Place, Cut>,
    /// Observed, never wanted: bridges of others that lead outside.
    pub uplinks: BTreeSet<IfName>,
    /// Path below /proc/sys with dots, such as `net.ipv4.conf.eth0.rp_filter`; only those that we set.
    pub sysctls: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub kind: LinkKind,
    /// None: whatever the kernel chose. An ipvlan has its parent's, whatever is said here.
    pub mac: Option<Mac>,
    pub mtu: Mtu,
    pub up: bool,
    /// The bridge in the same space that this is a port of.
    pub master: Option<IfName>,
    pub port: PortFlags,
}

/// Flags of a bridge port; the default is the kernel's own. Ignored on links without a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortFlags {
    /// Talks to no other isolated port.
    pub isolated: bool,
    /// Only source MACs with a static entry may enter.
    pub locked: bool,
    pub learning: bool,
    /// Frames may leave by the port that they came in by.
    pub hairpin: bool,
}

impl Default for PortFlags {
    fn default() -> Self {
        Self { isolated: false, locked: false, learning: true, hairpin: false }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    Bridge,
    Vxlan(Vxlan),
    /// The other end. Both ends are listed, each in its own space; removing one removes both.
    Veth {
        peer: (Space, IfName),
    },
    /// In a workload's space, on a link of the host's. Goes with its parent.
    Macvlan {
        parent: IfName,
        mode: MacvlanMode,
    },
    /// In a workload's space, on a link of the host's. Goes with its parent, to which mode and flag belong.
    Ipvlan {
        parent: IfName,
        mode: IpvlanMode,
        flag: IpvlanFlag,
    },
    /// One end of the tunnel between hosts. Its UDP socket is in the host's space, wherever the link is.
    Wireguard {
        by: Backend,
    },
    /// Observed, never wanted: a TUN link in the tunnel's space that no WireGuard of this daemon's is behind.
    Tun,
    /// An 802.1Q sub-interface, in the host's space like its parent. Goes with it.
    Vlan {
        parent: IfName,
        id: u16,
    },
}

impl LinkKind {
    /// The link of the host's space that it is made on.
    pub fn parent(&self) -> Option<&IfName> {
        match self {
            LinkKind::Macvlan { parent, .. } | LinkKind::Ipvlan { parent, .. } | LinkKind::Vlan { parent, .. } => {
                Some(parent)
            }
            LinkKind::Bridge
            | LinkKind::Vxlan(_)
            | LinkKind::Veth { .. }
            | LinkKind::Wireguard { .. }
            | LinkKind::Tun => None,
        }
    }
}

/// Made in the space where its socket is, then moved. Learning off, ARP/ND proxy on, DF set (on IPv4), no flood entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    pub vni: Vni,
    pub local: IpAddr,
    pub port: Port,
    /// Where its UDP socket is. None: observed only, in a space that is none of ours.
    pub socket: Option<Space>,
}

/// A unicast route, or one to the host itself if it is on `lo`, in `table` (254 is main), with our route protocol number.
/// (dst, table) is its key: adding replaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub dst: IpNet,
    pub via: Option<IpAddr>,
    pub dev: IfName,
    pub table: u32,
    /// Source that sockets without an address of their own get (RTA_PREFSRC).
    pub src: Option<IpAddr>,
}

/// `ip rule pref N fwmark M/MASK oif OUT lookup TABLE`, with our route protocol number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyRule {
    pub v6: bool,
    pub pref: u32,
    pub mark: u32,
    pub mask: u32,
    /// Only what is bound to leave by this link.
    pub out: Option<IfName>,
    pub table: u32,
}

/// `self` entries belong to the device (vxlan), `master` entries to the bridge it is a port of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdbKey {
    pub dev: IfName,
    pub mac: Mac,
    pub on: FdbOn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FdbOn {
    Device,
    Bridge,
}

/// Remote tunnel end point for `FdbOn::Device`; None for `FdbOn::Bridge`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdbTarget {
    pub dst: Option<IpAddr>,
}

/// nftables family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Ip,
    Ip6,
    Inet,
    Bridge,
    Netdev,
}

impl Family {
    pub const fn as_str(self) -> &'static str {
        match self {
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
            Family::Inet => "inet",
            Family::Bridge => "bridge",
            Family::Netdev => "netdev",
        }
    }
}

/// Our tables are called `heddle…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId {
    pub family: Family,
    pub name: String,
}

/// An nftables table. The digest of the body is kept in the kernel as the name of an empty chain, `digest_<16 hex>`, so what
/// is there can be recognised without parsing rules; tables are equal if their digests are.
#[derive(Debug, Clone)]
pub struct Table {
    pub digest: String,
    /// None when observed: only the digest is known.
    pub body: Option<Arc<TableBody>>,
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}
impl Eq for Table {}

/// Text of nft's language in parts that can be changed one by one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct TableBody {
    pub sets: BTreeMap<String, NftSet>,
    pub chains: BTreeMap<String, NftChain>,
}

/// A named set, or a map if its declaration says so.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NftSet {
    /// `set` or `map`.
    pub is_map: bool,
    /// Such as `type inet_proto . inet_service : verdict;`.
    pub declaration: String,
    /// Key to value; the value is empty in a set.
    pub elements: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct NftChain {
    /// Such as `type nat hook output priority -100; policy accept;`. None for a chain that is only jumped to.
    pub base: Option<String>,
    pub rules: Vec<String>,
}
