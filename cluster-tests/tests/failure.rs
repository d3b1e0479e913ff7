//! Daemons, hosts, leaders and cables fail.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, balancing::Held, failure, skipped, wait, wait_for};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

#[test]
fn a_workers_daemon_is_killed_and_takes_its_tasks_over_again() {
    if !skipped() {
        failure::a_workers_daemon_is_killed_and_takes_its_tasks_over_again(&Lab::patient("t-daemon", 3, 1));
    }
}

#[test]
fn a_worker_host_dies_and_its_replicas_come_back_elsewhere() {
    if !skipped() {
        failure::a_worker_host_dies_and_its_replicas_come_back_elsewhere(&Lab::up("t-host", 3, 1));
    }
}

#[test]
fn a_daemon_that_stalls_is_down_only_as_long_as_it_does() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-stall", 2, 1);
    let is = |wanted: &str| lab.node_state("node1", "node2").and_then(|s| if s == wanted { Ok(()) } else { Err(s) });
    // Its connections outlive so short a time: nothing begins anew.
    lab.sh("node2", "kill -STOP $(pgrep -of 'heddle daemon')");
    wait("node2 is down", || is("down"));
    lab.sh("node2", "kill -CONT $(pgrep -of 'heddle daemon')");
    wait_for(Duration::from_secs(5), "node2 is ready again", || is("ready"));
}

#[test]
fn the_leader_of_three_managers_dies() {
    if !skipped() {
        failure::the_leader_of_three_managers_dies(&Lab::up("t-leader", 3, 3));
    }
}

#[test]
fn a_cable_is_cut_and_mended() {
    if !skipped() {
        failure::a_cable_is_cut_and_mended(&Lab::up("t-cut", 3, 1));
    }
}

#[test]
fn every_daemon_restarts_at_once_and_not_one_object_differs() {
    if !skipped() {
        failure::every_daemon_restarts_at_once_and_not_one_object_differs(&Lab::patient("t-restart", 3, 3));
    }
}

/// Between two requests of the client, each on a connection of its own; an answer that takes longer than PATIENCE is none.
const EVERY: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks one host and goes on for so long. When each request began, and whether it was answered.
fn asked(
    lab: &Lab,
    to: &str,
    lasts: Duration,
    begun: &Arc<AtomicUsize>,
) -> thread::JoinHandle<Vec<(Instant, Result<(), String>)>> {
    let (netns, to, begun) = (lab.netns("client"), to.parse().unwrap(), begun.clone());
    thread::spawn(move || {
        // Neighbours are found by the first packet, which may have to be sent twice.
        let first = Held::open(netns.clone(), to);
        assert!(first.is_ok(), "{:?}", first.err());
        let begin = Instant::now();
        let mut requests = Vec::new();
        while begin.elapsed() < lasts {
            let netns = netns.clone();
            begun.fetch_add(1, Ordering::Relaxed);
            requests.push(thread::spawn(move || {
                let started = Instant::now();
                let answered = match Held::open(netns, to) {
                    Ok(_) if started.elapsed() < PATIENCE => Ok(()),
                    Ok(_) => Err(format!("it took {:.1?}", started.elapsed())),
                    Err(e) => Err(e.to_string()),
                };
                (started, answered)
            }));
            thread::sleep(EVERY);
        }
        requests.into_iter().map(|request| request.join().unwrap()).collect()
    })
}

#[test]
fn a_host_that_dies_costs_requests_for_a_second_or_two() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-window", 3, 1);
    lab.create_web("web", 6, &["-p", "8080:80"]);
    let begun = Arc::new(AtomicUsize::new(0));
    let clients = ["10.77.0.1:8080", "[fd77::2]:8080"].map(|to| asked(&lab, to, Duration::from_secs(8), &begun));
    wait("many are asked", || match begun.load(Ordering::Relaxed) {
        n if n > 150 => Ok(()),
        n => Err(format!("{n} are")),
    });
    let killed = Instant::now();
    lab.do_lab(&["kill", "node3"]);
    wait("the replicas are elsewhere", || {
        let elsewhere = lab.running("node1", "web")?.iter().filter(|t| t["hostname"] != "node3").count();
        if elsewhere == 6 { Ok(()) } else { Err(format!("{elsewhere} are")) }
    });
    let replaced = killed.elapsed();
    let all: Vec<_> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    let lost = all.iter().filter_map(|(at, answered)| Some((*at, answered.as_ref().err()?)));
    let lost: Vec<(Instant, &String)> = lost.collect();
    // A request that was under way is lost, too.
    let before: Vec<_> = lost.iter().filter(|(at, _)| *at + PATIENCE < killed).collect();
    assert!(before.is_empty(), "some failed before anything happened: {before:?}");
    let last = lost.iter().map(|(at, _)| *at).max().map_or(Duration::ZERO, |at| at.saturating_duration_since(killed));
    println!("{} of {} requests were lost, the last {last:.1?} after a host was killed", lost.len(), all.len());
    println!("its replicas ran elsewhere {replaced:.1?} after it was killed");
    assert!(lost.len() > 10, "nobody noticed that a host was killed");
    assert!(last < Duration::from_secs(2), "{last:?}");
    assert!(replaced < last + Duration::from_secs(3), "{replaced:?}");
}
