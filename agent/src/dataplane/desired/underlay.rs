//! Who may send VXLAN to this host: the peers, and nobody by way of our own bridges. It stands before any tunnel does.

use super::{super::names, LocalHost, bridge};
use crate::{
    dataplane::state::{KernelState, Space, Table, TableBody},
    local::network::HostNetwork,
};
use heddle_model::{NetworkId, assignment::NodeView};
use std::collections::BTreeMap;

pub fn add(state: &mut KernelState, view: &NodeView, networks: &BTreeMap<NetworkId, HostNetwork>, local: &LocalHost) {
    let mut table = TableBody::default();
    let peers = || view.peers.values().filter(|p| p.node != local.node).map(|p| p.data_path_addr);
    table.set("peers4", "type ipv4_addr;", peers().filter(|a| a.is_ipv4()).map(|a| a.to_string()));
    table.set("peers6", "type ipv6_addr;", peers().filter(|a| a.is_ipv6()).map(|a| a.to_string()));
    let port = view.cluster.data_path_port;
    let bridges = std::iter::once(names::gateway_bridge()).chain(networks.values().filter_map(bridge::link_name));
    table.set("workloads", "type ifname;", bridges.map(|b| format!("\"{b}\"")));
    table.chain(
        "vxlan",
        None,
        vec![
            // A workload could otherwise write into every overlay, in the guise of its host.
            "iifname @workloads counter drop".into(),
            "ip saddr != @peers4 counter drop".into(),
            "ip6 saddr != @peers6 counter drop".into(),
            "notrack".into(),
        ],
    );
    table.chain(
        "prerouting",
        Some("type filter hook prerouting priority -310; policy accept;"),
        vec![format!("udp dport {port} jump vxlan")],
    );
    table.chain(
        "output",
        Some("type filter hook output priority -310; policy accept;"),
        vec![format!("udp dport {port} notrack")],
    );
    table.chain(
        "forward",
        Some("type filter hook forward priority -10; policy accept;"),
        vec![format!("iifname @workloads udp dport {port} counter drop")],
    );
    let host = state.spaces.entry(Space::Host).or_default();
    host.tables.insert(names::underlay_table(), Table::new(table));
}
