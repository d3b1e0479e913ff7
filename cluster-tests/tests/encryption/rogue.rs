//! Ways into an overlay that others left open, tried by somebody on the underlay who knows every number: VNI, MACs, addresses.

use crate::{Capture, Injection, Member, NEVER, Pair, SOON, WORDS, datagram, heard, meet, overlay};
use heddle_cluster_tests::{Lab, skipped, wait};
use std::net::Ipv4Addr;

const ROGUE: [u8; 4] = [10, 77, 0, 250];

/// CVE-2023-28842: as long as an encrypted network had no second host, its first took VXLAN from anybody.
#[test]
fn an_encrypted_network_of_one_host_hears_nobody() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-enc-alone", 2, 1);
    overlay(&lab, "sealed", &["-o", "encrypted"]);
    let alone = Member::start(&lab, "node1", "sealed");
    let mut nobody = alone.leg(&lab);
    nobody.mac[5] ^= 1;
    nobody.v4 = Ipv4Addr::from(u32::from(nobody.v4) + 7);
    // As a stranger, as a node that has nothing on the network, as the host itself.
    for source in [ROGUE, [10, 77, 0, 2], [10, 77, 0, 1]] {
        assert!(!heard(&lab, "sealed", nobody.clone(), &alone, source), "{source:?} is heard");
    }
    // The forgery itself is sound: with the same numbers, the peer of a plain network is heard.
    overlay(&lab, "plain", &[]);
    let [a, b] = ["node1", "node2"].map(|host| Member::start(&lab, host, "plain"));
    wait("they meet", || meet(&a, &b));
    assert!(heard(&lab, "plain", b.leg(&lab), &a, [10, 77, 0, 2]));
}

/// CVE-2023-28841 and -28840: encryption and the refusal of cleartext hung on firewall rules, which others remove.
#[test]
fn without_any_firewall_rule_nothing_is_read_or_heard() {
    if skipped() {
        return;
    }
    let pair = Pair::new("t-enc-flush", ["auto", "auto"]);
    let [a, b] = &pair.sealed;
    let forged = Injection::new(&pair.lab, "sealed", a.leg(&pair.lab), b);
    let hosts = ["node1", "node2"];
    let flush = || {
        for host in hosts {
            pair.lab.sh(host, "nft flush ruleset; ip netns exec hd-tunnel nft flush ruleset");
        }
    };
    let capture = Capture::start(&pair.lab.netns("node1"), WORDS);
    for _ in 0..5 {
        flush();
        assert!(datagram(a, b, true, WORDS.len(), SOON).is_some(), "encrypted traffic goes on");
        flush();
        assert!(!forged.heard(&pair.lab, [10, 77, 0, 1]), "cleartext of a peer is heard");
    }
    // From now on no daemon puts anything back, and a tunnel of the daemon's own has ended with it.
    for host in hosts {
        pair.lab.do_lab(&["kill", host, "--daemon"]);
    }
    flush();
    for source in [ROGUE, [10, 77, 0, 1]] {
        assert!(!forged.heard(&pair.lab, source), "{source:?} is heard without a daemon");
    }
    let _ = datagram(a, b, true, WORDS.len(), NEVER);
    let seen = capture.end();
    assert_eq!((seen.words, seen.fragments), (0, 0), "{seen:?}");
    assert!(seen.tunnel > 0, "{seen:?}");
}

/// VXLAN is taken from current peers only: who left is a stranger.
#[test]
fn who_left_is_heard_no_more() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-enc-left", 3, 1);
    overlay(&lab, "plain", &[]);
    let [a, b, c] = ["node1", "node2", "node3"].map(|host| Member::start(&lab, host, "plain"));
    wait("they meet", || meet(&a, &c).and_then(|()| meet(&b, &c)));
    let (left, node3) = (c.leg(&lab), [10, 77, 0, 3]);
    assert!(heard(&lab, "plain", left.clone(), &a, node3), "a peer is heard");
    lab.heddle("node3", &["leave"]);
    wait("it is a stranger", || {
        let hears: Vec<_> = [&a, &b].into_iter().filter(|m| heard(&lab, "plain", left.clone(), m, node3)).collect();
        if hears.is_empty() { Ok(()) } else { Err(format!("{} hear it", hears.len())) }
    });
    meet(&a, &b).unwrap();
}

/// A frame with a member's MAC that comes from another host than the member's leads nobody there.
#[test]
fn a_forged_sender_takes_nobodys_place() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-enc-place", 3, 1);
    overlay(&lab, "plain", &[]);
    let [a, b, c] = ["node1", "node2", "node3"].map(|host| Member::start(&lab, host, "plain"));
    wait("they meet", || meet(&a, &b).and_then(|()| meet(&b, &c)));
    let vni = lab.overlay("node1", "plain").vni();
    let space = lab.sh("node2", "ls /run/netns | grep ^hd-n-");
    let tables = || {
        let spaces = space.split_whitespace();
        spaces
            .map(|s| lab.sh("node2", &format!("bridge -n {s} fdb show; ip -n {s} neigh show nud permanent")))
            .collect::<String>()
    };
    let before = tables();
    assert!(before.contains("10.77.0.3"), "VNI {vni} knows where node3 is: {before}");
    // In node1's name come frames of c, who is on node3, and of b itself.
    for sender in [c.leg(&lab), b.leg(&lab)] {
        for _ in 0..5 {
            let _ = heard(&lab, "plain", sender.clone(), &b, [10, 77, 0, 1]);
        }
    }
    assert_eq!(tables(), before, "a forged sender changes where frames go");
    meet(&b, &c).unwrap();
    meet(&a, &b).unwrap();
}
