//! What goes wrong, and when: drawn from the seed.

use crate::{
    host::Host,
    net::{At, Net, Weather},
    world::{FIRST, HOSTS, MANAGERS},
};
use rand::{RngExt, rngs::SmallRng, seq::IndexedRandom};
use std::{collections::BTreeMap, ops::Range, sync::atomic::Ordering};

/// Milliseconds between two faults.
const EVERY: Range<u64> = 200..1500;
/// How long one lasts.
const LASTS: Range<u64> = 100..3000;
/// Changes of the disk before a host crashes amid them.
const FUSE: Range<u64> = 0..60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The power goes at once.
    Crash,
    /// The power goes amid a write.
    CrashWriting,
    /// Nothing gets in or out.
    Isolate,
    /// What it sends gets lost; it still hears the others.
    Mute,
    /// Managers fall into two halves.
    Split,
    /// Messages get lost.
    Rain,
    /// Messages take long.
    Fog,
    SlowDisk,
    /// Its clock is wrong from here on.
    Skew,
    /// It stands still, as after SIGSTOP.
    Freeze,
    AgentCrash,
    /// Somebody else is to be a manager.
    Replace,
}

const ALL: [Fault; 12] = [
    Fault::Crash,
    Fault::CrashWriting,
    Fault::Isolate,
    Fault::Mute,
    Fault::Split,
    Fault::Rain,
    Fault::Fog,
    Fault::SlowDisk,
    Fault::Skew,
    Fault::Freeze,
    Fault::AgentCrash,
    Fault::Replace,
];

/// Told apart from what the network and disks do at once: others have to carry these out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    AgentCrash(At),
    Replace { out: At, with: At },
}

pub struct Faults {
    rng: SmallRng,
    next: u64,
    /// Hosts to start again, and those to go on, by when.
    starts: BTreeMap<At, u64>,
    pub frozen: BTreeMap<At, u64>,
    weather_until: u64,
    pub log: Vec<(u64, Fault, At)>,
}

impl Faults {
    pub fn new(rng: SmallRng) -> Self {
        let (starts, frozen) = (BTreeMap::new(), BTreeMap::new());
        Self { rng, next: 1500, starts, frozen, weather_until: 0, log: Vec::new() }
    }

    /// What is due now.
    pub fn step(&mut self, now: u64, hosts: &mut [Host], net: &Net) -> Option<Order> {
        self.mend(now, hosts, net);
        if now < self.next {
            return None;
        }
        self.next = now + self.rng.random_range(EVERY);
        let fault = *ALL.choose(&mut self.rng)?;
        let at = self.rng.random_range(0..MANAGERS);
        self.log.push((now, fault, at));
        tracing::info!(now, ?fault, at, "goes wrong");
        let lasts = self.rng.random_range(LASTS);
        match fault {
            Fault::Crash => self.crash(at, now + lasts, hosts),
            Fault::CrashWriting => hosts[at].disk.arm(self.rng.random_range(FUSE)),
            Fault::Isolate => self.cut(now + lasts, net, |from, to| from == at || to == at),
            Fault::Mute => self.cut(now + lasts, net, |from, _| from == at),
            Fault::Split => {
                let side: Vec<bool> = (0..=HOSTS).map(|_| self.rng.random_bool(0.5)).collect();
                self.cut(now + lasts, net, |from, to| side[from] != side[to]);
            }
            Fault::Rain => {
                let loss = self.rng.random_range(0.05..0.4);
                self.weather_until = now + lasts;
                net.weather(|w| w.loss = loss);
            }
            Fault::Fog => {
                let worst = self.rng.random_range(50..400);
                self.weather_until = now + lasts;
                net.weather(|w| w.latency = 1..worst);
            }
            Fault::SlowDisk => hosts[at].sync_ms.store(self.rng.random_range(20..300), Ordering::Relaxed),
            Fault::Skew => hosts[at].skew = self.rng.random_range(-600_000..600_000),
            Fault::Freeze => drop(self.frozen.insert(at, now + lasts)),
            Fault::AgentCrash => return Some(Order::AgentCrash(self.rng.random_range(0..HOSTS))),
            Fault::Replace => {
                let out = self.rng.random_range(0..MANAGERS);
                let with = (out + self.rng.random_range(1..MANAGERS)) % MANAGERS;
                return Some(Order::Replace { out, with });
            }
        }
        None
    }

    fn crash(&mut self, at: At, until: u64, hosts: &mut [Host]) {
        if hosts[at].is_up() {
            hosts[at].crash(&mut self.rng);
            self.starts.insert(at, until);
        }
    }

    fn cut(&mut self, until: u64, net: &Net, cuts: impl Fn(At, At) -> bool) {
        self.weather_until = until;
        let ends = (0..=HOSTS).flat_map(|from| (0..=HOSTS).map(move |to| (from, to)));
        let cut = ends.filter(|(from, to)| from != to && cuts(*from, *to)).collect();
        net.weather(|w| w.cut = cut);
    }

    /// Ends what has lasted long enough, and takes the power of hosts whose fuse has blown.
    fn mend(&mut self, now: u64, hosts: &mut [Host], net: &Net) {
        if self.weather_until != 0 && now >= self.weather_until {
            self.weather_until = 0;
            net.weather(|w| *w = Weather::default());
        }
        for at in 0..hosts.len() {
            if hosts[at].disk.blown() {
                let until = now + self.rng.random_range(LASTS);
                self.crash(at, until, hosts);
            }
        }
        let due: Vec<At> = self.starts.iter().filter(|(_, at)| **at <= now).map(|(h, _)| *h).collect();
        for at in due {
            self.starts.remove(&at);
            self.frozen.remove(&at);
            hosts[at].start(now, net);
        }
        let due: Vec<At> = self.frozen.iter().filter(|(_, at)| **at <= now).map(|(h, _)| *h).collect();
        for at in due {
            self.frozen.remove(&at);
            hosts[at].wake_at(now);
        }
    }

    /// From here on nothing goes wrong: what is broken is mended at once.
    pub fn stop(&mut self, now: u64, hosts: &mut [Host], net: &Net) {
        self.next = u64::MAX;
        net.weather(|w| *w = Weather::default());
        self.starts.values_mut().chain(self.frozen.values_mut()).for_each(|at| *at = now);
        hosts.iter_mut().for_each(|h| h.sync_ms.store(1, Ordering::Relaxed));
        self.mend(now, hosts, net);
    }
}

/// Who is a manager at first.
pub fn first() -> Range<At> {
    0..FIRST
}
