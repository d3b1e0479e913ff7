//! ipvlan and 802.1Q sub-interfaces, in every mode and flag, by the program's own commands. On Debian's kernel: many others
//! have neither.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{
    Lab,
    matrix::{Matrix, Party},
    program, vm,
};
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

/// The machine is emulated.
const WITHIN: Duration = Duration::from_secs(3);
const PORT: u16 = 80;
/// Numbers of those who are in every row's subnet; workloads get the first that are free.
const OUTSIDE: u8 = 1;
const HOST: u8 = 200;
/// What the outside calls the parent, whose MAC it is told.
const ROUTER: u8 = 201;
const COLUMNS: [&str; 8] =
    ["neighbour", "its name", "other net", "from other net", "outside", "from outside", "from host", "to host"];

/// Each has a cable of its own to the outside: a parent has one mode and flag of ipvlan.
struct Row {
    driver: &'static str,
    /// As in `-o macvlan_mode=` or `-o ipvlan_mode=`, and `-o ipvlan_flag=`.
    mode: &'static str,
    flag: &'static str,
    parent: Parent,
    /// Whether neighbours hear one another.
    heard: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Parent {
    Link,
    /// A sub-interface that comes and goes with the network.
    Made,
    /// One that was there before.
    Found,
    /// None: a dead end.
    Nothing,
}

const fn ipvlan(mode: &'static str, flag: &'static str, heard: bool) -> Row {
    Row { driver: "ipvlan", mode, flag, parent: Parent::Link, heard }
}

const fn tagged(driver: &'static str, mode: &'static str, parent: Parent) -> Row {
    Row { driver, mode, flag: "", parent, heard: true }
}

const IPVLAN: &[Row] = &[
    ipvlan("l2", "bridge", true),
    ipvlan("l2", "private", false),
    ipvlan("l2", "vepa", false),
    ipvlan("l3", "bridge", true),
    ipvlan("l3", "private", false),
    ipvlan("l3", "vepa", false),
    ipvlan("l3s", "bridge", true),
    ipvlan("l3s", "private", false),
    ipvlan("l3s", "vepa", false),
    Row { parent: Parent::Nothing, ..ipvlan("l3", "bridge", true) },
];
const TAGGED: &[Row] = &[
    tagged("macvlan", "bridge", Parent::Made),
    tagged("ipvlan", "l2", Parent::Made),
    tagged("ipvlan", "l3", Parent::Made),
    tagged("ipvlan", "l3s", Parent::Made),
    tagged("macvlan", "bridge", Parent::Found),
    tagged("ipvlan", "l3", Parent::Found),
];

impl Row {
    fn name(&self, n: usize) -> String {
        let Row { driver, mode, flag, .. } = self;
        let parent = match self.parent {
            Parent::Link => "",
            Parent::Made => " on a VLAN",
            Parent::Found => " on a foreign VLAN",
            Parent::Nothing => " alone",
        };
        let flag = if flag.is_empty() { String::new() } else { format!(" {flag}") };
        format!("{n:>2} {driver} {mode}{flag}{parent}")
    }

    /// The outside reaches the workloads by a route.
    fn routed(&self) -> bool {
        self.mode.starts_with("l3")
    }

    fn is_tagged(&self) -> bool {
        matches!(self.parent, Parent::Made | Parent::Found)
    }

    fn link(&self, n: usize) -> String {
        if self.is_tagged() { format!("p{n}.10") } else { format!("p{n}") }
    }

    /// The outside is the workloads' gateway and the host their neighbour; in l3 both are in a subnet of their own.
    fn addrs(&self, n: usize, number: u8) -> [IpAddr; 2] {
        let (v4, v6) = if self.routed() { (91, "fd91") } else { (90, "fd90") };
        [format!("10.{v4}.{n}.{number}"), format!("{v6}:{n}::{number}")].map(|a| a.parse().unwrap())
    }

    fn expected(&self, column: &str) -> bool {
        match column {
            "neighbour" | "its name" => self.heard,
            "outside" | "from outside" => self.parent != Parent::Nothing,
            _ => false,
        }
    }

    /// What is there on a host before anything of Heddle is, as commands of `ip -batch`.
    fn surroundings(&self, n: usize, host: &str, number: u8) -> Vec<String> {
        let (link, cable) = (self.link(n), format!("p{n}"));
        let made = host == "node1" && self.parent == Parent::Made;
        let mut lines = Vec::new();
        if self.is_tagged() && !made {
            lines.push(format!("link add link {cable} name {link} type vlan id 10"));
            lines.push(format!("link set {link} up"));
        }
        // On a sub-interface of ours the host has no address.
        let dev = if made { &cable } else { &link };
        let [v4, v6] = self.addrs(n, number);
        lines.extend([format!("address add {v4}/24 dev {dev}"), format!("address add {v6}/64 dev {dev} nodad")]);
        lines
    }

    /// `heddle network create` with these.
    fn create(&self, n: usize) -> String {
        let mut args = format!("-d {} --subnet 10.90.{n}.0/24 --subnet fd90:{n}::/64", self.driver);
        // With l3 there is no gateway: the device leads out.
        if !self.routed() {
            args += &self.addrs(n, OUTSIDE).map(|gateway| format!(" --gateway {gateway}")).concat();
        }
        args += &format!(" -o {}_mode={}", self.driver, self.mode);
        if !self.flag.is_empty() {
            args += &format!(" -o ipvlan_flag={}", self.flag);
        }
        if self.parent != Parent::Nothing {
            args += &format!(" -o parent={}", self.link(n));
        }
        format!("{args} net{n}")
    }

    /// In l3 nobody is asked for MAC addresses: the outside sends it all to the parent, which has its cable's.
    fn routes(&self, n: usize, mac: &str) -> Vec<String> {
        let link = self.link(n);
        let subnets = [format!("10.90.{n}.0/24"), format!("fd90:{n}::/64")];
        let both = self.addrs(n, ROUTER).into_iter().zip(subnets);
        both.flat_map(|(addr, subnet)| {
            let neighbour = format!("neighbour replace {addr} lladdr {mac} dev {link}");
            [neighbour, format!("route replace {subnet} via {addr} dev {link}")]
        })
        .collect()
    }

    fn expect(&self, matrix: &mut Matrix<'_>, n: usize, [a, b]: [&Party; 2], other: &Party) {
        let host = |name: &str, number| {
            let addrs = self.addrs(n, number).to_vec();
            Party { host: name.into(), workload: None, addrs, port: PORT }
        };
        let (client, node1) = (host("client", OUTSIDE), host("node1", HOST));
        for column in COLUMNS {
            let mut expect =
                |from: &Party, goal| matrix.expect(&self.name(n), column, from, goal, self.expected(column));
            match column {
                "neighbour" => expect(a, b.itself()),
                "its name" => expect(a, b.named(&format!("b{n}"))),
                "other net" => expect(a, other.itself()),
                "from other net" => expect(other, a.itself()),
                "outside" => expect(a, client.itself()),
                "from outside" => expect(&client, a.itself()),
                "from host" => expect(&node1, a.itself()),
                _ => expect(a, node1.itself()),
            }
        }
    }
}

/// The addresses that one of the numbers stands for, in every row.
fn all(rows: &[Row], number: u8) -> Vec<IpAddr> {
    rows.iter().enumerate().flat_map(|(n, row)| row.addrs(n, number)).collect()
}

fn batch(lab: &Lab, host: &str, lines: &[String]) {
    lab.sh(host, &format!("ip -batch - <<END\n{}\nEND", lines.join("\n")));
}

/// `heddle` with each of these, in one go.
fn heddle(lab: &Lab, commands: impl IntoIterator<Item = String>) -> String {
    let program = program().display().to_string();
    let lines: Vec<_> = commands.into_iter().map(|args| format!("{program} {args}")).collect();
    lab.sh("node1", &format!("set -e\n{}", lines.join("\n")))
}

fn start(name: &str, network: &str) -> String {
    format!("run -d --name {name} --network {network} -- heddle whoami --port {PORT} >/dev/null")
}

/// The links of a host by their names, with their MACs.
fn links(lab: &Lab, host: &str) -> std::collections::BTreeMap<String, String> {
    let told: serde_json::Value = serde_json::from_str(&lab.sh(host, "ip -j link")).unwrap();
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    told.as_array().unwrap().iter().map(|l| (text(&l["ifname"]), text(&l["address"]))).collect()
}

/// Every cable, network and workload.
fn make(lab: &Lab, rows: &[Row]) {
    let rows = || rows.iter().enumerate();
    for (n, _) in rows() {
        lab.link("node1", &format!("p{n}"), "client", &format!("p{n}"));
    }
    for (host, number) in [("client", OUTSIDE), ("node1", HOST)] {
        let lines: Vec<_> = rows().flat_map(|(n, row)| row.surroundings(n, host, number)).collect();
        batch(lab, host, &lines);
    }
    let macs = links(lab, "node1");
    let routed = rows().filter(|(_, row)| row.routed());
    batch(lab, "client", &routed.flat_map(|(n, row)| row.routes(n, &macs[&format!("p{n}")])).collect::<Vec<_>>());
    let commands = rows().flat_map(|(n, row)| {
        let (create, network) = (format!("network create {} >/dev/null", row.create(n)), format!("net{n}"));
        [create, start(&format!("a{n}"), &network), start(&format!("b{n}"), &network)]
    });
    heddle(lab, commands);
}

/// Both workloads of every row.
fn members(lab: &Lab, rows: &[Row]) -> Vec<Party> {
    let names: Vec<_> = (0..rows.len()).flat_map(|n| [(n, format!("a{n}")), (n, format!("b{n}"))]).collect();
    let args: Vec<_> = ["inspect"].into_iter().chain(names.iter().map(|(_, name)| name.as_str())).collect();
    let told = lab.json("node1", &args);
    let party = |(at, (n, name)): (usize, &(usize, String))| {
        Party::inspected(&told[at], "node1", name, &format!("net{n}"), PORT)
    };
    names.iter().enumerate().map(party).collect()
}

/// Sub-interfaces of ours go with their networks, those of others and all cables stay.
fn remove(lab: &Lab, rows: &[Row]) {
    let rows = || rows.iter().enumerate();
    let before = links(lab, "node1");
    for (n, row) in rows() {
        assert!(before.contains_key(&row.link(n)), "{}: {before:?}", row.name(n));
    }
    let words = |names: Vec<String>| names.join(" ");
    let members = words(rows().flat_map(|(n, _)| [format!("a{n}"), format!("b{n}")]).collect());
    let networks = words(rows().map(|(n, _)| format!("net{n}")).collect());
    heddle(lab, [format!("rm -f {members}"), format!("network rm {networks}")]);
    let after = links(lab, "node1");
    for (n, row) in rows() {
        let name = row.name(n);
        assert_eq!(
            after.contains_key(&row.link(n)),
            row.parent == Parent::Found,
            "{name} after its removal: {after:?}"
        );
        assert!(after.contains_key(&format!("p{n}")), "{name}: the cable is gone");
    }
}

/// In the machine: a lab in which every row was asked everything. None: the test ran there.
fn asked(test: &str, rows: &[Row]) -> Option<Lab> {
    let modules = [&vm::DATA_PLANE[..], &["macvlan", "ipvlan", "8021q"]].concat();
    let machine =
        |vm: vm::Vm| vm.modules(&modules).tools(&vm::TOOLS).memory_mib(1536).timeout(Duration::from_secs(400));
    if vm::skipped() || vm::ran_in(test, machine) {
        return None;
    }
    let begun = Instant::now();
    let lab = Lab::bare("t-parents", 1);
    heddle(&lab, ["network create other >/dev/null".to_owned(), start("other", "other")]);
    let other = Party::workload(&lab, "node1", "other", "other", PORT);
    make(&lab, rows);
    println!("made after {:.1?}", begun.elapsed());
    for (host, number) in [("client", OUTSIDE), ("node1", HOST)] {
        lab.answers(host, &all(rows, number), PORT);
    }
    println!("answering after {:.1?}", begun.elapsed());
    let members = members(&lab, rows);
    let mut matrix = Matrix::new(&lab, &COLUMNS, WITHIN);
    for (n, row) in rows.iter().enumerate() {
        let [a, b] = [2 * n, 2 * n + 1].map(|at| &members[at]);
        row.expect(&mut matrix, n, [a, b], &other);
    }
    matrix.verify();
    println!("asked after {:.1?}", begun.elapsed());
    Some(lab)
}

mod emulated {
    use super::*;

    #[test]
    fn every_mode_of_ipvlan_lets_through_what_it_should() {
        asked("every_mode_of_ipvlan_lets_through_what_it_should", IPVLAN);
    }

    #[test]
    fn sub_interfaces_carry_what_they_should_and_go_with_their_networks() {
        let lab = asked("sub_interfaces_carry_what_they_should_and_go_with_their_networks", TAGGED);
        lab.iter().for_each(|lab| remove(lab, TAGGED));
    }
}
