//! What the ways of a packet cost: bulk throughput and new connections, as ratios of interleaved rounds of one run.
//!
//! `cargo build --release && cargo bench -p heddle-cluster-tests --bench paths` as root, on this kernel and then in an emulated
//! machine on Debian's; with `-- --here` or `-- --vm` only on one of them. Needs iperf3, wireguard-tools, and wireguard-go where
//! the kernel has no WireGuard; for the machine, what `heddle lab up --vm` needs.
//!
//! ```text
//! hosts      five hosts: three of a cluster; two of none, so nothing of Heddle is in the way of what is made by hand
//! services   what 1,000 services cost beside 1: the kernel state of one host, made by the agent's own code
//! meter      iperf3, and `heddle whoami --ask`, which makes a connection for each request
//! report     the table
//! machine    the same on Debian's kernel
//! ```
//!
//! Every round measures all ways one after the other and begins with another; a ratio is taken within a round. Printed are the
//! median, the lowest and the highest of the rounds. On this kernel they are of time. In the machine they are of instructions
//! (qemu's icount), which do not see how busy this machine is; encryption, where an instruction says little, is measured by the
//! clock besides.
#![allow(clippy::unwrap_used)]

mod hosts;
mod machine;
mod meter;
mod report;
mod services;

use heddle_agent::{
    balancer::{Wish, choose},
    dataplane::desired::Balancer,
    kernel::linux::wireguard::Available,
};
use heddle_cluster_tests::{skipped, vm};
use meter::Effort;

const HERE: Effort = Effort { rounds: 25, seconds: 0.3, connections: 400 };

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|a| a == flag);
    // `cargo test` builds benches too and runs them with this flag: nothing to test here.
    if has("--test") || skipped() {
        return;
    }
    if let Some(at) = args.iter().position(|a| a == services::HOST) {
        return services::host(&args[at + 1..]);
    }
    if vm::inside() {
        return machine::inside(&args);
    }
    need("iperf3", "iperf3");
    need("wg", "wireguard-tools");
    if !has("--vm") {
        here();
    }
    if !has("--here") {
        machine::run();
    }
}

/// Ends with one sentence if this machine lacks the program.
fn need(program: &str, package: &str) {
    if vm::programs::which(program).is_none() {
        eprintln!("{program} is missing: apt-get install {package}");
        std::process::exit(1);
    }
}

fn here() {
    // As daemons choose.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if !runtime.block_on(Available::find()).unwrap().kernel {
        need("wireguard-go", "wireguard-go");
    }
    report::heading("this kernel");
    for balancer in balancers() {
        hosts::measure(balancer, hosts::Extent::All, HERE);
        services::measure(balancer, HERE);
    }
}

/// What this kernel can balance with.
fn balancers() -> Vec<Balancer> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match runtime.block_on(choose(Wish::Ipvs)) {
        Ok(_) => vec![Balancer::Nftables, Balancer::Ipvs],
        Err(e) => {
            println!("IPVS is not measured: {}", e.0);
            vec![Balancer::Nftables]
        }
    }
}
