//! Networks of this host on bridges: the bridge, its members' legs, and one table for all of them: published ports come in,
//! what leaves has the host's address, and what may pass.

use super::{super::names, Leg, Sandbox, passage, sandbox::link_sysctls, way::Way, workload::veth};
use crate::{
    dataplane::state::{KernelState, Link, LinkKind, PortFlags, Space, SpaceState, Table, TableBody},
    local::{
        driver::bridge::{GatewayMode, Options},
        network::HostNetwork,
    },
};
use heddle_model::{
    NetworkId, TaskId,
    net::{IfName, Mtu},
    network::Driver,
    workload::HostPort,
};
use std::{collections::BTreeMap, net::IpAddr};

/// A bridge network with its options read.
struct Bridge<'a> {
    network: &'a HostNetwork,
    options: Options,
    link: IfName,
    mtu: Mtu,
}

fn read(network: &HostNetwork) -> Option<Bridge<'_>> {
    if network.spec.driver != Driver::Bridge {
        return None;
    }
    // They were read when the network was made.
    let options = Options::parse(&network.spec.options).ok()?;
    let link = match &options.name {
        Some(name) => name.clone(),
        None if network.is_builtin() => names::default_bridge(),
        None => names::host_bridge(&network.id),
    };
    let mtu = network.spec.mtu.or(options.mtu).unwrap_or(Mtu::ETHERNET);
    Some(Bridge { network, options, link, mtu })
}

/// The link of a bridge network.
pub fn link_name(network: &HostNetwork) -> Option<IfName> {
    read(network).map(|b| b.link)
}

/// By its gateway, unless it leads nowhere.
pub fn way_out(network: &HostNetwork) -> Vec<Way> {
    if network.spec.internal {
        return Vec::new();
    }
    network.pools.iter().map(|p| Way::by(p.gateway())).collect()
}

/// The leg that a workload's published ports lead to: the first on a bridge that leads out.
pub fn publishing<'a>(networks: &BTreeMap<NetworkId, HostNetwork>, sandbox: &'a Sandbox) -> Option<&'a Leg> {
    let bridge = |n: &HostNetwork| n.spec.driver == Driver::Bridge && !n.spec.internal;
    sandbox.legs.iter().find(|l| networks.get(&l.network).is_some_and(bridge))
}

/// Whether a workload's ports are published here and not by the gateway bridge.
pub fn publishes(networks: &BTreeMap<NetworkId, HostNetwork>, sandbox: &Sandbox) -> bool {
    publishing(networks, sandbox).is_some()
}

pub fn add(
    state: &mut KernelState,
    networks: &BTreeMap<NetworkId, HostNetwork>,
    sandboxes: &BTreeMap<TaskId, Sandbox>,
) {
    // The default network's bridge is made when somebody joins it: whoever has no use for it never sees it.
    let used = |b: &Bridge<'_>| !b.network.is_builtin() || sandboxes.values().any(|s| s.leg(&b.network.id).is_some());
    let bridges: Vec<Bridge<'_>> = networks.values().filter_map(read).filter(used).collect();
    if bridges.is_empty() {
        return;
    }
    for bridge in &bridges {
        link(state, bridge);
        for sandbox in sandboxes.values() {
            if let Some(leg) = sandbox.leg(&bridge.network.id) {
                member(state, bridge, sandbox, leg);
            }
        }
    }
    let host = state.spaces.entry(Space::Host).or_default();
    // A host with two uplinks forwards between them from now on, as with every engine that turns this on. A drop of ours
    // between uplinks would be no mend: whoever makes the host a router after us (an operator's sysctl.d, libvirt, a VPN)
    // finds the switch at 1 and writes the 1 again, which the kernel tells nobody, so he could not be told from nobody, and
    // his packets would be dropped by a table that he does not know. That policy is the host's own firewall's.
    host.sysctls.insert("net.ipv4.ip_forward".into(), "1".into());
    host.sysctls.insert("net.ipv6.conf.all.forwarding".into(), "1".into());
    host.tables.insert(names::bridge_table(), Table::new(table(&bridges, networks, sandboxes)));
}

fn link(state: &mut KernelState, bridge: &Bridge<'_>) {
    let host = state.spaces.entry(Space::Host).or_default();
    let name = &bridge.link;
    let link = Link {
        kind: LinkKind::Bridge,
        mac: Some(names::local_mac(&["bridge", bridge.network.id.as_str()])),
        mtu: bridge.mtu,
        up: true,
        master: None,
        port: PortFlags::default(),
    };
    host.links.insert(name.clone(), link);
    for pool in &bridge.network.pools {
        host.addresses.extend(bridge.network.with_prefix(pool.gateway()).map(|net| (name.clone(), net)));
    }
    // Published ports answer on 127.0.0.1 too.
    host.sysctls.insert(format!("net.ipv4.conf.{}.route_localnet", names::in_sysctl(name)), "1".into());
    no_routers(host, name);
}

/// A workload could otherwise advertise itself as the host's router: where the host goes on listening to its own routers
/// although it forwards (accept_ra 2), a new link does too.
pub fn no_routers(host: &mut SpaceState, bridge: &IfName) {
    host.sysctls.insert(format!("net.ipv6.conf.{}.accept_ra", names::in_sysctl(bridge)), "0".into());
}

fn member(state: &mut KernelState, bridge: &Bridge<'_>, sandbox: &Sandbox, leg: &Leg) {
    let (space, outer) = (names::task_space(&sandbox.id), names::task_port(&sandbox.id, &bridge.network.id));
    let inside = state.spaces.entry(space.clone()).or_default();
    let inner = veth(outer.clone(), Space::Host, bridge.mtu);
    inside.links.insert(leg.dev.clone(), Link { mac: Some(leg.mac), ..inner });
    link_sysctls(inside, &leg.dev);
    for addr in &leg.addrs {
        inside.addresses.extend(bridge.network.with_prefix(*addr).map(|net| (leg.dev.clone(), net)));
    }
    let port = Link {
        master: Some(bridge.link.clone()),
        // Enforced by the bridge itself: it holds when somebody flushes every table. Where bridged frames are filtered
        // (bridge-nf-call-iptables), a workload that reaches itself by a published port is sent back out of its own port.
        port: PortFlags { isolated: !bridge.options.icc, hairpin: bridge.options.icc, ..PortFlags::default() },
        ..veth(leg.dev.clone(), space, bridge.mtu)
    };
    state.spaces.entry(Space::Host).or_default().links.insert(outer, port);
}

fn quoted(name: &IfName) -> String {
    format!("\"{name}\"")
}

/// Everything that depends on one family.
struct Words {
    v4: bool,
    ip: &'static str,
    addr_type: &'static str,
    suffix: &'static str,
}

const FAMILIES: [Words; 2] = [
    Words { v4: true, ip: "ip", addr_type: "ipv4_addr", suffix: "4" },
    Words { v4: false, ip: "ip6", addr_type: "ipv6_addr", suffix: "6" },
];

fn table(
    bridges: &[Bridge<'_>],
    networks: &BTreeMap<NetworkId, HostNetwork>,
    sandboxes: &BTreeMap<TaskId, Sandbox>,
) -> TableBody {
    let mut table = TableBody::default();
    table.set("bridges", "type ifname;", bridges.iter().map(|b| quoted(&b.link)));
    let internal = bridges.iter().filter(|b| b.network.spec.internal);
    table.set("internal", "type ifname;", internal.map(|b| quoted(&b.link)));
    table.chain(
        "guard",
        Some("type filter hook prerouting priority -300; policy accept;"),
        // The bridges route from and to the loopback, for the host's own use.
        vec![
            "iifname @bridges ip daddr 127.0.0.0/8 counter drop".into(),
            "iifname @bridges ip saddr 127.0.0.0/8 counter drop".into(),
        ],
    );
    let mut publish = Vec::new();
    for words in &FAMILIES {
        publish.extend(published(&mut table, bridges, networks, sandboxes, words));
    }
    table.chain("publish", None, publish);
    let local = || "fib daddr type local jump publish".to_owned();
    // What comes from outside to 127.0.0.1 would be translated before the kernel refuses it: ports that are published
    // there are the host's alone.
    let entering = vec!["ip daddr 127.0.0.0/8 return".to_owned(), local()];
    table.chain("prerouting", Some("type nat hook prerouting priority dstnat; policy accept;"), entering);
    // What has ::1 as its source never gets an answer from elsewhere. Refused at once, a program goes on to 127.0.0.1.
    let own = vec!["ip6 daddr ::1 return".to_owned(), local()];
    table.chain("output", Some("type nat hook output priority -100; policy accept;"), own);
    table.chain("postrouting", Some("type nat hook postrouting priority srcnat; policy accept;"), leaving(bridges));
    forward(&mut table, bridges, networks, sandboxes);
    table.chain(
        "input",
        Some("type filter hook input priority filter; policy accept;"),
        vec![
            "iifname != @internal return".into(),
            "ct state established,related accept".into(),
            "icmp type echo-request accept".into(),
            "icmpv6 type { echo-request, nd-neighbor-solicit, nd-neighbor-advert } accept".into(),
            "counter drop".into(),
        ],
    );
    table
}

/// The address of a leg in one family, and the port as it is published in it.
fn target<'a>(
    networks: &BTreeMap<NetworkId, HostNetwork>,
    sandboxes: &'a BTreeMap<TaskId, Sandbox>,
    bridge: &'a Bridge<'_>,
    v4: bool,
) -> Vec<(&'a HostPort, IpAddr)> {
    let mut out = Vec::new();
    for sandbox in sandboxes.values() {
        let Some(leg) = publishing(networks, sandbox).filter(|l| l.network == bridge.network.id) else { continue };
        let Some(addr) = leg.addrs.iter().find(|a| a.is_ipv4() == v4) else { continue };
        out.extend(sandbox.ports.iter().map(|port| (port, *addr)));
    }
    out
}

/// Two maps, of ports on every address and of ports on one, and the rules that look into them.
fn published(
    table: &mut TableBody,
    bridges: &[Bridge<'_>],
    networks: &BTreeMap<NetworkId, HostNetwork>,
    sandboxes: &BTreeMap<TaskId, Sandbox>,
    words: &Words,
) -> [String; 2] {
    let Words { v4, ip, addr_type, suffix } = *words;
    let (mut anywhere, mut at) = (Vec::new(), Vec::new());
    for bridge in bridges.iter().filter(|b| b.options.mode(v4) != GatewayMode::Routed) {
        for (port, addr) in target(networks, sandboxes, bridge, v4) {
            let to = format!("{addr} . {}", port.target);
            match port.host_ip {
                None => anywhere.push((format!("{} . {}", port.protocol, port.host), to)),
                Some(here) if here.is_ipv4() == v4 => {
                    at.push((format!("{here} . {} . {}", port.protocol, port.host), to));
                }
                Some(_) => {}
            }
        }
    }
    let to = format!("{addr_type} . inet_service");
    table.map(&format!("at{suffix}"), &format!("type {addr_type} . inet_proto . inet_service : {to};"), at);
    table.map(&format!("anywhere{suffix}"), &format!("type inet_proto . inet_service : {to};"), anywhere);
    let rule = |key: &str, map: &str| {
        format!(
            "meta nfproto ipv{suffix} meta l4proto {{ tcp, udp }} dnat {ip} addr . port to {key} map @{map}{suffix}"
        )
    };
    [rule(&format!("{ip} daddr . meta l4proto . th dport"), "at"), rule("meta l4proto . th dport", "anywhere")]
}

/// What leaves a bridge has the address of the host.
fn leaving(bridges: &[Bridge<'_>]) -> Vec<String> {
    // 127.0.0.1 cannot leave the host.
    let mut rules = vec!["oifname @bridges ct status dnat ip saddr 127.0.0.0/8 masquerade".to_owned()];
    for bridge in bridges {
        let Bridge { network, options, link, .. } = bridge;
        for Words { v4, ip, .. } in &FAMILIES {
            let Some(subnet) = network.pool(*v4).map(|p| p.subnet) else { continue };
            // A workload that reaches a neighbour, or itself, by a published port is answered by way of the host.
            rules.push(format!("{ip} saddr {subnet} oifname \"{link}\" ct status dnat masquerade"));
            if options.masquerade && options.mode(*v4) != GatewayMode::Routed && !network.spec.internal {
                let how = options.source(*v4).map_or_else(|| "masquerade".into(), |a| format!("snat {ip} to {a}"));
                rules.push(format!("{ip} saddr {subnet} oifname != @bridges {how}"));
            }
        }
    }
    rules
}

/// What may pass between a bridge and anywhere else: one lookup for each direction, whatever the number of networks.
fn forward(
    table: &mut TableBody,
    bridges: &[Bridge<'_>],
    networks: &BTreeMap<NetworkId, HostNetwork>,
    sandboxes: &BTreeMap<TaskId, Sandbox>,
) {
    let pass = passage::ACCEPT;
    passage::add(table);
    let (mut to, mut from) = (Vec::new(), Vec::new());
    for (n, bridge) in bridges.iter().enumerate() {
        let Bridge { network, options, link, .. } = bridge;
        let mut rules = vec![
            // Routed, or bridged where bridged frames are filtered.
            format!("iifname \"{link}\" {}", if options.icc { pass } else { "counter drop" }),
        ];
        if !network.spec.internal {
            rules.push(format!("ct status dnat {pass}"));
            for words in &FAMILIES {
                rules.extend(open(table, (n, bridge), networks, sandboxes, words));
            }
        }
        rules.push("counter drop".into());
        table.chain(&format!("to_{n}"), None, rules);
        to.push((quoted(link), format!("goto to_{n}")));
        let out = if network.spec.internal { format!("oifname != \"{link}\" counter drop") } else { pass.to_owned() };
        table.chain(&format!("from_{n}"), None, vec![out]);
        from.push((quoted(link), format!("goto from_{n}")));
    }
    table.map("to", "type ifname : verdict;", to);
    table.map("from", "type ifname : verdict;", from);
    table.chain(
        "forward",
        Some(passage::FORWARD),
        vec![
            "iifname != @bridges oifname != @bridges return".into(),
            // Not by a port that a neighbour publishes, either.
            "iifname @internal oifname != @internal counter drop".into(),
            format!("ct state established,related {pass}"),
            "oifname vmap @to".into(),
            "iifname vmap @from".into(),
        ],
    );
}

/// What is open at the members' own addresses: nothing where ports are translated, published ports where they are not.
fn open(
    table: &mut TableBody,
    (n, bridge): (usize, &Bridge<'_>),
    networks: &BTreeMap<NetworkId, HostNetwork>,
    sandboxes: &BTreeMap<TaskId, Sandbox>,
    words: &Words,
) -> Option<String> {
    let Words { v4, ip, addr_type, suffix } = *words;
    match bridge.options.mode(v4) {
        GatewayMode::Nat => None,
        GatewayMode::NatUnprotected => Some(format!("meta nfproto ipv{suffix} {}", passage::ACCEPT)),
        GatewayMode::Routed => {
            let ports = target(networks, sandboxes, bridge, v4);
            let ports = ports.iter().map(|(p, addr)| format!("{addr} . {} . {}", p.protocol, p.target));
            let set = format!("open{suffix}_{n}");
            table.set(&set, &format!("type {addr_type} . inet_proto . inet_service;"), ports);
            Some(format!("{ip} daddr . meta l4proto . th dport @{set} {}", passage::ACCEPT))
        }
    }
}

#[cfg(test)]
mod tests;
