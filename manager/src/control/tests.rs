//! What is refused, in which sentence; what is inspected.

use super::{SpecError, changes, check, inspect, removal};
use crate::{
    store::{Mutation, Snapshot},
    world::World,
};
use heddle_model::{
    Annotations, NetworkId, TaskId, Timestamp, Version,
    endpoint::{PortConfig, PublishMode},
    health::{HealthCheck, Probe},
    net::{Mtu, Pool, Port, Protocol},
    network::{Driver, Network, NetworkSpec},
    node::{Node, NodeDescription},
    service::{Mode, NetworkTarget, ServiceSpec},
    update::{FailureAction, Order},
    workload::NetworkWish,
};
use std::{collections::BTreeMap, time::Duration};

fn pool(subnet: &str) -> Pool {
    Pool::new(subnet.parse().unwrap())
}

fn named(name: &str) -> NetworkSpec {
    NetworkSpec { annotations: Annotations { name: name.into(), ..Annotations::default() }, ..NetworkSpec::default() }
}

fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// A cluster of two hosts with network "taken", 10.60.0.0/24.
fn world() -> World {
    let mut world = World::new();
    world.ready_nodes(2);
    let mut network = world.network("taken", false);
    network.spec.pools = vec![pool("10.60.0.0/24")];
    world.write(vec![Mutation::Create(network.into())]);
    let node = Node::clone(world.state.nodes.values().next().unwrap());
    let description =
        NodeDescription { host_subnets: vec!["192.168.7.0/24".parse().unwrap()], ..node.description.clone() };
    world.write(vec![Mutation::NodeDescription { id: node.id, description }]);
    world.settle();
    world
}

#[test]
fn networks_that_cannot_be_are_refused_in_a_sentence() {
    let world = world();
    let host = world.state.nodes.values().next().unwrap().description.hostname.clone();
    let of_host = format!("subnet 192.168.0.0/16 overlaps with host {host} (192.168.7.0/24): choose one that is free");
    let aux = |name: &str, addr: &str| BTreeMap::from([(name.to_owned(), addr.parse().unwrap())]);
    let cases: Vec<(NetworkSpec, &str)> = vec![
        (named("a_b"), "name \"a_b\" is not a DNS label"),
        (named("taken"), "network \"taken\" exists already: choose another name"),
        (named("host"), "network name \"host\" stands for a network that every host has: choose another name"),
        (named("bridge"), "network name \"bridge\" stands for"),
        (
            NetworkSpec { driver: Driver::Bridge, ..named("b") },
            "driver bridge makes a network of one host: the cluster makes overlays, so ask that host's own daemon",
        ),
        (NetworkSpec { driver: Driver::Macvlan, ..named("b") }, "driver macvlan makes a network of one host"),
        (
            NetworkSpec { ipv6: Some(false), ..named("b") },
            "an overlay has both IPv4 and IPv6: neither can be turned off",
        ),
        (NetworkSpec { ipv4: Some(false), ..named("b") }, "an overlay has both IPv4 and IPv6"),
        (
            NetworkSpec { options: options(&[("encrypted", "")]), ..named("b") },
            "no host can encrypt: it takes the kernel's wireguard module, or /dev/net/tun; load one on the hosts, or",
        ),
        (
            NetworkSpec { options: options(&[("encrypted", "yes")]), ..named("b") },
            "option encrypted=\"yes\": use true or false, or no value",
        ),
        (
            NetworkSpec { options: options(&[("com.docker.network.bridge.name", "x")]), ..named("b") },
            "option \"com.docker.network.bridge.name\" is unknown: an overlay takes encrypted and com.docker",
        ),
        (
            NetworkSpec { options: options(&[("com.docker.network.driver.mtu", "big")]), ..named("b") },
            "MTU \"big\": com.docker.network.driver.mtu takes a number from 1280 to 65535",
        ),
        (
            NetworkSpec { options: options(&[("com.docker.network.driver.mtu", "500")]), ..named("b") },
            "MTU 500 is out of range: use 1280 to 65535",
        ),
        (
            NetworkSpec {
                mtu: Some(Mtu(1400)),
                options: options(&[("com.docker.network.driver.mtu", "1300")]),
                ..named("b")
            },
            "the MTU is given twice, and not alike: leave out com.docker.network.driver.mtu",
        ),
        (
            NetworkSpec { pools: vec![pool("10.61.0.0/24"), pool("10.62.0.0/24")], ..named("b") },
            "more than one IPv4 subnet: a network has one of each family",
        ),
        (
            NetworkSpec { pools: vec![pool("10.60.0.128/25")], ..named("b") },
            "subnet 10.60.0.128/25 overlaps with network taken (10.60.0.0/24): choose one that is free",
        ),
        (NetworkSpec { pools: vec![pool("192.168.0.0/16")], ..named("b") }, &of_host),
        (
            NetworkSpec { pools: vec![pool("10.61.0.0/31")], ..named("b") },
            "subnet 10.61.0.0/31 has no room for tasks: use at most /29, or /125 for IPv6",
        ),
        (
            NetworkSpec {
                pools: vec![Pool { gateway: Some("10.62.0.1".parse().unwrap()), ..pool("10.61.0.0/24") }],
                ..named("b")
            },
            "gateway 10.62.0.1 is outside the subnet 10.61.0.0/24: use an address of it",
        ),
        (
            NetworkSpec {
                pools: vec![Pool { range: Some("10.62.0.0/25".parse().unwrap()), ..pool("10.61.0.0/24") }],
                ..named("b")
            },
            "IP range 10.62.0.0/25 is outside the subnet 10.61.0.0/24: use a part of it",
        ),
        (
            NetworkSpec {
                pools: vec![Pool { range: Some("10.61.0.8/32".parse().unwrap()), ..pool("10.61.0.0/24") }],
                ..named("b")
            },
            "IP range 10.61.0.8/32 has no address to give out: use a larger one",
        ),
        (
            NetworkSpec { pools: vec![Pool { aux: aux("a", "10.9.0.1"), ..pool("10.61.0.0/24") }], ..named("b") },
            "auxiliary address a=10.9.0.1 is outside the subnet 10.61.0.0/24: use an address of it",
        ),
        (
            NetworkSpec { pools: vec![Pool { aux: aux("a", "10.61.0.1"), ..pool("10.61.0.0/24") }], ..named("b") },
            "auxiliary address a=10.61.0.1 is the gateway: use another",
        ),
        (
            NetworkSpec { ingress: true, ..named("b") },
            "network \"ingress\" carries published ports already: there is one ingress network, remove it first",
        ),
    ];
    for (spec, sentence) in cases {
        let said = check::network(&world.state, spec.clone()).expect_err(sentence).to_string();
        assert!(said.starts_with(sentence), "{spec:?} says {said:?}, not {sentence:?}");
    }
    let good = NetworkSpec { options: options(&[("com.docker.network.driver.mtu", "1400")]), ..named("good") };
    assert_eq!(check::network(&world.state, good).map(|s| s.mtu), Ok(Some(Mtu(1400))));
}

fn port(published: u16, mode: PublishMode) -> PortConfig {
    let port = |n| Port::try_from(n).unwrap();
    PortConfig { protocol: Protocol::Tcp, target: port(80), published: Some(port(published)), mode }
}

fn target(name: &str, aliases: &[&str]) -> NetworkTarget {
    NetworkTarget { target: name.into(), aliases: aliases.iter().map(|a| (*a).to_owned()).collect() }
}

/// A service that publishes 8080 and joins what is named.
fn service(world: &mut World, targets: Vec<NetworkTarget>) -> ServiceSpec {
    let mut spec = world.service("x", 2, &NetworkId::from_random([0; 16])).spec;
    spec.task.networks = targets;
    spec.endpoint.ports = vec![port(8080, PublishMode::Ingress)];
    spec
}

#[test]
fn services_join_overlays_or_the_hosts_network() {
    let mut world = world();
    for (targets, sentence) in [
        (vec![target("host", &[]), target("taken", &[])], "network \"host\" cannot be used with others"),
        (vec![target("host", &["db"])], "aliases cannot be used on network \"host\""),
        (
            vec![target("bridge", &[])],
            "network \"bridge\" is every host's own: only networks of the cluster (overlay) or \"host\" can be used by \
             services",
        ),
        (vec![target("none", &[])], "network \"none\" is every host's own"),
        (
            vec![target("nowhere", &[])],
            "no network is called \"nowhere\" in the cluster: only networks of the cluster (overlay) or \"host\" can be \
             used by services",
        ),
        (vec![target("ingress", &[])], "network \"ingress\" carries published ports: a service joins it by"),
        (vec![target("taken", &[]), target("taken", &[])], "network \"taken\" is named twice"),
        (vec![target("taken", &["a b"])], "name \"a b\" is not a DNS label"),
    ] {
        let spec = service(&mut world, targets);
        let said = check::service(&world.state, spec).expect_err(sentence).to_string();
        assert!(said.starts_with(sentence), "{said:?}, not {sentence:?}");
    }
    // On the hosts' network nothing is published, no address is given, and every replica finds a node.
    let mut made = world.service("web", 3, &NetworkId::from_random([0; 16]));
    made.spec.task.networks = vec![target("host", &[])];
    made.spec = check::service(&world.state, made.spec).unwrap();
    assert_eq!(made.spec.endpoint.ports, []);
    let id = made.id.clone();
    world.write(vec![Mutation::Create(made.into())]);
    world.settle();
    assert_eq!(world.state.services[&id].endpoint.as_ref().map(|e| e.virtual_ips.len()), Some(0));
    let tasks: Vec<_> = world.state.tasks_of_service(&id).collect();
    assert_eq!(tasks.len(), 3);
    for task in tasks {
        assert!(task.node.is_some() && task.attachments.is_empty() && task.host_ports.is_empty(), "{task:?}");
        assert_eq!(task.spec.networks, [target("host", &[])]);
    }
}

#[test]
fn health_checks_that_cannot_be_are_refused() {
    let mut world = world();
    let (eighty, ms) = (Port::try_from(80).unwrap(), Duration::from_millis);
    let good = HealthCheck::new(Probe::Command("true".into()));
    let http = |path: &str| HealthCheck::new(Probe::Http { port: eighty, path: path.into() });
    let long = "x".repeat(5000);
    let begins = format!("{}...", "x".repeat(40));
    let too_long = format!("health command {begins:?} is 5000 bytes long: use at most 4096");
    let command = |text: &str| HealthCheck::new(Probe::Command(text.into()));
    let path = |path: &str| {
        let use_one = "use one that begins with /, with what stands for itself in a URL, such as /healthz?full=1";
        format!("health check path {path:?}: {use_one}")
    };
    for (check, sentence) in [
        (command(" "), "the command of the health check is empty: give a command of a shell, or leave the check out"),
        (command(&long), &too_long),
        (command("a\0"), "health command \"a\\0\" has a zero byte in it, which no program can be given: leave it out"),
        (http("x"), &path("x")),
        (http("/a b"), &path("/a b")),
        (http("/a<b"), &path("/a<b")),
        (http("/a#b"), &path("/a#b")),
        (HealthCheck { interval: ms(0), ..good.clone() }, "health interval 0ns: use 100ms to 24h"),
        (HealthCheck { timeout: ms(99), ..good.clone() }, "health timeout 99ms: use 100ms to 24h"),
        (HealthCheck { start_period: ms(86_400_001), ..good.clone() }, "health start period 86400.001s: use 0s to 24h"),
        (HealthCheck { start_interval: ms(0), ..good.clone() }, "health start interval 0ns: use 100ms to 24h"),
        (HealthCheck { retries: 0, ..good.clone() }, "health retries 0: use 1 to 1000"),
        (HealthCheck { retries: 1001, ..good.clone() }, "health retries 1001: use 1 to 1000"),
    ] {
        let mut spec = service(&mut world, vec![target("taken", &[])]);
        spec.task.health = Some(check);
        assert_eq!(check::service(&world.state, spec).expect_err(sentence).to_string(), sentence);
    }
    for check in [good, http("/"), HealthCheck::new(Probe::Tcp(eighty))] {
        let mut spec = service(&mut world, vec![target("taken", &[])]);
        spec.task.health = Some(check);
        assert!(check::service(&world.state, spec).is_ok());
    }
}

#[test]
fn room_is_counted_within_the_range_and_beside_workloads() {
    let mut world = world();
    let mut network = world.network("small", false);
    network.spec.pools = vec![Pool {
        range: Some("10.61.0.8/29".parse().unwrap()),
        gateway: Some("10.61.0.254".parse().unwrap()),
        aux: BTreeMap::from([("printer".into(), "10.61.0.9".parse().unwrap())]),
        ..pool("10.61.0.0/24")
    }];
    world.write(vec![Mutation::Create(network.into())]);
    world.settle();
    let node = world.state.nodes.keys().next().unwrap().clone();
    for (n, ip) in [(1, Some([10, 61, 0, 12].into())), (2, Some([10, 61, 0, 99].into()))] {
        let wish = NetworkWish { network: "small".into(), ip, ..NetworkWish::default() };
        world.attach(&node, &TaskId::from_random([n; 16]), wish).unwrap();
    }
    let mut spec = service(&mut world, vec![target("small", &[])]);
    spec.mode = Mode::Replicated { replicas: 7 };
    // Eight in the range, less the printer's and a workload's; the other workload is outside of it.
    let said = check::service(&world.state, spec.clone()).unwrap_err().to_string();
    let expected = "network small: 10.61.0.8/29 has 7 addresses for tasks, 1 are spoken for and 7 are wanted";
    assert_eq!(said, expected);
    spec.mode = Mode::Replicated { replicas: 6 };
    let mut made = world.service("x", 6, &NetworkId::from_random([0; 16]));
    made.spec = check::service(&world.state, spec).unwrap();
    let id = made.id.clone();
    world.write(vec![Mutation::Create(made.into())]);
    world.settle();
    let mut last: Vec<u8> = world
        .state
        .tasks_of_service(&id)
        .flat_map(|t| t.attachments.iter().map(|a| a.addr.v4.octets()))
        .filter(|o| o[1] == 61)
        .map(|o| o[3])
        .collect();
    last.sort_unstable();
    assert_eq!(last, [8, 10, 11, 13, 14, 15]);
}

fn ingress(state: &Snapshot) -> Network {
    Network::clone(state.ingress_network().unwrap())
}

#[test]
fn the_ingress_network_goes_when_nothing_is_published_and_comes_again() {
    let mut world = world();
    let web = world.run(1, |spec| spec.endpoint.ports = vec![port(8080, PublishMode::Ingress)]);
    let old = ingress(&world.state);
    assert_eq!(
        check::network_removal(&world.state, &old).unwrap_err().to_string(),
        "network ingress carries the published ports of service web: it cannot be removed before that service"
    );
    let remove = Mutation::Remove { kind: heddle_model::Kind::Service, id: web.to_string(), version: None };
    world.write(vec![remove]);
    world.settle();
    assert_eq!(
        check::network_removal(&world.state, &old).unwrap_err().to_string(),
        "network ingress is used by service web (still stopping): remove the service first"
    );
    world.report(heddle_model::task::TaskState::Shutdown);
    assert_eq!(check::network_removal(&world.state, &old), Ok(()));
    let gone = removal::network(&world.state, &old);
    world.write(gone);
    world.settle();
    assert!(world.state.ingress_network().is_none() && world.state.nodes.values().all(|n| n.ingress.is_none()));

    let spec = service(&mut world, vec![]);
    let refused = check::service(&world.state, spec.clone()).unwrap_err();
    assert_eq!(refused, SpecError::NoIngress { port: Port::try_from(8080).unwrap(), protocol: Protocol::Tcp });
    assert!(refused.to_string().contains("there is no ingress network, make one with"), "{refused}");
    let mut by_host = spec;
    by_host.endpoint.ports = vec![port(8080, PublishMode::Host)];
    assert!(check::service(&world.state, by_host).is_ok());

    for (spec, flag) in [
        (NetworkSpec { attachable: true, ingress: true, ..named("in") }, "--attachable"),
        (NetworkSpec { internal: true, ingress: true, ..named("in") }, "--internal"),
    ] {
        let said = check::network(&world.state, spec).unwrap_err().to_string();
        assert_eq!(said, format!("the network of published ports cannot be made with {flag}: leave it out"));
    }
    let gateway = Some("10.63.0.254".parse().unwrap());
    let pools = vec![Pool { gateway, ..pool("10.63.0.0/24") }];
    let spec = NetworkSpec { ingress: true, pools, ..named("in") };
    let mut made = world.network("in", true);
    made.spec = check::network(&world.state, spec).unwrap();
    world.write(vec![Mutation::Create(made.into())]);
    world.settle();
    let new = ingress(&world.state);
    let given = new.allocation.unwrap();
    for node in world.state.nodes.values() {
        let leg = node.ingress.as_ref().unwrap();
        assert!(leg.addr.addrs().into_iter().all(|a| given.service_subnet.contains(a)), "{leg:?} in {given:?}");
    }
    // Answers are routed by the first address, although another gateway was named.
    world.run(2, |spec| spec.endpoint.ports = vec![port(8080, PublishMode::Ingress)]);
    let mut taken: Vec<_> = world.state.held(&new.id).map(|(addr, _)| addr.to_string()).collect();
    taken.retain(|a| a.contains('.'));
    assert_eq!(taken, ["10.63.0.2", "10.63.0.3"]);
}

#[test]
fn a_network_with_a_workload_stays_and_shows_it() {
    let mut world = world();
    let node = world.state.nodes.values().next().unwrap().clone();
    let workload = TaskId::from_random([1; 16]);
    let wish = NetworkWish { network: "taken".into(), aliases: vec!["db".into()], ..NetworkWish::default() };
    let place = world.attach(&node.id, &workload, wish).unwrap();
    let taken = Network::clone(world.state.network_named("taken").unwrap());
    let name = format!("w{}", &workload.as_str()[..3]);
    let host = &node.description.hostname;
    assert_eq!(
        check::network_removal(&world.state, &taken).unwrap_err().to_string(),
        format!("network taken is used by {name} on host {host}: disconnect it first")
    );
    let shown = inspect::network(&world.state, &taken);
    assert_eq!(shown.peers.iter().map(|p| p.hostname.as_str()).collect::<Vec<_>>(), [host]);
    assert_eq!(shown.pools.iter().map(|p| p.gateway.as_str()).collect::<Vec<_>>()[0], "10.60.0.1");
    let [connection] = shown.connections.as_slice() else { panic!("{:?}", shown.connections) };
    assert_eq!((&connection.task, &connection.name), (&workload.to_string(), &name));
    assert_eq!((&connection.mac, connection.aliases.as_slice()), (&place.mac.to_string(), &["db".to_owned()][..]));
    assert_eq!(connection.addr, Some(place.addr.into()));

    // Once it is given up the network may go, although its address is not free yet.
    let given_up = crate::dispatcher::connection::detach(&world.state, &node.id, &workload, "taken").unwrap();
    world.write(given_up);
    assert_eq!(inspect::network(&world.state, &taken).connections, []);
    assert_eq!(check::network_removal(&world.state, &taken), Ok(()));
    let gone = removal::network(&world.state, &taken);
    world.write(gone);
    assert!(world.state.connections.is_empty() && world.state.network_named("taken").is_none());
}

type Change<'a> = &'a dyn Fn(&mut ServiceSpec);

#[test]
fn what_a_service_cannot_become_is_refused_in_a_sentence() {
    let mut world = world();
    let id = world.run(2, |spec| spec.endpoint.ports = vec![port(8080, PublishMode::Ingress)]);
    let other = world.service("other", 1, &NetworkId::from_random([0; 16]));
    let (mut other, published) = (other, port(9090, PublishMode::Ingress));
    (other.spec.task.networks, other.spec.endpoint.ports) = (vec![], vec![published.clone()]);
    world.write(vec![Mutation::Create(other.into())]);
    world.settle();
    let service = world.state.services[&id].clone();
    let change = |set: Change<'_>| {
        let mut spec = service.spec.clone();
        set(&mut spec);
        check::change(&world.state, &service, spec).map_err(|e| e.to_string())
    };
    let refused: [(Change<'_>, &str); 6] = [
        (
            &|s| s.annotations.name = "wob".into(),
            "a service keeps its name: it is \"web\" and cannot become \"wob\", make another one instead",
        ),
        (&|s| s.endpoint.ports.push(published.clone()), "port 9090/tcp is published by service \"other\" already"),
        (&|s| s.endpoint.ports.push(port(8080, PublishMode::Ingress)), "port 8080/tcp is named twice"),
        (&|s| s.rollback.failure_action = FailureAction::Rollback, "a rollback that fails cannot be rolled back"),
        (&|s| s.task.networks.push(target("nowhere", &[])), "no network is called \"nowhere\" in the cluster"),
        (
            &|s| {
                s.update.order = Order::StartFirst;
                s.endpoint.ports.push(port(8081, PublishMode::Host));
            },
            "order start-first cannot be used with port 8081 in host mode: two tasks cannot have it on one host, use \
             stop-first",
        ),
    ];
    for (set, sentence) in refused {
        let said = change(set).expect_err(sentence);
        assert!(said.starts_with(sentence), "{said:?}, not {sentence:?}");
    }
    assert!(change(&|s| s.endpoint.ports.push(port(8081, PublishMode::Ingress))).is_ok());
    let said = changes::roll_back(&world.state, "web", Timestamp(1)).err().unwrap().to_string();
    assert_eq!(said, "service \"web\" has no spec before the one it has: it was never updated");
    let spec = service.spec.clone();
    let said = changes::update(
        &world.state,
        "web",
        changes::Wish { spec, seen: Version(1), logins: Default::default() },
        Timestamp(1),
    )
    .err()
    .unwrap()
    .to_string();
    assert!(said.contains("was changed meanwhile"), "{said}");
}

#[test]
fn what_a_service_has_it_keeps_when_it_is_changed() {
    let mut world = world();
    let dynamic = PortConfig { published: None, ..port(1, PublishMode::Ingress) };
    let id = world.run(2, |spec| spec.endpoint.ports = vec![dynamic.clone()]);
    let endpoint = |world: &World| world.state.services[&id].endpoint.clone().unwrap();
    let before = endpoint(&world);
    let change = |world: &mut World, set: Change<'_>| {
        let mut service = world.state.services[&id].as_ref().clone();
        let mut spec = service.spec.clone();
        set(&mut spec);
        let spec = check::change(&world.state, &service, spec).unwrap();
        assert!(service.change(spec, Timestamp(1)));
        world.write(vec![Mutation::Update(service.into())]);
        world.settle();
    };
    change(&mut world, &|s| {
        s.endpoint.ports.insert(0, PortConfig { target: Port::try_from(81).unwrap(), ..dynamic.clone() });
        s.task.networks.insert(0, target("taken", &[]));
    });
    let after = endpoint(&world);
    assert_eq!((after.ports.len(), after.virtual_ips.len()), (2, 2));
    assert_eq!((&after.ports[1], &after.virtual_ips[1]), (&before.ports[0], &before.virtual_ips[0]));
    assert_ne!(after.ports[0].published, after.ports[1].published);
    change(&mut world, &|s| {
        s.endpoint.ports.remove(0);
        s.task.networks.remove(0);
    });
    assert_eq!(endpoint(&world), before);
}
