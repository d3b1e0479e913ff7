//! Writes a second that are on disk when they are answered: through the managers' store (raft, redb, apply, publish), and
//! through openraft over redb with nothing around it, in alternating rounds.
//!
//! `cargo bench -p heddle-manager --bench writes`; needs no root. The directory for build output has to be on a real disk.
#![allow(clippy::unwrap_used)]

mod bare;
mod ours;
mod wire;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_millis(1500);
const CLIENTS: [u64; 3] = [1, 32, 512];
const AIM: f64 = 0.7;

/// Where everything is kept.
fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Writes a second of so many clients, each of which writes one after the other.
async fn rate<F>(clients: u64, write: impl Fn(u64, u64) -> F + Clone + Send + 'static) -> f64
where
    F: Future<Output = ()> + Send + 'static,
{
    let (done, start) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let all: Vec<_> = (0..clients)
        .map(|client| {
            let (write, done) = (write.clone(), done.clone());
            tokio::spawn(async move {
                let mut count = 0;
                while start.elapsed() < ROUND {
                    write(client, count).await;
                    count += 1;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for client in all {
        client.await.unwrap();
    }
    done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

fn middle(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    (values[0], values[values.len() / 2], values[values.len() - 1])
}

async fn compare(voters: u64) {
    let (ours, bare) = (ours::Cluster::of(voters, CLIENTS[2]).await, bare::Cluster::of(voters).await);
    for clients in CLIENTS {
        let mut rounds = Vec::new();
        for round in 0..=ROUNDS {
            let pair = (rate(clients, ours.writer()).await, rate(clients, bare.writer()).await);
            // The first is for the disk and the allocator to warm up.
            if round > 0 {
                rounds.push(pair);
            }
        }
        let (lowest, ratio, highest) = middle(rounds.iter().map(|(ours, bare)| ours / bare));
        let verdict = if ratio >= AIM { "met" } else { "missed" };
        let ours = middle(rounds.iter().map(|(ours, _)| *ours)).1;
        let bare = middle(rounds.iter().map(|(_, bare)| *bare)).1;
        println!(
            "{voters:>6} {clients:>7} {ours:>9.0} {bare:>9.0} {ratio:>7.2} {lowest:>7.2} {highest:>7.2}  {verdict} (>= {AIM})"
        );
    }
    ours.end().await;
    bare.end().await;
}

#[tokio::main]
async fn main() {
    // `cargo test` builds benches too and runs them with this flag: nothing to test here.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    println!(
        "{:>6} {:>7} {:>9} {:>9} {:>7} {:>7} {:>7}",
        "voters", "clients", "ours/s", "bare/s", "ratio", "lowest", "highest"
    );
    for voters in [1, 3] {
        compare(voters).await;
    }
}
