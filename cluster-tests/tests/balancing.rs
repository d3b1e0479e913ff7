//! The same of each balancer: nftables, which every kernel has, and IPVS on Debian's; and what only IPVS has.
//!
//! An emulated machine is slow: what takes long is left out unless it is asked for, as by
//! `cargo test -p heddle-cluster-tests --test balancing -- --test-threads=1 --include-ignored`.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, balancing, program, skipped, spread, vm, wait};
use std::{collections::BTreeSet, process::Command, time::Duration};

const HOSTS: [&str; 3] = ["node1", "node2", "node3"];
const GRACE: Duration = Duration::from_secs(10);

/// True: it ran in a machine with these modules besides, or cannot.
fn ran(test: &str, modules: &[&str]) -> bool {
    let modules = [&vm::DATA_PLANE[..], modules].concat();
    let tools = [&vm::TOOLS[..], &["ipvsadm"]].concat();
    let machine = |vm: vm::Vm| vm.modules(&modules).tools(&tools).memory_mib(1024).timeout(Duration::from_secs(1500));
    vm::skipped() || vm::ran_in(test, machine)
}

fn draining(backend: &str) {
    balancing::what_ends_drains(&Lab::balanced("t-drains", 3, backend), GRACE);
}

fn entering(backend: &str) {
    balancing::a_flow_may_enter_by_another_host(&Lab::balanced("t-enters", 3, backend));
}

fn meeting(backend: &str) {
    // IPVS knows its answers by address and port alone: once it has led somewhere, it takes what comes from there for one.
    let turns = if backend == "ipvs" { 2 } else { 4 };
    balancing::a_port_may_lead_to_a_replica_and_its_service(&Lab::balanced("t-port", 2, backend), turns);
}

fn spreading(backend: &str) {
    let lab = Lab::balanced("t-same", 3, backend);
    assert_eq!(lab.info("node1")["loadBalancer"], backend);
    balancing::every_host_answers_with_the_clients_own_address(&lab);
    balancing::virtual_addresses_spread_and_lead_back_to_oneself(&lab);
}

#[test]
fn nftables_does_all() {
    if !skipped() {
        spreading("nftables");
        draining("nftables");
        entering("nftables");
        meeting("nftables");
    }
}

fn ipvsadm(lab: &Lab, host: &str, args: &str) -> String {
    lab.sh(host, &format!("ip netns exec hd-ingress ipvsadm {args}"))
}

fn saved(lab: &Lab, host: &str) -> BTreeSet<String> {
    ipvsadm(lab, host, "-Sn").lines().map(|l| l.trim().to_owned()).collect()
}

/// What a daemon says that cannot have IPVS, and what one that may choose takes.
fn refused(module: &str) {
    let dir = std::path::Path::new("/tmp/t-no-ipvs");
    let output = Command::new(program())
        .args(["--socket", "/tmp/t-no-ipvs/socket", "daemon", "--lb-backend", "ipvs", "--state-dir"])
        .arg(dir)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = said.lines().last().unwrap_or_default();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(last.starts_with("heddle: --lb-backend ipvs: ") && last.contains(module), "{said}");
    assert!(last.contains("use nftables or auto"), "{said}");
    let lab = Lab::up("t-no-ipvs", 1, 1);
    assert_eq!(lab.info("node1")["loadBalancer"], "nftables");
}

mod emulated {
    use super::*;

    #[test]
    fn a_port_may_lead_to_a_replica_and_its_service() {
        if !ran("a_port_may_lead_to_a_replica_and_its_service", &vm::IPVS) {
            meeting("nftables");
            meeting("ipvs");
        }
    }

    #[test]
    #[ignore = "takes a minute, and acceptance.rs has the same on three machines"]
    fn ipvs_spreads() {
        if !ran("ipvs_spreads", &vm::IPVS) {
            spreading("ipvs");
        }
    }

    #[test]
    #[ignore = "takes up to eight minutes on an emulated machine"]
    fn ipvs_drains() {
        if !ran("ipvs_drains", &vm::IPVS) {
            draining("ipvs");
        }
    }

    #[test]
    fn ipvs_lets_a_flow_enter_by_another_host() {
        if !ran("ipvs_lets_a_flow_enter_by_another_host", &vm::IPVS) {
            entering("ipvs");
        }
    }

    #[test]
    #[ignore = "takes a minute, and acceptance.rs has the same on three machines"]
    fn nftables_spreads_on_a_kernel_with_ipvs() {
        if !ran("nftables_spreads_on_a_kernel_with_ipvs", &vm::IPVS) {
            spreading("nftables");
        }
    }

    #[test]
    #[ignore = "takes up to eight minutes on an emulated machine"]
    fn ipvsadm_agrees_and_what_it_changes_is_mended() {
        if ran("ipvsadm_agrees_and_what_it_changes_is_mended", &vm::IPVS) {
            return;
        }
        // It is taken without being asked for.
        let lab = Lab::up("t-ipvsadm", 3, 1);
        lab.create_web("web", 3, &["-p", "8080:80", "-p", "8080:80/udp"]);
        let endpoints = lab.overlay("node1", "ingress").endpoints("web");
        assert_eq!(endpoints.len(), 3);
        // Of TCP only: datagrams are led by nftables.
        let mark = 0x1000_0000 | 6 << 16 | 8080;
        let mut wanted = BTreeSet::new();
        for (family, flag) in ["", " -6"].iter().enumerate() {
            wanted.insert(format!("-A -f {mark}{flag} -s mh -b mh-fallback,mh-port"));
            for addrs in &endpoints {
                let at = std::net::SocketAddr::new(addrs[family].parse().unwrap(), 80);
                wanted.insert(format!("-a -f {mark}{flag} -r {at} -m -w 1"));
            }
        }
        for host in HOSTS {
            assert_eq!(saved(&lab, host), wanted, "{host}");
        }
        let timeouts = ipvsadm(&lab, "node1", "-L --timeout");
        assert!(timeouts.ends_with(": 432000 120 120\n"), "{timeouts}");

        assert_eq!(lab.info("node1")["loadBalancer"], "ipvs");
        let doctor = lab.json("node1", &["doctor", "--format", "json"]);
        for (check, text) in [("load balancer in use", "ipvs"), ("IPVS", "works")] {
            let found = doctor.as_array().unwrap().iter().find(|c| c["check"] == check).unwrap();
            assert_eq!((found["ok"].as_bool(), found["text"].as_str()), (Some(true), Some(text)));
        }
        let rules = lab.heddle("node1", &["network", "rules"]);
        assert!(rules.contains("by IPVS's hash of client address and port"), "{rules}");
        assert!(rules.contains("The kernel is as it should be."), "{rules}");

        // Somebody changes a service, a weight, a destination's way, adds one of each, takes one of each away; elsewhere, all.
        let at = |n: usize| format!("{}:80", endpoints[n][0]);
        for args in [
            format!("-E -f {mark} -s rr -p 300"),
            format!("-e -f {mark} -r {} -m -w 7", at(0)),
            format!("-e -f {mark} -r {} -g -w 1", at(1)),
            format!("-d -f {mark} -r {}", at(2)),
            format!("-a -f {mark} -r 192.0.2.1:80 -m"),
            format!("-D -f {mark} -6"),
            "-A -t 192.0.2.2:80 -s lc".into(),
            "-a -t 192.0.2.2:80 -r 192.0.2.1:80 -m".into(),
            "--set 900 120 300".into(),
        ] {
            ipvsadm(&lab, "node1", &args);
        }
        ipvsadm(&lab, "node2", "-C");
        let rules = lab.heddle("node1", &["network", "rules"]);
        assert!(rules.contains("Not as it should be") && rules.contains("set IPVS service"), "{rules}");
        for host in HOSTS {
            wait("it is mended", || match (saved(&lab, host), ipvsadm(&lab, host, "-L --timeout")) {
                (now, late) if now == wanted && late == timeouts => Ok(()),
                seen => Err(format!("{host}: {seen:?}")),
            });
        }
        spread(3, |count| lab.ask("client", "10.77.0.1:8080", count, false));
    }

    #[test]
    #[ignore = "takes two minutes and a half on an emulated machine"]
    fn hosts_are_of_one_mind_however_they_came_by_it() {
        if ran("hosts_are_of_one_mind_however_they_came_by_it", &vm::IPVS) {
            return;
        }
        let lab = Lab::balanced("t-mind", 3, "ipvs");
        lab.create_web("web", 3, &["-p", "8080:80", "-p", "8080:80/udp"]);
        // Hosts that have come to the same destinations in different ways are nearly of one mind.
        lab.heddle("node1", &["service", "scale", "web=5"]);
        lab.heddle("node1", &["service", "scale", "web=4"]);
        wait("four are left", || match saved(&lab, "node2").len() {
            10 => Ok(()),
            n => Err(format!("{n} lines")),
        });
        ipvsadm(&lab, "node2", "-C");
        wait("it is mended", || match (saved(&lab, "node1"), saved(&lab, "node2")) {
            (a, b) if a == b => Ok(()),
            seen => Err(format!("{seen:?}")),
        });
        let alike = balancing::alike(&lab, 40);
        println!("after different histories {alike} of 40 source ports lead to the same task by two hosts");
        assert!(alike >= 30, "{alike} of 40");
    }

    #[test]
    fn a_switch_cuts_nothing_and_leaves_nothing() {
        if ran("a_switch_cuts_nothing_and_leaves_nothing", &vm::IPVS) {
            return;
        }
        let hosts = &HOSTS[..2];
        let lab = Lab::balanced("t-switch", 2, "nftables");
        lab.heddle("node1", &["network", "create", "-d", "overlay", "front"]);
        lab.create_web("web", 2, &["--network", "front", "-p", "8080:80"]);
        lab.create_web("caller", 1, &["--network", "front"]);
        let caller = lab.running("node1", "caller").unwrap().remove(0);
        let space = format!("hd-t-{}", &caller["id"].as_str().unwrap()[..10]);
        let home = caller["hostname"].as_str().unwrap().to_owned();
        let services = || {
            let list = |host: &str, space: &str| {
                lab.sh(host, &format!("ip netns exec {space} ipvsadm -Sn | grep -c ^-A || true"))
            };
            let mut all: Vec<_> = hosts.iter().map(|host| list(host, "hd-ingress")).collect();
            all.push(list(&home, &space));
            all.iter().map(|n| n.trim().parse::<u32>().unwrap()).collect::<Vec<_>>()
        };
        let marks = || {
            let count = |host: &str, space: &str| {
                lab.sh(host, &format!("ip netns exec {space} nft list ruleset | grep -c 'map @marks' || true"))
            };
            [count("node1", "hd-ingress"), count(&home, &space)].map(|n| n.trim() != "0")
        };
        let switch = |to: &str| {
            for host in hosts {
                lab.do_lab(&["kill", host, "--daemon"]);
                lab.do_lab(&["start", host, "--lb-backend", to]);
            }
            for host in hosts {
                wait("it balances", || match lab.try_json(host, &["info", "--format", "json"])? {
                    info if info["loadBalancer"] == to
                        && info["connected"] == true
                        && info["appliedRevision"] == info["assignedRevision"] =>
                    {
                        Ok(())
                    }
                    info => Err(info.to_string()),
                });
            }
            let by_ipvs = to == "ipvs";
            wait("tables follow", || match marks() {
                seen if seen == [by_ipvs; 2] => Ok(()),
                seen => Err(format!("{seen:?}")),
            });
            for (from, target) in [(None, "10.77.0.2:8080"), (None, "[fd77::1]:8080"), (Some(&caller), "web:80")] {
                spread(2, |count| match from {
                    Some(task) => lab.ask_from_task(task, target, count, false),
                    None => lab.ask("client", target, count, false),
                });
            }
        };
        assert_eq!(services(), [0, 0, 0]);
        let mut held = balancing::hold(&lab, &caller, 2);
        switch("ipvs");
        // Of each family one; the caller has two services' addresses.
        assert_eq!(services(), [2, 2, 4]);
        held.extend(balancing::hold(&lab, &caller, 2));
        let mut go_on = |when: &str| {
            for held in &mut held {
                assert_eq!(held.ask().map_err(|e| e.to_string()), Ok(held.task.clone()), "cut {when}");
            }
        };
        go_on("by the switch to IPVS");
        switch("nftables");
        go_on("by the switch to nftables");
        drop(held);
        wait("nothing is left of IPVS", || match services() {
            none if none == [0, 0, 0] => Ok(()),
            some => Err(format!("{some:?}")),
        });
        let timeouts = ipvsadm(&lab, "node1", "-L --timeout");
        assert!(timeouts.ends_with(": 900 120 300\n"), "{timeouts}");
        for space in ["hd-ingress".to_owned(), space] {
            let on = if space == "hd-ingress" { "node1" } else { &home };
            let values = lab.sh(on, &format!("ip netns exec {space} cat /proc/sys/net/ipv4/vs/conntrack /proc/sys/net/ipv4/vs/sloppy_tcp /proc/sys/net/ipv4/vs/expire_nodest_conn"));
            assert_eq!(values.split_whitespace().collect::<Vec<_>>(), ["0", "0", "0"]);
            assert_eq!(lab.sh(on, &format!("ip -n {space} rule | grep -c 'lookup 1001' || true")).trim(), "0");
        }
    }

    #[test]
    fn a_kernel_without_ipvs_is_said_to_have_none() {
        if !ran("a_kernel_without_ipvs_is_said_to_have_none", &[]) {
            refused("no module ip_vs;");
        }
    }

    #[test]
    fn a_kernel_without_a_scheduler_is_said_to_lack_it() {
        if !ran("a_kernel_without_a_scheduler_is_said_to_lack_it", &vm::IPVS[..4]) {
            refused("no module ip_vs_mh;");
        }
    }
}
