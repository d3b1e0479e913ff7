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
    let lab = Lab::up("t-wire", 2, 1);
    lab.create_web("web", 2, &["-p", "8080:80"]);
    let vni = lab.overlay("node1", "ingress").vni();
    // Counts on the wire itself: frames of this VNI (bytes 12 to 14 after the start of the UDP header), and requests outside
    // of VXLAN that go on from the host that took them.
    let table = format!(
        "table inet count {{\n\
         counter vxlan {{ }}\n counter other {{ }}\n counter plain {{ }}\n\
         chain out {{\n type filter hook output priority 0;\n\
         udp dport 4789 @th,96,24 {vni} counter name vxlan\n udp dport 4789 @th,96,24 != {vni} counter name other\n\
         tcp dport 80 counter name plain\n}}\n}}"
    );
    lab.sh("node1", &format!("nft '{table}'"));
    let answers = lab.ask("client", "10.77.0.1:8080", 20, false);
    assert_eq!((answers.failed.as_str(), answers.nodes.len()), ("", 2));
    let count = |name: &str| {
        let text = lab.sh("node1", &format!("nft list counter inet count {name}"));
        let packets = text.split("packets ").nth(1).and_then(|t| t.split_whitespace().next());
        packets.and_then(|n| n.parse::<u64>().ok()).unwrap()
    };
    assert!(count("vxlan") > 10, "{}", count("vxlan"));
    assert_eq!((count("other"), count("plain")), (0, 0));
}
