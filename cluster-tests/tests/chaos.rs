//! Three managers and three workers under load while daemons are killed and stopped and ways are cut, at random: what was
//! acknowledged is there at the end, and no program was restarted because managers failed.
//!
//! `CHAOS_SECONDS` is how long (60 by default), `CHAOS_SEED` what is chosen.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, skipped, wait, wait_for};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

const MANAGERS: [&str; 3] = ["node1", "node2", "node3"];
/// Killed now and then; what runs there comes back somewhere.
const WORKERS: [&str; 2] = ["node4", "node5"];
/// Touched by nobody: what runs there runs on.
const STEADY: &str = "node6";
const WRITERS: usize = 3;
/// Keys that each writer writes in turn.
const KEYS: u64 = 20;
/// How long something is broken.
const BROKEN: std::ops::Range<u64> = 200..3500;
/// Until all are as they should be again.
const CALM: Duration = Duration::from_secs(60);

fn number(name: &str, default: impl FnOnce() -> u64) -> u64 {
    let given = std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")));
    let number = given.unwrap_or_else(default);
    println!("{name}={number}");
    number
}

fn addr(host: &str) -> String {
    format!("10.77.0.{}", host.trim_start_matches("node"))
}

#[derive(Debug)]
enum Fault {
    /// kill -9 of these daemons, which come back.
    Kill(Vec<&'static str>),
    /// SIGSTOP of a daemon, and SIGCONT.
    Stop(&'static str),
    /// No way between two hosts.
    Cut(&'static str, &'static str),
    /// The first hears nothing of the second, which hears it.
    Deaf(&'static str, &'static str),
}

impl Fault {
    fn any(lab: &Lab, random: &mut StdRng) -> Self {
        let one = |of: &[&'static str], random: &mut StdRng| of[random.random_range(0..of.len())];
        let leader = MANAGERS.iter().find_map(|m| lab.leader(m).ok());
        let leader = MANAGERS.into_iter().find(|m| Some(*m) == leader.as_deref()).unwrap_or(MANAGERS[0]);
        let followers: Vec<&str> = MANAGERS.into_iter().filter(|m| *m != leader).collect();
        let follower = one(&followers, random);
        match random.random_range(0..8) {
            0 | 1 => Fault::Kill(vec![leader]),
            2 => Fault::Kill(vec![follower]),
            3 => Fault::Kill(vec![one(&WORKERS, random)]),
            4 => Fault::Stop(leader),
            5 => Fault::Cut(leader, follower),
            6 if random.random_bool(0.5) => Fault::Deaf(leader, follower),
            6 => Fault::Deaf(follower, leader),
            _ => Fault::Kill(MANAGERS.to_vec()),
        }
    }

    fn begin(&self, lab: &Lab) {
        match self {
            Fault::Kill(hosts) => hosts.iter().for_each(|host| lab.do_lab(&["kill", host, "--daemon"])),
            Fault::Stop(host) => drop(lab.sh(host, "kill -STOP $(pgrep -of 'heddle daemon')")),
            Fault::Cut(a, b) => lab.do_lab(&["cut", &format!("{a}:{b}")]),
            Fault::Deaf(deaf, to) => {
                let script = format!(
                    "nft add table inet chaos && nft 'add chain inet chaos in {{ type filter hook input priority -300; }}' \
                     && nft add rule inet chaos in ip saddr {} drop",
                    addr(to)
                );
                lab.sh(deaf, &script);
            }
        }
    }

    fn end(&self, lab: &Lab) {
        match self {
            Fault::Kill(hosts) => hosts.iter().for_each(|host| lab.do_lab(&["start", host])),
            Fault::Stop(host) => drop(lab.sh(host, "kill -CONT $(pgrep -of 'heddle daemon')")),
            Fault::Cut(..) => lab.do_lab(&["heal"]),
            Fault::Deaf(deaf, _) => drop(lab.sh(deaf, "nft delete table inet chaos")),
        }
    }
}

/// Of one key: what was written last that was acknowledged, and all that was not, which may have been written at any time since.
#[derive(Debug, Clone, Default)]
struct Written {
    acknowledged: u64,
    refused: BTreeSet<u64>,
}

struct Load {
    over: AtomicBool,
    writes: AtomicU64,
    refused: AtomicU64,
    asked: AtomicU64,
    unanswered: AtomicU64,
    /// When the last write was acknowledged, and the longest time in which none was.
    pause: Mutex<(Instant, Duration)>,
}

impl Load {
    fn accepted(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        let mut pause = self.pause.lock().unwrap();
        pause.1 = pause.1.max(pause.0.elapsed());
        pause.0 = Instant::now();
    }

    /// Writes labels of the steady node, each key again and again, until it is over.
    fn write(&self, lab: &Lab, writer: usize) -> BTreeMap<String, Written> {
        let mut all: BTreeMap<String, Written> = BTreeMap::new();
        for nth in 1.. {
            if self.over.load(Ordering::Relaxed) {
                break;
            }
            let key = format!("w{writer}k{}", nth % KEYS);
            let written = all.entry(key.clone()).or_default();
            let label = format!("{key}={nth}");
            let manager = MANAGERS[(nth as usize + writer) % MANAGERS.len()];
            match lab.try_heddle(manager, &["node", "update", "--label-add", &label, STEADY]) {
                Ok(_) => {
                    written.acknowledged = nth;
                    self.accepted();
                }
                Err(_) => {
                    written.refused.insert(nth);
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        all
    }

    fn ask(&self, lab: &Lab) {
        for host in MANAGERS.iter().chain(&WORKERS).chain([&STEADY]).cycle() {
            if self.over.load(Ordering::Relaxed) {
                break;
            }
            let answers = lab.ask("client", &format!("{}:8080", addr(host)), 4, false);
            self.asked.fetch_add(4, Ordering::Relaxed);
            self.unanswered.fetch_add(answers.failed.lines().count() as u64, Ordering::Relaxed);
        }
    }
}

/// Ids and pids of what runs on the steady node.
fn steady(lab: &Lab, ask: &str) -> Result<BTreeSet<(String, String)>, String> {
    let running = lab.running(ask, "steady")?;
    Ok(running.iter().map(|t| (t["id"].to_string(), t["pid"].to_string())).collect())
}

fn labels(lab: &Lab, ask: &str) -> Result<Value, String> {
    Ok(lab.try_json(ask, &["node", "inspect", STEADY])?[0]["labels"].clone())
}

#[test]
fn what_was_acknowledged_is_there_and_nothing_was_restarted() {
    if skipped() {
        return;
    }
    let (seconds, seed) = (number("CHAOS_SECONDS", || 40), number("CHAOS_SEED", rand::random));
    let mut random = StdRng::seed_from_u64(seed);
    let lab = Lab::up("t-chaos", 6, 3);
    lab.create_web("steady", 3, &["--constraint", &format!("node.hostname=={STEADY}")]);
    lab.create_web("web", 4, &["-p", "8080:80", "--constraint", "node.role==worker"]);
    let before = steady(&lab, "node1").unwrap();
    let load = Load {
        over: AtomicBool::new(false),
        writes: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        asked: AtomicU64::new(0),
        unanswered: AtomicU64::new(0),
        pause: Mutex::new((Instant::now(), Duration::ZERO)),
    };
    let written = std::thread::scope(|scope| {
        let (lab, load) = (&lab, &load);
        let writers: Vec<_> = (0..WRITERS).map(|n| scope.spawn(move || load.write(lab, n))).collect();
        scope.spawn(move || load.ask(lab));
        // Ends the load although this may panic.
        let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let (begin, limit) = (Instant::now(), Duration::from_secs(seconds));
            while begin.elapsed() < limit {
                let fault = Fault::any(lab, &mut random);
                println!("{:>6.1} s: {fault:?}", begin.elapsed().as_secs_f64());
                fault.begin(lab);
                sleep(Duration::from_millis(random.random_range(BROKEN)));
                fault.end(lab);
                // Some come while the last is not mended yet, some after it is.
                sleep(Duration::from_millis(random.random_range(0..3000)));
            }
        }));
        load.over.store(true, Ordering::Relaxed);
        let written: Vec<_> = writers.into_iter().map(|w| w.join().unwrap()).collect();
        broken.unwrap();
        written.into_iter().flatten().collect::<BTreeMap<_, _>>()
    });
    let pause = load.pause.lock().unwrap().1;
    println!(
        "{} writes acknowledged, {} refused, {} of {} requests unanswered; no write was accepted for {pause:.1?} at most",
        load.writes.load(Ordering::Relaxed),
        load.refused.load(Ordering::Relaxed),
        load.unanswered.load(Ordering::Relaxed),
        load.asked.load(Ordering::Relaxed),
    );
    assert!(load.writes.load(Ordering::Relaxed) > seconds / 4, "hardly anything was written");

    for manager in MANAGERS {
        let found = wait_for(CALM, "every manager answers", || labels(&lab, manager));
        for (key, written) in &written {
            let value = found[key].as_str().map_or(0, |v| v.parse().unwrap());
            assert!(
                value == written.acknowledged || written.refused.contains(&value),
                "{manager} has {key}={value}, and of it {written:?}"
            );
        }
        let after = wait_for(CALM, "the steady tasks are known", || match steady(&lab, manager)? {
            after if after.len() == before.len() => Ok(after),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(after, before, "{manager}: nothing was restarted");
    }
    wait_for(CALM, "all replicas run", || match lab.running("node1", "web")?.len() {
        4 => Ok(()),
        n => Err(n.to_string()),
    });
    for host in MANAGERS.iter().chain(&WORKERS).chain([&STEADY]) {
        wait(&format!("{host} answers"), || {
            match lab.ask("client", &format!("{}:8080", addr(host)), 8, false).failed {
                failed if failed.is_empty() => Ok(()),
                failed => Err(failed),
            }
        });
    }
}
