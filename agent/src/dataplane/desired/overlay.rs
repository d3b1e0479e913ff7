//! The namespace of an overlay on this host: bridge, tunnel, forwarding entries, the ports of local workloads.

use super::{super::names, LocalHost, Sandbox};
use crate::dataplane::state::{
    FdbKey, FdbOn, FdbTarget, KernelState, Link, LinkKind, PortFlags, Space, SpaceState, Vxlan,
};
use heddle_model::{
    TaskId,
    assignment::{NetworkView, NodeView},
    net::{IfName, Mac},
};
use std::{collections::BTreeMap, net::IpAddr};

/// Where an overlay lives on this host.
pub fn space_of(network: &NetworkView) -> Space {
    if network.ingress { names::ingress_space() } else { names::network_space(&network.id) }
}

/// Nobody may enter with a MAC that has no static entry, and nothing is learned.
const GUARDED: PortFlags = PortFlags { isolated: false, locked: true, learning: false };

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
    let tunnel = Vxlan { vni: network.vni, local: local.data_path_addr, port: view.cluster.data_path_port };
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
    for sandbox in sandboxes.values() {
        if let Some(attachment) = sandbox.task.attachments.iter().find(|a| a.network == network.id) {
            port(space, sandbox, network, attachment.mac);
        }
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

fn port(space: &mut SpaceState, sandbox: &Sandbox, network: &NetworkView, mac: Mac) {
    let name = names::task_port(&sandbox.task.id, &network.id);
    let inner = inner_link(sandbox, network);
    let link = Link {
        kind: LinkKind::Veth { peer: (names::task_space(&sandbox.task.id), inner) },
        mac: None,
        mtu: network.mtu,
        up: true,
        master: Some(names::bridge()),
        port: GUARDED,
    };
    space.links.insert(name.clone(), link);
    space.fdb.insert(FdbKey { dev: name, mac, on: FdbOn::Bridge }, FdbTarget { dst: None });
}

/// The workload's end of its leg in a network.
pub fn inner_link(sandbox: &Sandbox, network: &NetworkView) -> IfName {
    let index = sandbox.task.attachments.iter().position(|a| a.network == network.id).unwrap_or_default();
    names::task_link(index)
}
