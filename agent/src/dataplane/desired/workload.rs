//! The namespace of a workload: its legs, routes, and the tables that make virtual addresses, the resolver and replies to
//! published ports work.

use super::{super::names, LocalHost, Sandbox, addresses, overlay, vip};
use crate::dataplane::state::{
    Family, KernelState, Link, LinkKind, PolicyRule, PortFlags, Route, SpaceState, Table, TableBody,
};
use heddle_model::{
    assignment::{NetworkView, NodeView},
    endpoint::Attachment,
    net::{IfName, Mtu},
};
use ipnet::IpNet;
use std::net::IpAddr;

const RESOLVER: &str = "127.0.0.11";

pub fn add(state: &mut KernelState, sandbox: &Sandbox, view: &NodeView, local: &LocalHost) {
    let task = &sandbox.task;
    let mut space = SpaceState::default();
    let mut table = TableBody::default();
    space.sysctls.insert("net.ipv4.conf.all.rp_filter".into(), "0".into());
    for (index, attachment) in task.attachments.iter().enumerate() {
        let Some(network) = view.networks.get(&attachment.network) else { continue };
        let dev = names::task_link(index);
        leg(&mut space, sandbox, network, attachment, &dev);
        if network.ingress {
            replies(&mut space, &mut table, network, view, &dev);
        } else {
            for net in network.service_subnet.nets() {
                space.routes.insert(Route { dst: net, via: None, dev: dev.clone(), table: 254, src: None });
            }
        }
    }
    if let Some(addr) = sandbox.gateway_addr {
        let dev = names::task_link(task.attachments.len());
        let inner = veth(names::gateway_port(&task.id), crate::dataplane::state::Space::Host, local.gateway_mtu);
        space.links.insert(dev.clone(), inner);
        for (addr, net) in addr.addrs().into_iter().zip(local.gateway.nets()) {
            space.addresses.insert((dev.clone(), addresses::with_prefix(addr, net)));
        }
        // A UDP server that is bound to no address answers from the one that the route prefers: it must be the one that
        // published ports lead to. What leaves by the gateway then gets the address that is known there.
        let entry = ingress(sandbox, view).map(|a| a.addr);
        addresses::default_routes(&mut space, &dev, addresses::bridge_addr(&local.gateway), entry);
        if let Some(entry) = entry {
            let rules = vec![
                format!("oifname \"{dev}\" ip saddr {} snat ip to {}", entry.v4, addr.v4),
                format!("oifname \"{dev}\" ip6 saddr {} snat ip6 to {}", entry.v6, addr.v6),
            ];
            table.chain("leave", Some("type nat hook postrouting priority srcnat; policy accept;"), rules);
        }
        let outer = Link {
            kind: LinkKind::Veth { peer: (names::task_space(&task.id), dev.clone()) },
            mac: None,
            mtu: local.gateway_mtu,
            up: true,
            master: Some(names::gateway_bridge()),
            port: PortFlags { isolated: true, ..PortFlags::default() },
        };
        let host = state.spaces.entry(crate::dataplane::state::Space::Host).or_default();
        host.links.insert(names::gateway_port(&task.id), outer);
    }
    link_sysctls(&mut space);
    let mut rules = vec![
        format!("ip daddr {RESOLVER} udp dport 53 dnat ip to {RESOLVER}:{}", names::DNS_PORT),
        format!("ip daddr {RESOLVER} tcp dport 53 dnat ip to {RESOLVER}:{}", names::DNS_PORT),
    ];
    rules.extend(vip::add(&mut space, &mut table, sandbox, view, local.balancer));
    table.chain("output", Some("type nat hook output priority -100; policy accept;"), rules);
    space.tables.insert(names::table(Family::Inet), Table::new(table));
    state.spaces.insert(names::task_space(&task.id), space);
}

/// The attachment that published ports lead to.
fn ingress<'a>(sandbox: &'a Sandbox, view: &NodeView) -> Option<&'a Attachment> {
    sandbox.task.attachments.iter().find(|a| view.networks.get(&a.network).is_some_and(|n| n.ingress))
}

/// A packet may come in by another leg than its answer leaves by.
pub fn link_sysctls(space: &mut SpaceState) {
    for name in space.links.keys() {
        space.sysctls.insert(format!("net.ipv4.conf.{name}.rp_filter"), "0".into());
        space.sysctls.insert(format!("net.ipv6.conf.{name}.accept_ra"), "0".into());
    }
}

fn veth(peer: IfName, space: crate::dataplane::state::Space, mtu: Mtu) -> Link {
    let kind = LinkKind::Veth { peer: (space, peer) };
    Link { kind, mac: None, mtu, up: true, master: None, port: PortFlags::default() }
}

fn leg(space: &mut SpaceState, sandbox: &Sandbox, network: &NetworkView, attachment: &Attachment, dev: &IfName) {
    let outer = names::task_port(&sandbox.task.id, &network.id);
    let link = Link { mac: Some(attachment.mac), ..veth(outer, overlay::space_of(network), network.mtu) };
    space.links.insert(dev.clone(), link);
    for (addr, net) in attachment.addr.addrs().into_iter().zip(network.subnet.nets()) {
        space.addresses.insert((dev.clone(), addresses::with_prefix(addr, net)));
    }
}

/// Answers to published ports go back to the host they entered by, known by the MAC of its leg. Learned anew from every
/// packet of the original direction, so that a flow which enters elsewhere is followed.
fn replies(space: &mut SpaceState, table: &mut TableBody, network: &NetworkView, view: &NodeView, dev: &IfName) {
    let legs = || view.peers.values().filter_map(|p| p.ingress.as_ref());
    let mark = names::REPLY_MARK;
    table.map("hosts", "type ether_addr : mark;", legs().map(|l| (l.mac.to_string(), format!("{:#x}", l.index))));
    table.chain(
        "learn",
        Some("type filter hook prerouting priority mangle; policy accept;"),
        vec![format!("iifname \"{dev}\" ct direction original ct mark set ether saddr map @hosts")],
    );
    table.chain(
        "reply",
        Some("type route hook output priority mangle; policy accept;"),
        vec![format!("ct direction reply ct mark != 0 meta mark set ct mark or {mark:#x}")],
    );
    let mut egress = TableBody::default();
    let macs = legs().map(|l| (format!("{:#x}", mark | u32::from(l.index)), l.mac.to_string()));
    egress.map("macs", "type mark : ether_addr;", macs);
    egress.chain(
        "egress",
        Some(&format!("type filter hook egress device \"{dev}\" priority 0; policy accept;")),
        vec![format!("meta mark & {mark:#x} != 0 ether daddr set meta mark map @macs")],
    );
    space.tables.insert(names::table(Family::Netdev), Table::new(egress));
    for net in network.subnet.nets() {
        // The address that every subnet keeps for a gateway; its MAC is replaced on the way out.
        let (via, dst) = match net {
            IpNet::V4(n) => (IpAddr::from((n.network().to_bits() + 1).to_be_bytes()), IpNet::V4(Default::default())),
            IpNet::V6(n) => (IpAddr::from((n.network().to_bits() + 1).to_be_bytes()), IpNet::V6(Default::default())),
        };
        let v6 = via.is_ipv6();
        space.neighbours.insert((dev.clone(), via), names::VIRTUAL_GATEWAY_MAC);
        space.routes.insert(Route { dst, via: Some(via), dev: dev.clone(), table: names::REPLY_TABLE, src: None });
        let (pref, table) = (names::REPLY_PREF, names::REPLY_TABLE);
        space.rules.insert(PolicyRule { v6, pref, mark, mask: mark, table });
    }
}
