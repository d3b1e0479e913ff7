//! What must not pass does not: between networks, across `icc=false`, in or out of internal networks, to the host's
//! loopback, into overlays from below. Each silence has somebody beside it who is heard. The hosts forward; bridged frames are
//! filtered, and are not.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{
    Lab,
    matrix::{Matrix, Party},
    skipped, wait,
};
use serde_json::Value;
use std::{collections::BTreeMap, net::IpAddr, time::Duration};

const WITHIN: Duration = Duration::from_secs(1);
const PORT: u16 = 80;
const SEND: &str = include_str!("send.py");

/// Networks with a name for each member's host: `a` and `b` are on node1, `c` on node2.
const NETWORKS: [(&str, &str, &str); 8] = [
    ("red", "", "ab"),
    ("blue", "", "ab"),
    ("apart", "-o com.docker.network.bridge.enable_icc=false", "ab"),
    ("closed", "--internal", "ab"),
    (
        "routed",
        "-o com.docker.network.bridge.gateway_mode_ipv4=routed -o com.docker.network.bridge.gateway_mode_ipv6=routed",
        "ab",
    ),
    ("one", "-d overlay --attachable", "ac"),
    ("two", "-d overlay --attachable", "ac"),
    ("sealed", "-d overlay --attachable --internal", "ac"),
];
const BRIDGES: [&str; 5] = ["red", "blue", "apart", "closed", "routed"];

struct World {
    lab: Lab,
    /// By name, such as `red-a`.
    members: BTreeMap<String, Party>,
    node1: Party,
    client: Party,
}

fn network(member: &str) -> &str {
    member.split_once('-').unwrap().0
}

impl World {
    fn new() -> Self {
        let lab = Lab::up("t-isolation", 2, 1);
        let mut members = BTreeMap::new();
        for (network, create, places) in NETWORKS {
            let words: Vec<&str> = create.split_whitespace().collect();
            lab.heddle("node1", &[&["network", "create"], &words[..], &[network]].concat());
            for place in places.chars() {
                let (host, name) = (if place == 'c' { "node2" } else { "node1" }, format!("{network}-{place}"));
                let run =
                    ["run", "-d", "--name", &name, "--network", network, "--", "heddle", "whoami", "--port", "80"];
                lab.heddle(host, &run);
                members.insert(name.clone(), Party::workload(&lab, host, &name, network, PORT));
            }
        }
        let node1 = Party::host("node1", ["10.77.0.1", "fd77::1"], 7000);
        let client = Party::host("client", ["10.77.0.250", "fd77::fa"], 9000);
        lab.answers("node1", &node1.addrs, node1.port);
        lab.answers("client", &client.addrs, client.port);
        let world = Self { lab, members, node1, client };
        // The outside and the other host know a way to everybody.
        for outside in ["client", "node2"] {
            for member in world.members.values().filter(|m| m.host == "node1") {
                for addr in &member.addrs {
                    let via = if addr.is_ipv4() { "10.77.0.1" } else { "fd77::1" };
                    world.lab.sh(outside, &format!("ip route replace {addr}/{} via {via}", bits(*addr)));
                }
            }
        }
        // Who has no way out takes the gateway for one, and who may not see the neighbour asks the gateway for it.
        for name in ["closed-a", "closed-b"] {
            for gateway in world.gateways(name) {
                world.inside(name, &format!("ip route replace default via {gateway}"));
            }
        }
        for (name, neighbour) in [("apart-a", "apart-b"), ("apart-b", "apart-a")] {
            world.detour(name, neighbour, &world.gateways(name));
        }
        for name in ["sealed-a", "sealed-c"] {
            world.inside(name, "ip route replace default dev eth0 && ip -6 route replace default dev eth0");
        }
        world
    }

    fn inside(&self, name: &str, script: &str) -> String {
        self.lab.heddle(&self.members[name].host, &["exec", name, "sh", "-c", script])
    }

    fn send(&self, name: &str, what: &[&str]) {
        let exec = ["exec", name, "python3", "-c", SEND];
        self.lab.heddle(&self.members[name].host, &[&exec[..], what].concat());
    }

    /// The host's addresses on a member's bridge.
    fn gateways(&self, name: &str) -> Vec<IpAddr> {
        let told = self.lab.json("node1", &["network", "inspect", network(name)]);
        let pools = told[0]["IPAM"]["Config"].as_array().unwrap();
        pools.iter().map(|p| p["Gateway"].as_str().unwrap().parse().unwrap()).collect()
    }

    /// Sends what is for `to` by way of a gateway, whether it is of the same network or not.
    fn detour(&self, name: &str, to: &str, gateways: &[IpAddr]) {
        for addr in &self.members[to].addrs {
            let via = gateways.iter().find(|g| g.is_ipv4() == addr.is_ipv4()).unwrap();
            self.inside(name, &format!("ip route replace {addr}/{} via {via} dev eth0 onlink", bits(*addr)));
        }
    }

    fn mac(&self, name: &str) -> String {
        let told = self.lab.json(&self.members[name].host, &["inspect", name]);
        told[0]["NetworkSettings"]["Networks"][network(name)]["MacAddress"].as_str().unwrap().to_owned()
    }

    /// Everybody asks everybody.
    fn ask(&self) {
        let names: Vec<&str> = self.members.keys().map(String::as_str).collect();
        let more = ["node1", "client"];
        let columns = [&names[..], &more].concat();
        let mut matrix = Matrix::new(&self.lab, &columns, WITHIN);
        for (from, asker) in &self.members {
            for (to, asked) in self.members.iter().filter(|(to, _)| *to != from) {
                matrix.expect(from, to, asker, asked.itself(), network(from) == network(to) && network(to) != "apart");
            }
            let shut = ["closed", "sealed"].contains(&network(from));
            matrix.expect(from, "client", asker, self.client.itself(), !shut);
            // Workloads of overlays are on node2 too, where this host is somebody outside.
            let guest = ["one", "two"].contains(&network(from)) && asker.host == "node1";
            matrix.expect(from, "node1", asker, self.node1.itself(), !shut && !guest);
        }
        let node2 = Party::host("node2", ["10.77.0.2", "fd77::2"], 1);
        for (to, asked) in &self.members {
            matrix.expect("client", to, &self.client, asked.itself(), false);
            matrix.expect("node2", to, &node2, asked.itself(), false);
            matrix.expect("node1", to, &self.node1, asked.itself(), BRIDGES.contains(&network(to)));
        }
        matrix.verify();
    }
}

fn bits(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

/// Packets by the comment of the rule that counts them.
fn counted(listing: &str) -> BTreeMap<String, u64> {
    let table: Value = serde_json::from_str(listing).unwrap();
    let rules = table["nftables"].as_array().unwrap().iter().filter_map(|o| o.get("rule"));
    let count = |r: &Value| {
        let counter = r["expr"].as_array()?.iter().find_map(|e| e.get("counter"))?;
        Some((r["comment"].as_str()?.to_owned(), counter["packets"].as_u64()?))
    };
    rules.filter_map(count).collect()
}

/// What a host's kernel forwards and takes in, counted behind every chain of the program.
struct Watch<'a> {
    lab: &'a Lab,
    host: &'static str,
}

/// Of the datagrams that pretend to be VXLAN: a length that no other has.
const FORGED: &str = "1111";
const VXLAN: &str = "4789";
const OTHER_PORT: &str = "4790";
const LOOPBACK: &str = "7777";

impl<'a> Watch<'a> {
    fn start(lab: &'a Lab, host: &'static str, links: &[String]) -> Self {
        let mut forward = String::new();
        for (from, to) in links.iter().flat_map(|from| links.iter().map(move |to| (from, to))) {
            forward += &format!("iifname \"{from}\" oifname \"{to}\" counter comment \"{from} {to}\"; ");
        }
        let table = format!(
            "add table inet watch
             delete table inet watch
             table inet watch {{
                chain forward {{ type filter hook forward priority 500; {forward} }}
                chain first {{ type filter hook prerouting priority -500; udp dport {LOOPBACK} counter comment \"sent\"; }}
                chain input {{ type filter hook input priority 500;
                    udp length {FORGED} udp dport {VXLAN} counter comment \"forged\"
                    udp length {FORGED} udp dport {OTHER_PORT} counter comment \"control\"
                    udp dport {LOOPBACK} ip daddr 127.0.0.0/8 counter comment \"loopback\"
                    udp dport {LOOPBACK} ip daddr != 127.0.0.0/8 counter comment \"gateway\"
                }}
             }}"
        );
        lab.sh(host, &format!("echo '{table}' | nft -f -"));
        Self { lab, host }
    }

    fn counted(&self) -> BTreeMap<String, u64> {
        counted(&self.lab.sh(self.host, "nft -j list table inet watch"))
    }

    fn reaches(&self, rule: &str, packets: u64) {
        wait(&format!("{rule} on {}", self.host), || {
            let seen = self.counted();
            if seen[rule] == packets { Ok(()) } else { Err(format!("{seen:?}")) }
        });
    }
}

const EVERYBODY: [&str; 3] = ["ff:ff:ff:ff:ff:ff", "01:00:5e:7f:00:01", "33:33:00:00:00:01"];

impl World {
    /// The host's link that leads to an address.
    fn link_to(&self, addr: IpAddr) -> String {
        let told: Value = serde_json::from_str(&self.lab.sh("node1", &format!("ip -j route get {addr}"))).unwrap();
        told[0]["dev"].as_str().unwrap().to_owned()
    }

    fn bridge(&self, network: &str) -> String {
        self.link_to(self.members[&format!("{network}-a")].addrs[0])
    }

    /// Frames that no table of addresses is asked about.
    fn frames(&self) {
        const HEARERS: [&str; 6] = ["apart-b", "blue-a", "two-a", "two-c", "red-b", "one-c"];
        let table = "add table netdev watch; delete table netdev watch; table netdev watch { chain in { \
            type filter hook ingress device eth0 priority -500; ether type 0x88b5 counter comment \"frames\"; }; }";
        for hearer in HEARERS {
            self.inside(hearer, &format!("nft '{table}'"));
        }
        let heard = |who: &str| counted(&self.inside(who, "nft -j list table netdev watch"))["frames"];
        let mac = |who: &str| self.mac(who);
        for (sender, to) in [
            ("apart-a", vec!["apart-b"]),
            ("one-a", vec!["two-a", "two-c"]),
            ("red-a", vec!["blue-a"]),
            // At last those who are heard.
            ("one-a", vec!["one-c"]),
            ("red-a", vec!["red-b"]),
        ] {
            let macs: Vec<String> = to.iter().map(|t| mac(t)).collect();
            let macs = macs.iter().map(String::as_str);
            let everybody = EVERYBODY.into_iter().filter(|_| to != ["blue-a"]);
            self.send(sender, &["frames", "eth0"].into_iter().chain(macs).chain(everybody).collect::<Vec<_>>());
        }
        for (hearer, least) in [("one-c", 1), ("red-b", 4)] {
            wait(&format!("{hearer} hears"), || {
                Some(heard(hearer)).filter(|n| *n < least).map_or(Ok(()), |n| Err(n.to_string()))
            });
        }
        for deaf in ["apart-b", "blue-a", "two-a", "two-c"] {
            assert_eq!(heard(deaf), 0, "{deaf} hears frames that are not for it");
        }
    }

    /// To the host's loopback by way of the gateway, which routes to it for the host's own use.
    fn loopback(&self, watch: &Watch<'_>) {
        let senders = ["red-a", "apart-a", "routed-a"];
        for sender in senders {
            let (own, gateway) = (self.members[sender].addrs[0].to_string(), self.gateways(sender)[0].to_string());
            let bridge = self.bridge(network(sender));
            let mac = self.lab.sh("node1", &format!("cat /sys/class/net/{bridge}/address"));
            for target in ["127.0.0.1", "127.1.2.3", &gateway] {
                self.send(sender, &["packet", "eth0", mac.trim(), &own, target, LOOPBACK]);
            }
        }
        let mac = self.lab.sh("node1", "cat /sys/class/net/heddle_gw/address");
        let own = &self.lab.json("node1", &["inspect", "one-a"])[0]["NetworkSettings"]["Gateway"]["Addresses"][0];
        self.send("one-a", &["packet", "gw0", mac.trim(), own.as_str().unwrap(), "127.0.0.1", LOOPBACK]);
        watch.reaches("gateway", senders.len() as u64);
        watch.reaches("sent", 3 * senders.len() as u64 + 1);
        assert_eq!(watch.counted()["loopback"], 0, "the host's loopback is reached from a bridge");
    }

    /// VXLAN by hand, to the own host and to the other.
    fn vxlan(&self, [node1, node2]: [&Watch<'_>; 2]) {
        let hosts = ["10.77.0.1", "fd77::1", "10.77.0.2", "fd77::2"];
        for port in [VXLAN, OTHER_PORT] {
            for sender in ["red-a", "apart-a", "routed-a", "one-a"] {
                self.send(sender, &[&["datagram", FORGED, port], &hosts[..]].concat());
            }
            let outside = ["python3", "-c", SEND, "datagram", FORGED, port];
            assert!(self.lab.exec("client", &[&outside[..], &hosts].concat()).status.success());
        }
        // Workloads of overlays reach nothing of their own host's, and all hosts but that.
        node1.reaches("control", 2 * 4);
        node2.reaches("control", 2 * 5);
        for watch in [node1, node2] {
            assert_eq!(watch.counted()["forged"], 0, "VXLAN that nobody of the hosts sent arrives at {}", watch.host);
        }
    }

    /// Which links packets were forwarded between.
    fn forwarded(&self, watch: &Watch<'_>, links: &[String]) {
        let seen = watch.counted();
        let closed = self.bridge("closed");
        let apart = self.bridge("apart");
        for from in links {
            for to in links {
                let packets = seen[&format!("{from} {to}")];
                let within = from == to && *from != apart;
                let outside = (from == "eth0") != (to == "eth0") && ![from, to].contains(&&closed);
                if outside {
                    assert!(packets > 0, "nothing from {from} to {to}: {seen:?}");
                }
                assert!(packets == 0 || within || outside, "{packets} packets from {from} to {to}: {seen:?}");
            }
        }
    }
}

#[test]
fn no_packet_passes_that_should_not() {
    if skipped() {
        return;
    }
    let world = World::new();
    let lab = &world.lab;
    let mut links: Vec<String> = BRIDGES.iter().map(|b| world.bridge(b)).collect();
    links.extend(["heddle_gw".to_owned(), "eth0".to_owned()]);
    for filtered in ["1", "0"] {
        for host in ["node1", "node2"] {
            let keys = ["ip", "ip6", "arp"].map(|f| format!("net.bridge.bridge-nf-call-{f}tables={filtered}"));
            lab.sh(host, &format!("sysctl -qw {}", keys.join(" ")));
        }
        println!("bridged frames are filtered: {filtered}");
        let node1 = Watch::start(lab, "node1", &links);
        let node2 = Watch::start(lab, "node2", &[]);
        world.ask();
        // Once more, with the other network's own gateway for a gateway.
        for (from, to) in BRIDGES.iter().flat_map(|f| BRIDGES.iter().map(move |t| (f, t))).filter(|(f, t)| f != t) {
            let to = format!("{to}-a");
            world.detour(&format!("{from}-b"), &to, &world.gateways(&to));
        }
        world.ask();
        world.frames();
        world.loopback(&node1);
        world.vxlan([&node1, &node2]);
        world.forwarded(&node1, &links);
    }
}
