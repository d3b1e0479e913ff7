//! What can be made beside what there is.

use super::*;
use heddle_model::{TaskId, net::Mac, workload::HostEndpoint};

fn state() -> HostState {
    HostState {
        revision: 0,
        ula: "fd12:3456:789a::/48".parse().unwrap(),
        networks: BTreeMap::new(),
        workloads: BTreeMap::new(),
        endpoints: BTreeMap::new(),
    }
}

fn around() -> Surroundings {
    let mut facts = HostFacts { has_macvlan: true, ..HostFacts::default() };
    let link = driver::facts::LinkFact {
        kind: driver::facts::FactKind::Other,
        mtu: Mtu::ETHERNET,
        ethernet: true,
        master: None,
        parent: None,
        ours: false,
    };
    facts.links.insert("eth0".parse().unwrap(), link);
    Surroundings {
        routes: vec!["192.0.2.0/24".parse().unwrap()],
        taken: vec![("10.0.0.0/24".parse().unwrap(), "network front".into())],
        ipv6: true,
        links: BTreeSet::from(["eth0".to_owned(), "br7".to_owned()]),
        facts,
    }
}

fn spec(name: &str, driver: Driver, subnets: &[&str], options: &[(&str, &str)]) -> NetworkSpec {
    NetworkSpec {
        annotations: Annotations { name: name.into(), labels: BTreeMap::new() },
        driver,
        pools: subnets.iter().map(|s| Pool::new(s.parse().unwrap())).collect(),
        options: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..NetworkSpec::default()
    }
}

fn make(state: &HostState, spec: NetworkSpec, around: &Surroundings) -> Result<HostNetwork, String> {
    let id = NetworkId::from_random([state.networks.len() as u8; 16]);
    create(state, spec, around, id, Timestamp(1)).map_err(|e| e.to_string())
}

fn subnets_of(network: &HostNetwork) -> Vec<String> {
    network.pools.iter().map(|p| format!("{} {}", p.subnet, p.gateway())).collect()
}

#[test]
fn what_is_left_open_is_chosen_in_both_families() {
    let made = make(&state(), spec("a", Driver::Bridge, &[], &[]), &around()).unwrap();
    assert_eq!(subnets_of(&made), ["172.17.0.0/16 172.17.0.1", "fd12:3456:789a::/64 fd12:3456:789a::1"]);
    let no_v6 = Surroundings { ipv6: false, ..around() };
    let made = make(&state(), spec("a", Driver::Bridge, &[], &[]), &no_v6).unwrap();
    assert_eq!(subnets_of(&made), ["172.17.0.0/16 172.17.0.1"]);
    let only_v6 = NetworkSpec { ipv4: Some(false), ..spec("a", Driver::Bridge, &[], &[]) };
    assert_eq!(make(&state(), only_v6, &around()).unwrap().pools.len(), 1);
}

#[test]
fn a_network_on_a_link_may_have_the_subnet_of_that_link() {
    let lan = spec("lan", Driver::Macvlan, &["192.0.2.0/24"], &[("parent", "eth0")]);
    assert!(make(&state(), lan, &around()).is_ok());
    for other in [
        spec("lan", Driver::Bridge, &["192.0.2.0/24"], &[]),
        spec("lan", Driver::Macvlan, &["192.0.2.0/24"], &[]),
        spec("lan", Driver::Macvlan, &["10.0.0.0/25"], &[("parent", "eth0")]),
    ] {
        assert!(make(&state(), other, &around()).unwrap_err().contains("overlaps with"));
    }
}

#[test]
fn what_cannot_be_is_said_in_one_sentence() {
    let mut had = state();
    let first = make(&had, spec("first", Driver::Bridge, &["10.9.0.0/24"], &[]), &around()).unwrap();
    had.networks.insert(first.id.clone(), first);
    let full = Surroundings { routes: vec!["0.0.0.0/0".parse().unwrap()], ..around() };
    let v6 = |on| NetworkSpec { ipv6: Some(on), ..spec("a", Driver::Bridge, &["fd00::/64"], &[]) };
    let name = "com.docker.network.bridge.name";
    for (spec, around, part) in [
        (spec("a b", Driver::Bridge, &[], &[]), around(), "\"a b\": use 1 to 63"),
        (spec("first", Driver::Bridge, &[], &[]), around(), "\"first\" exists already"),
        (spec("heddle_gwbridge", Driver::Bridge, &[], &[]), around(), "exists already"),
        (spec("a", Driver::Overlay, &[], &[]), around(), "of the cluster"),
        (spec("a", Driver::Bridge, &["10.9.0.0/25"], &[]), around(), "overlaps with network first (10.9.0.0/24)"),
        (spec("a", Driver::Bridge, &["10.0.0.0/8"], &[]), around(), "overlaps with network first"),
        (spec("a", Driver::Bridge, &["192.0.2.128/25"], &[]), around(), "a route of this host (192.0.2.0/24)"),
        (spec("a", Driver::Bridge, &["10.8.0.0/31"], &[]), around(), "10.8.0.0/31 has no room"),
        (spec("a", Driver::Bridge, &["10.7.0.0/24", "10.8.0.0/24"], &[]), around(), "more than one IPv4"),
        (spec("a", Driver::Bridge, &[], &[]), full, "give a free one with --subnet"),
        (v6(false), around(), "IPv6 switched off"),
        (v6(true), Surroundings { ipv6: false, ..around() }, "disable_ipv6"),
        (spec("a", Driver::Bridge, &[], &[(name, "br7")]), around(), "\"br7\" is in use by a link"),
        (spec("a", Driver::Bridge, &[], &[("colour", "red")]), around(), "com.docker.network.bridge.enable_icc"),
        (spec("a", Driver::Macvlan, &[], &[("parent", "eth9")]), around(), "eth9 does not exist"),
        (spec("a", Driver::Ipvlan, &[], &[]), around(), "no ipvlan"),
    ] {
        let said = make(&had, spec, &around).unwrap_err();
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn a_network_stays_while_somebody_is_in_it() {
    let mut had = state();
    let network = make(&had, spec("n", Driver::Bridge, &[], &[]), &around()).unwrap();
    had.networks.insert(network.id.clone(), network.clone());
    assert_eq!(removal(&had, &network), Ok(()));
    let place = HostEndpoint {
        network: network.id.clone(),
        index: 0,
        addrs: vec![],
        mac: Mac([2, 0, 0, 0, 0, 1]),
        aliases: vec![],
        gateway_priority: 0,
    };
    had.endpoints.insert(TaskId::from_random([7; 16]), vec![place]);
    assert!(removal(&had, &network).unwrap_err().to_string().contains("used by task "));
    let builtin = super::builtin(&had, &around(), || NetworkId::from_random([9; 16]), Timestamp(1));
    let names: Vec<_> = builtin.iter().map(HostNetwork::name).collect();
    assert_eq!(names, ["bridge", "host", "none"]);
    assert!(builtin.iter().all(|n| matches!(removal(&had, n), Err(NetworkError::Builtin(_)))));
}

#[test]
fn a_bridges_name_is_nobody_elses_made_or_not() {
    const NAME: &str = "com.docker.network.bridge.name";
    let mut had = state();
    let there = make(&had, spec("there", Driver::Bridge, &[], &[(NAME, "br-there")]), &around()).unwrap();
    had.networks.insert(there.id.clone(), there);
    let made = |name| make(&had, spec("new", Driver::Bridge, &[], &[(NAME, name)]), &around()).map(|_| ());
    for taken in ["eth0", "br-there", "heddle0", "heddle_gw"] {
        assert!(made(taken).unwrap_err().contains(taken));
    }
    assert_eq!(made("br-free"), Ok(()));
}
