//! The balancer of virtual addresses, in the client's own namespace.

use super::{super::names, Balancer, Sandbox};
use crate::dataplane::state::{IpvsDestination, IpvsKey, IpvsService, SpaceState, TableBody};
use heddle_model::{NetworkId, ServiceId, assignment::NodeView, endpoint::EndpointMode, net::DualAddr};
use std::net::IpAddr;

/// Where new connections to a service may go, in the order of task ids: alike on every host.
pub fn backends(view: &NodeView, network: &NetworkId, service: &ServiceId) -> Vec<DualAddr> {
    let of = view.endpoints.range((network.clone(), heddle_model::TaskId::from_random([0; 16]))..);
    let of = of.take_while(|((n, _), _)| n == network).map(|(_, e)| e);
    of.filter(|e| e.service.as_ref() == Some(service) && e.in_service).map(|e| e.addr).collect()
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
    backends: Vec<DualAddr>,
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
    let (empty, live): (Vec<_>, Vec<_>) = vips(sandbox, view).into_iter().partition(|v| v.backends.is_empty());
    // A service without a running task refuses at once, as a host without a listener does.
    table.set("none4", "type ipv4_addr;", empty.iter().map(|v| v.addr.v4.to_string()));
    table.set("none6", "type ipv6_addr;", empty.iter().map(|v| v.addr.v6.to_string()));
    let refuse = |family: &str, set: &str| {
        let to = format!("{family} daddr @{set}");
        [format!("{to} meta l4proto tcp reject with tcp reset"), format!("{to} reject")]
    };
    let rules = [refuse("ip", "none4"), refuse("ip6", "none6")].concat();
    table.chain("refuse", Some("type filter hook output priority filter; policy accept;"), rules);
    match by {
        Balancer::Nftables => translate(table, &live),
        Balancer::Ipvs => mark(space, table, &live),
    }
}

fn translate(table: &mut TableBody, vips: &[Vip]) -> Vec<String> {
    for vip in vips {
        let count = vip.backends.len();
        let rule = |family: &str, to: String| format!("dnat {family} to numgen random mod {count} map {{ {to} }}");
        let to4 = choices(vip.backends.iter().map(|b| b.v4.to_string()));
        let to6 = choices(vip.backends.iter().map(|b| b.v6.to_string()));
        table.chain(&format!("v4_{}", vip.name), None, vec![rule("ip", to4)]);
        table.chain(&format!("v6_{}", vip.name), None, vec![rule("ip6", to6)]);
    }
    let goto = |family: &str, v: &Vip| format!("goto {family}_{}", v.name);
    table.map("vips4", "type ipv4_addr : verdict;", vips.iter().map(|v| (v.addr.v4.to_string(), goto("v4", v))));
    table.map("vips6", "type ipv6_addr : verdict;", vips.iter().map(|v| (v.addr.v6.to_string(), goto("v6", v))));
    vec!["ip daddr vmap @vips4".into(), "ip6 daddr vmap @vips6".into()]
}

fn mark(space: &mut SpaceState, table: &mut TableBody, vips: &[Vip]) -> Vec<String> {
    for vip in vips {
        let pairs = vip.backends.iter().flat_map(|b| b.addrs()).collect::<Vec<_>>();
        add_ipvs(space, vip.mark, "rr", pairs.into_iter().map(|addr| (addr, 0)));
    }
    let hex = |v: &Vip| format!("{:#x}", v.mark);
    table.map("marks4", "type ipv4_addr : mark;", vips.iter().map(|v| (v.addr.v4.to_string(), hex(v))));
    table.map("marks6", "type ipv6_addr : mark;", vips.iter().map(|v| (v.addr.v6.to_string(), hex(v))));
    let rules = vec!["meta mark set ip daddr map @marks4".into(), "meta mark set ip6 daddr map @marks6".into()];
    table.chain("mark", Some("type route hook output priority mangle; policy accept;"), rules);
    Vec::new()
}

/// A virtual service of each family that is selected by a mark. Port 0 keeps the one that was asked for.
pub fn add_ipvs(space: &mut SpaceState, mark: u32, scheduler: &str, to: impl Iterator<Item = (IpAddr, u16)>) {
    let to: Vec<_> = to.collect();
    for v6 in [false, true] {
        let of_family = to.iter().filter(|(addr, _)| addr.is_ipv6() == v6);
        let destinations = of_family.map(|at| (*at, IpvsDestination { weight: 1 })).collect();
        let service = IpvsService { scheduler: scheduler.into(), destinations };
        space.ipvs.insert(IpvsKey::Mark { v6, mark }, service);
    }
    // Without it the namespace's own filters do not know the flows.
    space.sysctls.insert("net.ipv4.vs.conntrack".into(), "1".into());
}
