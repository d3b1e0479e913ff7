//! Many seeds, each a run of its own: so many as SEEDS says. SEED runs that one alone, and RUST_LOG has it say what it does.
#![allow(clippy::unwrap_used)]

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().unwrap())
}

/// Every run has a thread of its own: its clock and its chance are the thread's.
fn alone(seed: u64) -> Result<heddle_sim::Outcome, String> {
    let run = move || heddle_sim::run(seed).map_err(|failure| failure.to_string());
    thread::spawn(run).join().map_err(|_| format!("seed {seed} panicked"))?
}

#[test]
fn whatever_goes_wrong_nothing_is_lost_or_invented() {
    if let Some(seed) = number("SEED") {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
        println!("{:?}", alone(seed).unwrap());
        return;
    }
    let (count, next) = (number("SEEDS").unwrap_or(500), AtomicU64::new(0));
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
    let sum = |what: fn(&heddle_sim::Outcome) -> u64| held.iter().map(|o| what(o)).sum::<u64>();
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
