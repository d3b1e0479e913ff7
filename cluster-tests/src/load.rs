//! Writes and requests while something is done to a cluster, and what is left of them.
#![allow(clippy::unwrap_used)]

use crate::{Lab, addr, wait_for};
use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

const WRITERS: usize = 3;
/// Keys that each writer writes in turn.
const KEYS: u64 = 20;

/// Of one key: what was written last that was acknowledged, and all that was not, which may have been written at any time since.
#[derive(Debug, Clone, Default)]
pub struct Written {
    acknowledged: u64,
    refused: BTreeSet<u64>,
}

/// Labels of one node, written through several managers, and requests from outside to port 8080 of several hosts.
pub struct Load {
    managers: Vec<String>,
    entries: Vec<String>,
    labelled: String,
    over: AtomicBool,
    writes: AtomicU64,
    refused: AtomicU64,
    asked: AtomicU64,
    unanswered: AtomicU64,
    /// When the last write was acknowledged, and the longest time in which none was.
    pause: Mutex<(Instant, Duration)>,
}

impl Load {
    pub fn new(managers: &[&str], entries: &[&str], labelled: &str) -> Self {
        let owned = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
        Self {
            managers: owned(managers),
            entries: owned(entries),
            labelled: labelled.to_owned(),
            over: AtomicBool::new(false),
            writes: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            pause: Mutex::new((Instant::now(), Duration::ZERO)),
        }
    }

    /// What was written meanwhile, by key. Prints how much that was.
    pub fn while_doing(&self, lab: &Lab, act: impl FnOnce()) -> BTreeMap<String, Written> {
        *self.pause.lock().unwrap() = (Instant::now(), Duration::ZERO);
        let written = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS).map(|n| scope.spawn(move || self.write(lab, n))).collect();
            scope.spawn(move || self.ask(lab));
            // Ends the load although this may panic.
            let acted = catch_unwind(AssertUnwindSafe(act));
            self.over.store(true, Ordering::Relaxed);
            let written: Vec<_> = writers.into_iter().map(|w| w.join().unwrap()).collect();
            acted.unwrap_or_else(|e| resume_unwind(e));
            written.into_iter().flatten().collect()
        });
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        println!(
            "{} writes acknowledged, {} refused, {} of {} requests unanswered; no write was accepted for {:.1?} at most",
            count(&self.writes),
            count(&self.refused),
            count(&self.unanswered),
            count(&self.asked),
            self.longest_pause(),
        );
        written
    }

    pub fn accepted(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    pub fn unanswered(&self) -> u64 {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// In which no write was acknowledged.
    pub fn longest_pause(&self) -> Duration {
        self.pause.lock().unwrap().1
    }

    /// What was acknowledged is there, as this manager says.
    pub fn is_kept(&self, lab: &Lab, manager: &str, written: &BTreeMap<String, Written>, limit: Duration) {
        let found = wait_for(limit, "a manager answers", || {
            Ok(lab.try_json(manager, &["node", "inspect", &self.labelled])?[0]["labels"].clone())
        });
        for (key, written) in written {
            let value = found[key].as_str().map_or(0, |v| v.parse().unwrap());
            assert!(
                value == written.acknowledged || written.refused.contains(&value),
                "{manager} has {key}={value}, and of it {written:?}"
            );
        }
    }

    fn note(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        let mut pause = self.pause.lock().unwrap();
        pause.1 = pause.1.max(pause.0.elapsed());
        pause.0 = Instant::now();
    }

    /// Each key again and again, until it is over.
    fn write(&self, lab: &Lab, writer: usize) -> BTreeMap<String, Written> {
        let mut all: BTreeMap<String, Written> = BTreeMap::new();
        for nth in 1.. {
            if self.over.load(Ordering::Relaxed) {
                break;
            }
            let key = format!("w{writer}k{}", nth % KEYS);
            let written = all.entry(key.clone()).or_default();
            let label = format!("{key}={nth}");
            let manager = &self.managers[(nth as usize + writer) % self.managers.len()];
            match lab.try_heddle(manager, &["node", "update", "--label-add", &label, &self.labelled]) {
                Ok(_) => {
                    written.acknowledged = nth;
                    self.note();
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
        for host in self.entries.iter().cycle() {
            if self.over.load(Ordering::Relaxed) {
                break;
            }
            let answers = lab.ask("client", &format!("{}:8080", addr(host)), 4, false);
            self.asked.fetch_add(4, Ordering::Relaxed);
            self.unanswered.fetch_add(answers.failed.lines().count() as u64, Ordering::Relaxed);
        }
    }
}
