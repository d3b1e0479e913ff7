use super::*;
use crate::dataplane::{
    desired::{ipvlan, macvlan, way::Way},
    mode::{IpvlanFlag, IpvlanMode, MacvlanMode},
};
use heddle_model::{
    NetworkId, Timestamp,
    net::Pool,
    network::{Driver, NetworkSpec},
};

const ID: [u8; 16] = [9; 16];

fn network(driver: Driver, options: &[(&str, &str)]) -> HostNetwork {
    let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    HostNetwork {
        id: NetworkId::from_random(ID),
        created_at: Timestamp(0),
        spec: NetworkSpec { driver, options, ..NetworkSpec::default() },
        pools: ["10.9.0.0/20", "fd09::/64"].map(|s| Pool::new(s.parse().unwrap())).to_vec(),
        owns_parent: false,
    }
}

fn name(s: &str) -> IfName {
    s.parse().unwrap()
}

fn sandboxes() -> BTreeMap<TaskId, Sandbox> {
    let leg = |n: u8, network: [u8; 16], dev: &str, addrs: &[&str]| Leg {
        network: NetworkId::from_random(network),
        dev: name(dev),
        addrs: addrs.iter().map(|a| a.parse().unwrap()).collect(),
        mac: Mac([2, 0, 0, 0, 0, n]),
        aliases: vec![],
        gateway_priority: 0,
    };
    let sandbox = |n: u8, legs| {
        let id = TaskId::from_random([n; 16]);
        (id.clone(), Sandbox { id, name: format!("w{n}"), legs, gateway: None, ports: vec![] })
    };
    BTreeMap::from([
        sandbox(1, vec![leg(1, [8; 16], "eth0", &["10.8.0.2"]), leg(2, ID, "eth1", &["10.9.3.2", "fd09::2"])]),
        sandbox(2, vec![leg(3, ID, "eth0", &["10.9.3.3"])]),
        sandbox(3, vec![]),
    ])
}

fn wanted(network: &HostNetwork, present: &[(&str, u16)]) -> KernelState {
    let present = present.iter().map(|(n, mtu)| (name(n), Mtu(*mtu))).collect();
    let mut state = KernelState::default();
    let add = if network.spec.driver == Driver::Macvlan { macvlan::add } else { ipvlan::add };
    add(&mut state, network, &sandboxes(), &present);
    state
}

/// Every link and address, a line each.
fn lines(state: &KernelState) -> Vec<String> {
    let mut out = Vec::new();
    for (space, objects) in &state.spaces {
        let space = match space {
            Space::Host => "host".to_owned(),
            space => (1..4)
                .find(|n| names::task_space(&TaskId::from_random([*n; 16])) == *space)
                .map_or_else(|| "?".to_owned(), |n| format!("w{n}")),
        };
        for (name, link) in &objects.links {
            let mac = link.mac.map_or_else(String::new, |m| format!(" {m}"));
            let kind = match &link.kind {
                LinkKind::Macvlan { parent, mode } => format!("macvlan {mode} on {parent}"),
                LinkKind::Ipvlan { parent, mode, flag } => format!("ipvlan {mode} {flag} on {parent}"),
                LinkKind::Vlan { parent, id } => format!("vlan {id} on {parent}"),
                other => format!("{other:?}"),
            };
            assert!(link.up && link.master.is_none());
            let dev = if *name == names::dead_end(&NetworkId::from_random(ID)) { "dead-end" } else { name.as_str() };
            out.push(format!("{space} {dev}: {kind} mtu {}{mac}", link.mtu).replace(name.as_str(), dev));
        }
        out.extend(objects.addresses.iter().map(|(dev, addr)| format!("{space} {dev} {addr}")));
        // Every leg has the same ones: `routers_of_the_parents_network_are_not_the_workloads`.
        let of_leg = |key: &str| key.contains(".eth") && (key.ends_with(".rp_filter") || key.ends_with(".accept_ra"));
        let sysctls = objects.sysctls.iter().filter(|(k, _)| space == "host" || !of_leg(k));
        out.extend(sysctls.map(|(k, v)| format!("{space} {k}={v}")));
        out.extend(objects.routes.iter().map(|r| format!("{space} route {} dev {} table {}", r.dst, r.dev, r.table)));
        for PolicyRule { v6, pref, mark, mask, out: link, table } in &objects.rules {
            assert_eq!((*v6, *mark, *mask), (true, 0, 0));
            let link = link.as_ref().map_or("any", IfName::as_str);
            out.push(format!("{space} rule {pref} oif {link} table {table}"));
        }
    }
    let network = NetworkId::from_random(ID);
    let (dead_end, table) = (names::dead_end(&network), format!("table {}", names::parent_table(&network)));
    out.iter().map(|l| l.replace(dead_end.as_str(), "dead-end").replace(&table, "table own")).collect()
}

#[test]
fn every_leg_is_a_link_on_the_parent_with_its_addresses() {
    let net = network(Driver::Macvlan, &[("parent", "eth7"), ("macvlan_mode", "vepa")]);
    let mut expected = vec![
        "w1 eth1: macvlan vepa on eth7 mtu 9000 02:00:00:00:00:02",
        "w1 eth1 10.9.3.2/20",
        "w1 eth1 fd09::2/64",
        "w2 eth0: macvlan vepa on eth7 mtu 9000 02:00:00:00:00:03",
        "w2 eth0 10.9.3.3/20",
    ];
    let mut found = lines(&wanted(&net, &[("eth7", 9000)]));
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn routers_of_the_parents_network_are_not_the_workloads() {
    let net = network(Driver::Macvlan, &[("parent", "eth7")]);
    let state = wanted(&net, &[("eth7", 1500)]);
    let legs = state.spaces.values().flat_map(|s| s.links.keys().map(move |name| (s, name)));
    let told = |s: &SpaceState, dev: &IfName| s.sysctls.get(&format!("net.ipv6.conf.{dev}.accept_ra")).cloned();
    let all: Vec<_> = legs.map(|(s, dev)| told(s, dev)).collect();
    assert_eq!(all, [Some("0".to_owned()), Some("0".to_owned())]);
}

#[test]
fn what_the_network_needs_of_the_host_is_made_or_must_be_there() {
    let owning = |driver, options: &[_]| HostNetwork { owns_parent: true, ..network(driver, options) };
    let bridge = "host dead-end: Bridge mtu 1500";
    let quiet = "host net.ipv6.conf.dead-end.disable_ipv6=1";
    let vlan_quiet = "host net.ipv6.conf.eth7/10.disable_ipv6=1";
    // What the host routes by it stays on it.
    let on = |link: &str| match link {
        "dead-end" => [
            "host net.ipv6.conf.dead-end.disable_ipv6=0",
            "host net.ipv6.conf.dead-end.accept_ra=0",
            "host route ::/0 dev dead-end table own",
            "host rule 100 oif dead-end table own",
        ],
        _ => [
            "host net.ipv6.conf.eth7/10.disable_ipv6=0",
            "host net.ipv6.conf.eth7/10.accept_ra=0",
            "host route ::/0 dev eth7.10 table own",
            "host rule 100 oif eth7.10 table own",
        ],
    };
    for (net, present, expected) in [
        (network(Driver::Macvlan, &[]), vec![], vec![bridge, quiet, "macvlan bridge on dead-end mtu 1500"]),
        (network(Driver::Ipvlan, &[]), vec![], vec![bridge, quiet, "ipvlan l2 bridge on dead-end mtu 1500"]),
        (
            network(Driver::Ipvlan, &[("ipvlan_mode", "l3"), ("ipvlan_flag", "private")]),
            vec![],
            [&on("dead-end")[..], &[bridge, "ipvlan l3 private on dead-end mtu 1500"]].concat(),
        ),
        (
            owning(Driver::Ipvlan, &[("parent", "eth7.10"), ("ipvlan_mode", "l3s")]),
            vec![("eth7", 1500)],
            [&on("eth7.10")[..], &["host eth7.10: vlan 10 on eth7 mtu 1500", "ipvlan l3s bridge on eth7.10 mtu 1500"]]
                .concat(),
        ),
        // The host's own routes by somebody else's link are what counts there.
        (
            network(Driver::Ipvlan, &[("parent", "eth7"), ("ipvlan_mode", "l3")]),
            vec![("eth7", 1500)],
            vec!["ipvlan l3 bridge on eth7 mtu 1500"],
        ),
        // Of somebody else's making: used when it is there, and never made.
        (network(Driver::Macvlan, &[("parent", "eth7.10")]), vec![("eth7", 1500)], vec![]),
        (
            network(Driver::Macvlan, &[("parent", "eth7.10")]),
            vec![("eth7.10", 1500)],
            vec!["macvlan bridge on eth7.10 mtu 1500"],
        ),
        (
            owning(Driver::Macvlan, &[("parent", "eth7.10"), ("com.docker.network.driver.mtu", "1400")]),
            vec![("eth7", 1500)],
            vec!["host eth7.10: vlan 10 on eth7 mtu 1500", vlan_quiet, "macvlan bridge on eth7.10 mtu 1400"],
        ),
        (owning(Driver::Ipvlan, &[("parent", "eth7.10")]), vec![("eth8", 1500)], vec![]),
        // A parent that carries less now than when the network was made.
        (
            network(Driver::Ipvlan, &[("parent", "eth7"), ("com.docker.network.driver.mtu", "1400")]),
            vec![("eth7", 1300)],
            vec!["ipvlan l2 bridge on eth7 mtu 1300"],
        ),
    ] {
        let state = wanted(&net, &present);
        let mut found = lines(&state);
        found.retain(|l| !l.starts_with("w1") && !l.contains(" 10.9."));
        let found: Vec<_> = found.iter().map(|l| l.trim_start_matches("w2 eth0: ")).collect();
        let found: Vec<_> = found.iter().map(|l| l.trim_end_matches(" 02:00:00:00:00:03")).collect();
        let mut expected = expected;
        expected.sort_unstable();
        let mut sorted = found.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, expected, "{:?}", net.spec.options);
    }
}

#[test]
fn only_a_macvlan_of_its_own_has_a_mac() {
    let mac = |net: &HostNetwork| {
        let state = wanted(net, &[("eth7", 1500)]);
        state.spaces[&names::task_space(&TaskId::from_random([2; 16]))].links[&name("eth0")].clone()
    };
    let mode = |m| mac(&network(Driver::Macvlan, &[("parent", "eth7"), ("macvlan_mode", m)]));
    assert_eq!(mode("private").mac, Some(Mac([2, 0, 0, 0, 0, 3])));
    let passthru = mode("passthru");
    assert_eq!(passthru.kind, LinkKind::Macvlan { parent: name("eth7"), mode: MacvlanMode::Passthru });
    assert_eq!(passthru.mac, None);
    let ipvlan = mac(&network(Driver::Ipvlan, &[("parent", "eth7"), ("ipvlan_flag", "vepa")]));
    let kind = LinkKind::Ipvlan { parent: name("eth7"), mode: IpvlanMode::L2, flag: IpvlanFlag::Vepa };
    assert_eq!((ipvlan.kind, ipvlan.mac), (kind, None));
}

#[test]
fn the_way_out_is_the_gateway_or_the_link() {
    let ip = |s: &str| -> std::net::IpAddr { s.parse().unwrap() };
    let gateways = vec![Way::by(ip("10.9.0.1")), Way::by(ip("fd09::1"))];
    let on_link = vec![Way::on_link(ip("10.0.0.0")), Way::on_link(ip("::"))];
    let parent = ("parent", "eth7");
    for (net, expected) in [
        (network(Driver::Macvlan, &[parent]), gateways.clone()),
        (network(Driver::Macvlan, &[]), vec![]),
        (network(Driver::Ipvlan, &[parent]), gateways),
        (network(Driver::Ipvlan, &[parent, ("ipvlan_mode", "l3")]), on_link.clone()),
        (network(Driver::Ipvlan, &[parent, ("ipvlan_mode", "l3s")]), on_link),
        (network(Driver::Ipvlan, &[("ipvlan_mode", "l3")]), vec![]),
    ] {
        let way = if net.spec.driver == Driver::Macvlan { macvlan::way_out } else { ipvlan::way_out };
        assert_eq!(way(&net), expected, "{:?}", net.spec.options);
        let mut internal = net;
        internal.spec.internal = true;
        assert_eq!(way(&internal), vec![]);
    }
}
