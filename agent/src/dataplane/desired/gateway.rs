//! The gateway bridge: translation to the world and from it, and what may pass.

use super::{
    super::names,
    LocalHost, Wanted,
    addresses::{bridge_addr, ingress_addr, with_prefix},
    bridge, ingress, passage,
};
use crate::dataplane::state::{KernelState, Link, LinkKind, PortFlags, Space, Table, TableBody};
use heddle_model::assignment::NodeView;
use std::net::IpAddr;

/// The bridge itself, in the host's namespace.
pub fn add(state: &mut KernelState, view: &NodeView, wanted: &Wanted<'_>, local: &LocalHost) {
    let host = state.spaces.entry(Space::Host).or_default();
    let bridge = names::gateway_bridge();
    let link = Link {
        kind: LinkKind::Bridge,
        mac: Some(names::local_mac(&["gateway", local.node.as_str()])),
        mtu: local.gateway_mtu,
        up: true,
        master: None,
        port: PortFlags::default(),
    };
    host.links.insert(bridge.clone(), link);
    for (addr, net) in bridge_addr(&local.gateway).addrs().into_iter().zip(local.gateway.nets()) {
        host.addresses.insert((bridge.clone(), with_prefix(addr, net)));
    }
    host.sysctls.insert("net.ipv4.ip_forward".into(), "1".into());
    host.sysctls.insert("net.ipv6.conf.all.forwarding".into(), "1".into());
    host.sysctls.insert(format!("net.ipv4.conf.{bridge}.route_localnet"), "1".into());
    bridge::no_routers(host, &bridge);
    host.tables.insert(names::gateway_table(), Table::new(table(view, wanted, local)));
}

fn table(view: &NodeView, wanted: &Wanted<'_>, local: &LocalHost) -> TableBody {
    let mut table = TableBody::default();
    let bridge = names::gateway_bridge();
    let (v4, v6) = (local.gateway.v4, local.gateway.v6);
    let entry = ingress_addr(&local.gateway);
    let ports = ingress::published(view).filter_map(|(_, p)| Some(format!("{} . {}", p.protocol, p.published?)));
    table.set("published", "type inet_proto . inet_service;", ports);
    let mut publish = vec![
        format!("meta nfproto ipv4 meta l4proto . th dport @published dnat ip to {}", entry.v4),
        format!("meta nfproto ipv6 meta l4proto . th dport @published dnat ip6 to {}", entry.v6),
    ];
    for sandbox in wanted.sandboxes.values().filter(|s| !bridge::publishes(wanted.networks, s)) {
        let Some((_, to)) = &sandbox.gateway else { continue };
        for port in &sandbox.ports {
            let (protocol, outer, target) = (port.protocol, port.host, port.target);
            if !matches!(port.host_ip, Some(IpAddr::V6(_))) {
                let at = port.host_ip.map_or_else(|| "meta nfproto ipv4".into(), |a| format!("ip daddr {a}"));
                publish.push(format!("{at} {protocol} dport {outer} dnat ip to {}:{target}", to.v4));
            }
            if !matches!(port.host_ip, Some(IpAddr::V4(_))) {
                let at = port.host_ip.map_or_else(|| "meta nfproto ipv6".into(), |a| format!("ip6 daddr {a}"));
                publish.push(format!("{at} {protocol} dport {outer} dnat ip6 to [{}]:{target}", to.v6));
            }
        }
    }
    table.chain("publish", None, publish);
    let local = || "fib daddr type local jump publish".to_owned();
    // Ports that are published on 127.0.0.1 are the host's alone.
    let entering = vec!["ip daddr 127.0.0.0/8 return".to_owned(), local()];
    table.chain("prerouting", Some("type nat hook prerouting priority dstnat; policy accept;"), entering);
    // Translation of what has ::1 as its source leads nowhere; refused at once, a program goes on to 127.0.0.1.
    let own = vec!["ip6 daddr ::1 return".to_owned(), local()];
    table.chain("output", Some("type nat hook output priority -100; policy accept;"), own);
    let ours = format!("{{ \"{bridge}\", \"{}\" }}", names::ingress_leg_outer());
    table.chain(
        "postrouting",
        Some("type nat hook postrouting priority srcnat; policy accept;"),
        vec![
            // 127.0.0.1 cannot leave the host; a workload that reaches itself must be answered by way of here.
            format!("oifname {ours} ct status dnat ip saddr 127.0.0.0/8 masquerade"),
            format!("iifname \"{bridge}\" oifname {ours} ct status dnat masquerade"),
            format!("ip saddr {v4} oifname != {ours} masquerade"),
            format!("ip6 saddr {v6} oifname != {ours} masquerade"),
        ],
    );
    passage::add(&mut table);
    table.chain(
        "forward",
        Some(passage::FORWARD),
        vec![
            format!("iifname != {ours} oifname != {ours} return"),
            format!("ct state established,related {}", passage::ACCEPT),
            format!("oifname {ours} ct status dnat {}", passage::ACCEPT),
            format!("oifname {ours} counter drop"),
            passage::ACCEPT.to_owned(),
        ],
    );
    table.chain(
        "input",
        Some("type filter hook input priority filter; policy accept;"),
        vec![
            format!("iifname != {ours} return"),
            "ct state established,related accept".into(),
            "ct status dnat accept".into(),
            "icmp type echo-request accept".into(),
            "icmpv6 type { echo-request, nd-neighbor-solicit, nd-neighbor-advert } accept".into(),
            "counter drop".into(),
        ],
    );
    table
}
