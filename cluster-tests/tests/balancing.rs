//! The same of each balancer: nftables, which every kernel has, and IPVS on Debian's.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, balancing, skipped, vm};
use std::time::{Duration, Instant};

/// True: it ran in a machine that has IPVS, or cannot.
fn ran(test: &str) -> bool {
    let modules = [&vm::DATA_PLANE[..], &vm::IPVS].concat();
    let tools = [&vm::TOOLS[..], &["ipvsadm"]].concat();
    let machine = |vm: vm::Vm| vm.modules(&modules).tools(&tools).memory_mib(1024).timeout(Duration::from_secs(400));
    vm::skipped() || vm::ran_in(test, machine)
}

#[test]
fn ipvs_answers_on_every_host() {
    if ran("ipvs_answers_on_every_host") {
        return;
    }
    let start = Instant::now();
    let lab = Lab::balanced("t-ipvs", 3, "ipvs");
    println!("up after {:.1?}", start.elapsed());
    balancing::every_host_answers_with_the_clients_own_address(&lab, 12);
    println!("ports after {:.1?}", start.elapsed());
    balancing::virtual_addresses_spread_and_lead_back_to_oneself(&lab, 9);
    println!("addresses after {:.1?}", start.elapsed());
}

#[test]
fn nftables_drains() {
    if skipped() {
        return;
    }
    let lab = Lab::balanced("t-nft-drain", 3, "nftables");
    balancing::what_ends_drains(&lab, Duration::from_secs(8));
}
