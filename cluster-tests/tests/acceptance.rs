//! What Heddle promises, on three virtual machines on Debian's kernel: with either balancer, one and three managers, and
//! both kinds of WireGuard.
//!
//! A lab takes a while to boot: each is used for one thing after the other, and cleared between them. All of it, also what is
//! left out otherwise: `cargo test -p heddle-cluster-tests --test acceptance -- --test-threads=1 --include-ignored`.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{HOSTS, Lab, balancing, discovery, encryption, failure, footprint::Traces, scaling, vm};
use serde_json::Value;
use std::time::Instant;

const TOOLS: [&str; 3] = ["dig", "ipvsadm", "nc"];

/// A lab, and what its parts took.
struct Trial {
    lab: Lab,
    begun: Instant,
    before: Traces,
}

impl Trial {
    fn begin(managers: u8, backend: &str) -> Self {
        let name = format!("t-accept-{backend}");
        let (before, begun) = (Traces::of(&name), Instant::now());
        let lab = Lab::vm(&name, 3, managers, backend, &TOOLS);
        println!("up in {:.1?}", begun.elapsed());
        for host in HOSTS {
            let said = lab.sh(host, "uname -v; hostname");
            assert!(said.contains("Debian") && said.ends_with(&format!("\n{host}\n")), "{said}");
            assert_eq!(lab.info(host)["loadBalancer"], backend, "{host}");
        }
        Trial { lab, begun, before }
    }

    fn part(&self, what: &str, part: impl FnOnce(&Lab)) {
        let start = Instant::now();
        part(&self.lab);
        println!("{what}: {:.1?}", start.elapsed());
    }

    fn part_then_clear(&self, what: &str, part: impl FnOnce(&Lab)) {
        self.part(what, |lab| {
            part(lab);
            lab.clear();
        });
    }

    fn end(self) {
        for host in self.lab.hosts().as_array().unwrap().iter().filter(|h| h["name"] != "client") {
            println!("{}: {} MiB", host["name"], resident(host));
        }
        drop(self.lab);
        self.before.alone_are_left();
        println!("{:.1?} in all", self.begun.elapsed());
    }
}

/// Of the machine's qemu, in MiB.
fn resident(host: &Value) -> u64 {
    let pid = host["pid"].as_u64().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", children.trim())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

fn balances(trial: &Trial) {
    trial.part_then_clear("every host answers", |lab| {
        balancing::every_host_answers_with_the_clients_own_address(lab);
        balancing::tunnels_carry_the_networks_vni_and_nothing_crosses_plain(lab);
    });
    trial.part_then_clear("names", discovery::tasks_find_each_other_by_name_and_reach_the_virtual_address);
}

/// The first two hosts encrypt by these means.
fn encrypts_and_endures(trial: &Trial, wireguard: [&str; 2]) {
    trial.part_then_clear("encryption", |lab| {
        for (host, means) in HOSTS.into_iter().zip(wireguard) {
            encryption::encrypts_by(lab, host, means);
        }
        encryption::what_crosses_an_encrypted_network_is_not_read(lab);
    });
    trial.part_then_clear("a daemon", failure::a_workers_daemon_is_killed_and_takes_its_tasks_over_again);
    trial.part_then_clear("a cable", failure::a_cable_is_cut_and_mended);
    trial.part_then_clear("a host", |lab| {
        let kept = lab.state_dir("node3") + "/mark";
        lab.sh("node3", &format!("sync; echo kept > {kept}; sync; echo lost > /root/mark"));
        failure::a_worker_host_dies_and_its_replicas_come_back_elsewhere(lab);
        assert_eq!(lab.sh("node3", &format!("cat {kept}; cat /root/mark || true; rm {kept}")), "kept\n");
    });
}

/// With three managers.
fn managers(backend: &str) {
    let trial = Trial::begin(3, backend);
    trial.part_then_clear("all daemons", failure::every_daemon_restarts_at_once_and_not_one_object_differs);
    trial.part("the leader", failure::the_leader_of_three_managers_dies);
    trial.end();
}

#[test]
fn with_ipvs_all_holds_with_workers() {
    if vm::skipped() {
        return;
    }
    let trial = Trial::begin(1, "ipvs");
    balances(&trial);
    encrypts_and_endures(&trial, ["kernel", "userspace"]);
    trial.part("scaling", scaling::scaling_and_removing_leave_exactly_what_is_wanted);
    trial.end();
}

#[test]
fn with_nftables_every_host_balances() {
    if vm::skipped() {
        return;
    }
    let trial = Trial::begin(1, "nftables");
    balances(&trial);
    trial.end();
}

#[test]
#[ignore = "takes some minutes more"]
fn with_nftables_the_rest_holds_with_workers() {
    if vm::skipped() {
        return;
    }
    let trial = Trial::begin(1, "nftables");
    encrypts_and_endures(&trial, ["kernel", "kernel"]);
    trial.part("scaling", scaling::scaling_and_removing_leave_exactly_what_is_wanted);
    trial.end();
}

#[test]
#[ignore = "takes four minutes, and failure.rs has the same in namespaces"]
fn with_ipvs_managers_may_fail() {
    if !vm::skipped() {
        managers("ipvs");
    }
}

#[test]
#[ignore = "takes some minutes more"]
fn with_nftables_managers_may_fail() {
    if !vm::skipped() {
        managers("nftables");
    }
}
