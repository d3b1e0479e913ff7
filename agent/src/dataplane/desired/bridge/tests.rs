//! The table of small hosts, as nft would print it.

use super::*;
use crate::dataplane::{
    desired::{Wanted, desired},
    nft,
    tests::{bridge_network, member},
};
use expect_test::expect;

fn host(networks: &[HostNetwork], sandboxes: &[Sandbox]) -> SpaceState {
    let networks: BTreeMap<_, _> = networks.iter().map(|n| (n.id.clone(), n.clone())).collect();
    let sandboxes: BTreeMap<_, _> = sandboxes.iter().map(|s| (s.id.clone(), s.clone())).collect();
    let wanted = Wanted { member: None, networks: &networks, parents: &BTreeMap::new(), sandboxes: &sandboxes };
    desired(&wanted).spaces.remove(&Space::Host).unwrap()
}

/// Without the preamble that names the digest.
fn text(host: &SpaceState) -> String {
    let (id, table) = host.tables.iter().find(|(id, _)| **id == names::bridge_table()).unwrap();
    let script = nft::script(id, table);
    script.lines().skip(4).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_network_with_ports_beside_an_internal_one() {
    let networks = [bridge_network(1, &[], false), bridge_network(2, &[], true)];
    let host = host(&networks, &[member(1, &[1]), member(2, &[1]), member(3, &[2])]);
    expect![[r#"
          chain from_0 {
            goto pass
          }
          chain from_1 {
            oifname != "hdb-791bkh1to1" counter drop
          }
          chain pass {
            meta iifkind "bridge" iifname != @trusted accept
            meta oifkind "bridge" oifname != @trusted accept
            meta mark set meta mark or 0x20000000 accept
          }
          chain publish {
            meta nfproto ipv4 meta l4proto { tcp, udp } dnat ip addr . port to ip daddr . meta l4proto . th dport map @at4
            meta nfproto ipv4 meta l4proto { tcp, udp } dnat ip addr . port to meta l4proto . th dport map @anywhere4
            meta nfproto ipv6 meta l4proto { tcp, udp } dnat ip6 addr . port to ip6 daddr . meta l4proto . th dport map @at6
            meta nfproto ipv6 meta l4proto { tcp, udp } dnat ip6 addr . port to meta l4proto . th dport map @anywhere6
          }
          chain to_0 {
            iifname "hdb-76wal6vm1q" goto pass
            ct status dnat goto pass
            counter drop
          }
          chain to_1 {
            iifname "hdb-791bkh1to1" goto pass
            counter drop
          }
          map anywhere4 {
            type inet_proto . inet_service : ipv4_addr . inet_service;
            elements = { tcp . 9001 : 10.221.0.3 . 80 }
          }
          map anywhere6 {
            type inet_proto . inet_service : ipv6_addr . inet_service;
            elements = { tcp . 9001 : fd00:dd::3 . 80 }
          }
          map at4 {
            type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;
            elements = { 127.0.0.1 . tcp . 9002 : 10.221.0.4 . 80 }
          }
          map at6 {
            type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service;
          }
          set bridges {
            type ifname;
            elements = { "hdb-76wal6vm1q", "hdb-791bkh1to1" }
          }
          map from {
            type ifname : verdict;
            elements = { "hdb-76wal6vm1q" : goto from_0, "hdb-791bkh1to1" : goto from_1 }
          }
          set internal {
            type ifname;
            elements = { "hdb-791bkh1to1" }
          }
          map to {
            type ifname : verdict;
            elements = { "hdb-76wal6vm1q" : goto to_0, "hdb-791bkh1to1" : goto to_1 }
          }
          set trusted {
            type ifname;
          }
          chain forward {
            type filter hook forward priority filter - 5; policy accept;
            iifname != @bridges oifname != @bridges return
            iifname @internal oifname != @internal counter drop
            ct state established,related goto pass
            oifname vmap @to
            iifname vmap @from
          }
          chain guard {
            type filter hook prerouting priority -300; policy accept;
            iifname @bridges ip daddr 127.0.0.0/8 counter drop
            iifname @bridges ip saddr 127.0.0.0/8 counter drop
          }
          chain input {
            type filter hook input priority filter; policy accept;
            iifname != @internal return
            ct state established,related accept
            icmp type echo-request accept
            icmpv6 type { echo-request, nd-neighbor-solicit, nd-neighbor-advert } accept
            counter drop
          }
          chain output {
            type nat hook output priority -100; policy accept;
            ip6 daddr ::1 return
            fib daddr type local jump publish
          }
          chain postrouting {
            type nat hook postrouting priority srcnat; policy accept;
            oifname @bridges ct status dnat ip saddr 127.0.0.0/8 masquerade
            ip saddr 10.221.0.0/24 oifname "hdb-76wal6vm1q" ct status dnat masquerade
            ip saddr 10.221.0.0/24 oifname != @bridges masquerade
            ip6 saddr fd00:dd::/64 oifname "hdb-76wal6vm1q" ct status dnat masquerade
            ip6 saddr fd00:dd::/64 oifname != @bridges masquerade
            ip saddr 10.222.0.0/24 oifname "hdb-791bkh1to1" ct status dnat masquerade
            ip6 saddr fd00:de::/64 oifname "hdb-791bkh1to1" ct status dnat masquerade
          }
          chain prerouting {
            type nat hook prerouting priority dstnat; policy accept;
            ip daddr 127.0.0.0/8 return
            fib daddr type local jump publish
          }
        }"#]].assert_eq(&text(&host));
}

#[test]
fn a_routed_network_without_talk_among_members() {
    let options = [
        ("com.docker.network.bridge.enable_icc", "false"),
        ("com.docker.network.bridge.gateway_mode_ipv4", "nat-unprotected"),
        ("com.docker.network.bridge.gateway_mode_ipv6", "routed"),
    ];
    let host = host(&[bridge_network(1, &options, false)], &[member(1, &[1])]);
    let forward: Vec<_> = text(&host)
        .lines()
        .filter(|l| l.contains("dport") || l.contains("iifname"))
        .map(str::trim)
        .map(str::to_owned)
        .collect();
    expect![[r#"
        meta iifkind "bridge" iifname != @trusted accept
        meta nfproto ipv4 meta l4proto { tcp, udp } dnat ip addr . port to ip daddr . meta l4proto . th dport map @at4
        meta nfproto ipv4 meta l4proto { tcp, udp } dnat ip addr . port to meta l4proto . th dport map @anywhere4
        meta nfproto ipv6 meta l4proto { tcp, udp } dnat ip6 addr . port to ip6 daddr . meta l4proto . th dport map @at6
        meta nfproto ipv6 meta l4proto { tcp, udp } dnat ip6 addr . port to meta l4proto . th dport map @anywhere6
        iifname "hdb-76wal6vm1q" counter drop
        ip6 daddr . meta l4proto . th dport @open6_0 goto pass
        iifname != @bridges oifname != @bridges return
        iifname @internal oifname != @internal counter drop
        iifname vmap @from
        iifname @bridges ip daddr 127.0.0.0/8 counter drop
        iifname @bridges ip saddr 127.0.0.0/8 counter drop
        iifname != @internal return"#]]
    .assert_eq(&forward.join("\n"));
    let ports = host.links.values().filter(|l| l.master.is_some());
    assert!(ports.clone().count() == 1 && ports.clone().all(|l| l.port.isolated && !l.port.hairpin));
}

#[test]
fn workloads_are_nobodys_routers() {
    let network = bridge_network(1, &[("com.docker.network.bridge.name", "br.x")], false);
    let host = host(&[network], &[]);
    assert_eq!(host.sysctls.get("net.ipv6.conf.br/x.accept_ra").map(String::as_str), Some("0"));
}
