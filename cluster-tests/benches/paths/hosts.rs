//! A cluster of three hosts, and two hosts beside it for what is made by hand.
//!
//! ```text
//! caller on node1 ── overlays, virtual address ──────> the service on node2
//! client ── published port of node2, in the mesh or by host ─┘ │
//! client ── published port of node1 ── ingress network ────────┘
//!
//! node4 ── its own link, VXLAN, WireGuard ──> node5     client ── forwarded by node4 ── VXLAN ──> node5
//! ```

use crate::{
    meter::{self, Effort, Round, Way},
    report,
};
use heddle_agent::dataplane::desired::Balancer;
use heddle_cluster_tests::{Lab, program, wait_for};
use serde_json::Value;
use std::{path::PathBuf, time::Duration};

const CLUSTER: [&str; 3] = ["node1", "node2", "node3"];
/// On an emulated processor a cluster takes its time.
const LIMIT: Duration = Duration::from_secs(120);

const RAW: &str = "hosts' own link";
const VXLAN: &str = "VXLAN by hand";
const FORWARDED: &str = "VXLAN by hand, entered on a third host";
const WIREGUARD: &str = "WireGuard by hand";
const OVERLAY: &str = "overlay";
const SEALED: &str = "encrypted overlay";
const VIP: &str = "virtual address";
const NEAR: &str = "published port, entered on a host with a replica";
const FAR: &str = "published port, entered on a host without one";
const BY_HOST: &str = "port published in mode host";

/// Ports of iperf3 and of `heddle whoami`: as they listen, in the mesh, and by host.
const LISTENING: (u16, u16) = (5201, 80);
const IN_MESH: (u16, u16) = (5211, 8080);
const OF_HOST: (u16, u16) = (5221, 8090);

/// The least that a ratio should be, in bulk and in connections.
type Aims = Option<(f64, f64)>;

/// What is divided by what.
const RATIOS: [(&str, &str, Aims); 12] = [
    (VXLAN, RAW, None),
    (FORWARDED, VXLAN, None),
    (WIREGUARD, RAW, None),
    (OVERLAY, RAW, None),
    (OVERLAY, VXLAN, None),
    (SEALED, OVERLAY, None),
    (SEALED, WIREGUARD, Some((0.8, 0.8))),
    (VIP, OVERLAY, Some((0.95, 0.8))),
    (NEAR, OVERLAY, Some((0.9, 0.8))),
    (FAR, OVERLAY, Some((0.9, 0.8))),
    (FAR, FORWARDED, None),
    (BY_HOST, OVERLAY, None),
];

/// Which ways are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    Balancing,
    Encryption,
    All,
}

pub fn measure(balancer: Balancer, extent: Extent, effort: Effort) {
    let lab = Lab::with("bench-paths", 5, &["--bare", "--lb-backend", balancer.as_str()]);
    cluster(&lab);
    let ways = ways(&lab, extent);
    if extent == Extent::Balancing || means(&lab) == "kernel" {
        // The kernel needs nobody, and they look at it every ten seconds.
        for host in ["node1", "node2", "node3", "node4", "node5"] {
            lab.do_lab(&["kill", host, "--daemon"]);
        }
    }
    let rounds = meter::rounds(&ways, effort);
    report::part(&format!("ways between hosts, {} balances", balancer.as_str()));
    meter::show(&ways, &rounds);
    for (what, over, aims) in RATIOS {
        let at = |name: &str| ways.iter().position(|w| w.name == name);
        let Some((what_at, over_at)) = at(what).zip(at(over)) else { continue };
        let show = |kind: &str, of: fn(&Round) -> &Vec<f64>, aim: Option<f64>| {
            let ratios: Vec<f64> = rounds.iter().map(|r| of(r)[what_at] / of(r)[over_at]).collect();
            report::ratio(&format!("{kind}: {what} / {over}"), &ratios, aim);
        };
        show("bulk", |r| &r.bulk, aims.map(|a| a.0));
        show("connections", |r| &r.connections, aims.map(|a| a.1));
    }
}

/// With heartbeats that a processor busy with something else does not miss.
fn cluster(lab: &Lab) {
    lab.heddle("node1", &["init", "--advertise-addr", "eth0", "--dispatcher-heartbeat", "5s"]);
    let token = lab.heddle("node1", &["join-token", "worker", "-q"]);
    for host in &CLUSTER[1..] {
        lab.heddle(host, &["join", "--token", token.trim(), "--advertise-addr", "eth0", "10.77.0.1"]);
    }
    wait_for(LIMIT, "all hosts are ready", || {
        let nodes = lab.json("node1", &["node", "ls", "--format", "json"]);
        let ready = nodes.as_array().into_iter().flatten().filter(|n| n["state"] == "ready" && !n["ingress"].is_null());
        if ready.count() == CLUSTER.len() { Ok(()) } else { Err(nodes.to_string()) }
    });
}

fn ways(lab: &Lab, extent: Extent) -> Vec<Way> {
    let mut ways = Vec::new();
    let mut way = |name: &str, from: &PathBuf, to: &str, (bulk, web): (u16, u16)| {
        ways.push(Way { name: name.to_owned(), from: from.clone(), to: to.parse().unwrap(), bulk, web });
    };
    by_hand(lab, extent != Extent::Balancing);
    let hand = lab.netns("node4");
    if extent != Extent::Encryption {
        way(RAW, &hand, "10.77.0.5", LISTENING);
        way(VXLAN, &hand, "192.0.2.5", LISTENING);
    }
    let networks = [("front", OVERLAY), ("sealed", SEALED)];
    let networks = if extent == Extent::Balancing { &networks[..1] } else { &networks };
    // By IPVS, a port that leads to the service leads nowhere else: it is for another task to ask.
    let [task, other] = services(lab, networks.iter().map(|(network, _)| *network).collect());
    for (network, name) in networks {
        way(name, &task, &lab.overlay("node1", network).endpoints("server")[0][0], LISTENING);
    }
    if extent != Extent::Balancing {
        way(WIREGUARD, &hand, "198.51.100.5", LISTENING);
    }
    if extent != Extent::Encryption {
        let client = lab.netns("client");
        lab.sh("client", "ip route add 192.0.2.5 via 10.77.0.4 mtu 1450");
        lab.sh("node4", "echo 1 >/proc/sys/net/ipv4/ip_forward");
        lab.sh("node5", "ip route add 10.77.0.250 via 192.0.2.4");
        way(FORWARDED, &client, "192.0.2.5", LISTENING);
        way(VIP, &other, &lab.overlay("node1", "front").vips("server")[0], LISTENING);
        way(NEAR, &client, "10.77.0.2", IN_MESH);
        way(FAR, &client, "10.77.0.1", IN_MESH);
        way(BY_HOST, &client, "10.77.0.2", OF_HOST);
    }
    ways
}

/// On hosts that are in no cluster: nothing of Heddle is in the way.
fn by_hand(lab: &Lab, encryption: bool) {
    for (host, own, peer) in [("node4", 4, 5), ("node5", 5, 4)] {
        assert_eq!(lab.sh(host, "nft list tables"), "", "tables on {host}");
        lab.sh(
            host,
            &format!(
                "ip link add byhand mtu 1450 type vxlan id 77 dstport 8472 local 10.77.0.{own} remote 10.77.0.{peer}
                 ip addr add 192.0.2.{own}/24 dev byhand && ip link set byhand up"
            ),
        );
    }
    if encryption {
        wireguard(lab);
    }
    let program = program().display().to_string();
    lab.sh("node5", "iperf3 -s -D");
    lab.sh("node5", &format!("setsid {program} whoami --port 80 </dev/null >/dev/null 2>&1 &"));
}

/// What encrypts.
fn means(lab: &Lab) -> Value {
    lab.json("node1", &["tunnel", "ls", "--format", "json"])[0]["backend"].clone()
}

/// The kernel's, where it has one: as Heddle does.
fn wireguard(lab: &Lab) {
    let make =
        if means(lab) == "kernel" { "ip link add wg0 type wireguard" } else { "wireguard-go wg0 >/dev/null 2>&1" };
    let key = |host| lab.sh(host, "wg genkey >/run/key && wg pubkey </run/key");
    for (host, own, peer, peer_key) in [("node4", 4, 5, key("node5")), ("node5", 5, 4, key("node4"))] {
        let peer_key = peer_key.trim();
        lab.sh(
            host,
            &format!(
                "set -e; {make}
                 wg set wg0 private-key /run/key listen-port 51999 \
                     peer {peer_key} endpoint 10.77.0.{peer}:51999 allowed-ips 198.51.100.0/24
                 ip addr add 198.51.100.{own}/24 dev wg0; ip link set wg0 mtu 1420 up"
            ),
        );
    }
}

/// One on node2 that is asked, and two tasks on node1 that ask, whose namespaces are returned.
fn services(lab: &Lab, networks: Vec<&str>) -> [PathBuf; 2] {
    for network in &networks {
        let sealed: &[&str] = if *network == "sealed" { &["-o", "encrypted"] } else { &[] };
        lab.heddle("node1", &[&["network", "create", "-d", "overlay"], sealed, &[network]].concat());
    }
    let joins: Vec<&str> = networks.into_iter().flat_map(|n| ["--network", n]).collect();
    let ports = [(IN_MESH.0, LISTENING.0, "ingress"), (IN_MESH.1, LISTENING.1, "ingress")];
    let ports = ports.into_iter().chain([(OF_HOST.0, LISTENING.0, "host"), (OF_HOST.1, LISTENING.1, "host")]);
    let ports: Vec<_> = ports.map(|(port, to, mode)| format!("published={port},target={to},mode={mode}")).collect();
    let ports: Vec<&str> = ports.iter().flat_map(|p| ["-p", p]).collect();
    let create = |host: &str, name: &str, more: &[&str]| {
        let constraint = format!("node.hostname=={host}");
        let head = ["service", "create", "--process", "--name", name, "--constraint", &constraint];
        lab.heddle("node1", &[&head, &joins[..], more].concat());
    };
    let both = format!("iperf3 -s >/dev/null & exec {} whoami --port 80", program().display());
    create("node2", "server", &[&ports[..], &["--", "sh", "-c", &both]].concat());
    create("node1", "caller", &["--replicas", "2", "--", "sleep", "100000"]);
    lab.settled(&CLUSTER, &["server", "caller"]);
    let callers = lab.running("node1", "caller").unwrap();
    [0, 1].map(|n| lab.task_netns(&callers[n]))
}
