//! What making and removing a workload costs, against the same made by hand on the same machine in the same run.
//!
//! `cargo bench -p heddle-cluster-tests --bench workload` after `cargo build --release`; needs root. `heddle run` and `heddle rm
//! -f` on one host of a lab, and on another, which has no daemon, one command of `ip`, `bridge` or `nft` after the other. Both
//! are timed by the shell that gives the commands: until the program has said its first word, and until program, namespace,
//! links and rules are gone. Each host has its network and its tables before, with the same names, addresses and rules.
//!
//! ```text
//! both      namespace, lo, veths with their MACs and MTUs, sysctls, addresses, port flags of the bridge, forwarding entry (on an
//!           overlay), default routes, rules in the namespace, the published port (on a bridge), the program; all of it gone
//! heddle    besides: the choice of addresses and ports (on an overlay by the managers, through raft), a held port, fsynced
//!           state, the resolver, namespaces of pids, mounts, names and IPC, the program's log, flows that are forgotten
//! by hand   none of that: every address is known, nothing is written down, and the program has but its network for itself
//! ```
//!
//! The two take turns in changing order, so that a noisy machine disturbs both alike. Printed are medians, and the median of
//! the ratios of the rounds.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, program, skipped};
use std::collections::BTreeSet;

const ROUNDS: usize = 41;
const WARM_UP: usize = 3;
/// Where Heddle runs, and the lab's host that has no daemon.
const HEDDLE: &str = "node1";
const HAND: &str = "client";
const UP: &str = "/run/up";
const MAC: &str = "02:00:00:00:00:02";
/// Prints what a workload has left on its host, if anything.
const NOTHING_LEFT: &str =
    "ls /run/netns | grep -e ^hd-t- -e ^h$; ls /sys/class/net | grep -e ^hdu -e ^v; pgrep -x sleep";

fn main() {
    // `cargo test` builds benches too and runs them with this flag: nothing to test here.
    if std::env::args().any(|a| a == "--test") || skipped() {
        return;
    }
    let lab = Lab::up("bench-work", 1, 1);
    for host in [HEDDLE, HAND] {
        lab.sh(host, &format!("mkfifo {UP}"));
    }
    println!("{:<72} {:>9}", "what", "value");
    println!("{:<72} {ROUNDS:>9}", "rounds");
    for pair in [bridge(&lab), overlay(&lab)] {
        pair.check(&lab);
        pair.measure(&lab);
    }
}

/// Scripts for bash.
struct Way {
    host: &'static str,
    create: String,
    /// Fails unless what runs is on the network as it should be.
    check: String,
    remove: String,
}

struct Pair {
    what: &'static str,
    heddle: Way,
    hand: Way,
}

/// Says its first word and stays.
fn the_program() -> String {
    format!("sh -c 'echo up >{UP}; exec sleep 100000'")
}

fn heddle(network: &str, publish: &str, check: String) -> Way {
    let program = program().display().to_string();
    let run = the_program();
    Way {
        host: HEDDLE,
        create: format!("{program} run -d --name w --network {network} {publish} -- {run} >/dev/null\nread -r _ <{UP}"),
        check: format!("h=$(ls /run/netns | grep ^hd-t-)\n{check}"),
        remove: format!("{program} rm -f w >/dev/null"),
    }
}

/// One command after the other, as an administrator gives them.
fn by_hand(make: &[String], check: String, unmake: &str) -> Way {
    let begin = "set -e\nip netns add h\nip -n h link set lo up";
    let run = format!("ip netns exec h {} >/dev/null 2>&1 & echo $! >/run/h.pid\nread -r _ <{UP}", the_program());
    Way {
        host: HAND,
        create: format!("{begin}\n{}\n{run}", make.join("\n")),
        check: format!("h=h\n{check}"),
        // The links first: with its namespace the kernel would take them away in its own time. The program is gone before
        // the last of it, which the last line only confirms.
        remove: format!(
            "set -e\npid=$(</run/h.pid)\nkill -9 $pid\n{unmake}\nip netns del h\nwhile [ -e /proc/$pid ]; do :; done"
        ),
    }
}

/// A link's addresses, and itself up.
fn inner(dev: &str, v4: &str, v6: &str) -> String {
    format!(
        "ip -n h addr add {v4} dev {dev}
         ip -n h addr add {v6} dev {dev} nodad
         ip -n h link set {dev} up"
    )
}

fn sysctls(devs: &[&str]) -> String {
    let each = devs.iter().map(|d| format!("net.ipv4.conf.{d}.rp_filter=0 net.ipv6.conf.{d}.accept_ra=0"));
    let each: Vec<String> = each.collect();
    format!("ip netns exec h sysctl -qw net.ipv4.conf.all.rp_filter=0 {}", each.join(" "))
}

fn default(v4: &str, v6: &str) -> String {
    format!("ip -n h route add default via {v4}\nip -n h -6 route add default via {v6}")
}

fn nft(whose: &str, rules: &str) -> String {
    format!("{whose} nft -f - <<'END'\n{rules}\nEND")
}

/// What a shell prints on Heddle's host while a workload of ours runs on the network; `$h` is its namespace.
fn model(lab: &Lab, network: &str, script: &str) -> String {
    lab.heddle(HEDDLE, &["run", "-d", "--name", "model", "--network", network, "--", "sleep", "100000"]);
    let text = lab.sh(HEDDLE, &format!("h=$(ls /run/netns | grep ^hd-t-)\n{script}"));
    lab.heddle(HEDDLE, &["rm", "-f", "model"]);
    text
}

/// The rules in the namespace of a workload of ours.
fn rules_inside(lab: &Lab, network: &str) -> String {
    let inside = model(lab, network, "ip netns exec $h nft list ruleset");
    assert!(inside.contains("127.0.0.11"), "{inside}");
    inside
}

fn bridge(lab: &Lab) -> Pair {
    let create = "network create own --subnet 10.98.0.0/16 --subnet fd98::/64 -o com.docker.network.bridge.name=own0";
    lab.heddle(HEDDLE, &create.split(' ').collect::<Vec<_>>());
    let inside = rules_inside(lab, "own");
    let table = lab.sh(HEDDLE, "nft list table inet heddle_bridge");
    assert!(table.contains("map anywhere4"), "{table}");
    lab.sh(
        HAND,
        &format!(
            "ip link add own0 type bridge mcast_snooping 0 && ip link set own0 up
             ip addr add 10.98.0.1/16 dev own0 && ip addr add fd98::1/64 dev own0 nodad
             sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
             {}",
            nft("", &table)
        ),
    );
    let port = |verb: &str| {
        let element = |family: &str, to: &str| {
            let to = if verb == "add" { format!(" : {to} . 80") } else { String::new() };
            format!("{verb} element inet heddle_bridge anywhere{family} {{ tcp . 8090{to} }}")
        };
        nft("", &[element("4", "10.98.0.2"), element("6", "fd98::2")].join("\n"))
    };
    let make = [
        format!("ip link add vh type veth peer name eth0 address {MAC} netns h"),
        sysctls(&["eth0"]),
        inner("eth0", "10.98.0.2/16", "fd98::2/64"),
        "ip link set vh master own0 up\nip link set vh type bridge_slave hairpin on".into(),
        default("10.98.0.1", "fd98::1"),
        nft("ip netns exec h", &inside),
        port("add"),
    ];
    let unmake = format!("ip link del vh\n{}", port("delete"));
    let check = "set -e
         ip netns exec $h ping -qc1 -W5 10.98.0.1 && ip netns exec $h ping -qc1 -W5 fd98::1
         nft list map inet heddle_bridge anywhere4 | grep 'tcp . 8090 : 10.98.0.2 . 80'
         nft list map inet heddle_bridge anywhere6 | grep 'tcp . 8090 : fd98::2 . 80'
         ip -d link show master own0 | grep 'hairpin on'
         ip netns exec $h nft list ruleset | grep 127.0.0.11
         ip netns exec $h sysctl -n net.ipv6.conf.eth0.accept_ra | grep 0";
    Pair {
        what: "a bridge",
        heddle: heddle("own", "-p 8090:80", check.into()),
        hand: by_hand(&make, check.into(), &unmake),
    }
}

fn overlay(lab: &Lab) -> Pair {
    let create = "network create -d overlay --attachable --subnet 10.96.0.0/24 --subnet fd96::/64 far";
    lab.heddle(HEDDLE, &create.split(' ').collect::<Vec<_>>());
    let inside = rules_inside(lab, "far");
    let gateway = lab.sh(HEDDLE, "nft list table inet heddle_gateway");
    // Ways to virtual addresses, where there is no other hop.
    let ways = "ip -n $h route show proto 104 scope link; ip -n $h -6 route show proto 104 | grep -v via";
    let ways = model(lab, "far", &format!("{{ {ways}; }} | cut -d' ' -f1,2,3"));
    assert_eq!(ways.lines().count(), 2, "{ways}");
    let ways: Vec<String> = ways.lines().map(|way| format!("ip -n h route add {way}")).collect();
    let net = model(lab, "far", "ip -n $h -o -4 addr show gw0; ip -n $h -o -6 addr show gw0 scope global");
    let gw: Vec<&str> = net.lines().filter_map(|l| l.split_whitespace().nth(3)).collect();
    let vias = model(lab, "far", "ip -n $h route show default; ip -n $h -6 route show default");
    let via: Vec<&str> = vias.lines().filter_map(|l| l.split_whitespace().nth(2)).collect();
    assert_eq!((gw.len(), via.len()), (2, 2), "{net}{vias}");
    let bits: Vec<&str> = gw.iter().filter_map(|a| Some(a.split_once('/')?.1)).collect();
    lab.sh(
        HAND,
        &format!(
            "ip netns add far && ip -n far link add br0 type bridge mcast_snooping 0 && ip -n far link set br0 up
             ip -n far link add vxlan0 type vxlan id 99 dstport 4789 local 10.77.0.250 nolearning proxy
             ip -n far link set vxlan0 master br0 up
             ip -n far link set vxlan0 type bridge_slave locked on learning off
             ip link add heddle_gw type bridge mcast_snooping 0 && ip link set heddle_gw up
             ip addr add {}/{} dev heddle_gw && ip addr add {}/{} dev heddle_gw nodad
             {}",
            via[0],
            bits[0],
            via[1],
            bits[1],
            nft("", &gateway)
        ),
    );
    let make = [
        format!("ip -n far link add vh mtu 1450 type veth peer name eth0 address {MAC} mtu 1450 netns h"),
        "ip link add vg type veth peer name gw0 netns h".into(),
        sysctls(&["eth0", "gw0"]),
        inner("eth0", "10.96.0.2/24", "fd96::2/64"),
        "ip -n far link set vh master br0 up\nip -n far link set vh type bridge_slave locked on learning off".into(),
        format!("bridge -n far fdb replace {MAC} dev vh master static"),
        ways.join("\n"),
        inner("gw0", gw[0], gw[1]),
        "ip link set vg master heddle_gw up\nip link set vg type bridge_slave isolated on".into(),
        default(via[0], via[1]),
        nft("ip netns exec h", &inside),
    ];
    let check = format!(
        "set -e
         ip netns exec $h ping -qc1 -W5 {} && ip netns exec $h ping -qc1 -W5 {}
         ip -d link show master heddle_gw | grep 'isolated on'
         ip -n $h -o link show eth0 | grep 'mtu 1450'
         o=$(ls /run/netns | grep -e ^far$ -e ^hd-n-)
         bridge -n $o fdb show br br0 | grep $(ip -n $h -o link show eth0 | grep -o 'link/ether [^ ]*' | cut -d' ' -f2)
         ip netns exec $h nft list ruleset | grep 127.0.0.11
         ip netns exec $h sysctl -n net.ipv6.conf.gw0.accept_ra | grep 0",
        via[0], via[1]
    );
    Pair {
        what: "an overlay",
        heddle: heddle("far", "", check.clone()),
        hand: by_hand(&make, check, "ip -n far link del vh\nip link del vg"),
    }
}

impl Way {
    /// Seconds, as a shell on the host sees them.
    fn of(&self, lab: &Lab, script: &str) -> f64 {
        let script = format!("begin=$EPOCHREALTIME\n{script}\nend=$EPOCHREALTIME\necho $begin $end");
        let output = lab.exec(self.host, &["bash", "-c", &script]);
        let text = String::from_utf8_lossy(&output.stdout);
        let times: Vec<f64> = text.split_whitespace().filter_map(|t| t.parse().ok()).collect();
        assert_eq!(times.len(), 2, "{script}: {}", String::from_utf8_lossy(&output.stderr));
        times[1] - times[0]
    }

    /// Of creating and of removing.
    fn time(&self, lab: &Lab) -> [f64; 2] {
        let create = self.of(lab, &self.create);
        let remove = self.of(lab, &self.remove);
        let left = lab.sh(self.host, &format!("{NOTHING_LEFT} || true"));
        assert_eq!(left, "", "something is left on {}", self.host);
        [create, remove]
    }
}

impl Pair {
    /// Once, and not timed: both sides have made the same.
    fn check(&self, lab: &Lab) {
        let mut made: BTreeSet<String> = BTreeSet::new();
        for way in [&self.heddle, &self.hand] {
            way.of(lab, &way.create);
            lab.sh(way.host, &way.check);
            let script = "h=$(ls /run/netns | grep -e ^hd-t- -e ^h$)
                # Around the gateway bridge every workload has an address of its own.
                ip -n $h -o addr show scope global | awk '$2 != \"gw0\" {print $2, $3, $4}'
                { ip -n $h route; ip -n $h -6 route | grep -v ^fe80; } | sed -E 's/ proto [^ ]+//; s/ (scope|metric|src) .*//'
                ip netns exec $h nft list ruleset";
            made.insert(lab.sh(way.host, script));
            way.of(lab, &way.remove);
        }
        assert_eq!(made.len(), 1, "{}: {made:#?}", self.what);
    }

    fn measure(&self, lab: &Lab) {
        let mut rows: Vec<[[f64; 2]; 2]> = Vec::new();
        for round in 0..WARM_UP + ROUNDS {
            let row = if round % 2 == 0 {
                let hand = self.hand.time(lab);
                [self.heddle.time(lab), hand]
            } else {
                [self.heddle.time(lab), self.hand.time(lab)]
            };
            rows.push(row);
        }
        rows.drain(..WARM_UP);
        let what = self.what;
        for (at, verb) in ["create", "remove"].into_iter().enumerate() {
            let [heddle, hand] = [0, 1].map(|who| median(rows.iter().map(|r| r[who][at]).collect()));
            show(&format!("{verb} a workload on {what}: heddle (ms)"), format!("{:.1}", heddle * 1e3));
            show(&format!("{verb} a workload on {what}: by hand (ms)"), format!("{:.1}", hand * 1e3));
            let ratio = median(rows.iter().map(|[heddle, hand]| heddle[at] / hand[at]).collect());
            show(&format!("{verb} a workload on {what}: heddle / by hand"), format!("{ratio:.2}"));
        }
        let sum = |times: &[f64; 2]| times[0] + times[1];
        let ratio = median(rows.iter().map(|[heddle, hand]| sum(heddle) / sum(hand)).collect());
        show(&format!("create and remove a workload on {what}: heddle / by hand"), format!("{ratio:.2}"));
    }
}

fn show(what: &str, value: String) {
    println!("{what:<72} {value:>9}");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
