//! What a leader spends on its agents and tasks, and how that grows.
//!
//! `cargo bench -p heddle-manager --bench agents [-- AGENTS TASKS]`, by default 1,000 and 100,000: one manager with its log on
//! disk, and in a second process that many agents, each with its certificate and a connection of its own on loopback, over which
//! it speaks the dispatcher's protocol. They take assignments, acknowledge, beat as they are told and report their tasks accepted
//! and then running; no kernel is changed and no program runs. The same with a tenth and a hundredth of the agents and tasks
//! shows how it grows; the tenth is the baseline.
//!
//! ```text
//! joined          from the first connection until every agent has acknowledged all there is
//! idle            time of a CPU, while nothing happens
//! change to N     from the write of a change of one task until the last of the N agents that it concerns has acknowledged
//! tasks           from the write of a service without networks until all of its tasks are reported running
//! memory          most that the manager's process ever had resident, in bytes
//! ```
#![allow(clippy::unwrap_used)]

mod agent;
#[path = "../../tests/access/stage.rs"]
#[allow(dead_code)]
mod stage;
mod world;

use heddle_manager::store::Mutation;
use heddle_model::{NodeId, ServiceId, Version, task::Task};
use nix::sys::resource::{UsageWho, getrusage};
use stage::Stage;
use std::{
    io::Write,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::time::sleep;

const AGENTS: usize = 1000;
const TASKS: u64 = 100_000;
const ROUNDS: usize = 50;
/// Agents on the network of their own.
const NEAR: usize = 100;
/// As long as all of 5,000 agents need to beat once, and more.
const IDLE: Duration = Duration::from_secs(12);
/// Between two changes, for each node.
const APART: Duration = Duration::from_micros(200);
const LOOK: Duration = Duration::from_millis(1);
/// Nothing here takes longer, or it never ends.
const LIMIT: Duration = Duration::from_secs(900);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match args.first().map(String::as_str) {
        // `cargo test` builds benches too and runs them with this flag: nothing to test here.
        Some("--test") => {}
        Some("--agents") => agent::main(),
        _ => run(args),
    }
}

fn run(args: Vec<String>) {
    let number = |n: usize, name: &str, usual: u64| match args.get(n).map(|a| a.parse()) {
        None => usual,
        Some(Ok(number)) if number >= 100 => number,
        _ => panic!("{name} {:?} is not a number from 100 upward", args[n]),
    };
    let (agents, tasks) = (number(0, "AGENTS", AGENTS as u64) as usize, number(1, "TASKS", TASKS));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let sizes = [100, 10, 1].map(|part| (agents / part, tasks / part as u64));
    let runs = sizes.map(|(agents, tasks)| runtime.block_on(measure(agents, tasks)));
    let head =
        |what: &str, values: [String; 3]| println!("{what:<44} {:>11} {:>11} {:>11}", values[0], values[1], values[2]);
    head("agents", sizes.map(|(agents, _)| agents.to_string()));
    head("tasks", sizes.map(|(_, tasks)| tasks.to_string()));
    let rows: Vec<(&String, [f64; 3])> = (runs[2].iter().enumerate())
        .map(|(row, (what, value))| (what, [runs[0][row].1, runs[1][row].1, *value]))
        .collect();
    for (what, [least, few, many]) in &rows {
        println!("{what:<44} {least:>11.2} {few:>11.2} {many:>11.2}   {:.2} times a tenth", many / few);
    }
    println!();
    for (what, values) in rows {
        plot(what, sizes.map(|(agents, _)| agents), values);
    }
}

/// How one value grows, as bars.
fn plot(what: &str, agents: [usize; 3], values: [f64; 3]) {
    let most = values.into_iter().fold(f64::MIN_POSITIVE, f64::max);
    println!("{what}");
    for (agents, value) in agents.into_iter().zip(values) {
        println!("{agents:>8} agents  {:<50} {value:.2}", "#".repeat((value / most * 50.0).round() as usize));
    }
}

fn cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

fn peak_memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// Ends with the run, however it ends.
struct Agents(Child);

impl Drop for Agents {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn agents(stage: &Stage, nodes: &[(NodeId, std::net::IpAddr)]) -> Agents {
    let mut agents = Command::new(std::env::current_exe().unwrap());
    let mut agents = agents.arg("--agents").stdin(Stdio::piped()).spawn().unwrap();
    let cluster = stage.manager.store.snapshot().cluster.clone().unwrap();
    let told = serde_json::json!({ "addr": stage.addr, "cluster": *cluster, "nodes": nodes });
    writeln!(agents.stdin.as_mut().unwrap(), "{told}").unwrap();
    Agents(agents)
}

/// Waits until it holds, and says how long that took.
async fn until(what: &str, mut holds: impl FnMut() -> bool, look: Duration) -> f64 {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LIMIT, "{what} takes longer than {LIMIT:?}");
        sleep(look).await;
    }
    began.elapsed().as_secs_f64()
}

async fn measure(count: usize, tasks: u64) -> Vec<(String, f64)> {
    let stage = Stage::set().await;
    let store = stage.manager.store.clone();
    let nodes = world::nodes(&stage, count).await;
    let front = world::front(&stage, NEAR.min(count)).await;
    let mut rows = Vec::new();

    let (began, before) = (Instant::now(), cpu());
    let agents = agents(&stage, &nodes);
    let all = || {
        stage.manager.reached() >= store.snapshot().version
            && world::running(&store.snapshot(), &front) == NEAR.min(count)
    };
    until("joining", all, LOOK * 50).await;
    rows.push(("joined, in seconds".to_owned(), began.elapsed().as_secs_f64()));
    rows.push(("joined, in seconds of a CPU".to_owned(), cpu() - before));

    sleep(Duration::from_secs(1)).await;
    let before = cpu();
    sleep(IDLE).await;
    rows.push(("idle, per cent of a CPU".to_owned(), (cpu() - before) / IDLE.as_secs_f64() * 100.0));

    let near = format!("up to {NEAR} agents");
    for (to, change) in [
        ("1 agent", (|task: &mut Task| task.spec.stop_grace += Duration::from_millis(1)) as fn(&mut Task)),
        (&*near, |task| task.attachments[1].aliases = vec![format!("a{}", task.meta.version.0)]),
        ("all agents", |task| task.attachments[0].aliases = vec![format!("a{}", task.meta.version.0)]),
    ] {
        let (median, most) = changes(&stage, &front, change).await;
        rows.push((format!("change to {to}, in ms, p50"), median));
        rows.push((format!("change to {to}, in ms, p99 of {ROUNDS}"), most));
    }

    let many = world::many(tasks);
    let (began, before, proposals) = (Instant::now(), cpu(), store.snapshot().version.0);
    let id = many.id.clone();
    store.write(vec![Mutation::Create(many.into())]).await.unwrap();
    // To count them takes time, too.
    let look = Duration::from_micros(tasks).max(LOOK * 5);
    until("starting tasks", || world::running(&store.snapshot(), &id) as u64 == tasks, look).await;
    let (took, spent) = (began.elapsed().as_secs_f64(), cpu() - before);
    rows.push(("tasks, in seconds".to_owned(), took));
    rows.push(("tasks, in microseconds of a CPU each".to_owned(), spent / tasks as f64 * 1e6));
    rows.push(("proposals a second meanwhile".to_owned(), (store.snapshot().version.0 - proposals) as f64 / took));
    rows.push(("memory, in MiB".to_owned(), peak_memory()));
    drop(agents);
    stage.manager.shutdown().await;
    rows
}

/// Milliseconds until the last has acknowledged: the median and the most.
async fn changes(stage: &Stage, service: &ServiceId, change: fn(&mut Task)) -> (f64, f64) {
    let store = &stage.manager.store;
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        // Each by itself: what follows at once is gathered.
        sleep(APART * store.snapshot().nodes.len() as u32).await;
        let state = store.snapshot();
        let mut task = Task::clone(state.tasks_of_service(service).find(|t| t.in_service()).unwrap());
        change(&mut task);
        let began = Instant::now();
        let version: Version = store.write(vec![Mutation::Update(task.into())]).await.unwrap();
        until("a change", || stage.manager.reached() >= version, LOOK).await;
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    (took[ROUNDS / 2], took[ROUNDS * 99 / 100])
}
