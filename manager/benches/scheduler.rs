//! What it costs to place the tasks of one service: 10,000 over 100 nodes, against a plain loop that sorts the nodes and fills the
//! first. `cargo bench -p heddle-manager --bench scheduler`.
//!
//! Both make the same list of changes from the same tasks, one after the other in pairs; quoted are medians. The plain loop knows
//! no filter, no preference and no reason.

use heddle_manager::{
    plan::Context,
    scheduler,
    store::{Action, Mutation, Snapshot},
};
use heddle_model::{
    Annotations, Meta, NodeId, ServiceId, TaskId, Timestamp, Version,
    cluster::Role,
    node::{Availability, Node, NodeDescription, NodeSpec, NodeState, NodeStatus},
    placement::{Amounts, NanoCpus, Placement, Resources},
    service::TaskSpec,
    shared::Shared,
    task::{Task, TaskState, TaskStatus},
};
use std::{
    hint::black_box,
    time::{Duration, Instant},
};

const TASKS: u32 = 10_000;
const NODES: u32 = 100;
const PAIRS: usize = 15;

fn id(kind: u32, n: u32) -> [u8; 16] {
    (u128::from(kind) << 64 | u128::from(n)).to_be_bytes()
}

fn node(n: u32) -> Node {
    let labels = [("zone".to_owned(), (n % 3).to_string())].into();
    Node {
        id: NodeId::from_random(id(1, n)),
        meta: Meta::default(),
        spec: NodeSpec {
            annotations: Annotations { labels, ..Annotations::default() },
            role: Role::Worker,
            availability: Availability::Active,
        },
        role: Role::Worker,
        description: NodeDescription {
            hostname: format!("h{n}"),
            executors: vec!["process".into()],
            cpus: 64,
            memory_bytes: 256 << 30,
            ..NodeDescription::default()
        },
        status: NodeStatus { state: NodeState::Ready, ..NodeStatus::default() },
        data_path_addr: [10, 0, (n >> 8) as u8, n as u8].into(),
        manager: None,
        ingress: None,
    }
}

fn task(n: u32, spec: &Shared<TaskSpec>) -> Task {
    Task {
        id: TaskId::from_random(id(2, n)),
        meta: Meta::default(),
        service: ServiceId::from_random(id(3, 0)),
        service_name: "web".into(),
        slot: u64::from(n) + 1,
        spec: spec.clone(),
        spec_version: Version(1),
        node: None,
        bound: None,
        choice: None,
        attachments: Vec::new(),
        host_ports: Vec::new(),
        desired: TaskState::Running,
        stop: false,
        started: None,
        not_before: Timestamp(0),
        status: TaskStatus { state: TaskState::Pending, ..TaskStatus::default() },
    }
}

fn state(spec: TaskSpec) -> Snapshot {
    let spec = Shared::from(spec);
    let nodes = (0..NODES).map(|n| Mutation::Create(node(n).into()));
    let tasks = (0..TASKS).map(|n| Mutation::Create(task(n, &spec).into()));
    let action = Action { at: Timestamp(1), mutations: nodes.chain(tasks).collect() };
    Snapshot::default().apply(Version(1), &action).expect("new objects")
}

fn scheduled(state: &Snapshot) -> Vec<Mutation> {
    let mut random = || [0; 16];
    scheduler::plan(state, &mut Context { now: Timestamp(2), acked: state.version, random: &mut random }).mutations
}

fn filled(state: &Snapshot) -> Vec<Mutation> {
    let mut nodes: Vec<_> = state.nodes.keys().map(|id| (0u32, id.clone())).collect();
    let place = |task: &std::sync::Arc<Task>| {
        nodes.sort();
        let (count, node) = &mut nodes[0];
        *count += 1;
        let mut next = Task::clone(task);
        next.node = Some(node.clone());
        next.status.state = TaskState::Assigned;
        Mutation::Update(next.into())
    };
    state.tasks.values().map(place).collect()
}

fn timed(work: fn(&Snapshot) -> Vec<Mutation>, state: &Snapshot) -> Duration {
    let begin = Instant::now();
    let changes = black_box(work(state));
    let took = begin.elapsed();
    assert_eq!(changes.len(), TASKS as usize);
    took
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    println!("{TASKS} tasks over {NODES} nodes, medians of {PAIRS} pairs");
    println!("{:<34} {:>10} {:>8} {:>14} {:>12}", "asked", "a task", "ratio", "allocations", "bytes");
    let reserved = Amounts { cpu: NanoCpus(1_000_000), memory: 1 << 20, ..Amounts::default() };
    let resources = Resources { reserved, ..Resources::default() };
    let constraints = vec!["node.labels.zone in (0, 1, 2)".to_owned()];
    let spread = vec!["node.labels.zone".to_owned()];
    let all = Placement { constraints, spread, max_replicas_per_node: 200 };
    let plain = state(TaskSpec::default());
    let row = |name: &str, work: fn(&Snapshot) -> Vec<Mutation>, state: &Snapshot| {
        let pairs: Vec<_> = (0..PAIRS).map(|_| (timed(work, state), timed(filled, &plain))).collect();
        let each = median(pairs.iter().map(|(took, _)| took.as_secs_f64() * 1e6 / f64::from(TASKS)).collect());
        let ratio = median(pairs.iter().map(|(took, plain)| took.as_secs_f64() / plain.as_secs_f64()).collect());
        let counted = allocation_counter::measure(|| drop(black_box(work(state))));
        let of = |count: u64| count as f64 / f64::from(TASKS);
        let (allocations, bytes) = (of(counted.count_total), of(counted.bytes_total));
        println!("{name:<34} {each:>7.2} us {ratio:>8.2} {allocations:>14.2} {bytes:>12.0}");
    };
    row("sort and fill", filled, &plain);
    row("nothing", scheduled, &plain);
    row(
        "constraint, reservation, by zone",
        scheduled,
        &state(TaskSpec { placement: all, resources, ..TaskSpec::default() }),
    );
}
