//! What has to hold of encrypted overlays, whatever the hosts are and encrypt by.

use crate::{Lab, wire::Capture};
use std::thread;

const WORDS: &str = "what nobody between the hosts may read";
const BULK: usize = 256 << 10;
/// Until somebody listens.
const TRIES: u32 = 50;
const ENDS: [&str; 2] = ["node1", "node2"];

/// Has a host's daemon encrypt by this means alone.
pub fn encrypts_by(lab: &Lab, host: &str, means: &str) {
    lab.do_lab(&["kill", host, "--daemon"]);
    if lab.emulated() {
        lab.sh(host, &format!("mkdir -p /etc/heddle; echo 'wireguard = \"{means}\"' > /etc/heddle/config.toml"));
    }
    lab.do_lab_with(&["start", host], &[("HEDDLE_WIREGUARD", means)]);
    lab.wait(&format!("{host} encrypts by {means}"), || {
        let ends = lab.try_json("node1", &["tunnel", "ls", "--format", "json"])?;
        let end = ends.as_array().into_iter().flatten().find(|e| e["hostname"] == host);
        if end.is_some_and(|e| e["backend"] == means) { Ok(()) } else { Err(ends.to_string()) }
    });
}

/// A workload on each of two hosts, on a network of that name: their addresses, IPv4 first.
fn members(lab: &Lab, network: &str, more: &[&str]) -> [[String; 2]; 2] {
    lab.heddle("node1", &[&["network", "create", "-d", "overlay", "--attachable"], more, &[network]].concat());
    ENDS.map(|host| {
        lab.run_web(host, network, &["--network", network]);
        [true, false].map(|v4| lab.address(host, network, network, v4))
    })
}

/// Words by TCP, from one end's workload to the other's address.
fn bulk(lab: &Lab, network: &str, from: &str, to: &str, addr: &str) {
    let listen = format!("nc -N -l {addr} 99 | wc -c");
    let send = format!(
        "for i in $(seq {TRIES}); do yes '{WORDS}' | head -c {BULK} | nc -N {addr} 99 && exit; sleep 0.2; done; exit 1"
    );
    thread::scope(|scope| {
        let arrived = scope.spawn(|| lab.inside(to, network, &listen));
        lab.inside(from, network, &send);
        let arrived = arrived.join().expect("it listens");
        assert_eq!(arrived.trim(), BULK.to_string(), "from {from} to {addr}");
    });
}

/// Every frame that the first host sends or receives is looked at, of a plain network and of an encrypted one.
pub fn what_crosses_an_encrypted_network_is_not_read(lab: &Lab) {
    for (network, more) in [("plain", &[][..]), ("sealed", &["-o", "encrypted"])] {
        let addrs = members(lab, network, more);
        let capture = Capture::start(&lab.netns(ENDS[0]), WORDS.as_bytes());
        for (at, from) in ENDS.into_iter().enumerate() {
            let to = ENDS[1 - at];
            for addr in &addrs[1 - at] {
                lab.wait("a ping is answered", || {
                    let ping = format!("ping -c 3 -W 5 {addr} >/dev/null 2>&1 && echo yes || echo no");
                    if lab.inside(from, network, &ping).trim() == "yes" { Ok(()) } else { Err(addr.clone()) }
                });
                bulk(lab, network, from, to, addr);
            }
        }
        let seen = capture.end();
        println!("{network}: {seen:?}");
        if more.is_empty() {
            assert!(seen.words > 20 && seen.vxlan > 50 && seen.tunnel == 0, "the capture sees what is open: {seen:?}");
        } else {
            assert!(seen.tunnel > 100, "{seen:?}");
            assert_eq!((seen.words, seen.vxlan, seen.fragments), (0, 0, 0), "{seen:?}");
        }
    }
}
