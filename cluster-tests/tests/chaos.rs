//! Three managers and three workers under load while daemons are killed and stopped and ways are cut, at random: what was
//! acknowledged is there at the end, and no program was restarted because managers failed.
//!
//! `CHAOS_SECONDS` is how long (60 by default), `CHAOS_SEED` what is chosen.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, addr, load::Load, skipped, wait, wait_for};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeSet,
    thread::sleep,
    time::{Duration, Instant},
};

const MANAGERS: [&str; 3] = ["node1", "node2", "node3"];
/// Killed now and then; what runs there comes back somewhere.
const WORKERS: [&str; 2] = ["node4", "node5"];
/// Touched by nobody: what runs there runs on.
const STEADY: &str = "node6";
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

/// Ids and pids of what runs on the steady node.
fn steady(lab: &Lab, ask: &str) -> Result<BTreeSet<(String, String)>, String> {
    let running = lab.running(ask, "steady")?;
    Ok(running.iter().map(|t| (t["id"].to_string(), t["pid"].to_string())).collect())
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
    let load = Load::new(&MANAGERS, &[&MANAGERS[..], &WORKERS, &[STEADY]].concat(), STEADY);
    let written = load.while_doing(&lab, || {
        let (begin, limit) = (Instant::now(), Duration::from_secs(seconds));
        while begin.elapsed() < limit {
            let fault = Fault::any(&lab, &mut random);
            println!("{:>6.1} s: {fault:?}", begin.elapsed().as_secs_f64());
            fault.begin(&lab);
            sleep(Duration::from_millis(random.random_range(BROKEN)));
            fault.end(&lab);
            // Some come while the last is not mended yet, some after it is.
            sleep(Duration::from_millis(random.random_range(0..3000)));
        }
    });
    assert!(load.accepted() > seconds / 4, "hardly anything was written");

    for manager in MANAGERS {
        load.is_kept(&lab, manager, &written, CALM);
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
