//! Many seeds, each a process of its own: so many as SEEDS says.
#![allow(clippy::unwrap_used)]

use heddle_sim::Outcome;
use std::{
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

fn alone(seed: u64) -> Result<Outcome, String> {
    let ran = Command::new(env!("CARGO_BIN_EXE_heddle-sim")).arg(seed.to_string()).output().unwrap();
    if ran.status.success() {
        return Ok(serde_json::from_slice(&ran.stdout).unwrap());
    }
    Err(format!("seed {seed}, {}: {}", ran.status, String::from_utf8_lossy(&ran.stderr)))
}

#[test]
fn whatever_goes_wrong_nothing_is_lost_or_invented() {
    let count = std::env::var("SEEDS").map_or(500, |n| n.parse().unwrap());
    let next = AtomicU64::new(0);
    let worker = || {
        let mut outcomes = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= count {
                return outcomes;
            }
            outcomes.push(alone(seed));
        }
    };
    let workers = thread::available_parallelism().unwrap().get();
    let outcomes: Vec<_> = thread::scope(|s| {
        let workers: Vec<_> = (0..workers).map(|_| s.spawn(worker)).collect();
        workers.into_iter().flat_map(|w| w.join().unwrap()).collect()
    });
    let failures: Vec<_> = outcomes.iter().filter_map(|o| o.as_ref().err()).collect();
    let held: Vec<_> = outcomes.iter().filter_map(|o| o.as_ref().ok()).collect();
    let sum = |what: fn(&Outcome) -> u64| held.iter().map(|o| what(o)).sum::<u64>();
    println!(
        "{} seeds held: {} faults, {} terms, {} operations, {} revisions; well again after {} ms at most",
        held.len(),
        sum(|o| o.faults as u64),
        sum(|o| o.terms as u64),
        sum(|o| o.operations as u64),
        sum(|o| o.version),
        held.iter().map(|o| o.calm_after).max().unwrap_or(0),
    );
    assert!(failures.is_empty(), "{} of {count} seeds failed; the first:\n{}", failures.len(), failures[0]);
}

#[test]
fn a_seed_repeats_exactly() {
    for seed in 0..5 {
        assert_eq!(alone(seed), alone(seed), "seed {seed}");
    }
}
