//! What goes wrong below the overlays is told by `doctor` on the host and by `node inspect` on a manager, with the way out,
//! until it is mended.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, skipped, texts, vm, wait, wait_for};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use std::{
    fs::File,
    net::UdpSocket,
    sync::mpsc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// For what is looked at now and then: longer than a round of echoes.
const PATIENT: Duration = Duration::from_secs(120);
const NETWORKS: [&str; 2] = ["open", "sealed"];

/// What a node says, as a manager tells it: errors, and warnings.
fn told(lab: &Lab, node: &str) -> Result<(Vec<String>, Vec<String>), String> {
    let node = &lab.try_json("node1", &["node", "inspect", node])?[0];
    if node["dataPlaneErrors"].is_array() && node["warnings"].is_array() {
        Ok((texts(&node["dataPlaneErrors"]), texts(&node["warnings"])))
    } else {
        Err(node.to_string())
    }
}

fn warns(lab: &Lab, node: &str, sentence: &str) -> Result<(), String> {
    let (_, warnings) = told(lab, node)?;
    if warnings.iter().any(|w| w.contains(sentence)) { Ok(()) } else { Err(format!("{node} warns: {warnings:#?}")) }
}

fn is_quiet(lab: &Lab, node: &str) -> Result<(), String> {
    match told(lab, node)? {
        (errors, warnings) if errors.is_empty() && warnings.is_empty() => Ok(()),
        told => Err(format!("{node}: {told:#?}")),
    }
}

/// What doctor says of one thing on a host: whether each is well, and the text.
fn doctor(lab: &Lab, host: &str, what: &str) -> Vec<(bool, String)> {
    let checks = lab.json(host, &["doctor", "--format", "json"]);
    let of_it = checks.as_array().unwrap().iter().filter(|c| c["check"] == what);
    let found: Vec<_> = of_it.map(|c| (c["ok"] == true, c["text"].as_str().unwrap().to_owned())).collect();
    assert!(!found.is_empty(), "doctor says nothing of {what}: {checks:#}");
    found
}

/// How `node ls` has a node.
fn listed(lab: &Lab, node: &str) -> String {
    let table = lab.heddle("node1", &["node", "ls"]);
    table.lines().find(|l| l.contains(node)).unwrap_or_default().to_owned()
}

fn version(lab: &Lab, node: &str) -> Value {
    lab.json("node1", &["node", "inspect", node])[0]["version"].clone()
}

fn overlays(lab: &Lab) {
    lab.heddle("node1", &["network", "create", "-d", "overlay", "--attachable", "open"]);
    lab.heddle("node1", &["network", "create", "-d", "overlay", "--attachable", "-o", "encrypted", "sealed"]);
}

/// A workload on a network.
struct Member {
    host: &'static str,
    name: String,
    /// IPv4 and IPv6, with the port that it listens at.
    targets: [String; 2],
}

fn join(lab: &Lab, host: &'static str, network: &str) -> Member {
    let name = format!("{network}-{host}");
    lab.run_web(host, &name, &["--network", network]);
    let addr = |v4| lab.address(host, &name, network, v4);
    Member { host, targets: [format!("{}:80", addr(true)), format!("[{}]:80", addr(false))], name }
}

/// Whether they reach each other, both ways, by both families.
fn meet(lab: &Lab, a: &Member, b: &Member) -> Result<(), String> {
    for (from, to) in [(a, b), (b, a)] {
        for target in &to.targets {
            lab.ask_from(from.host, &from.name, target, false).by()?;
        }
    }
    Ok(())
}

/// Holds a UDP port of a host until told to end.
fn squat(lab: &Lab, host: &str, addr: &'static str) -> (mpsc::Sender<()>, JoinHandle<()>) {
    let space = File::open(lab.netns(host)).unwrap();
    let (bound, ready) = mpsc::channel();
    let (end, wait_for_end) = mpsc::channel();
    let squatter = std::thread::spawn(move || {
        setns(space, CloneFlags::CLONE_NEWNET).unwrap();
        let taken = UdpSocket::bind(addr).unwrap();
        bound.send(()).unwrap();
        let _ = wait_for_end.recv();
        drop(taken);
    });
    ready.recv().unwrap();
    (end, squatter)
}

#[test]
fn a_port_that_is_taken_is_told_to_managers_and_no_log_grows() {
    if skipped() {
        return;
    }
    let lab = Lab::up("told-port", 2, 1);
    wait("all is well", || is_quiet(&lab, "node2"));
    assert!(doctor(&lab, "node2", "tunnel").iter().all(|(ok, _)| *ok));
    let (end, squatter) = squat(&lab, "node2", "[::]:51821");
    // Before anything needs it.
    let before = doctor(&lab, "node2", "tunnel");
    assert_eq!(before, [(false, "UDP port 51821, which encrypted networks need, is in use: end what uses it".into())]);
    overlays(&lab);
    let [a, b] = ["node1", "node2"].map(|host| join(&lab, host, "sealed"));
    let sentence = "UDP port 51821 of this host is in use";
    wait("a manager tells", || {
        let (errors, _) = told(&lab, "node2")?;
        if errors.iter().any(|e| e.contains(sentence)) { Ok(()) } else { Err(format!("{errors:?}")) }
    });
    assert!(listed(&lab, "node2").contains(" problem"), "{}", listed(&lab, "node2"));
    assert!(!listed(&lab, "node1").contains("problem"), "{}", listed(&lab, "node1"));
    let pretty = lab.heddle("node1", &["node", "inspect", "--pretty", "node2"]);
    assert!(pretty.lines().any(|l| l.starts_with("Behind:") && l.contains(sentence)), "{pretty}");
    assert!(doctor(&lab, "node2", "data plane").iter().any(|(ok, text)| !ok && text.contains(sentence)));
    // What it has become by the network, such as a port that it listens at, it tells once a second.
    let (mut written, mut since) = (Value::Null, Instant::now());
    wait("its description stays as it is", || {
        let now = version(&lab, "node2");
        if now != written {
            (written, since) = (now, Instant::now());
        }
        if since.elapsed() > Duration::from_secs(3) { Ok(()) } else { Err(written.to_string()) }
    });
    end.send(()).unwrap();
    squatter.join().unwrap();
    wait("the port is free again", || meet(&lab, &a, &b));
    wait("it is taken back", || is_quiet(&lab, "node2"));
    assert!(!listed(&lab, "node2").contains("problem"), "{}", listed(&lab, "node2"));
    assert_eq!(version(&lab, "node2"), written, "what a node complains of is in no log");
    assert!(doctor(&lab, "node2", "tunnel").iter().all(|(ok, _)| *ok));
}

/// Between a host and all others there is something that swallows packets of more than so many bytes, as one that tells TCP
/// to send less does.
fn narrow(lab: &Lab, host: &str, bytes: u16) {
    // IPv6 counts without its header of 40 bytes.
    lab.sh(
        host,
        &format!(
            "nft 'add table netdev narrow; add chain netdev narrow in {{ type filter hook ingress device eth0 priority 0; }}; \
             add rule netdev narrow in meta l4proto != tcp meta protocol ip ip length > {bytes} drop; \
             add rule netdev narrow in meta l4proto != tcp meta protocol ip6 ip6 length > {} drop'",
            bytes - 40
        ),
    );
}

#[test]
fn a_path_that_swallows_whole_packets_is_told_by_both_ends() {
    if skipped() {
        return;
    }
    let lab = Lab::up("told-mtu", 3, 1);
    let paths = |host| doctor(&lab, host, "ways to other hosts");
    let well = |host, text: &str| match paths(host).as_slice() {
        [(true, said)] if said == text => Ok(()),
        other => Err(format!("{other:?}")),
    };
    wait("all ways are good", || well("node1", "packets of 1500 bytes arrive at 2 of 2 other hosts"));
    narrow(&lab, "node2", 1400);
    let start = Instant::now();
    let sentence = |to: &str, addr: &str| {
        format!(
            "{to} ({addr}): packets of 1500 bytes do not arrive, of 1400 do: set the MTU of eth0 here, and of that host's \
             link, to 1400, or let the network between them carry 1500"
        )
    };
    let to_node2 = sentence("node2", "10.77.0.2");
    // Doctor tries for itself.
    assert_eq!(paths("node1"), [(false, to_node2.clone())]);
    println!("doctor told after {:.1?}", start.elapsed());
    for (host, sentence) in [
        ("node1", &to_node2),
        ("node3", &to_node2),
        ("node2", &sentence("node1", "10.77.0.1")),
        ("node2", &sentence("node3", "10.77.0.3")),
    ] {
        wait_for(PATIENT, "a manager tells", || warns(&lab, host, sentence));
        println!("{host} told of it after {:.1?}", start.elapsed());
    }
    assert!(listed(&lab, "node2").contains("Ready (2 problems)"), "{}", listed(&lab, "node2"));
    lab.sh("node2", "nft delete table netdev narrow");
    let mended = Instant::now();
    for host in ["node1", "node2", "node3"] {
        wait_for(PATIENT, "it is taken back", || is_quiet(&lab, host));
    }
    println!("taken back {:.1?} after it was mended", mended.elapsed());

    // The link of a host is narrower, and it says so: whole packets are then as long as it carries, and arrive.
    lab.sh("node3", "ip link set eth0 mtu 1400");
    let narrowed = "the data path's MTU is 1500 here but 1400 on node3 (10.77.0.3): all networks follow the least";
    wait_for(PATIENT, "node1 tells of node3", || warns(&lab, "node1", narrowed));
    wait("the way is good with as much", || well("node3", "packets of 1400 bytes arrive at 2 of 2 other hosts"));
    is_quiet(&lab, "node3").unwrap();
    lab.sh("node3", "ip link set eth0 mtu 1500");
    wait_for(PATIENT, "it is wide again", || is_quiet(&lab, "node1"));

    // Who answers nobody is accused of nothing.
    lab.sh(
        "node2",
        "nft 'add table inet mute; add chain inet mute in { type filter hook input priority 0; }; \
         add rule inet mute in icmp type echo-request drop; add rule inet mute in icmpv6 type echo-request drop'",
    );
    let text = "packets of 1500 bytes arrive at 1 of 2 other hosts; no answer, which may be a firewall's doing, from node2 \
                (10.77.0.2)";
    assert_eq!(paths("node1"), [(true, text.into())]);
    is_quiet(&lab, "node1").unwrap();
}

#[test]
fn a_path_of_ipv6_is_told_too() {
    if skipped() {
        return;
    }
    let lab = Lab::bare("told-mtu6", 2);
    lab.heddle("node1", &["init", "--advertise-addr", "fd77::1"]);
    let token = lab.heddle("node1", &["join-token", "worker", "-q"]);
    lab.heddle("node2", &["join", "--token", token.trim(), "--advertise-addr", "fd77::2", "fd77::1"]);
    let paths = || doctor(&lab, "node1", "ways to other hosts");
    wait("the way is good", || match paths().as_slice() {
        [(true, text)] if text == "packets of 1500 bytes arrive at 1 of 1 other hosts" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    narrow(&lab, "node2", 1450);
    let told = paths();
    let sentence = "node2 (fd77::2): packets of 1500 bytes do not arrive, of 1450 do: ";
    assert!(matches!(told.as_slice(), [(false, text)] if text.starts_with(sentence)), "{told:?}");
}

#[test]
fn an_address_that_goes_is_told_and_all_follow_to_the_next() {
    if skipped() {
        return;
    }
    let lab = Lab::up("told-addr", 3, 1);
    overlays(&lab);
    let members = NETWORKS.map(|network| ["node1", "node2", "node3"].map(|host| join(&lab, host, network)));
    let meets = |[a, b, c]: &[Member; 3]| meet(&lab, a, b).and_then(|()| meet(&lab, b, c));
    let all_meet = || members.iter().try_for_each(meets);
    wait("all meet", all_meet);
    let address = || doctor(&lab, "node2", "data path's address");
    assert_eq!(address(), [(true, "10.77.0.2 on eth0, MTU 1500".into())]);
    lab.sh("node2", "ip addr del 10.77.0.2/24 dev eth0 && ip addr add 10.77.0.92/24 dev eth0");
    let start = Instant::now();
    let sentence = "10.77.0.2, which others send to, is on no link of this host: give it back, or restart the daemon with \
                    --data-path-addr and one of ";
    wait("the host tells", || {
        let warnings = lab.info("node2")["warnings"].clone();
        if warnings.to_string().contains(sentence) { Ok(()) } else { Err(warnings.to_string()) }
    });
    println!("the host tells after {:.1?}", start.elapsed());
    let told = address();
    assert!(matches!(told.as_slice(), [(false, text)] if text.starts_with(sentence)), "{told:?}");
    assert!(told[0].1.contains("10.77.0.92 (eth0)"), "{told:?}");
    wait_for(PATIENT, "a manager tells", || warns(&lab, "node2", sentence));
    println!("a manager tells after {:.1?}", start.elapsed());
    assert!(all_meet().is_err(), "nothing is sent from an address that is gone");

    // The way out.
    let ids = || lab.json("node2", &["ps", "--format", "json"]);
    let running =
        |rows: Value| rows.as_array().unwrap().iter().map(|r| r["ID"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let before = running(ids());
    lab.do_lab(&["kill", "node2", "--daemon"]);
    lab.do_lab_with(&["start", "node2"], &[("HEDDLE_DATA_PATH_ADDR", "eth0")]);
    let start = Instant::now();
    for (network, members) in NETWORKS.iter().zip(&members) {
        wait_for(PATIENT, "they meet where it is now", || meets(members));
        println!("on {network} they meet {:.1?} after the daemon's start", start.elapsed());
    }
    assert_eq!(running(ids()), before);
    assert_eq!(lab.json("node1", &["node", "inspect", "node2"])[0]["dataPathAddr"], "10.77.0.92");
    assert_eq!(lab.info("node2")["dataPathAddr"], "10.77.0.92");
    wait_for(PATIENT, "all is well", || is_quiet(&lab, "node2"));
    assert_eq!(address(), [(true, "10.77.0.92 on eth0, MTU 1500".into())]);
    // It stays so without being said again.
    lab.do_lab(&["kill", "node2", "--daemon"]);
    lab.do_lab(&["start", "node2"]);
    wait_for(PATIENT, "all meet after a restart", all_meet);
    assert_eq!(lab.info("node2")["dataPathAddr"], "10.77.0.92");

    // An address that another node has is not taken from it.
    lab.sh("node3", "ip addr del 10.77.0.3/24 dev eth0 && ip addr add 10.77.0.93/24 dev eth0");
    lab.sh("node2", "ip addr add 10.77.0.3/24 dev eth0");
    lab.do_lab(&["kill", "node2", "--daemon"]);
    lab.do_lab_with(&["start", "node2"], &[("HEDDLE_DATA_PATH_ADDR", "10.77.0.3")]);
    let sentence = "others send to 10.77.0.92, not to this host's 10.77.0.3, which is node3's";
    wait_for(PATIENT, "the clash is told", || warns(&lab, "node2", sentence));
    assert_eq!(lab.json("node1", &["node", "inspect", "node2"])[0]["dataPathAddr"], "10.77.0.92");
}

/// The hosts that a host's end of the tunnel knows.
fn peers(lab: &Lab, host: &str) -> Result<Vec<Value>, String> {
    let peers = lab.try_json(host, &["tunnel", "ls", "--peers", "--format", "json"])?;
    Ok(peers.as_array().cloned().unwrap_or_default())
}

fn peer(lab: &Lab, host: &str, of: &str) -> Result<Value, String> {
    let peers = peers(lab, host)?;
    peers.iter().find(|p| p["hostname"] == of).cloned().ok_or_else(|| format!("{host} knows {peers:?}"))
}

#[test]
fn a_host_that_does_not_shake_hands_is_told() {
    if skipped() {
        return;
    }
    let lab = Lab::up("told-hands", 2, 1);
    lab.sh(
        "node2",
        "nft 'add table inet deaf; add chain inet deaf in { type filter hook input priority 0; }; \
         add rule inet deaf in udp dport { 51820, 51821 } drop; \
         add chain inet deaf out { type filter hook output priority 0; }; \
         add rule inet deaf out udp dport { 51820, 51821 } drop'",
    );
    overlays(&lab);
    let [a, b] = ["node1", "node2"].map(|host| join(&lab, host, "sealed"));
    assert!(meet(&lab, &a, &b).is_err());
    let silent = wait("the tunnel sends in vain", || {
        let peer = peer(&lab, "node1", "node2")?;
        if peer["sent"].as_u64() > Some(0) { Ok(peer) } else { Err(peer.to_string()) }
    });
    assert_eq!((&silent["handshakeMsAgo"], &silent["received"]), (&Value::Null, &0.into()), "{silent}");
    let start = Instant::now();
    let sentence = "node2 (10.77.0.2:51821): encrypted packets are sent, but there was no handshake";
    wait_for(PATIENT, "it is told", || {
        // Somebody wants to send.
        let _ = meet(&lab, &a, &b);
        warns(&lab, "node1", sentence)
    });
    println!("told after {:.1?}", start.elapsed());
    let told = doctor(&lab, "node1", "tunnel");
    assert!(matches!(told.as_slice(), [(false, text)] if text.starts_with(sentence)), "{told:?}");
    lab.sh("node2", "nft delete table inet deaf");
    wait_for(PATIENT, "they meet", || meet(&lab, &a, &b));
    let met = peer(&lab, "node1", "node2").unwrap();
    assert!(met["handshakeMsAgo"].as_u64().is_some_and(|ago| ago < 60_000), "{met}");
    assert!(met["received"].as_u64() > Some(0), "{met}");
    wait_for(PATIENT, "it is taken back", || is_quiet(&lab, "node1"));
    let table = lab.heddle("node1", &["tunnel", "ls", "--peers"]);
    assert!(table.contains("LAST HANDSHAKE") && table.contains("ago"), "{table}");
}

/// Who leaves is in nobody's tunnel any more when, or as good as when, its command answers.
fn who_leaves_is_forgotten(lab: &Lab) {
    overlays(lab);
    let [a, b, c] = ["node1", "node2", "node3"].map(|host| join(lab, host, "sealed"));
    wait_for(PATIENT, "they meet", || meet(lab, &a, &b).and_then(|()| meet(lab, &b, &c)));
    let key = peer(lab, "node1", "node2").unwrap()["publicKey"].clone();
    for host in ["node1", "node3"] {
        let known = peers(lab, host).unwrap();
        assert!(known.len() == 2 && known.iter().any(|p| p["publicKey"] == key), "{host} knows {known:?}");
    }
    let start = Instant::now();
    lab.heddle("node2", &["leave"]);
    let answered = Instant::now();
    println!("leave took {:.2?}", answered - start);
    for host in ["node1", "node3"] {
        let asked = Instant::now();
        let mut looks = 0;
        wait("the key is gone", || {
            looks += 1;
            let known = peers(lab, host)?;
            let gone = known.len() == 1 && known[0]["publicKey"] != key;
            if gone { Ok(()) } else { Err(format!("{known:?}")) }
        });
        let (after, look) = (answered.elapsed(), asked.elapsed());
        println!("{host}: gone at most {after:.2?} after the answer, at look {looks} of {look:.2?}");
        // A look is a command, which the machine may be slow to start.
        assert!(after < Duration::from_secs(if vm::inside() { 10 } else { 5 }), "{host}: {after:?}");
    }
}

#[test]
fn who_leaves_is_in_nobodys_tunnel() {
    if skipped() {
        return;
    }
    who_leaves_is_forgotten(&Lab::up("told-leave", 3, 1));
}

mod emulated {
    use super::*;

    #[test]
    fn who_leaves_is_in_no_kernels_tunnel() {
        let modules = [&vm::DATA_PLANE[..], &["wireguard", "tun"]].concat();
        let more = |vm: vm::Vm| vm.modules(&modules).tools(&vm::TOOLS).timeout(Duration::from_secs(400));
        if vm::skipped() || vm::ran_in("who_leaves_is_in_no_kernels_tunnel", more) {
            return;
        }
        let lab = Lab::up("told-kernel", 3, 1);
        let ends = lab.json("node1", &["tunnel", "ls", "--format", "json"]);
        assert!(ends.as_array().unwrap().iter().all(|e| e["backend"] == "kernel"), "{ends:#}");
        who_leaves_is_forgotten(&lab);
    }
}
