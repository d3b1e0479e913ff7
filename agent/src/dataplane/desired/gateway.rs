//! The gateway bridge: translation to the world and from it, and what may pass.

use super::{
    super::names,
    LocalHost, Sandbox,
    addresses::{bridge_addr, ingress_addr, with_prefix},
    ingress, passage,
};
use crate::dataplane::state::{KernelState, Link, LinkKind, PortFlags, Space, Table, TableBody};
use heddle_model::{TaskId, assignment::NodeView};
use std::collections::BTreeMap;

/// The bridge itself, in the host's namespace.
pub fn add(state: &mut KernelState, view: &NodeView, sandboxes: &BTreeMap<TaskId, Sandbox>, local: &LocalHost) {
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
    host.tables.insert(names::gateway_table(), Table::new(table(view, sandboxes, local)));
}

fn table(view: &NodeView, sandboxes: &BTreeMap<TaskId, Sandbox>, local: &LocalHost) -> TableBody {
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
    for sandbox in sandboxes.values().filter(|s| s.task.in_service()) {
        let Some(to) = sandbox.gateway_addr else { continue };
        for port in &sandbox.task.host_ports {
            let (protocol, target) = (port.protocol, port.target);
            let outer = port.published.unwrap_or(target);
            publish.push(format!("meta nfproto ipv4 {protocol} dport {outer} dnat ip to {}:{target}", to.v4));
            publish.push(format!("meta nfproto ipv6 {protocol} dport {outer} dnat ip6 to [{}]:{target}", to.v6));
        }
    }
    table.chain("publish", None, publish);
    let local_only = vec!["fib daddr type local jump publish".to_owned()];
    table.chain("prerouting", Some("type nat hook prerouting priority dstnat; policy accept;"), local_only.clone());
    table.chain("output", Some("type nat hook output priority -100; policy accept;"), local_only);
    let ours = format!("{{ \"{bridge}\", \"{}\" }}", names::ingress_leg_outer());
    table.chain(
        "postrouting",
        Some("type nat hook postrouting priority srcnat; policy accept;"),
        vec![
            // 127.0.0.1 and ::1 cannot leave the host; a workload that reaches itself must be answered by way of here.
            format!("oifname {ours} ct status dnat ip saddr 127.0.0.0/8 masquerade"),
            format!("oifname {ours} ct status dnat ip6 saddr ::1 masquerade"),
            format!("iifname \"{bridge}\" oifname {ours} ct status dnat masquerade"),
            format!("ip saddr {v4} oifname != {ours} masquerade"),
            format!("ip6 saddr {v6} oifname != {ours} masquerade"),
        ],
    );
    table.chain(
        "forward",
        Some(passage::FORWARD),
        vec![
            format!("iifname != {ours} oifname != {ours} return"),
            format!("ct state established,related {}", passage::accept()),
            format!("oifname {ours} ct status dnat {}", passage::accept()),
            format!("oifname {ours} counter drop"),
            passage::accept(),
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
