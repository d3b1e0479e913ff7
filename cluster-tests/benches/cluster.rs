//! How fast a service is there, and what its paths cost: ratios from one run, on hosts of one lab.
//!
//! `cargo bench -p heddle-cluster-tests` after `cargo build --release`; needs root and iperf3. Every pair is measured in turns,
//! so that a noisy machine disturbs both sides alike; what is printed is the median of the ratios of the rounds.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, skipped, wait};
use serde_json::Value;
use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

const HOSTS: [&str; 3] = ["node1", "node2", "node3"];
const ROUNDS: usize = 7;
const SECONDS: u32 = 2;
const CONNECTIONS: u32 = 1500;

fn main() {
    // `cargo test` builds benches too and runs them with this flag: nothing to test here.
    if std::env::args().any(|a| a == "--test") || skipped() {
        return;
    }
    println!("{:<72} {:>9}", "what", "value");
    start_up();
    paths();
}

fn show(what: &str, value: String) {
    println!("{what:<72} {value:>9}");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn start_up() {
    for replicas in [3, 30] {
        let (mut reach, mut rotation) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let lab = Lab::up("bench", 3, 1);
            let start = Instant::now();
            let done = AtomicBool::new(false);
            let (first, all) = std::thread::scope(|scope| {
                let asked = scope.spawn(|| {
                    for host in ["10.77.0.1:8080", "10.77.0.2:8080", "10.77.0.3:8080"] {
                        while !lab.ask("client", host, 1, false).failed.is_empty() && !done.load(Ordering::Relaxed) {}
                    }
                    start.elapsed()
                });
                lab.create_web("web", replicas, &["-p", "8080:80"]);
                let all = start.elapsed();
                done.store(true, Ordering::Relaxed);
                (asked.join().unwrap(), all)
            });
            reach.push(first.as_secs_f64());
            rotation.push(all.as_secs_f64());
            if replicas == 30 {
                memory(&lab, "30 tasks on 3 hosts", reach.len() == 3);
            }
        }
        show(&format!("create, {replicas} replicas: first answer on every host (s)"), format!("{:.3}", median(reach)));
        show(
            &format!("create, {replicas} replicas: all in rotation on every host (s)"),
            format!("{:.3}", median(rotation)),
        );
    }
}

fn memory(lab: &Lab, when: &str, print: bool) {
    let resident = |host: &str| {
        let script = "grep VmRSS /proc/$(pgrep -of 'heddle daemon')/status | tr -dc 0-9";
        lab.sh(host, script).trim().parse::<f64>().unwrap() / 1024.0
    };
    if print {
        show(&format!("resident memory of the manager, {when} (MiB)"), format!("{:.1}", resident("node1")));
        show(&format!("resident memory of a worker, {when} (MiB)"), format!("{:.1}", resident("node2")));
    }
}

/// Bits a second that iperf3 received.
fn throughput(output: &std::process::Output) -> f64 {
    let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    value["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or_else(|| {
        panic!("iperf3 gave {} {}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    })
}

fn paths() {
    let iperf = Command::new("iperf3").arg("--version").output();
    assert!(iperf.is_ok_and(|o| o.status.success()), "iperf3 is missing: install it");
    let lab = Lab::up("bench", 3, 1);
    lab.heddle("node1", &["network", "create", "-d", "overlay", "front"]);
    let on = |host: &'static str, name: &str, more: &[&str]| {
        let constraint = format!("node.hostname=={host}");
        let head =
            ["service", "create", "--process", "--name", name, "--network", "front", "--constraint", &constraint];
        lab.heddle("node1", &[&head, more].concat());
    };
    on("node2", "iperf", &["-p", "5201:5201", "--", "iperf3", "-s"]);
    on("node2", "web", &["-p", "8080:80", "--", "heddle", "whoami", "--port", "80"]);
    on("node1", "caller", &["--", "sleep", "100000"]);
    lab.settled(&HOSTS, &["iperf", "web", "caller"]);
    let task = |name: &str| lab.running("node1", name).unwrap().remove(0);
    let caller = task("caller");
    let network = lab.overlay("node1", "front");
    let direct = |name: &str| network.endpoints(name)[0][0].clone();
    let vip = |name: &str| network.vips(name)[0].clone();

    // Baselines: the hosts' own link, and a tunnel made by hand between the same hosts.
    for (host, own, peer) in [("node1", 1, 2), ("node2", 2, 1)] {
        lab.sh(
            host,
            &format!(
                "ip link add byhand mtu 1450 type vxlan id 77 dstport 8472 local 10.77.0.{own} remote 10.77.0.{peer} \
             && ip addr add 192.0.2.{own}/24 dev byhand && ip link set byhand up"
            ),
        );
    }
    lab.sh("node2", "iperf3 -s -D -p 5200");
    let program = heddle_cluster_tests::program().display().to_string();
    lab.sh("node2", &format!("setsid {program} whoami --port 81 >/dev/null 2>&1 &"));
    wait("the baseline answers", || match lab.ask("node1", "10.77.0.2:81", 1, false).failed {
        failed if failed.is_empty() => Ok(()),
        failed => Err(failed),
    });
    let from_host = |target: &str, port: u16| {
        let script = format!("iperf3 -J -t {SECONDS} -c {target} -p {port}");
        throughput(&lab.exec("node1", &["sh", "-c", &script]))
    };
    let from_client = |target: &str| {
        let script = format!("iperf3 -J -t {SECONDS} -c {target} -p 5201");
        throughput(&lab.exec("client", &["sh", "-c", &script]))
    };
    let from_task =
        |target: &str| throughput(&lab.in_task(&caller, &format!("iperf3 -J -t {SECONDS} -c {target} -p 5201")));
    let (iperf_direct, iperf_vip) = (direct("iperf"), vip("iperf"));

    let mut rows: [Vec<f64>; 5] = Default::default();
    for _ in 0..ROUNDS {
        let plain = from_host("10.77.0.2", 5200);
        let byhand = from_host("192.0.2.2", 5200);
        let overlay = from_task(&iperf_direct);
        let by_vip = from_task(&iperf_vip);
        let ingress = from_host("10.77.0.1", 5201);
        let detour = from_client("10.77.0.1");
        for (row, ratio) in rows.iter_mut().zip([
            overlay / plain,
            overlay / byhand,
            by_vip / overlay,
            ingress / overlay,
            detour / overlay,
        ]) {
            row.push(ratio);
        }
    }
    let names = [
        "throughput: overlay / hosts' own link",
        "throughput: overlay / VXLAN made by hand",
        "throughput: virtual address / direct",
        "throughput: ingress, entered on the caller's host / direct",
        "throughput: ingress, entered on a third host / direct",
    ];
    for (name, row) in names.iter().zip(rows) {
        show(name, format!("{:.3}", median(row)));
    }

    let rate = |answers: &dyn Fn() -> String| {
        let start = Instant::now();
        let failed = answers();
        assert_eq!(failed, "", "connections fail");
        f64::from(CONNECTIONS) / start.elapsed().as_secs_f64()
    };
    let (web_direct, web_vip) = (format!("{}:80", direct("web")), format!("{}:80", vip("web")));
    let mut rows: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        let plain = rate(&|| lab.ask("node1", "10.77.0.2:81", CONNECTIONS, false).failed);
        let overlay = rate(&|| lab.ask_from_task(&caller, &web_direct, CONNECTIONS, false).failed);
        let by_vip = rate(&|| lab.ask_from_task(&caller, &web_vip, CONNECTIONS, false).failed);
        let ingress = rate(&|| lab.ask("node1", "10.77.0.1:8080", CONNECTIONS, false).failed);
        let detour = rate(&|| lab.ask("client", "10.77.0.1:8080", CONNECTIONS, false).failed);
        for (row, ratio) in
            rows.iter_mut().zip([overlay / plain, by_vip / overlay, ingress / overlay, detour / overlay])
        {
            row.push(ratio);
        }
    }
    let names = [
        "connections a second: overlay / hosts' own link",
        "connections a second: virtual address / direct",
        "connections a second: ingress, entered on the caller's host / direct",
        "connections a second: ingress, entered on a third host / direct",
    ];
    for (name, row) in names.iter().zip(rows) {
        show(name, format!("{:.3}", median(row)));
    }
}
