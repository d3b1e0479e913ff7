//! The kernel as it should be, from what the managers say, what this host has by itself and the workloads that exist here.
//!
//! ```text
//! host         underlay (who may send VXLAN), gateway (overlays' way to the world, published ports come in),
//!              bridge (networks of this host, their published ports)
//! hd-tunnel    tunnel (WireGuard to the other hosts; sockets of encrypted overlays, which have no other way out)
//! hd-ingress   overlay + ingress (published port -> backend)
//! hd-n-...     overlay (bridge, tunnel, forwarding entries)
//! hd-t-...     workload (resolver, replies, way out) + a leg per network: overlay, bridge, macvlan, ipvlan
//!              + vip (virtual address -> backend)
//! passage      completes what is wanted of the host by what other firewalls there drop
//! drain        completes what is wanted of IPVS by what still has connections
//! ```
//!
//! A driver is one file with one function; none of them knows of another.

pub mod addresses;
mod bridge;
pub mod drain;
mod gateway;
mod ingress;
pub mod ipvlan;
pub mod macvlan;
mod overlay;
mod parent;
pub mod passage;
pub mod sandbox;
mod tunnel;
mod underlay;
mod vip;
mod way;
mod workload;

pub use bridge::{link_name as link_of, publishing};
pub use sandbox::{Leg, Sandbox};
pub use way::offered as ways_out;

use super::state::KernelState;
use crate::local::network::HostNetwork;
use heddle_model::{
    NetworkId, NodeId, TaskId,
    assignment::NodeView,
    net::{DualSubnet, IfName, Mtu, Protocol},
    network::Driver,
    tunnel::TunnelEnd,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// What turns a virtual address into a backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Balancer {
    #[default]
    Nftables,
    Ipvs,
}

impl Balancer {
    pub const fn as_str(self) -> &'static str {
        match self {
            Balancer::Nftables => "nftables",
            Balancer::Ipvs => "ipvs",
        }
    }

    /// Whether it chooses by a firewall mark what IPVS then translates. Datagrams are always translated by nftables, since
    /// IPVS cannot lead them to another backend without losing the answers of the one that leaves.
    pub fn marks(self, protocol: Protocol) -> bool {
        self == Balancer::Ipvs && protocol == Protocol::Tcp
    }
}

/// What only a member of a cluster knows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalHost {
    pub node: NodeId,
    /// This host's tunnel end point.
    pub data_path_addr: IpAddr,
    /// MTU of the link that has it.
    pub data_path_mtu: Mtu,
    /// Its own keys. None: it cannot encrypt.
    pub tunnel: Option<TunnelEnd>,
    /// Subnet of the gateway bridge; the same on every host, routed on none.
    pub gateway: DualSubnet,
    /// MTU of the link that leads to the world.
    pub gateway_mtu: Mtu,
    pub balancer: Balancer,
}

/// A host's part in a cluster.
#[derive(Clone, Copy)]
pub struct Member<'a> {
    pub view: &'a NodeView,
    pub local: &'a LocalHost,
}

/// All that decides what the kernel should have.
pub struct Wanted<'a> {
    /// None: this host is in no cluster.
    pub member: Option<Member<'a>>,
    pub networks: &'a BTreeMap<NetworkId, HostNetwork>,
    /// Links of the host that others can lie on, with their MTUs.
    pub parents: &'a BTreeMap<IfName, Mtu>,
    pub sandboxes: &'a BTreeMap<TaskId, Sandbox>,
}

/// The links of the host that a network of its own is made of, with nobody on it.
pub fn links_of(network: &HostNetwork, parents: &BTreeMap<IfName, Mtu>) -> BTreeSet<IfName> {
    let networks = BTreeMap::from([(network.id.clone(), network.clone())]);
    let alone = desired(&Wanted { member: None, networks: &networks, parents, sandboxes: &BTreeMap::new() });
    alone.spaces.into_values().flat_map(|space| space.links.into_keys()).collect()
}

/// Everything of ours that this host's kernel should have.
pub fn desired(wanted: &Wanted<'_>) -> KernelState {
    let mut state = KernelState::default();
    state.spaces.entry(super::state::Space::Host).or_default();
    let sandboxes = wanted.sandboxes;
    for sandbox in sandboxes.values() {
        workload::add(&mut state, sandbox, wanted);
    }
    bridge::add(&mut state, wanted.networks, sandboxes);
    for network in wanted.networks.values() {
        match network.spec.driver {
            Driver::Macvlan => macvlan::add(&mut state, network, sandboxes, wanted.parents),
            Driver::Ipvlan => ipvlan::add(&mut state, network, sandboxes, wanted.parents),
            Driver::Bridge | Driver::Overlay | Driver::Host | Driver::Null => {}
        }
    }
    if let Some(Member { view, local }) = wanted.member {
        underlay::add(&mut state, view, wanted.networks, local);
        gateway::add(&mut state, view, wanted, local);
        tunnel::add(&mut state, view, local);
        for network in view.networks.values() {
            overlay::add(&mut state, network, view, sandboxes, local);
            if network.ingress {
                ingress::add(&mut state, network, view, local);
            }
        }
    }
    state
}
