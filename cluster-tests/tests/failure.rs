//! Daemons, hosts, leaders and cables fail.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, failure, skipped, wait, wait_for};
use std::time::Duration;

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
