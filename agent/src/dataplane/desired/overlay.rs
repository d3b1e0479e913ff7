//! The namespace of an overlay on this host: bridge, tunnel, forwarding entries, the ports of local workloads.

use super::{super::names, Leg, LocalHost, Sandbox, sandbox::link_sysctls, workload::veth};
use crate::dataplane::state::{
    FdbKey, FdbOn, FdbTarget, KernelState, Link, LinkKind, PortFlags, Route, Space, SpaceState, Vxlan,
};
use heddle_model::{
    TaskId,
    assignment::{NetworkView, NodeView},
    net::Mac,
};
use ipnet::IpNet;
use std::{collections::BTreeMap, net::IpAddr};

/// Where an overlay lives on this host.
pub fn space_of(network: &NetworkView) -> Space {
    if network.ingress { names::ingress_space() } else { names::network_space(&network.id) }
}

/// Nobody may enter with a MAC that has no static entry, and nothing is learned.
const GUARDED: PortFlags = PortFlags { isolated: false, locked: true, learning: false, hairpin: false };

pub fn add(
    state: &mut KernelState,
    network: &NetworkView,
    view: &NodeView,
    sandboxes: &BTreeMap<TaskId, Sandbox>,
    local: &LocalHost,
) {
    let own_leg = view.peers.get(&local.node).and_then(|p| p.ingress.as_ref()).filter(|_| network.ingress);
    let bridge_mac = own_leg.map_or_else(|| names::local_mac(&["bridge", network.id.as_str()]), |leg| leg.mac);
    let space = state.spaces.entry(space_of(network)).or_default();
    let bridge = Link {
        kind: LinkKind::Bridge,
        mac: Some(bridge_mac),
        mtu: network.mtu,
        up: true,
        master: None,
        port: PortFlags::default(),
    };
    let socket = Some(if network.encrypted { names::tunnel_space() } else { Space::Host });
    let tunnel = Vxlan { vni: network.vni, local: local.data_path_addr, port: view.cluster.data_path_port, socket };
    let vxlan = Link {
        kind: LinkKind::Vxlan(tunnel),
        mac: Some(names::local_mac(&["vxlan", network.id.as_str(), local.node.as_str()])),
        master: Some(names::bridge()),
        port: GUARDED,
        ..bridge.clone()
    };
    space.links.insert(names::bridge(), bridge);
    space.links.insert(names::vxlan(), vxlan);
    for key in ["iptables", "ip6tables", "arptables"] {
        // Without the br_netfilter module there is no such sysctl, which amounts to 0.
        space.sysctls.insert(format!("net.bridge.bridge-nf-call-{key}"), "0".into());
    }
    remote(space, network, view, local);
    let legs = || sandboxes.values().filter_map(|s| Some((s, s.leg(&network.id)?)));
    for (sandbox, leg) in legs() {
        port(space, sandbox, network, leg);
    }
    for (sandbox, leg) in legs() {
        let inside = state.spaces.entry(names::task_space(&sandbox.id)).or_default();
        inner(inside, sandbox, network, leg);
    }
}

/// Endpoints and legs on other hosts.
fn remote(space: &mut SpaceState, network: &NetworkView, view: &NodeView, local: &LocalHost) {
    let here = |mac: Mac, dst: IpAddr, addrs: &[IpAddr], space: &mut SpaceState| {
        let device = FdbKey { dev: names::vxlan(), mac, on: FdbOn::Device };
        let bridge = FdbKey { dev: names::vxlan(), mac, on: FdbOn::Bridge };
        space.fdb.insert(device, FdbTarget { dst: Some(dst) });
        space.fdb.insert(bridge, FdbTarget { dst: None });
        for addr in addrs {
            space.neighbours.insert((names::vxlan(), *addr), mac);
        }
    };
    let on_network = view.endpoints.values().filter(|e| e.network == network.id && e.node != local.node);
    for endpoint in on_network {
        if let Some(peer) = view.peers.get(&endpoint.node) {
            here(endpoint.mac, peer.data_path_addr, &endpoint.addr.addrs(), space);
        }
    }
    if network.ingress {
        for peer in view.peers.values().filter(|p| p.node != local.node) {
            if let Some(leg) = &peer.ingress {
                here(leg.mac, peer.data_path_addr, &leg.addr.addrs(), space);
            }
        }
    }
}

/// The outer end of a workload's leg.
fn port(space: &mut SpaceState, sandbox: &Sandbox, network: &NetworkView, leg: &Leg) {
    let name = names::task_port(&sandbox.id, &network.id);
    let pair = veth(leg.dev.clone(), names::task_space(&sandbox.id), network.mtu);
    space.links.insert(name.clone(), Link { master: Some(names::bridge()), port: GUARDED, ..pair });
    space.fdb.insert(FdbKey { dev: name, mac: leg.mac, on: FdbOn::Bridge }, FdbTarget { dst: None });
}

/// The end in the workload, and the way to the network's virtual addresses.
fn inner(space: &mut SpaceState, sandbox: &Sandbox, network: &NetworkView, leg: &Leg) {
    let pair = veth(names::task_port(&sandbox.id, &network.id), space_of(network), network.mtu);
    space.links.insert(leg.dev.clone(), Link { mac: Some(leg.mac), ..pair });
    link_sysctls(space, &leg.dev);
    for addr in &leg.addrs {
        let subnet = network.subnet.nets().into_iter().find(|n| n.contains(addr));
        let prefix = subnet.map_or(IpNet::from(*addr).prefix_len(), |n| n.prefix_len());
        space.addresses.extend(IpNet::new(*addr, prefix).ok().map(|net| (leg.dev.clone(), net)));
    }
    if !network.ingress {
        for dst in network.service_subnet.nets() {
            space.routes.insert(Route { dst, via: None, dev: leg.dev.clone(), table: 254, src: None });
        }
    }
}
