//! The balancer of virtual addresses, in the client's own namespace.

use super::Sandbox;
use crate::dataplane::state::TableBody;
use heddle_model::{NetworkId, ServiceId, assignment::NodeView, endpoint::EndpointMode, net::DualAddr};

/// Where new connections to a service may go, in the order of task ids: alike on every host.
pub fn backends(view: &NodeView, network: &NetworkId, service: &ServiceId) -> Vec<DualAddr> {
    let of = view.endpoints.range((network.clone(), heddle_model::TaskId::from_random([0; 16]))..);
    let of = of.take_while(|((n, _), _)| n == network).map(|(_, e)| e);
    of.filter(|e| e.service == *service && e.in_service).map(|e| e.addr).collect()
}

/// `0 : a, 1 : b, ...`
pub fn choices(values: impl Iterator<Item = String>) -> String {
    values.enumerate().map(|(i, v)| format!("{i} : {v}")).collect::<Vec<_>>().join(", ")
}

/// Fills the table, and gives the rules of its chain for the output hook.
pub fn add(table: &mut TableBody, sandbox: &Sandbox, view: &NodeView) -> Vec<String> {
    let (mut v4, mut v6, mut none4, mut none6) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for service in view.services.values().filter(|s| s.mode == EndpointMode::Vip) {
        for vip in &service.virtual_ips {
            if !sandbox.task.attachments.iter().any(|a| a.network == vip.network) {
                continue;
            }
            let backends = backends(view, &vip.network, &service.id);
            if backends.is_empty() {
                none4.push(vip.addr.v4.to_string());
                none6.push(vip.addr.v6.to_string());
                continue;
            }
            let name = format!("{}_{}", &service.id.as_str()[..10], &vip.network.as_str()[..10]);
            let count = backends.len();
            let to4 = choices(backends.iter().map(|b| b.v4.to_string()));
            let to6 = choices(backends.iter().map(|b| b.v6.to_string()));
            table.chain(
                &format!("v4_{name}"),
                None,
                vec![format!("dnat ip to numgen random mod {count} map {{ {to4} }}")],
            );
            table.chain(
                &format!("v6_{name}"),
                None,
                vec![format!("dnat ip6 to numgen random mod {count} map {{ {to6} }}")],
            );
            v4.push((vip.addr.v4.to_string(), format!("goto v4_{name}")));
            v6.push((vip.addr.v6.to_string(), format!("goto v6_{name}")));
        }
    }
    table.map("vips4", "type ipv4_addr : verdict;", v4);
    table.map("vips6", "type ipv6_addr : verdict;", v6);
    // A service without a running task refuses at once, as a host without a listener does.
    table.set("none4", "type ipv4_addr;", none4);
    table.set("none6", "type ipv6_addr;", none6);
    let refuse = |family: &str, set: &str| {
        [
            format!("{family} daddr @{set} meta l4proto tcp reject with tcp reset"),
            format!("{family} daddr @{set} reject"),
        ]
    };
    table.chain(
        "refuse",
        Some("type filter hook output priority filter; policy accept;"),
        [refuse("ip", "none4"), refuse("ip6", "none6")].concat(),
    );
    vec!["ip daddr vmap @vips4".into(), "ip6 daddr vmap @vips6".into()]
}
