//! How fast a service is there, and what memory its hosts need: medians, on hosts of one lab.
//!
//! `cargo bench -p heddle-cluster-tests --bench cluster` after `cargo build --release`; needs root.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, skipped};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

fn main() {
    // `cargo test` builds benches too and runs them with this flag: nothing to test here.
    if std::env::args().any(|a| a == "--test") || skipped() {
        return;
    }
    println!("{:<72} {:>9}", "what", "value");
    start_up();
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
