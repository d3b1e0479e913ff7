//! The ingress namespace: published ports to backends on any host, the client's address kept.

use super::{
    super::names,
    Balancer, LocalHost, addresses,
    vip::{self, Backend},
};
use crate::dataplane::{
    flows,
    ipvs::Scheduler,
    state::{Family, KernelState, Link, LinkKind, PortFlags, Route, Space, SpaceState, Table, TableBody},
};
use heddle_model::{
    assignment::{NetworkView, NodeView, ServiceView},
    endpoint::{PortConfig, PublishMode},
    net::Port,
    node::IngressLeg,
};
use ipnet::IpNet;

/// On top of what `overlay` made of the network: the host's leg in it, the link to the host, the balancer.
pub fn add(state: &mut KernelState, network: &NetworkView, view: &NodeView, local: &LocalHost) {
    let Some(leg) = view.peers.get(&local.node).and_then(|p| p.ingress.as_ref()) else { return };
    let (inner, outer) = (names::ingress_leg(), names::ingress_leg_outer());
    let end =
        |kind| Link { kind, mac: None, mtu: local.gateway_mtu, up: true, master: None, port: PortFlags::default() };
    let link_nets = addresses::link_subnet(&local.gateway).nets();
    let host = state.spaces.entry(Space::Host).or_default();
    host.links.insert(outer.clone(), end(LinkKind::Veth { peer: (names::ingress_space(), inner.clone()) }));
    for (addr, net) in addresses::entry_addr(&local.gateway).addrs().into_iter().zip(link_nets) {
        host.addresses.insert((outer.clone(), addresses::with_prefix(addr, net)));
    }
    host.sysctls.insert(format!("net.ipv4.conf.{outer}.route_localnet"), "1".into());
    let space = state.spaces.entry(names::ingress_space()).or_default();
    space.links.insert(inner.clone(), end(LinkKind::Veth { peer: (Space::Host, outer) }));
    for (addr, net) in addresses::ingress_addr(&local.gateway).addrs().into_iter().zip(link_nets) {
        space.addresses.insert((inner.clone(), addresses::with_prefix(addr, net)));
    }
    for via in addresses::entry_addr(&local.gateway).addrs() {
        let dst = if via.is_ipv4() { IpNet::V4(Default::default()) } else { IpNet::V6(Default::default()) };
        space.routes.insert(Route { dst, via: Some(via), dev: inner.clone(), table: 254, src: None });
    }
    for (addr, net) in leg.addr.addrs().into_iter().zip(network.service_subnet.nets()) {
        space.addresses.insert((names::bridge(), addresses::with_prefix(addr, net)));
    }
    for (dst, src) in network.subnet.nets().into_iter().zip(leg.addr.addrs()) {
        let route = Route { dst, via: None, dev: names::bridge(), table: 254, src: Some(src) };
        space.routes.insert(route);
    }
    for endpoint in view.endpoints.values().filter(|e| e.network == network.id) {
        for addr in endpoint.addr.addrs() {
            space.neighbours.insert((names::bridge(), addr), endpoint.mac);
        }
    }
    space.sysctls.insert("net.ipv4.ip_forward".into(), "1".into());
    space.sysctls.insert("net.ipv6.conf.all.forwarding".into(), "1".into());
    space.sysctls.insert("net.ipv4.conf.all.rp_filter".into(), "0".into());
    link_sysctls(space);
    let table = Table::new(balancer(space, network, view, local, leg));
    space.tables.insert(names::table(Family::Inet), table);
}

fn link_sysctls(space: &mut SpaceState) {
    for name in [names::bridge(), names::ingress_leg()] {
        space.sysctls.insert(format!("net.ipv4.conf.{name}.rp_filter"), "0".into());
        space.sysctls.insert(format!("net.ipv6.conf.{name}.accept_ra"), "0".into());
    }
}

/// Services with their ports that the mesh publishes.
pub fn published(view: &NodeView) -> impl Iterator<Item = (&ServiceView, &PortConfig)> {
    let ports = view.services.values().flat_map(|s| s.ports.iter().map(move |p| (s, p)));
    ports.filter(|(_, p)| p.mode == PublishMode::Ingress && p.published.is_some())
}

/// A published port with those who answer on it.
struct Published<'a> {
    config: &'a PortConfig,
    port: Port,
    backends: Vec<Backend>,
}

impl Published<'_> {
    /// Otherwise the packet is for this namespace itself, where nobody listens, and is refused.
    fn is_live(&self) -> bool {
        self.backends.iter().any(|b| b.live)
    }

    fn name(&self) -> String {
        format!("{} . {}", self.config.protocol, self.port)
    }
}

fn ports<'a>(network: &NetworkView, view: &'a NodeView) -> Vec<Published<'a>> {
    let with = |(service, config): (&ServiceView, &'a PortConfig)| {
        Some(Published { config, port: config.published?, backends: vip::backends(view, &network.id, &service.id) })
    };
    published(view).filter_map(with).collect()
}

/// Hashed alike on every host: a flow keeps its backend when it enters elsewhere or conntrack is lost.
fn translate(table: &mut TableBody, ports: &[&Published<'_>], seed: u32) -> [String; 2] {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for published in ports.iter().filter(|p| p.is_live()) {
        let Published { config, port, .. } = published;
        let backends = vip::live(&published.backends);
        let (protocol, target, count) = (config.protocol, config.target, backends.len());
        let name = format!("{protocol}_{port}");
        let to4 = vip::choices(backends.iter().map(|b| format!("{} . {target}", b.v4)));
        let to6 = vip::choices(backends.iter().map(|b| format!("{} . {target}", b.v6)));
        let rule = |family: &str, to: &str| {
            let hash = format!("jhash {family} saddr . {protocol} sport mod {count} seed {seed:#x}");
            format!("meta l4proto {protocol} dnat {family} addr . port to {hash} map {{ {to} }}")
        };
        table.chain(&format!("v4_{name}"), None, vec![rule("ip", &to4)]);
        table.chain(&format!("v6_{name}"), None, vec![rule("ip6", &to6)]);
        v4.push((published.name(), format!("goto v4_{name}")));
        v6.push((published.name(), format!("goto v6_{name}")));
    }
    table.map("ports4", "type inet_proto . inet_service : verdict;", v4);
    table.map("ports6", "type inet_proto . inet_service : verdict;", v6);
    ["meta l4proto . th dport vmap @ports4".into(), "meta l4proto . th dport vmap @ports6".into()]
}

/// The same for IPVS, whose `mh` hashes with keys that every kernel has.
fn mark(space: &mut SpaceState, table: &mut TableBody, ports: &[&Published<'_>]) -> [String; 2] {
    let mut marks = Vec::new();
    for published in ports {
        let Published { config, port, backends } = published;
        let mark = names::IPVS_MARK | u32::from(config.protocol.number()) << 16 | u32::from(port.get());
        vip::add_ipvs(space, mark, Scheduler::Mh { ports: true }, backends, Some(config.target));
        if published.is_live() {
            marks.push((published.name(), format!("{mark:#x}")));
        }
    }
    table.map("marks", "type inet_proto . inet_service : mark;", marks);
    let rule = String::from("meta mark set meta l4proto . th dport map @marks");
    [rule.clone(), rule]
}

fn balancer(
    space: &mut SpaceState,
    network: &NetworkView,
    view: &NodeView,
    local: &LocalHost,
    leg: &IngressLeg,
) -> TableBody {
    let mut table = TableBody::default();
    let ports = ports(network, view);
    vip::ipvs_sysctls(space, local.balancer);
    let (inner, bridge) = (names::ingress_leg(), names::bridge());
    let entry = addresses::ingress_addr(&local.gateway);
    let entering = |[to4, to6]: [String; 2]| {
        let v4 = format!("iifname \"{inner}\" ip daddr {} {to4}", entry.v4);
        [v4, format!("iifname \"{inner}\" ip6 daddr {} {to6}", entry.v6)]
    };
    let (marked, translated) = ports.iter().partition::<Vec<_>, _>(|p| local.balancer.marks(p.config.protocol));
    let rules = entering(translate(&mut table, &translated, view.cluster.ingress_seed)).to_vec();
    table.chain("enter", Some("type nat hook prerouting priority dstnat; policy accept;"), rules);
    let mut after = None;
    if local.balancer == Balancer::Ipvs {
        let rules = [vip::TRANSLATED.to_owned()].into_iter().chain(entering(mark(space, &mut table, &marked)));
        table.chain("choose", Some("type filter hook prerouting priority mangle; policy accept;"), rules.collect());
        // The tunnel's own route would be looked up by that mark.
        after = Some(format!("oifname \"{bridge}\" meta mark set 0x0"));
    }
    space.tables.insert(names::flows_table(), Table::new(flows::table("prerouting")));
    // Clients behind the gateway (the host's own 127.0.0.1, its workloads) have addresses that mean nothing elsewhere.
    table.chain(
        "leave",
        Some("type nat hook postrouting priority srcnat; policy accept;"),
        vec![
            format!("oifname \"{bridge}\" ip saddr {} snat ip to {}", local.gateway.v4, leg.addr.v4),
            format!("oifname \"{bridge}\" ip6 saddr {} snat ip6 to {}", local.gateway.v6, leg.addr.v6),
        ],
    );
    table.chain(
        "forward",
        Some("type filter hook forward priority filter; policy drop;"),
        vec![
            format!("oifname \"{bridge}\" ct status dnat accept"),
            format!("iifname \"{bridge}\" ct state established,related accept"),
            "ct state established,related accept".into(),
        ],
    );
    table.chain(
        "input",
        Some("type filter hook input priority filter; policy accept;"),
        vec![
            format!("iifname != \"{bridge}\" accept"),
            "ct state established,related accept".into(),
            "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept".into(),
            "drop".into(),
        ],
    );
    let clamp = |direction: &str| {
        let syn = format!("{direction} \"{bridge}\" meta nfproto");
        [("ipv4", 40), ("ipv6", 60)].map(|(family, headers)| {
            let mss = network.mtu.0.saturating_sub(headers);
            format!("{syn} {family} tcp flags & (syn | rst) == syn tcp option maxseg size set {mss}")
        })
    };
    // The backend's route is looked up by way of its other leg, so its own MSS would be too large for the overlay.
    table.chain(
        "clamp_out",
        Some("type filter hook postrouting priority mangle; policy accept;"),
        after.into_iter().chain(clamp("oifname")).collect(),
    );
    table.chain(
        "clamp_in",
        Some("type filter hook prerouting priority mangle; policy accept;"),
        clamp("iifname").to_vec(),
    );
    table
}
