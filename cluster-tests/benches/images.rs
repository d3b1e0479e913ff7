//! What a service of an image takes until it answers, against `ctr run` with the same image on the same containerd in the same
//! run.
//!
//! `cargo bench -p heddle-cluster-tests --bench images` after `cargo build --release`; needs root. The image is there before.
//! Both are timed by the shell that gives the command: until the program has answered a request.
//!
//! ```text
//! heddle   service create -p 8080:80: raft, scheduler, a namespace with its networks and rules, the load balancers of all hosts,
//!          the container with its limits, filter and log; the request goes through the routing mesh
//! ctr      run --net-host: the container alone, on the host's own network
//! ```
//!
//! Then thirty at once: one service over three hosts, and ten `ctr run` one after the other on each of the three at the same
//! time. The two take turns in changing order; printed are medians, and the median of the ratios of the rounds.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{
    HOSTS, Lab,
    images::{self, Root},
    program, skipped, wait,
};
use serde_json::json;

const ROUNDS: usize = 15;
const MANY_ROUNDS: usize = 5;
const MANY: usize = 30;
const CTR: &str = "ctr -n heddle";

fn main() {
    // `cargo test` builds benches too and runs them with this flag: nothing to test here.
    if std::env::args().any(|a| a == "--test") || skipped() {
        return;
    }
    let lab = Lab::up("bench-images", 3, 1);
    images::equip(&lab, &HOSTS);
    let config = json!({"Entrypoint": ["heddle"], "User": "www", "Env": ["PATH=/bin"]});
    let image = images::push(&lab, "whoami:1", &Root::whoami(), config);
    for host in HOSTS {
        lab.heddle(host, &["image", "pull", &image]);
    }
    wait("all nodes can run images", || {
        let nodes = lab.try_json("node1", &["node", "inspect", "node1", "node2", "node3"])?;
        let able = |n: &serde_json::Value| n["description"]["executors"].to_string().contains("containerd");
        if nodes.as_array().is_some_and(|all| all.iter().all(able)) { Ok(()) } else { Err(nodes.to_string()) }
    });
    println!("{:<72} {:>9}", "what", "value");
    measure("until it answers", ROUNDS, || one_by_heddle(&lab, &image), || one_by_ctr(&lab, &image));
    measure("thirty over three hosts", MANY_ROUNDS, || many_by_heddle(&lab, &image), || many_by_ctr(&lab, &image));
}

/// Milliseconds of each, and how many times as long the first takes.
fn measure(what: &str, rounds: usize, heddle: impl Fn() -> f64, ctr: impl Fn() -> f64) {
    // Not counted: what is done once.
    let _ = (heddle(), ctr());
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..rounds {
        let (ours, theirs) = match round % 2 {
            0 => (heddle(), ctr()),
            _ => {
                let theirs = ctr();
                (heddle(), theirs)
            }
        };
        for (list, value) in times.iter_mut().zip([ours, theirs, ours / theirs]) {
            list.push(value);
        }
    }
    let [ours, theirs, ratio] = times.map(|mut list| {
        list.sort_by(f64::total_cmp);
        list[list.len() / 2]
    });
    println!("{:<72} {rounds:>9}", format!("{what}: rounds"));
    println!("{:<72} {ours:>9.0}", format!("{what}: heddle service create, ms"));
    println!("{:<72} {theirs:>9.0}", format!("{what}: ctr run, ms"));
    println!("{:<72} {ratio:>9.2}", format!("{what}: ratio"));
}

/// Milliseconds that a script takes on a host.
fn timed(lab: &Lab, host: &str, script: &str) -> f64 {
    let script = format!("set -e; begin=$(date +%s%N); {script}; echo $(($(date +%s%N) - begin))");
    let said = lab.sh(host, &script);
    said.trim().lines().last().unwrap().parse::<f64>().unwrap() / 1e6
}

fn until_it_answers(port: u16) -> String {
    let program = program().display().to_string();
    format!("until {program} whoami --ask 127.0.0.1:{port} --count 1 >/dev/null 2>&1; do :; done")
}

fn one_by_heddle(lab: &Lab, image: &str) -> f64 {
    let program = program().display().to_string();
    let here = "--constraint node.hostname==node1";
    let create = format!("{program} service create --detach --name one -p 8080:80 {here} {image} whoami --port 80");
    let took = timed(lab, "node1", &format!("{create} >/dev/null; {}", until_it_answers(8080)));
    lab.heddle("node1", &["service", "rm", "one"]);
    took
}

fn run(image: &str, name: &str, port: u16) -> String {
    format!("{CTR} run --detach --net-host {image} {name} heddle whoami --port {port} >/dev/null")
}

fn remove(lab: &Lab, host: &str, name: &str) {
    lab.sh(host, &format!("{CTR} task rm --force {name} >/dev/null; {CTR} container rm {name}"));
}

fn one_by_ctr(lab: &Lab, image: &str) -> f64 {
    let took = timed(lab, "node1", &format!("{}; {}", run(image, "bench", 9000), until_it_answers(9000)));
    remove(lab, "node1", "bench");
    took
}

fn many_by_heddle(lab: &Lab, image: &str) -> f64 {
    let program = program().display().to_string();
    let flags = format!("--name many --timeout 300 --replicas {MANY}");
    let took = timed(lab, "node1", &format!("{program} service create {flags} {image} whoami --port 80 >/dev/null"));
    lab.heddle("node1", &["service", "rm", "--timeout", "300", "many"]);
    took
}

fn many_by_ctr(lab: &Lab, image: &str) -> f64 {
    let each: Vec<u16> = (0..u16::try_from(MANY / HOSTS.len()).unwrap()).collect();
    let name = |n: u16| format!("bench-{n}");
    let script: Vec<_> = each.iter().map(|&n| run(image, &name(n), 9000 + n)).collect();
    let script = format!("{}; {}", script.join("; "), until_it_answers(9000 + each[each.len() - 1]));
    let times = std::thread::scope(|scope| {
        let hosts = HOSTS.map(|host| scope.spawn(|| timed(lab, host, &script)));
        hosts.map(|host| host.join().unwrap())
    });
    for host in HOSTS {
        each.iter().for_each(|&n| remove(lab, host, &name(n)));
    }
    times.into_iter().fold(0.0, f64::max)
}
