//! Managers whose disks are full, or slow.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{HOSTS, Lab, skipped, wait, wait_for};
use std::time::{Duration, Instant};

/// Until a manager that cannot write has noticed, and until it is back.
const LIMIT: Duration = Duration::from_secs(60);
/// What each write of a log waits for, on a disk that is slow.
const DELAY: Duration = Duration::from_millis(400);
const WRITES: usize = 8;

fn raft_dir(lab: &Lab, host: &str) -> String {
    lab.state_dir(host) + "/raft"
}

/// Hosts of which each would have its manager's state on a disk of its own.
fn with_disks(name: &str, nodes: u8) -> Lab {
    let lab = Lab::bare(name, nodes);
    for host in &HOSTS[..nodes.into()] {
        let dir = raft_dir(&lab, host);
        lab.sh(host, &format!("mkdir -p {dir} && mount -t tmpfs -o size=48m tmpfs {dir}"));
    }
    lab
}

fn fill(lab: &Lab, host: &str) {
    let dir = raft_dir(lab, host);
    lab.sh(host, &format!("dd if=/dev/zero of={dir}/fill bs=64k 2>/dev/null; test $(stat -fc %a {dir}) = 0"));
}

fn empty(lab: &Lab, host: &str) {
    lab.sh(host, &format!("rm {}/fill", raft_dir(lab, host)));
}

/// More than fits into pages that are free already.
fn write_much(lab: &Lab, ask: &str, name: &str) -> Result<(), String> {
    let file = format!("{}/{name}", lab.state_dir(ask));
    lab.sh(ask, &format!("head -c 700000 /dev/urandom >{file}"));
    lab.try_heddle(ask, &["config", "create", name, &file]).map(drop)
}

fn reachable(lab: &Lab, ask: &str, host: &str) -> Result<bool, String> {
    let status = lab.try_json(ask, &["cluster", "status", "--format", "json"])?;
    let managers = status["managers"].as_array().cloned().unwrap_or_default();
    Ok(managers.iter().any(|m| m["hostname"] == host && m["reachable"] == true))
}

fn log(lab: &Lab, host: &str) -> String {
    std::fs::read_to_string(lab.state_dir(host) + "/daemon.log").unwrap()
}

const STOPPED: &str = "this manager stops, and tries to start anew";

#[test]
fn a_manager_whose_disk_is_full_is_back_when_it_is_not() {
    if skipped() {
        return;
    }
    let lab = with_disks("t-disk-full", 3);
    lab.heddle("node1", &["init", "--advertise-addr", "eth0"]);
    let token = lab.heddle("node1", &["join-token", "manager", "-q"]);
    for host in &HOSTS[1..] {
        lab.heddle(host, &["join", "--token", token.trim(), "10.77.0.1"]);
    }
    lab.create_web("web", 3, &["-p", "8080:80"]);
    let leader = wait("one leads", || lab.leader("node1"));
    let follower = HOSTS.into_iter().find(|host| *host != leader).unwrap();
    let pids =
        || -> Vec<String> { lab.running("node1", "web").unwrap().iter().map(|t| t["pid"].to_string()).collect() };
    let before = pids();
    for (round, full) in [follower, leader.as_str()].into_iter().enumerate() {
        let other = HOSTS.into_iter().find(|host| *host != full).unwrap();
        fill(&lab, full);
        // The others go on; whoever leads hands over by falling silent.
        for nth in 0..4 {
            let name = format!("c{round}{nth}");
            wait_for(LIMIT, "the others write", || match write_much(&lab, other, &name) {
                Err(said) if said.contains("exists already") => Ok(()),
                other => other,
            });
        }
        wait_for(LIMIT, "it stops", || if log(&lab, full).contains(STOPPED) { Ok(()) } else { Err(log(&lab, full)) });
        assert_eq!(lab.ask("client", "10.77.0.2:8080", 6, false).failed, "");
        empty(&lab, full);
        wait_for(LIMIT, "it is back", || match reachable(&lab, other, full)? {
            true => lab.try_heddle(full, &["config", "ls"]).map(drop),
            false => Err("it is not reachable".into()),
        });
        wait_for(LIMIT, "it has all that was written meanwhile", || {
            let known = lab.try_heddle(full, &["--stale", "config", "ls"])?;
            if (0..4).all(|nth| known.contains(&format!("c{round}{nth}"))) { Ok(()) } else { Err(known) }
        });
    }
    assert_eq!(pids(), before, "nothing was restarted");
}

#[test]
fn the_only_manager_refuses_while_its_disk_is_full() {
    if skipped() {
        return;
    }
    let lab = with_disks("t-disk-only", 1);
    lab.heddle("node1", &["init", "--advertise-addr", "eth0"]);
    lab.create_web("web", 1, &["-p", "8080:80"]);
    fill(&lab, "node1");
    let mut nth = 0;
    let said = wait_for(LIMIT, "a write is refused", || {
        nth += 1;
        write_much(&lab, "node1", &format!("c{nth}")).err().ok_or_else(|| "it was written".to_owned())
    });
    println!("{said}");
    assert_eq!(lab.ask("client", "10.77.0.1:8080", 4, false).failed, "");
    empty(&lab, "node1");
    wait_for(LIMIT, "it writes again", || write_much(&lab, "node1", "after"));
    let known = lab.heddle("node1", &["config", "ls"]);
    assert!((1..nth).all(|n| known.contains(&format!("c{n}"))), "what was acknowledged is there: {known}");
}

/// Ends when dropped.
struct Slow<'a>(&'a Lab, String);

impl<'a> Slow<'a> {
    /// Every fsync of a daemon takes longer.
    fn make(lab: &'a Lab, host: &str) -> Self {
        let delay = DELAY.as_micros();
        let inject = format!("inject=fsync,fdatasync:delay_enter={delay}");
        let pid = lab.sh(host, "pgrep -of 'heddle daemon'");
        let trace = format!("strace -f -qq -p {} -e trace=fsync,fdatasync -e {inject} -o /dev/null", pid.trim());
        lab.sh(host, &format!("setsid {trace} >/dev/null 2>&1 & sleep 1; pgrep -x strace >/dev/null"));
        Self(lab, host.to_owned())
    }
}

impl Drop for Slow<'_> {
    fn drop(&mut self) {
        self.0.sh(&self.1, "pkill -INT -x strace; while pgrep -x strace >/dev/null; do sleep 0.1; done");
    }
}

fn times(lab: &Lab, ask: &str) -> Vec<Duration> {
    let mut times: Vec<_> = (0..WRITES)
        .map(|n| {
            let began = Instant::now();
            lab.heddle(ask, &["node", "update", "--label-add", &format!("k={n}"), "node1"]);
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    times
}

#[test]
fn one_slow_disk_delays_nobody_and_ends_no_leadership() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-disk-slow", 3, 3);
    let leader = wait("one leads", || lab.leader("node1"));
    let follower = HOSTS.into_iter().find(|host| *host != leader).unwrap();
    let usual = times(&lab, &leader);
    let of_follower = {
        let _slow = Slow::make(&lab, follower);
        times(&lab, &leader)
    };
    let of_leader = {
        let _slow = Slow::make(&lab, &leader);
        times(&lab, &leader)
    };
    let of_two = {
        let _slow = [Slow::make(&lab, follower), Slow::make(&lab, &leader)];
        times(&lab, &leader)
    };
    println!("usual {usual:?}\nfollower's disk slow {of_follower:?}\nleader's {of_leader:?}\nboth {of_two:?}");
    for of_one in [of_follower, of_leader] {
        assert!(of_one[WRITES / 2] < usual[WRITES / 2] + DELAY / 2, "the others are a majority: {of_one:?}");
    }
    assert!(of_two[WRITES / 2] >= DELAY, "without one of them there is none: {of_two:?}");
    assert_eq!(wait("one leads", || lab.leader("node1")), leader, "a slow disk is no reason for an election");
    assert_eq!(lab.json("node2", &["node", "inspect", "node1"])[0]["labels"]["k"], (WRITES - 1).to_string());
}
