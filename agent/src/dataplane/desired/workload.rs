//! The namespace of a workload: the resolver, virtual addresses, replies to published ports, the way out. Its legs are made
//! by the drivers of their networks.

use super::{super::names, Leg, Sandbox, Wanted, addresses, sandbox::link_sysctls, vip, way};
use crate::dataplane::state::{
    Family, KernelState, Link, LinkKind, PolicyRule, PortFlags, Route, Space, SpaceState, Table, TableBody,
};
use heddle_model::{
    assignment::{NetworkView, NodeView},
    net::{DualAddr, IfName, Mtu},
};
use ipnet::IpNet;
use std::net::IpAddr;

const RESOLVER: &str = "127.0.0.11";

pub fn add(state: &mut KernelState, sandbox: &Sandbox, wanted: &Wanted<'_>) {
    let mut space = SpaceState::default();
    let mut table = TableBody::default();
    let mut output = Vec::new();
    space.sysctls.insert("net.ipv4.conf.all.rp_filter".into(), "0".into());
    // Its ports are its own: whoever is not root may listen on 80 there, as under docker.
    space.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "0".into());
    let entry = wanted.member.and_then(|member| ingress(sandbox, member.view));
    if let Some((network, leg)) = entry
        && let Some(member) = wanted.member
    {
        replies(&mut space, &mut table, network, member.view, &leg.dev);
    }
    // A UDP server that is bound to no address answers from the one that the route prefers: it must be the one that
    // published ports lead to. What leaves by the gateway then gets the address that is known there.
    let entry = entry.and_then(|(_, leg)| dual(&leg.addrs));
    if let Some((dev, addr)) = &sandbox.gateway {
        gateway_leg(state, &mut space, sandbox, wanted, (dev, *addr));
        if let Some(entry) = entry {
            let rules = vec![
                format!("oifname \"{dev}\" ip saddr {} snat ip to {}", entry.v4, addr.v4),
                format!("oifname \"{dev}\" ip6 saddr {} snat ip6 to {}", entry.v6, addr.v6),
            ];
            table.chain("leave", Some("type nat hook postrouting priority srcnat; policy accept;"), rules);
        }
    }
    way::add(&mut space, sandbox, wanted, entry);
    // Who is on no network asks nobody.
    if !sandbox.legs.is_empty() || sandbox.gateway.is_some() {
        for protocol in ["udp", "tcp"] {
            let to = format!("{RESOLVER}:{}", names::DNS_PORT);
            output.push(format!("ip daddr {RESOLVER} {protocol} dport 53 dnat ip to {to}"));
        }
        table.chain("silence", Some("type filter hook output priority filter; policy accept;"), silence());
    }
    if let Some(member) = wanted.member {
        output.extend(vip::add(&mut space, &mut table, sandbox, member.view, member.local.balancer));
    }
    if !output.is_empty() {
        table.chain("output", Some("type nat hook output priority -100; policy accept;"), output);
        space.tables.insert(names::table(Family::Inet), Table::new(table));
    }
    state.spaces.insert(names::task_space(&sandbox.id), space);
}

/// While no daemon runs, nobody has the resolver's port. That the kernel says so would fail every question at once; not told,
/// who asks does so again, and soon finds the next daemon. The first sequence number is that of an answer to a SYN.
fn silence() -> Vec<String> {
    vec![
        format!("ip saddr {RESOLVER} icmp type destination-unreachable drop"),
        format!("ip saddr {RESOLVER} tcp flags & (syn | ack | rst) == ack | rst tcp sequence 0 drop"),
    ]
}

/// One address of each family, where there are both.
fn dual(addrs: &[IpAddr]) -> Option<DualAddr> {
    let v4 = addrs.iter().find_map(|a| if let IpAddr::V4(a) = a { Some(*a) } else { None })?;
    let v6 = addrs.iter().find_map(|a| if let IpAddr::V6(a) = a { Some(*a) } else { None })?;
    Some(DualAddr { v4, v6 })
}

/// The leg that published ports lead to.
fn ingress<'a>(sandbox: &'a Sandbox, view: &'a NodeView) -> Option<(&'a NetworkView, &'a Leg)> {
    let on = |leg: &'a Leg| Some((view.networks.get(&leg.network).filter(|n| n.ingress)?, leg));
    sandbox.legs.iter().find_map(on)
}

fn gateway_leg(
    state: &mut KernelState,
    space: &mut SpaceState,
    sandbox: &Sandbox,
    wanted: &Wanted<'_>,
    (dev, addr): (&IfName, DualAddr),
) {
    let Some(member) = wanted.member else { return };
    let local = member.local;
    let outer = names::gateway_port(&sandbox.id);
    space.links.insert(dev.clone(), veth(outer.clone(), Space::Host, local.gateway_mtu));
    link_sysctls(space, dev);
    for (addr, net) in addr.addrs().into_iter().zip(local.gateway.nets()) {
        space.addresses.insert((dev.clone(), addresses::with_prefix(addr, net)));
    }
    let port = Link {
        master: Some(names::gateway_bridge()),
        port: PortFlags { isolated: true, ..PortFlags::default() },
        ..veth(dev.clone(), names::task_space(&sandbox.id), local.gateway_mtu)
    };
    state.spaces.entry(Space::Host).or_default().links.insert(outer, port);
}

/// One end of a pair whose other end is `peer` in `space`.
pub fn veth(peer: IfName, space: Space, mtu: Mtu) -> Link {
    let kind = LinkKind::Veth { peer: (space, peer) };
    Link { kind, mac: None, mtu, up: true, master: None, port: PortFlags::default() }
}

/// Answers to published ports go back to the host they entered by, known by the MAC of its leg. Learned anew from every
/// packet of the original direction, so that a flow which enters elsewhere is followed. But a client may use one port of its
/// own for connections to two hosts: here both would be one flow, and the second would end the first. Its first packet waits,
/// sent again by the client, until the other connection is over.
fn replies(space: &mut SpaceState, table: &mut TableBody, network: &NetworkView, view: &NodeView, dev: &IfName) {
    let legs = || view.peers.values().filter_map(|p| p.ingress.as_ref());
    let mark = names::REPLY_MARK;
    table.map("hosts", "type ether_addr : mark;", legs().map(|l| (l.mac.to_string(), format!("{:#x}", l.index))));
    table.set("known", "type ether_addr . mark;", legs().map(|l| format!("{} . {:#x}", l.mac, l.index)));
    let begins = "tcp flags & (fin | syn | rst | ack) == syn";
    let another = "ct state established ct mark != 0 ether saddr . ct mark != @known";
    table.chain(
        "learn",
        Some("type filter hook prerouting priority mangle; policy accept;"),
        vec![
            format!("iifname \"{dev}\" ct direction original {begins} {another} drop"),
            format!("iifname \"{dev}\" ct direction original ct mark set ether saddr map @hosts"),
        ],
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
        space.rules.insert(PolicyRule { v6, pref, mark, mask: mark, out: None, table });
    }
}
