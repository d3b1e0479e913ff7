//! The same in an emulated machine on Debian's kernel, which has IPVS and WireGuard: this program again, inside.

use crate::{
    balancers,
    hosts::{self, Extent},
    meter::Effort,
    report, services,
};
use heddle_agent::dataplane::desired::Balancer;
use heddle_cluster_tests::vm::{self, Clock, Ended};
use std::time::Duration;

const BALANCING: &str = "--balancing";
const ENCRYPTION: &str = "--encryption";
const COUNTED: Effort = Effort { rounds: 3, seconds: 0.5, connections: 200 };
const TIMED: Effort = Effort { rounds: 11, seconds: 0.7, connections: 50 };
const LIMIT: Duration = Duration::from_secs(1500);

pub fn run() {
    if let Err(missing) = vm::programs::check(&vm::PROGRAMS) {
        println!("\nNot measured on Debian's kernel: {missing}");
        return;
    }
    for (part, name, clock) in [
        (BALANCING, "bench-balancing", Clock::Instructions { shift: 2 }),
        (ENCRYPTION, "bench-encryption", Clock::Wall),
    ] {
        let modules = [&vm::DATA_PLANE[..], &vm::IPVS, &["wireguard", "tun"]].concat();
        let tools = [&vm::TOOLS[..], &["iperf3", "wg"]].concat();
        let machine = vm::of_this_program(name, &[part]).modules(&modules).tools(&tools);
        let output = machine.memory_mib(2048).clock(clock).timeout(LIMIT).run().unwrap_or_else(|e| panic!("{e:#}"));
        print!("{}{}", output.stdout, output.stderr);
        assert_eq!(output.ended, Ended::Exit(0), "{name} failed in the machine");
    }
}

pub fn inside(args: &[String]) {
    if args.iter().any(|a| a == ENCRYPTION) {
        report::heading("Debian's kernel, by the clock");
        hosts::measure(Balancer::Nftables, Extent::Encryption, TIMED);
        return;
    }
    report::heading("Debian's kernel, by instructions");
    for balancer in balancers() {
        // Encryption is the same with both.
        let extent = if balancer == Balancer::Ipvs { Extent::Balancing } else { Extent::All };
        hosts::measure(balancer, extent, COUNTED);
        services::measure(balancer, COUNTED);
    }
}
