//! The balancer of virtual addresses, in the client's own namespace.

use super::{super::names, Balancer, Sandbox};
use crate::dataplane::{
    flows,
    ipvs::{IpvsDestination, IpvsKey, IpvsService, IpvsTimeouts, Scheduler},
    state::{PolicyRule, Route, SpaceState, Table, TableBody},
};
use heddle_model::{
    NetworkId, ServiceId,
    assignment::NodeView,
    endpoint::EndpointMode,
    net::{DualAddr, Port},
};
use ipnet::IpNet;
use std::net::IpAddr;

/// A task that answers for a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    pub addr: DualAddr,
    /// New connections may go there. Otherwise it has not begun yet, or ends: what is established goes on.
    pub live: bool,
}

/// Who answers for a service, in the order of task ids: alike on every host.
pub fn backends(view: &NodeView, network: &NetworkId, service: &ServiceId) -> Vec<Backend> {
    let of = view.endpoints.range((network.clone(), heddle_model::TaskId::from_random([0; 16]))..);
    let of = of.take_while(|((n, _), _)| n == network).map(|(_, e)| e);
    of.filter(|e| e.service.as_ref() == Some(service)).map(|e| Backend { addr: e.addr, live: e.in_service }).collect()
}

/// Where new connections go.
pub fn live(backends: &[Backend]) -> Vec<DualAddr> {
    backends.iter().filter(|b| b.live).map(|b| b.addr).collect()
}

/// `0 : a, 1 : b, ...`
pub fn choices(values: impl Iterator<Item = String>) -> String {
    values.enumerate().map(|(i, v)| format!("{i} : {v}")).collect::<Vec<_>>().join(", ")
}

/// A virtual address that a workload may use.
struct Vip {
    /// Part of the names of its chains.
    name: String,
    /// Firewall mark for IPVS: the workload's leg and the number of the address in its subnet, so no two are alike.
    mark: u32,
    addr: DualAddr,
    backends: Vec<Backend>,
}

impl Vip {
    fn is_live(&self) -> bool {
        self.backends.iter().any(|b| b.live)
    }
}

fn vips(sandbox: &Sandbox, view: &NodeView) -> Vec<Vip> {
    let mut out = Vec::new();
    for service in view.services.values().filter(|s| s.mode == EndpointMode::Vip) {
        for vip in &service.virtual_ips {
            let leg = sandbox.legs.iter().position(|l| l.network == vip.network);
            let Some((leg, network)) = leg.zip(view.networks.get(&vip.network)) else { continue };
            let number = vip.addr.v4.to_bits().wrapping_sub(network.service_subnet.v4.network().to_bits());
            out.push(Vip {
                name: format!("{}_{}", &service.id.as_str()[..10], &vip.network.as_str()[..10]),
                mark: names::IPVS_MARK | (leg as u32) << 22 | (number & 0x3f_ffff),
                addr: vip.addr,
                backends: backends(view, &vip.network, &service.id),
            });
        }
    }
    out
}

/// Gives the rules of the chain for the NAT output hook, and fills the table, or the table and IPVS, with what they need.
pub fn add(
    space: &mut SpaceState,
    table: &mut TableBody,
    sandbox: &Sandbox,
    view: &NodeView,
    by: Balancer,
) -> Vec<String> {
    let vips = vips(sandbox, view);
    let (live, empty): (Vec<_>, Vec<_>) = vips.iter().partition(|v| v.is_live());
    // A service without a running task refuses at once, as a host without a listener does.
    table.set("none4", "type ipv4_addr;", empty.iter().map(|v| v.addr.v4.to_string()));
    table.set("none6", "type ipv6_addr;", empty.iter().map(|v| v.addr.v6.to_string()));
    let refuse = |family: &str, set: &str| {
        let to = format!("{family} daddr @{set}");
        [format!("{to} meta l4proto tcp reject with tcp reset"), format!("{to} reject")]
    };
    let rules = [refuse("ip", "none4"), refuse("ip6", "none6")].concat();
    table.chain("refuse", Some("type filter hook output priority filter; policy accept;"), rules);
    ipvs_sysctls(space, by);
    if !vips.is_empty() {
        space.tables.insert(names::flows_table(), Table::new(flows::table("output")));
    }
    // The socket would be looked up while the answer's source is still the backend's: of two connections from one port, to
    // a backend itself and by way of the virtual address, each would get the other's packets.
    space.sysctls.insert("net.ipv4.ip_early_demux".into(), "0".into());
    match by {
        Balancer::Nftables => translate(table, &live).to_vec(),
        Balancer::Ipvs => {
            for vip in &vips {
                add_ipvs(space, vip.mark, Scheduler::Rr, &vip.backends, None);
            }
            mark(table, &live);
            to_itself(space);
            translate(table, &live).map(|rule| format!("meta l4proto != tcp {rule}")).to_vec()
        }
    }
}

fn translate(table: &mut TableBody, vips: &[&Vip]) -> [String; 2] {
    for vip in vips {
        let backends = live(&vip.backends);
        let count = backends.len();
        let rule = |family: &str, to: String| format!("dnat {family} to numgen random mod {count} map {{ {to} }}");
        let to4 = choices(backends.iter().map(|b| b.v4.to_string()));
        let to6 = choices(backends.iter().map(|b| b.v6.to_string()));
        table.chain(&format!("v4_{}", vip.name), None, vec![rule("ip", to4)]);
        table.chain(&format!("v6_{}", vip.name), None, vec![rule("ip6", to6)]);
    }
    let goto = |family: &str, v: &Vip| format!("goto {family}_{}", v.name);
    table.map("vips4", "type ipv4_addr : verdict;", vips.iter().map(|v| (v.addr.v4.to_string(), goto("v4", v))));
    table.map("vips6", "type ipv6_addr : verdict;", vips.iter().map(|v| (v.addr.v6.to_string(), goto("v6", v))));
    ["ip daddr vmap @vips4".into(), "ip6 daddr vmap @vips6".into()]
}

/// IPVS keeps the route that a packet has when it leads back to the workload itself, which must then be a local one. For
/// the other destinations it looks up its own.
fn to_itself(space: &mut SpaceState) {
    let (mark, table) = (names::IPVS_MARK, names::IPVS_TABLE);
    for (v6, dst) in [(false, IpNet::V4(Default::default())), (true, IpNet::V6(Default::default()))] {
        space.routes.insert(Route { dst, via: None, dev: names::loopback(), table, src: None });
        space.rules.insert(PolicyRule { v6, pref: names::IPVS_PREF, mark, mask: mark, out: None, table });
    }
}

/// What nftables has translated before goes on as it is: IPVS knows nothing of it.
pub const TRANSLATED: &str = "ct status dnat accept";

fn mark(table: &mut TableBody, vips: &[&Vip]) {
    let hex = |v: &Vip| format!("{:#x}", v.mark);
    table.map("marks4", "type ipv4_addr : mark;", vips.iter().map(|v| (v.addr.v4.to_string(), hex(v))));
    table.map("marks6", "type ipv6_addr : mark;", vips.iter().map(|v| (v.addr.v6.to_string(), hex(v))));
    // IPVS sends what it has translated through the hook again. NAT would look up its route by the mark that it no longer
    // needs, and find the workload itself.
    let done = format!("meta mark & {0:#x} == {0:#x} meta mark set 0x0 accept", names::IPVS_MARK);
    let choose = [("ip", 4), ("ip6", 6)]
        .map(|(family, n)| format!("meta l4proto tcp meta mark set {family} daddr map @marks{n}"));
    let rules = [done, TRANSLATED.to_owned()].into_iter().chain(choose).collect();
    table.chain("choose", Some("type route hook output priority mangle; policy accept;"), rules);
}

/// A virtual service of each family that is selected by a mark. Without a port, the one that was asked for is kept. Who ends
/// stays in it, with weight 0: a destination that is taken away takes its connections with it.
pub fn add_ipvs(space: &mut SpaceState, mark: u32, scheduler: Scheduler, to: &[Backend], port: Option<Port>) {
    if to.is_empty() {
        return;
    }
    let port = port.map_or(0, Port::get);
    for v6 in [false, true] {
        let at = |b: &Backend| (if v6 { IpAddr::V6(b.addr.v6) } else { IpAddr::V4(b.addr.v4) }, port);
        let destinations = to.iter().map(|b| (at(b), IpvsDestination::Weight(u32::from(b.live)))).collect();
        space.ipvs.insert(IpvsKey::Mark { v6, mark }, IpvsService { scheduler, destinations });
    }
    space.ipvs_timeouts = Some(IpvsTimeouts::CONNTRACK);
}

/// How IPVS behaves in a namespace whose clients it serves; the kernel's own way where it serves none.
pub fn ipvs_sysctls(space: &mut SpaceState, by: Balancer) {
    let value = if by == Balancer::Ipvs { "1" } else { "0" };
    let keys = [
        // The namespace's filters know the answers.
        "conntrack",
        // A flow to somebody who has gone is forgotten with its next packet, and what comes then is a new one,
        "expire_nodest_conn",
        // even if it is the middle of a connection: another backend resets it, instead of nobody answering. It also takes
        // over connections that entered by another host.
        "sloppy_tcp",
    ];
    for key in keys {
        space.sysctls.insert(format!("net.ipv4.vs.{key}"), value.into());
    }
}

#[cfg(test)]
mod tests {
    use crate::dataplane::{
        diff::diff,
        state::Space,
        step::Step,
        tests::{blank, wanted_by_ipvs},
    };
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn not_every_client_begins_with_the_same_backend() {
        let state = wanted_by_ipvs(&[(&[1][..], 0, true); 8]);
        let mut last = BTreeMap::new();
        for step in diff(&state, &blank()) {
            if let Step::SetIpvsDestination { space: Space::Named(name), key, at, .. } = step {
                last.insert((name, key), at);
            }
        }
        assert_eq!(last.len(), 16, "eight clients, two families");
        assert!(last.values().collect::<BTreeSet<_>>().len() > 4, "{last:?}");
    }
}
