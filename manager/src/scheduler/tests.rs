//! Where tasks come, whatever nodes there are and whatever is asked of them.

use super::*;
use crate::world::World;
use explain::explain;
use heddle_model::{
    Kind, Object, TaskId,
    cluster::Cluster,
    node::{Node, NodeState, NodeStatus},
    placement::{Amounts, NanoCpus},
    service::ServiceSpec,
    task::TaskStatus,
};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// A node by its processors and its zone, and what a service asks.
#[derive(Debug, Clone)]
struct Wish {
    replicas: u64,
    cpus: u32,
    most: u32,
    by_zone: bool,
    not_in: Option<u8>,
}

fn wish() -> impl Strategy<Value = Wish> {
    let parts = (1..12u64, 0..3u32, 0..4u32, any::<bool>(), prop::option::of(0..3u8));
    parts.prop_map(|(replicas, cpus, most, by_zone, not_in)| Wish { replicas, cpus, most, by_zone, not_in })
}

fn zone(node: &Node) -> Option<&String> {
    node.spec.annotations.labels.get("zone")
}

/// Nodes that have processors and are in zones.
fn world(nodes: &[(u32, u8)]) -> World {
    let mut world = World::new();
    for (n, (cpus, zone)) in nodes.iter().enumerate() {
        let mut node = world.node(n as u8 + 1);
        node.description.cpus = *cpus;
        node.spec.annotations.labels.insert("zone".into(), zone.to_string());
        world.write(vec![Mutation::Create(node.into())]);
    }
    world
}

fn ask(spec: &mut ServiceSpec, name: String, wish: &Wish) {
    spec.annotations.name = name;
    spec.task.resources.reserved.cpu = NanoCpus::whole(wish.cpus);
    spec.task.placement.max_replicas_per_node = wish.most;
    spec.task.placement.spread = if wish.by_zone { vec!["node.labels.zone".into()] } else { Vec::new() };
    spec.task.placement.constraints = wish.not_in.iter().map(|z| format!("node.labels.zone not in ({z}, 9)")).collect();
}

/// The world's clock counts changes.
fn now(state: &Snapshot) -> Timestamp {
    Timestamp(state.version.0)
}

fn on_nodes<'a>(state: &'a Snapshot, service: &'a ServiceId) -> BTreeMap<NodeId, u32> {
    let mut counts = BTreeMap::new();
    for task in state.tasks_of_service(service) {
        if let Some(node) = &task.node {
            *counts.entry(node.clone()).or_default() += 1;
        }
    }
    counts
}

/// Whatever is asked, nothing that was asked is broken.
fn holds(state: &Snapshot, service: &ServiceId, wish: &Wish) {
    for (id, count) in on_nodes(state, service) {
        let node = &state.nodes[&id];
        assert!(wish.most == 0 || count <= wish.most, "{count} on one node");
        assert!(wish.not_in.is_none_or(|z| zone(node) != Some(&z.to_string())), "a constraint is broken");
    }
    let mut taken: BTreeMap<&NodeId, Amounts> = BTreeMap::new();
    for task in state.tasks.values() {
        if let Some(node) = &task.node {
            taken.entry(node).or_default().add(&task.spec.resources.reserved);
        }
    }
    for (id, amounts) in taken {
        assert!(amounts.cpu <= state.nodes[id].description.capacity().cpu, "more is reserved than there is");
    }
}

/// No node that would take another has more than one fewer than any other, alike by what the service is spread over.
fn is_even(state: &Snapshot, service: &ServiceId, wish: &Wish) {
    let Some(like) = state.tasks_of_service(service).next() else { return };
    let (loads, wanted) = (loads(state, Timestamp(0)), Wanted::by(state, like));
    let open: Vec<_> =
        state.nodes.values().filter(|n| filter::refusals(n, &loads[&n.id], &wanted).next().is_none()).collect();
    let counts = on_nodes(state, service);
    let of = |node: &Node| counts.get(&node.id).copied().unwrap_or(0);
    let of_zone = |node: &Node| -> u32 { state.nodes.values().filter(|n| zone(n) == zone(node)).map(|n| of(n)).sum() };
    for (node, free) in state.nodes.values().flat_map(|n| open.iter().map(move |free| (n, free))) {
        if wish.by_zone && zone(node) != zone(free) {
            assert!(of_zone(node) <= of_zone(free) + 1, "{} and {} by zone", of_zone(node), of_zone(free));
        } else {
            assert!(of(node) <= of(free) + 1, "{} and {}", of(node), of(free));
        }
    }
}

/// Who waits is told of something against it by every node.
fn explains(state: &Snapshot, service: &ServiceId) {
    let explanation = explain(state, &state.services[service], now(state));
    let tasks: Vec<_> = state.tasks_of_service(service).filter(|t| t.desired == TaskState::Running).collect();
    let waiting: BTreeSet<u64> = tasks.iter().filter(|t| t.node.is_none()).map(|t| t.slot).collect();
    let told: BTreeSet<u64> = explanation.waiting.iter().flat_map(|w| w.slots.clone()).collect();
    assert_eq!(told, waiting);
    assert_eq!(explanation.placed.len() + waiting.len(), tasks.len());
    for group in &explanation.waiting {
        if !group.message.is_empty() {
            // The network has no more.
            assert!(group.message.starts_with("its addresses: "), "{group:?}");
            continue;
        }
        assert_eq!(group.nodes.len(), state.nodes.len());
        assert!(group.nodes.iter().all(|(_, refusals)| !refusals.is_empty()), "{group:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn tasks_are_even_and_nothing_that_was_asked_is_broken(
        nodes in prop::collection::vec((0..6u32, 0..3u8), 0..6),
        wishes in prop::collection::vec(wish(), 1..3),
    ) {
        let mut world = world(&nodes);
        let mut services = Vec::new();
        for (n, wish) in wishes.iter().enumerate() {
            let id = world.run(wish.replicas, |spec| ask(spec, format!("s{n}"), wish));
            // Of one that came before, the room on nodes may have been another.
            is_even(&world.state, &id, wish);
            services.push(id);
        }
        for (id, wish) in services.iter().zip(&wishes) {
            holds(&world.state, id, wish);
            explains(&world.state, id);
        }
        let mut random = || [0; 16];
        let again = plan(&world.state, &mut Context { now: now(&world.state), acked: world.state.version, random: &mut random });
        prop_assert_eq!(again.mutations, vec![]);
    }
}

#[test]
fn racks_of_zones_are_filled_evenly() {
    let mut world = World::new();
    // Three nodes in rack 1 of zone a, and one in each other rack.
    for (n, (zone, rack)) in [("a", "1"), ("a", "1"), ("a", "1"), ("a", "2"), ("b", "1")].into_iter().enumerate() {
        let mut node = world.node(n as u8 + 1);
        node.spec.annotations.labels = [("zone".into(), zone.into()), ("rack".into(), rack.into())].into();
        world.write(vec![Mutation::Create(node.into())]);
    }
    let web = world.run(8, |spec| {
        spec.task.placement.spread = vec!["node.labels.zone".into(), "node.labels.rack".into()];
    });
    let counts = on_nodes(&world.state, &web);
    let hosts: BTreeMap<_, _> =
        counts.iter().map(|(id, n)| (world.state.nodes[id].description.hostname.as_str(), *n)).collect();
    let of = |host: &str| hosts.get(host).copied().unwrap_or(0);
    assert_eq!((of("h4"), of("h5")), (2, 4), "{hosts:?}");
    assert!(["h1", "h2", "h3"].into_iter().all(|host| of(host) <= 1), "{hosts:?}");
}

#[test]
fn a_node_where_tasks_fail_comes_last() {
    let mut world = world(&[(1, 0), (1, 0)]);
    let mut cluster = Cluster::clone(world.state.cluster.as_ref().unwrap());
    cluster.spec.task_history = 5;
    world.write(vec![Mutation::Update(cluster.into())]);
    let web = world.run(1, |_| ());
    let of = |world: &World| {
        let task = world
            .state
            .tasks_of_service(&web)
            .find(|t| t.desired == TaskState::Running && !t.status.state.is_terminal());
        task.cloned().expect("a task")
    };
    let first = of(&world).node.clone().unwrap();
    for failed in 0..3 {
        let task = of(&world);
        assert_eq!(task.node.as_ref(), Some(&first), "after {failed} failures");
        let since = now(&world.state);
        let status = TaskStatus { state: TaskState::Failed, since, ..TaskStatus::default() };
        world.write(vec![Mutation::TaskStatus { id: task.id.clone(), status }]);
        world.settle();
    }
    let task = of(&world);
    assert_ne!(task.node.as_ref(), Some(&first));
    assert_eq!(task.choice.as_ref().map(|c| c.failed), Some(0));
}

#[test]
fn an_explanation_names_what_would_help() {
    let mut world = world(&[(2, 0), (1, 1)]);
    let web = world.run(3, |spec| {
        spec.task.placement.constraints = vec!["node.labels.zone==0".into()];
        spec.task.resources.reserved.cpu = NanoCpus::whole(1);
    });
    let state = &world.state;
    let service = &state.services[&web];
    let told = explain(state, service, now(state));
    assert_eq!(told.placed.len(), 2);
    assert_eq!(told.placed[0].why, "no node that took it had fewer tasks: 0 of the service, 0 in all were there");
    let [waiting] = told.waiting.as_slice() else { panic!("{told:?}") };
    let said: Vec<_> = waiting
        .nodes
        .iter()
        .flat_map(|(id, refusals)| {
            refusals.iter().map(|r| (r.to_string(), r.remedy(&state.nodes[id].description.hostname, "web")))
        })
        .collect();
    let want = [
        ("1 processors are wanted, 0 of 2 are free", "reserve nothing, or move other tasks away from h1"),
        ("node.labels.zone==0: it is \"1\"", "`heddle node update --label-add zone=0 h2`"),
    ];
    assert_eq!(said, want.map(|(a, b)| (a.to_owned(), b.to_owned())));
}

#[test]
fn a_node_that_went_down_is_the_reason() {
    let mut world = world(&[(1, 0)]);
    let node = world.state.nodes.keys().next().unwrap().clone();
    let status = NodeStatus { state: NodeState::Down, ..NodeStatus::default() };
    world.write(vec![Mutation::NodeStatus { id: node.clone(), status }]);
    let web = world.run(2, |_| ());
    let told = explain(&world.state, &world.state.services[&web], now(&world.state));
    assert_eq!(told.waiting.len(), 1);
    assert_eq!(told.waiting[0].slots, [1, 2]);
    assert_eq!(told.waiting[0].nodes, [(node, vec![Refusal::NotReady])]);
}

#[test]
fn within_a_zone_that_is_no_worse_tasks_move_too() {
    let mut world = world(&[(1, 0), (1, 1)]);
    let by_zone = |spec: &mut ServiceSpec| spec.task.placement.spread = vec!["node.labels.zone".into()];
    let web = world.run(7, by_zone);
    world.report(TaskState::Running);
    // Another node of the zone that has four.
    let counts = on_nodes(&world.state, &web);
    let (full, _) = counts.iter().max_by_key(|(_, count)| **count).unwrap();
    let mut node = world.node(3);
    node.spec.annotations.labels = world.state.nodes[full].spec.annotations.labels.clone();
    world.write(vec![Mutation::Create(node.into())]);
    let slot = balance::next(&world.state, &world.state.services[&web], now(&world.state)).unwrap();
    let moved = world.state.tasks_of_service(&web).find(|t| t.slot == slot).unwrap();
    assert_eq!(moved.node.as_ref(), Some(full));
}

/// Replacements begin before what they replace has ended, and nobody ends up with two of three.
#[test]
fn what_makes_room_is_not_spread_by() {
    let mut world = world(&[(1, 0), (1, 0), (1, 0)]);
    let web = world.run(3, |_| ());
    world.report(TaskState::Running);
    let old: Vec<Task> = world.state.tasks_of_service(&web).map(|task| Task::clone(task)).collect();
    let mut next = |task: &Task, node: Option<&NodeId>| {
        let state = if node.is_some() { TaskState::Running } else { TaskState::Pending };
        let status = TaskStatus { state, ..TaskStatus::default() };
        let id = TaskId::from_random(world.random());
        Task { id, node: node.cloned(), status, attachments: Vec::new(), ..task.clone() }
    };
    let [first, second, third] = old.as_slice() else { panic!("{old:?}") };
    // The first slot's is replaced where it was, and has ended; the second's is, and is about to.
    let first = next(first, first.node.as_ref());
    let ends = Task { desired: TaskState::Shutdown, ..second.clone() };
    let (beside, waiting) = (next(second, second.node.as_ref()), next(third, None));
    let gone = Mutation::Remove { kind: Kind::Task, id: old[0].id.to_string(), version: None };
    let made = [first, beside, waiting.clone()].map(|task| Mutation::Create(task.into()));
    world.write([vec![gone, Mutation::Update(ends.into())], made.into()].concat());
    let mut random = || [0; 16];
    let (now, acked) = (now(&world.state), world.state.version);
    let placed = plan(&world.state, &mut Context { now, acked, random: &mut random }).mutations;
    let [Mutation::Update(object)] = placed.as_slice() else { panic!("{placed:?}") };
    let Object::Task(placed) = object else { panic!("{object:?}") };
    assert_eq!((&placed.id, &placed.node), (&waiting.id, &third.node));
}
