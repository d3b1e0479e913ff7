//! The namespace that encrypted overlays send through: a WireGuard link for each epoch of keys, and no other way in or out.
//! The sockets of their VXLANs are in it, so what is not encrypted can neither leave nor come in. Without keys, or without
//! WireGuard, it is a dead end.

use super::{super::names, LocalHost};
use crate::dataplane::{
    state::{KernelState, Link, LinkKind, PortFlags, Route, SpaceState},
    wireguard::{Tunnel, TunnelPeer},
};
use heddle_model::{
    assignment::{ClusterView, NodeView, PeerView},
    net::IfName,
    tunnel::{Epoch, PublicKey, TunnelEnd},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, SocketAddr};

pub fn add(state: &mut KernelState, view: &NodeView, local: &LocalHost) {
    if !view.networks.values().any(|n| n.encrypted) {
        return;
    }
    let space = state.spaces.entry(names::tunnel_space()).or_default();
    // A new namespace has the host's settings. What comes by the device of another epoch is taken, nothing is passed on.
    for (key, value) in [("ipv4.conf.all.rp_filter", "0"), ("ipv4.ip_forward", "0"), ("ipv6.conf.all.forwarding", "0")]
    {
        space.sysctls.insert(format!("net.{key}"), value.into());
    }
    let Some(end) = &local.tunnel else { return };
    for epoch in view.cluster.epochs.all() {
        if let Some(key) = end.keys.get(&epoch) {
            device(space, view, local, end, epoch, *key);
        }
    }
    let current = names::tunnel(view.cluster.epochs.current);
    if space.links.contains_key(&current) {
        // One route, so that the kernel changes it at once when another epoch counts.
        space.routes.insert(everything(local.data_path_addr, current));
    }
}

fn device(
    space: &mut SpaceState,
    view: &NodeView,
    local: &LocalHost,
    end: &TunnelEnd,
    epoch: Epoch,
    public_key: PublicKey,
) {
    let name = names::tunnel(epoch);
    let link = Link {
        kind: LinkKind::Wireguard { by: end.backend },
        mac: None,
        mtu: local.data_path_mtu.inside_wireguard(&local.data_path_addr),
        up: true,
        master: None,
        port: PortFlags::default(),
    };
    space.links.insert(name.clone(), link);
    space.sysctls.insert(format!("net.ipv4.conf.{name}.rp_filter"), "0".into());
    // On each, so that what comes by either is taken in.
    space.addresses.insert((name.clone(), IpNet::from(local.data_path_addr)));
    let reachable =
        |p: &&PeerView| p.node != local.node && p.data_path_addr.is_ipv4() == local.data_path_addr.is_ipv4();
    let peers = view.peers.values().filter(reachable);
    let peers = peers.filter_map(|p| Some((*p.keys.get(&epoch)?, peer(&view.cluster, epoch, p)))).collect();
    space.tunnels.insert(name, Tunnel { public_key, port: epoch.port(view.cluster.tunnel_port), peers });
}

fn peer(cluster: &ClusterView, epoch: Epoch, peer: &PeerView) -> TunnelPeer {
    let endpoint = SocketAddr::new(peer.data_path_addr, epoch.port(cluster.tunnel_port).get());
    TunnelPeer { endpoint: Some(endpoint), allowed: [IpNet::from(peer.data_path_addr)].into() }
}

fn everything(local: IpAddr, dev: IfName) -> Route {
    let dst = if local.is_ipv4() { IpNet::V4(Ipv4Net::default()) } else { IpNet::V6(Ipv6Net::default()) };
    Route { dst, via: None, dev, table: 254, src: None }
}
