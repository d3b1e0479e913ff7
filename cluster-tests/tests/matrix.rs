//! Every driver of networks: whom its workloads reach and who reaches them, by both families, TCP and UDP, address and
//! name, with real packets. What this machine's kernel has no link for is in `parents.rs`.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{
    Lab,
    images::{self, Root},
    matrix::{Matrix, Party},
    skipped,
};
use serde_json::json;
use std::{collections::BTreeSet, time::Duration};

/// What passes here does so within some milliseconds.
const WITHIN: Duration = Duration::from_secs(1);
const PORT: u16 = 80;
const HOST_PORT: u16 = 7000;
const CLIENT_PORT: u16 = 9000;
/// A second cable between node1 and the outside.
const UPLINK: &str = "up1";

const COLUMNS: [&str; 11] = [
    "neighbour",
    "its name",
    "other host",
    "name there",
    "other net",
    "from other net",
    "outside",
    "from outside",
    "published",
    "from host",
    "to host",
];

/// How the workloads of a row are made.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// `network create` on one host alone, or the network that is there.
    Here,
    /// On both hosts, on one Ethernet: the second gives its members other addresses.
    SameEthernet,
    /// Of the cluster, with standalone workloads.
    Attachable,
    /// Of the cluster, with tasks.
    Service,
    /// The hosts' own.
    Host,
    None,
    /// One workload takes the whole parent.
    Alone,
}

#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    kind: Kind,
    /// For `network create`; empty: it is there already.
    create: &'static str,
    /// For each of the columns, `y` or `n`; `.`: there is no such thing.
    expected: &'static str,
}

const fn row(name: &'static str, kind: Kind, create: &'static str, expected: &'static str) -> Row {
    Row { name, kind, create, expected }
}

const ROUTED: &str =
    "-o com.docker.network.bridge.gateway_mode_ipv4=routed -o com.docker.network.bridge.gateway_mode_ipv6=routed";

/// Which rows there are. Columns: neighbour, its name; other host, name there; other net, from it; outside, from it;
/// published; from the host, to it.
const ROWS: &[Row] = &[
    // docker's default network has no names.
    row("bridge", Kind::Here, "", "yn .. nn yn yyy"),
    row("bridge-own", Kind::Here, "-d bridge", "yy .. nn yn yyy"),
    row("bridge-noicc", Kind::Here, "-o com.docker.network.bridge.enable_icc=false", "nn .. nn yn yyy"),
    row("bridge-internal", Kind::Here, "--internal", "yy .. nn nn nyn"),
    // A published port is open at the workload's own address, and nothing is translated.
    row("bridge-routed", Kind::Here, ROUTED, "yy .. ny yy nyy"),
    row("host", Kind::Host, "", "y. y. yy yy nyy"),
    row("none", Kind::None, "", ".. .. n. n. n.n"),
    // The host and its own children on a parent do not hear each other: so it is in the kernel.
    row("macvlan-bridge", Kind::SameEthernet, "-d macvlan -o parent=eth0", "yy yn nn yy nnn"),
    row("macvlan-private", Kind::SameEthernet, "-d macvlan -o parent=eth0 -o macvlan_mode=private", "nn yn nn yy nnn"),
    // The switch would have to send it back.
    row("macvlan-vepa", Kind::SameEthernet, "-d macvlan -o parent=eth0 -o macvlan_mode=vepa", "nn yn nn yy nnn"),
    row("macvlan-internal", Kind::SameEthernet, "-d macvlan", "yy nn nn nn nnn"),
    row("macvlan-passthru", Kind::Alone, "-d macvlan -o parent=up1 -o macvlan_mode=passthru", ".. .. nn yy nnn"),
    row("overlay", Kind::Attachable, "-d overlay --attachable", "yy yy nn yn ynn"),
    row("overlay-internal", Kind::Attachable, "-d overlay --attachable --internal", "yy yy nn nn nnn"),
    row("overlay-tasks", Kind::Service, "-d overlay", "yy yy nn yn ynn"),
];

impl Row {
    fn expected(&self, column: &str) -> Option<bool> {
        let marks: Vec<char> = self.expected.chars().filter(|c| *c != ' ').collect();
        assert_eq!(marks.len(), COLUMNS.len(), "{}", self.name);
        match marks[COLUMNS.iter().position(|c| *c == column).unwrap()] {
            '.' => None,
            mark => Some(mark == 'y'),
        }
    }

    fn name_of(&self, member: &str) -> String {
        format!("{}-{member}", self.name)
    }
}

/// Those that tell whether containers are where programs of the host are.
const OF_IMAGES: [&str; 8] =
    ["bridge-own", "bridge-internal", "host", "none", "macvlan-bridge", "overlay", "overlay-internal", "overlay-tasks"];

/// The lab with somebody on every network.
struct World {
    lab: Lab,
    /// Of which everybody is made. None: of a program of the host.
    image: Option<String>,
    node1: Party,
    client: Party,
    /// On a bridge of node1 that is nobody else's.
    other: Party,
}

/// Everybody of a row, and where it would be published.
struct Members {
    a: Party,
    b: Option<Party>,
    /// On the other host.
    c: Option<Party>,
    published: u16,
    /// The host at an address that its own workloads should see.
    host: Party,
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

impl World {
    fn new(of_images: bool) -> Self {
        let lab = Lab::up("t-matrix", 2, 1);
        let image = of_images.then(|| {
            images::equip(&lab, &["node1", "node2"]);
            let program = json!({"Entrypoint": ["heddle"], "User": "www", "Env": ["PATH=/bin"]});
            images::push(&lab, "whoami:1", &Root::whoami(), program)
        });
        let node1 = Party::host("node1", ["10.77.0.1", "fd77::1"], HOST_PORT);
        let client = Party::host("client", ["10.77.0.250", "fd77::fa"], CLIENT_PORT);
        lab.answers("client", &client.addrs, CLIENT_PORT);
        // Packets to anywhere else get at least to the host.
        lab.sh("client", "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        lab.link("node1", UPLINK, "client", UPLINK);
        lab.heddle("node1", &["network", "create", "other"]);
        let mut world = Self { lab, image, node1: node1.clone(), client, other: node1 };
        world.start("node1", "other", "other", PORT, &[], &[]);
        world.other = Party::workload(&world.lab, "node1", "other", "other", PORT);
        route(&world.lab, &world.other);
        world
    }

    /// What follows the flags of `run` and `service create`.
    fn words<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let program = self.image.as_deref().map_or(&["--", "heddle"][..], |_| &[]);
        self.image
            .as_deref()
            .into_iter()
            .chain(program.iter().copied())
            .chain(["whoami"])
            .chain(more.iter().copied())
            .collect()
    }

    /// A workload that answers, at all of its addresses or at these only.
    fn start(&self, host: &str, name: &str, network: &str, port: u16, more: &[&str], at: &[String]) {
        let port = port.to_string();
        let head = ["run", "-d", "--name", name, "--network", network];
        let bind = at.iter().flat_map(|a| ["--bind", a]);
        let words: Vec<&str> = ["--port", &port].into_iter().chain(bind).collect();
        self.lab.heddle(host, &[&head, more, &self.words(&words)].concat());
    }

    /// The same as a service of one task.
    fn serve(&self, name: &str, more: &[&str]) {
        let process: &[&str] = if self.image.is_some() { &[] } else { &["--process"] };
        let patience = self.lab.patience();
        let head = ["service", "create", "--timeout", &patience, "--name", name];
        self.lab.heddle("node1", &[&head, process, more, &self.words(&["--port", "80"])].concat());
    }

    fn make(&self, n: usize, row: &Row) -> Members {
        let (lab, a) = (&self.lab, row.name_of("a"));
        let published = 8100 + u16::try_from(n).unwrap();
        let ports = ["", "/udp"].map(|protocol| format!("{published}:{PORT}{protocol}"));
        let publish = ["-p", &ports[0], "-p", &ports[1]];
        let two = |network: &str, remote: bool| {
            self.start("node1", &a, network, PORT, &publish, &[]);
            self.start("node1", &row.name_of("b"), network, PORT, &[], &[]);
            if remote {
                self.start("node2", &row.name_of("c"), network, PORT, &[], &[]);
            }
            let party = |host: &str, member: &str| Party::workload(lab, host, &row.name_of(member), network, PORT);
            (party("node1", "a"), Some(party("node1", "b")), remote.then(|| party("node2", "c")))
        };
        let create = |host: &str, more: &[&str]| {
            let args = [&["network", "create"], &words(row.create)[..], more, &[row.name]].concat();
            lab.heddle(host, &args);
        };
        let mut host = self.node1.clone();
        let (a, b, c) = match row.kind {
            Kind::Here => {
                if row.create.is_empty() {
                    two(row.name, false)
                } else {
                    create("node1", &[]);
                    two(row.name, false)
                }
            }
            Kind::Attachable => {
                create("node1", &[]);
                two(row.name, true)
            }
            Kind::SameEthernet => {
                for (host, v4, v6) in [("node1", "64/26", "4000/114"), ("node2", "128/25", "8000/113")] {
                    let (range4, range6) = (format!("10.90.{n}.{v4}"), format!("fd90:{n}::{v6}"));
                    let net = subnets(n);
                    let range = ["--ip-range", &range4, "--ip-range", &range6];
                    create(host, &[&in_subnets(&net)[..], &range].concat());
                }
                host = self.on_ethernet(n, "eth0");
                two(row.name, true)
            }
            Kind::Alone => {
                let net = subnets(n);
                create("node1", &in_subnets(&net));
                host = self.on_ethernet(n, UPLINK);
                self.start("node1", &a, row.name, PORT, &publish, &[]);
                let second = ["run", "-d", "--network", row.name, "--", "true"];
                assert!(lab.refused("node1", &second).contains("takes one workload at a time"));
                (Party::workload(lab, "node1", &a, row.name, PORT), None, None)
            }
            Kind::Service => {
                create("node1", &[]);
                let network = lab.overlay("node1", row.name).id().clone();
                let party = |host: &str, member: &str, publish: &[&str]| {
                    let (name, place) = (row.name_of(member), format!("node.hostname=={host}"));
                    self.serve(&name, &[&["--network", row.name, "--constraint", &place], publish].concat());
                    Party::task(&lab.running("node1", &name).unwrap().remove(0), &network, PORT)
                };
                (party("node1", "a", &publish), Some(party("node1", "b", &[])), Some(party("node2", "c", &[])))
            }
            Kind::Host => {
                let party = |number: u8, member: &str, port: u16| {
                    let (host, name) = (format!("node{number}"), row.name_of(member));
                    let addrs = [format!("10.77.0.{number}"), format!("fd77::{number}")];
                    let more = if member == "a" { &publish[..] } else { &[] };
                    self.start(&host, &name, "host", port, more, &addrs);
                    let addrs = addrs.map(|a| a.parse().unwrap());
                    Party { host, workload: Some(name), addrs: addrs.to_vec(), port }
                };
                (party(1, "a", 7100), Some(party(1, "b", 7101)), Some(party(2, "c", 7102)))
            }
            Kind::None => {
                self.start("node1", &a, "none", PORT, &publish, &[]);
                let addrs = ["127.0.0.1", "::1"].map(|a| a.parse().unwrap()).to_vec();
                (Party { host: "node1".into(), workload: Some(a), addrs, port: PORT }, None, None)
            }
        };
        if matches!(row.kind, Kind::Here | Kind::Attachable | Kind::Service) || row.create == "-d macvlan" {
            route(lab, &a);
        }
        Members { a, b, c, published, host }
    }

    /// Gives the outside, and the host itself, an address in the row's own subnet: the outside is its gateway.
    fn on_ethernet(&self, n: usize, link: &str) -> Party {
        let addrs = |number: u8| [format!("10.90.{n}.{number}"), format!("fd90:{n}::{number}")];
        for (host, number) in [("client", 1), ("node1", 2)] {
            let [v4, v6] = addrs(number);
            let script = format!("ip addr add {v4}/24 dev {link} && ip addr add {v6}/64 dev {link} nodad");
            self.lab.sh(host, &script);
        }
        Party { addrs: addrs(2).map(|a| a.parse().unwrap()).to_vec(), ..self.node1.clone() }
    }

    fn expect(&self, matrix: &mut Matrix<'_>, row: &Row, members: &Members) {
        let Members { a, b, c, published, host } = members;
        for column in COLUMNS {
            let Some(expected) = row.expected(column) else { continue };
            let mut expect = |from: &Party, goal| matrix.expect(row.name, column, from, goal, expected);
            let b = || b.as_ref().unwrap();
            let c = || c.as_ref().unwrap();
            match column {
                "neighbour" => expect(a, b().itself()),
                "its name" => expect(a, b().named(&row.name_of("b"))),
                "other host" => expect(a, c().itself()),
                "name there" => expect(a, c().named(&row.name_of("c"))),
                "other net" => expect(a, self.other.itself()),
                "from other net" => expect(&self.other, a.itself()),
                "outside" => expect(a, self.client.itself()),
                "from outside" => expect(&self.client, a.itself()),
                // Of a service also where no task of it is.
                "published" if row.kind == Kind::Service => {
                    expect(&self.client, a.at(&["10.77.0.2", "fd77::2"].map(|t| t.parse().unwrap()), *published));
                }
                "published" => expect(&self.client, a.at(&self.node1.addrs, *published)),
                "from host" => expect(&self.node1, a.itself()),
                _ => expect(a, host.itself()),
            }
        }
    }
}

/// Subnets and gateways of a network on Ethernet.
fn subnets(n: usize) -> [String; 4] {
    [format!("10.90.{n}.0/24"), format!("fd90:{n}::/64"), format!("10.90.{n}.1"), format!("fd90:{n}::1")]
}

fn in_subnets([v4, v6, gateway4, gateway6]: &[String; 4]) -> [&str; 8] {
    ["--subnet", v4, "--subnet", v6, "--gateway", gateway4, "--gateway", gateway6]
}

/// The outside sends what is for these addresses to their host.
fn route(lab: &Lab, party: &Party) {
    for addr in &party.addrs {
        let via = if addr.is_ipv4() { "10.77.0.1" } else { "fd77::1" };
        lab.sh("client", &format!("ip route replace {addr} via {via}"));
    }
}

#[test]
fn every_driver_lets_through_what_it_should_and_nothing_else() {
    if !skipped() {
        verify(&World::new(false), ROWS);
    }
}

#[test]
fn containers_are_where_programs_of_the_host_are() {
    if !skipped() {
        let rows: Vec<_> = ROWS.iter().filter(|row| OF_IMAGES.contains(&row.name)).copied().collect();
        assert_eq!(rows.len(), OF_IMAGES.len());
        verify(&World::new(true), &rows);
    }
}

fn verify(world: &World, rows: &[Row]) {
    let members: Vec<_> = rows.iter().enumerate().map(|(n, row)| world.make(n, row)).collect();
    // At last, when the host has all of its addresses.
    let hosts: BTreeSet<_> = members.iter().flat_map(|m| m.host.addrs.clone()).collect();
    world.lab.answers("node1", &Vec::from_iter(hosts), HOST_PORT);
    let mut matrix = Matrix::new(&world.lab, &COLUMNS, WITHIN);
    for (row, members) in rows.iter().zip(&members) {
        world.expect(&mut matrix, row, members);
    }
    matrix.verify();
}
