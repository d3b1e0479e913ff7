//! Places on overlays that hosts ask for: what is given, what is refused, and who is told.

use super::{
    Sessions,
    assignment::{self, Concerned},
    connection::{self, Wanted},
};
use crate::{
    store::{Conflict, Mutation, Snapshot},
    world::World,
};
use heddle_model::{
    NodeId, TaskId, Version,
    assignment::PeerView,
    connection::Connection,
    endpoint::Attachment,
    net::Pool,
    network::Network,
    node::{NodeReport, NodeState, NodeStatus},
    service::NetworkTarget,
    task::TaskState,
    workload::NetworkWish,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// Two hosts and two overlays: "open", 10.70.0.0/29 with one address kept, and "front", for services alone, on which
/// service "web" runs once on each.
struct Stage {
    world: World,
    nodes: Vec<NodeId>,
}

fn stage() -> Stage {
    let mut world = World::new();
    let nodes = world.ready_nodes(2);
    let mut open = world.network("open", false);
    let aux = BTreeMap::from([("printer".to_owned(), "10.70.0.6".parse().unwrap())]);
    open.spec.pools = vec![Pool { aux, ..Pool::new("10.70.0.0/29".parse().unwrap()) }];
    world.write(vec![Mutation::Create(open.into())]);
    world.run(2, |_| ());
    let mut front = Network::clone(world.state.network_named("front").unwrap());
    front.spec.attachable = false;
    world.write(vec![Mutation::Update(front.into())]);
    world.settle();
    world.report(TaskState::Running);
    Stage { world, nodes }
}

fn workload(n: u8) -> TaskId {
    TaskId::from_random([n; 16])
}

fn wish(network: &str) -> NetworkWish {
    NetworkWish { network: network.into(), ..NetworkWish::default() }
}

impl Stage {
    fn task_on(&self, node: usize) -> TaskId {
        self.world.state.tasks_on_node(&self.nodes[node]).next().unwrap().id.clone()
    }

    fn attach(&mut self, node: usize, n: u8, wish: NetworkWish) -> Attachment {
        let node = self.nodes[node].clone();
        self.world.attach(&node, &workload(n), wish).unwrap()
    }

    fn refused(&mut self, node: usize, workload: &TaskId, wish: NetworkWish) -> String {
        let wanted = Wanted { node: self.nodes[node].clone(), workload: workload.clone(), name: "me".into(), wish };
        connection::attach(&self.world.state, &wanted, &mut || [7; 16]).unwrap_err().to_string()
    }

    fn detach(&mut self, node: usize, n: u8, network: &str) {
        let given_up = connection::detach(&self.world.state, &self.nodes[node], &workload(n), network).unwrap();
        self.world.write(given_up);
    }
}

#[test]
fn what_cannot_be_given_is_refused_in_a_sentence() {
    let mut s = stage();
    let first = s.attach(0, 1, NetworkWish { ip: Some([10, 70, 0, 3].into()), ..wish("open") });
    let taken = "w".to_owned() + &workload(1).as_str()[..3];
    let (here, there) = (s.task_on(0), s.task_on(1));
    let mac = |text: &str| Some(text.parse().unwrap());
    let ip = |n: u8| Some([10, 70, 0, n].into());
    let used_mac = first.mac.to_string();
    let ip6_net = first.addr.v6.segments();
    let ip6_gateway = std::net::Ipv6Addr::from([ip6_net[0], ip6_net[1], ip6_net[2], ip6_net[3], 0, 0, 0, 1]);
    let new = workload(9);
    for (id, wish, sentence) in [
        (&new, wish("nowhere"), "no network is called \"nowhere\"".to_owned()),
        (&new, wish("ingress"), "network \"ingress\" carries published ports: a program joins it by".into()),
        (&new, wish("front"), "network \"front\" is for services alone: create it with --attachable to let".into()),
        (&new, NetworkWish { aliases: vec!["a_b".into()], ..wish("open") }, "name \"a_b\" is not a DNS label".into()),
        (&new, NetworkWish { ip: ip(3), ..wish("open") }, {
            format!("address 10.70.0.3 is in use by {taken} on host h1 on network \"open\": use another")
        }),
        (&new, NetworkWish { ip: ip(1), ..wish("open") }, "address 10.70.0.1 is the gateway of subnet".into()),
        (&new, NetworkWish { ip: ip(0), ..wish("open") }, "address 10.70.0.0 is the network address of".into()),
        (&new, NetworkWish { ip: ip(7), ..wish("open") }, "address 10.70.0.7 is the broadcast address of".into()),
        (&new, NetworkWish { ip: ip(6), ..wish("open") }, "address 10.70.0.6 is kept for \"printer\"".into()),
        (&new, NetworkWish { ip: ip(8), ..wish("open") }, "address 10.70.0.8 is outside the subnet".into()),
        (&new, NetworkWish { ip6: Some(ip6_gateway), ..wish("open") }, {
            format!("address {ip6_gateway} is the gateway of subnet")
        }),
        (&new, NetworkWish { mac: mac("03:00:00:00:00:01"), ..wish("open") }, {
            "MAC address 03:00:00:00:00:01 cannot be an interface's: use one whose first byte is even".into()
        }),
        (&new, NetworkWish { mac: mac(&used_mac), ..wish("open") }, {
            format!("MAC address {used_mac} is in use by {taken} on host h1 on network \"open\": use another")
        }),
        (&workload(1), NetworkWish { ip: ip(4), ..wish("open") }, {
            format!("me is connected to network \"open\" already, with 10.70.0.3, {}", first.addr.v6)
        }),
        (&there, wish("open"), format!("task {} does not run on this host", s.world.state.tasks[&there].name())),
        (&here, wish("front"), {
            format!("task {} is connected to network \"front\" already", s.world.state.tasks[&here].name())
        }),
    ] {
        let said = s.refused(0, id, wish.clone());
        assert!(said.starts_with(&sentence), "{wish:?} says {said:?}, not {sentence:?}");
    }
    let said = s.refused(1, &workload(1), wish("open"));
    assert_eq!(said, "me is connected to network \"open\" by host h1: disconnect it there first");
    let wanted = Wanted { node: s.nodes[0].clone(), workload: new.clone(), name: "a.b".into(), wish: wish("open") };
    let said = connection::attach(&s.world.state, &wanted, &mut || [7; 16]).unwrap_err().to_string();
    assert!(said.starts_with("name \"a.b\" is not a DNS label"), "{said}");

    // Four addresses: of eight, not the network's, the gateway's, the printer's and the broadcast address.
    for n in 2..5 {
        s.attach(1, n, wish("open"));
    }
    let said = s.refused(0, &new, wish("open"));
    assert_eq!(
        said,
        "network \"open\" has no free address left in 10.70.0.0/29: disconnect a workload or use a larger subnet"
    );
    s.detach(1, 4, "open");
    let said = s.refused(0, &new, wish("open"));
    assert!(
        said.starts_with("the last free address in 10.70.0.0/29 of network \"open\" was given up moments"),
        "{said}"
    );
    s.world.settle();
    s.attach(0, 9, wish("open"));
}

#[test]
fn tasks_on_the_hosts_network_join_no_other() {
    let mut s = stage();
    let mut web = s.world.service("plain", 1, &heddle_model::NetworkId::from_random([0; 16]));
    web.spec.task.networks = vec![NetworkTarget { target: "host".into(), aliases: vec![] }];
    web.spec.endpoint.ports.clear();
    let id = web.id.clone();
    s.world.write(vec![Mutation::Create(web.into())]);
    s.world.settle();
    let task = s.world.state.tasks_of_service(&id).next().unwrap().clone();
    let node = s.nodes.iter().position(|n| Some(n) == task.node.as_ref()).unwrap();
    let said = s.refused(node, &task.id, wish("open"));
    assert_eq!(said, format!("task {} uses the host's own network: it joins no other", task.name()));
}

#[test]
fn an_address_is_everybodys_again_when_all_have_acknowledged() {
    let mut s = stage();
    let static_ip = NetworkWish { ip: Some([10, 70, 0, 3].into()), ..wish("open") };
    let first = s.attach(0, 1, static_ip.clone());
    s.detach(0, 1, "");
    let said = s.refused(0, &workload(2), static_ip.clone());
    assert!(said.starts_with("address 10.70.0.3 of network \"open\" was given up moments ago"), "{said}");
    let mac = NetworkWish { mac: Some(first.mac), ..wish("open") };
    let said = s.refused(0, &workload(2), mac);
    assert!(said.starts_with(&format!("MAC address {} of network \"open\" was given up", first.mac)), "{said}");
    // The same workload may have it back at once, and then has what it had.
    assert_eq!(s.attach(0, 1, static_ip.clone()), first);
    assert_eq!(s.world.state.connections.len(), 1);
    s.detach(0, 1, "open");
    // Once more changes nothing; neither does a network that is not there.
    let version = s.world.state.version;
    for network in ["open", "", "nowhere", "front"] {
        let again = connection::detach(&s.world.state, &s.nodes[0], &workload(1), network).unwrap();
        assert_eq!(again, [], "{network}");
    }
    assert_eq!(s.world.state.version, version);
    s.world.settle();
    assert_eq!(s.attach(1, 2, static_ip).addr.v4, first.addr.v4);
}

#[test]
fn every_host_on_the_network_is_told_of_a_workload_and_no_other() {
    let mut s = stage();
    let view = |s: &Stage, node: usize| assignment::view(&s.world.state, &s.nodes[node]).unwrap();
    let open = s.world.state.network_named("open").unwrap().id.clone();
    let place = s.attach(0, 1, NetworkWish { aliases: vec!["db".into()], ..wish("open") });
    let (mine, other) = (view(&s, 0), view(&s, 1));
    assert!(mine.networks.contains_key(&open) && !other.networks.contains_key(&open));
    let key = (open.clone(), workload(1));
    let endpoint = &mine.endpoints[&key];
    assert_eq!((&endpoint.service, &endpoint.node, endpoint.in_service), (&None, &s.nodes[0], true));
    assert_eq!((endpoint.addr, endpoint.mac, endpoint.aliases.as_slice()), (place.addr, place.mac, &["db".into()][..]));
    assert!(!other.endpoints.contains_key(&key));

    // A running task of the other host joins: both know both.
    let task = s.task_on(1);
    let node = s.nodes[1].clone();
    s.world.attach(&node, &task, wish("open")).unwrap();
    for node in 0..2 {
        let view = view(&s, node);
        assert_eq!(view.endpoints.keys().filter(|(n, _)| *n == open).count(), 2, "host {node}");
        assert_eq!(view.tasks.len(), 1);
    }
    // Its host is down: it is still there, but nobody is sent to it.
    let down = NodeStatus { state: NodeState::Down, ..NodeStatus::default() };
    s.world.write(vec![Mutation::NodeStatus { id: s.nodes[0].clone(), status: down }]);
    assert!(!view(&s, 1).endpoints[&key].in_service);
    // Given up, it is told to nobody at once.
    s.detach(0, 1, "open");
    assert!(!view(&s, 1).endpoints.contains_key(&key) && !view(&s, 0).networks.contains_key(&open));
    // The task's place ends with the task.
    let ended = heddle_model::task::TaskStatus { state: TaskState::Failed, ..Default::default() };
    s.world.write(vec![Mutation::TaskStatus { id: task, status: ended }]);
    s.world.settle();
    assert!(s.world.state.connections.is_empty());
}

#[test]
fn plans_made_side_by_side_do_not_both_succeed() {
    let mut s = stage();
    let plan = |s: &Stage, n: u8| {
        let (node, name) = (s.nodes[0].clone(), format!("w{n}"));
        let wanted = Wanted { node, workload: workload(n), name, wish: wish("open") };
        let mut random = || [n; 16];
        connection::attach(&s.world.state, &wanted, &mut random).unwrap()
    };
    let ((place, first), (_, second)) = (plan(&s, 1), plan(&s, 2));
    let open = Network::clone(s.world.state.network_named("open").unwrap());
    let removal = crate::control::removal::network(&s.world.state, &open);
    s.world.write(first);
    let apply = |s: &Stage, mutations| {
        let action = crate::store::Action { at: Default::default(), mutations };
        s.world.state.apply(Version(s.world.state.version.0 + 1), &action).unwrap_err()
    };
    let conflict = apply(&s, second);
    let addr = IpAddr::from(place.attachment.addr.v4);
    assert_eq!(conflict, Conflict::AddressTaken { network: open.id.clone(), addr });
    assert!(conflict.is_retryable());
    assert!(matches!(apply(&s, removal), Conflict::InUse { .. }));
    // The other way about: the network went first.
    let (late, _) = plan(&s, 3);
    s.detach(0, 1, "open");
    let removal = crate::control::removal::network(&s.world.state, &open);
    s.world.write(removal);
    let conflict = apply(&s, vec![Mutation::Create(Connection { ..late }.into())]);
    assert!(matches!(conflict, Conflict::NotFound { .. }), "{conflict}");
}

#[test]
fn the_state_is_the_same_after_it_was_written_down() {
    let mut s = stage();
    s.attach(0, 1, wish("open"));
    s.attach(1, 2, wish("open"));
    s.detach(1, 2, "open");
    let state = &s.world.state;
    let bytes = crate::raft::encode(&state.objects().collect::<Vec<_>>()).unwrap();
    let back = crate::store::Snapshot::from_objects(state.version, crate::raft::decode::<Vec<_>>(&bytes).unwrap());
    assert_eq!(back, *state);
}

#[test]
fn all_follow_a_data_path_that_moves_but_not_onto_anothers() {
    let mut s = stage();
    let seen =
        |s: &Stage, of: usize| assignment::view(&s.world.state, &s.nodes[0]).unwrap().peers[&s.nodes[of]].clone();
    let before = seen(&s, 1);
    let to = IpAddr::from([192, 0, 2, 99]);
    s.world.write(vec![Mutation::NodeDataPath { id: s.nodes[1].clone(), addr: to }]);
    assert_eq!(seen(&s, 1), PeerView { data_path_addr: to, ..before });
    let version = s.world.state.nodes[&s.nodes[1]].meta.version;
    let taken = seen(&s, 0).data_path_addr;
    s.world.write(vec![Mutation::NodeDataPath { id: s.nodes[1].clone(), addr: taken }]);
    assert_eq!(seen(&s, 1).data_path_addr, to);
    // Nor is what it had already news.
    s.world.write(vec![Mutation::NodeDataPath { id: s.nodes[1].clone(), addr: to }]);
    assert_eq!(s.world.state.nodes[&s.nodes[1]].meta.version, version);
}

#[test]
fn what_a_node_complains_of_ends_with_its_session() {
    let sessions = Sessions::default();
    let node = NodeId::from_random([1; 16]);
    let send = || tokio::sync::mpsc::channel(1).0;
    let complaint = |text: &str| NodeReport { errors: vec![text.into()], warnings: vec!["w".repeat(10_000)] };
    let (first, _) = sessions.begin(&node, send());
    sessions.reported(&node, first, complaint("port taken"));
    assert_eq!(sessions.report_of(&node), complaint("port taken").bounded());
    sessions.end(&node, first);
    assert_eq!(sessions.report_of(&node).errors, ["port taken"], "it may tell why the node is silent");
    let (second, _) = sessions.begin(&node, send());
    assert!(sessions.report_of(&node).is_empty());
    sessions.reported(&node, first, complaint("late"));
    assert!(sessions.report_of(&node).is_empty());
    sessions.reported(&node, second, complaint("still"));
    sessions.reported(&node, second, NodeReport::default());
    assert!(sessions.report_of(&node).is_empty());
}

#[test]
fn a_host_that_joined_anew_is_one_peer() {
    let mut stage = stage();
    let old = heddle_model::node::Node::clone(&stage.world.state.nodes[&stage.nodes[1]]);
    let id = NodeId::from_random([77; 16]);
    stage.world.write(vec![Mutation::Create(heddle_model::node::Node { id: id.clone(), ..old.clone() }.into())]);
    let peers = |stage: &Stage| -> Vec<NodeId> {
        assignment::view(&stage.world.state, &stage.nodes[0]).unwrap().peers.into_keys().collect()
    };
    assert!(peers(&stage).contains(&old.id), "nothing says yet that it is gone");
    let status = NodeStatus { state: NodeState::Down, ..NodeStatus::default() };
    stage.world.write(vec![Mutation::NodeStatus { id: old.id.clone(), status }]);
    let now = peers(&stage);
    assert!(now.contains(&id) && !now.contains(&old.id), "{now:?}");
}

fn at(version: u64) -> Arc<Snapshot> {
    Arc::new(Snapshot::from_objects(Version(version), []))
}

#[test]
fn a_node_has_reached_what_did_not_concern_it_and_never_less_than_before() {
    let sessions = Sessions::default();
    let node = NodeId::from_random([1; 16]);
    let (serial, _bell) = sessions.begin(&node, tokio::sync::mpsc::channel(1).0);
    let nobody = || Concerned::Some(BTreeSet::new());
    let mut last = 0;
    let mut reached = |expected: u64| {
        let now = sessions.reached_by(&node).0;
        assert_eq!(now, expected);
        assert!(now >= last);
        last = now;
    };
    sessions.changed(&nobody(), at(3));
    reached(0);
    sessions.telling(&node, serial);
    sessions.told(&node, serial, Version(3), Version(3));
    reached(0);
    sessions.acked(&node, serial, Version(3));
    reached(3);
    sessions.changed(&nobody(), at(9));
    reached(9);
    // Something may concern it: until that was looked at, it has what it had.
    sessions.changed(&Concerned::All, at(10));
    reached(9);
    sessions.telling(&node, serial);
    sessions.changed(&nobody(), at(11));
    reached(9);
    // It did not.
    sessions.told(&node, serial, Version(10), Version(3));
    reached(11);
    // It does, and more comes before it is told.
    sessions.changed(&Concerned::All, at(12));
    sessions.telling(&node, serial);
    sessions.changed(&Concerned::All, at(13));
    sessions.told(&node, serial, Version(12), Version(12));
    reached(11);
    sessions.acked(&node, serial, Version(12));
    reached(12);
    sessions.telling(&node, serial);
    sessions.told(&node, serial, Version(13), Version(13));
    sessions.changed(&nobody(), at(14));
    reached(12);
    sessions.acked(&node, serial, Version(13));
    reached(14);
    // Another session begins with nothing.
    sessions.end(&node, serial);
    assert_eq!(sessions.reached_by(&node), Version(0));
}
