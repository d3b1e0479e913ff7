//! Published ports: every host answers, every replica takes its turn, and the client's own address arrives.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{
    Lab,
    balancing::{self, TARGETS, one},
    skipped,
};

#[test]
fn every_host_answers_with_the_clients_own_address() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-ingress", 3, 1);
    balancing::every_host_answers_with_the_clients_own_address(&lab);
}

#[test]
fn one_replica_answers_on_every_host_and_none_refuses_at_once() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-refuse", 3, 1);
    lab.create_web("web", 1, &["-p", "8080:80"]);
    for (target, client) in TARGETS {
        let answers = lab.ask("client", &format!("{target}:8080"), 3, false);
        assert_eq!((answers.failed.as_str(), answers.clients), ("", one(client)), "{target}");
    }
    // A large answer crosses the tunnel whole: the segment size is clamped.
    let task = &lab.running("node1", "web").unwrap()[0];
    let script = "head -c 3000000 /dev/zero > /dev/shm/big; (nc -l -N -p 99 < /dev/shm/big || nc -l -q1 -p 99 < /dev/shm/big) >/dev/null 2>&1 &";
    lab.in_task(task, script);
    lab.heddle(
        "node1",
        &["service", "create", "--process", "--name", "none", "-p", "8081:80", "--detach", "--", "false"],
    );
    let refused = lab.ask("client", "10.77.0.2:8081", 1, false);
    assert!(refused.failed.contains("refused"), "{}", refused.failed);
}

#[test]
fn tunnels_carry_the_networks_vni_and_nothing_crosses_plain() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-wire", 3, 1);
    lab.create_web("web", 3, &["-p", "8080:80"]);
    balancing::tunnels_carry_the_networks_vni_and_nothing_crosses_plain(&lab);
}
