//! What making and removing a workload costs, against the same made by hand on the same host in the same run.
//!
//! `cargo bench -p heddle-cluster-tests --bench workload` after `cargo build --release`; needs root. By hand means one command
//! of `ip` or `nft` after the other, with the rules that Heddle's own workload has, and nothing that waits for the program.
//! The two take turns, so that a noisy machine disturbs both alike; what is printed is the median of the ratios of the rounds.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, program, skipped};

const ROUNDS: usize = 31;
const WARM_UP: usize = 3;
const HOST: &str = "node1";
const SLEEP: &str = "sleep 100000";

fn main() {
    // `cargo test` builds benches too and runs them with this flag: nothing to test here.
    if std::env::args().any(|a| a == "--test") || skipped() {
        return;
    }
    let lab = Lab::up("bench-work", 1, 1);
    lab.heddle(HOST, &["network", "create", "own"]);
    lab.heddle(HOST, &["network", "create", "-d", "overlay", "--attachable", "far"]);
    println!("{:<72} {:>9}", "what", "value");
    for (what, network, publish) in [("a bridge", "own", "-p 8090:80"), ("an overlay", "far", "")] {
        let pair = Pair { heddle: heddle(network, publish), hand: by_hand(&lab, network) };
        pair.measure(&lab, what);
    }
}

/// Scripts for bash on the host.
struct Way {
    create: String,
    remove: String,
}

struct Pair {
    heddle: Way,
    hand: Way,
}

fn heddle(network: &str, publish: &str) -> Way {
    let program = program().display().to_string();
    Way {
        create: format!("{program} run -d --name w --network {network} {publish} -- {SLEEP} >/dev/null"),
        remove: format!("{program} rm -f w >/dev/null"),
    }
}

/// The rules of a workload of ours, and where they are found.
fn by_hand(lab: &Lab, network: &str) -> Way {
    let id = lab.heddle(HOST, &["run", "-d", "--name", "model", "--network", network, "--", "sleep", "100000"]);
    let inside = lab.sh(HOST, &format!("ip netns exec hd-t-{} nft list ruleset", &id[..10]));
    assert!(inside.contains("127.0.0.11"), "{inside}");
    lab.heddle(HOST, &["rm", "-f", "model"]);
    let nft = |whose: &str, rules: &str| format!("{whose} nft -f - <<'END'\n{rules}\nEND");
    let leg = |dev: &str, outer: &str, v4: &str, v6: &str| {
        format!(
            "ip link add {outer} type veth peer name {dev} netns h
             ip -n h addr add {v4} dev {dev}
             ip -n h addr add {v6} dev {dev} nodad
             ip -n h link set {dev} up"
        )
    };
    let default =
        |v4: &str, v6: &str| format!("ip -n h route add default via {v4}\nip -n h -6 route add default via {v6}");
    let begin = "set -e\nip netns add h\nip -n h link set lo up";
    let run = format!("ip netns exec h {SLEEP} >/dev/null 2>&1 & echo $! >/run/h.pid");
    // The outer ends first: with its namespace the kernel would take them away in its own time.
    let outer = if network == "own" { "ip link del vh" } else { "ip -n byhand link del vh\nip link del vg" };
    let end = format!("set -e\nkill $(cat /run/h.pid)\n{outer}\nip netns del h");
    if network == "own" {
        lab.sh(
            HOST,
            "ip link add byhand type bridge && ip addr add 10.98.0.1/16 dev byhand && ip link set byhand up
             ip addr add fd98::1/64 dev byhand nodad",
        );
        let published = "table ip byhand {
                chain prerouting {
                    type nat hook prerouting priority dstnat;
                    fib daddr type local tcp dport 8091 dnat to 10.98.0.2:80
                }
                chain output {
                    type nat hook output priority -100;
                    fib daddr type local tcp dport 8091 dnat to 10.98.0.2:80
                }
                chain postrouting {
                    type nat hook postrouting priority srcnat;
                    ip saddr 10.98.0.0/16 oifname != \"byhand\" masquerade
                }
                chain forward {
                    type filter hook forward priority filter - 5;
                    oifname \"byhand\" ct status dnat accept
                    iifname \"byhand\" accept
                }
            }";
        let create = [
            begin,
            &leg("eth0", "vh", "10.98.0.2/16", "fd98::2/64"),
            "ip link set vh master byhand up",
            &default("10.98.0.1", "fd98::1"),
            &nft("ip netns exec h", &inside),
            &nft("", published),
            &run,
        ];
        return Way { create: create.join("\n"), remove: format!("{end}\nnft delete table ip byhand") };
    }
    lab.sh(
        HOST,
        "ip netns add byhand && ip -n byhand link add br0 type bridge && ip -n byhand link set br0 up
         ip -n byhand link add vxlan0 type vxlan id 99 dstport 8472 local 10.77.0.1 nolearning
         ip -n byhand link set vxlan0 master br0 up
         ip link add byhand-gw type bridge && ip addr add 10.97.0.1/16 dev byhand-gw && ip link set byhand-gw up
         ip addr add fd97::1/64 dev byhand-gw nodad",
    );
    let create = [
        begin,
        "ip -n byhand link add vh type veth peer name eth0 netns h
         ip -n h addr add 10.96.0.2/24 dev eth0
         ip -n h addr add fd96::2/64 dev eth0 nodad
         ip -n h link set eth0 up
         ip -n byhand link set vh master br0 up
         ip -n h route add 10.96.8.0/22 dev eth0
         ip -n h -6 route add fd96:0:0:1::/64 dev eth0",
        &leg("gw0", "vg", "10.97.0.2/16", "fd97::2/64"),
        "ip link set vg master byhand-gw up",
        &default("10.97.0.1", "fd97::1"),
        &nft("ip netns exec h", &inside),
        &run,
    ];
    Way { create: create.join("\n"), remove: end }
}

impl Way {
    /// Seconds of creating and of removing, as a shell on the host sees them.
    fn time(&self, lab: &Lab) -> [f64; 2] {
        let of = |script: &str| {
            let script = format!("begin=$EPOCHREALTIME\n{script}\nend=$EPOCHREALTIME\necho $begin $end");
            let output = lab.exec(HOST, &["bash", "-c", &script]);
            let text = String::from_utf8_lossy(&output.stdout);
            let times: Vec<f64> = text.split_whitespace().filter_map(|t| t.parse().ok()).collect();
            assert_eq!(times.len(), 2, "{script}: {}", String::from_utf8_lossy(&output.stderr));
            times[1] - times[0]
        };
        let create = of(&self.create);
        [create, of(&self.remove)]
    }
}

impl Pair {
    fn measure(&self, lab: &Lab, what: &str) {
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
