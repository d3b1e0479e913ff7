//! macvlan and ipvlan on links and 802.1Q sub-interfaces, in every mode and flag, by the program's own commands. On Debian's
//! kernel: many others have neither ipvlan nor 802.1Q.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{
    Lab,
    matrix::{Matrix, Party},
    vm,
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
    neighbours: Neighbours,
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

#[derive(Clone, Copy, PartialEq)]
enum Neighbours {
    Heard,
    Unheard,
    /// The parent takes one workload.
    Impossible,
}
use Neighbours::{Heard, Impossible, Unheard};

const fn ipvlan(mode: &'static str, flag: &'static str, neighbours: Neighbours) -> Row {
    Row { driver: "ipvlan", mode, flag, parent: Parent::Link, neighbours }
}

const fn tagged(driver: &'static str, mode: &'static str, parent: Parent, neighbours: Neighbours) -> Row {
    Row { driver, mode, flag: "", parent, neighbours }
}

const ROWS: [Row; 16] = [
    ipvlan("l2", "bridge", Heard),
    ipvlan("l2", "private", Unheard),
    ipvlan("l2", "vepa", Unheard),
    ipvlan("l3", "bridge", Heard),
    ipvlan("l3", "private", Unheard),
    ipvlan("l3", "vepa", Unheard),
    ipvlan("l3s", "bridge", Heard),
    ipvlan("l3s", "private", Unheard),
    ipvlan("l3s", "vepa", Unheard),
    Row { parent: Parent::Nothing, ..ipvlan("l2", "bridge", Heard) },
    tagged("macvlan", "bridge", Parent::Made, Heard),
    tagged("macvlan", "private", Parent::Made, Unheard),
    tagged("macvlan", "passthru", Parent::Made, Impossible),
    tagged("macvlan", "bridge", Parent::Found, Heard),
    tagged("ipvlan", "l2", Parent::Made, Heard),
    // The host routes: to a sub-interface that it has no address on there would be no way by IPv6.
    tagged("ipvlan", "l3", Parent::Found, Heard),
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

    fn members(&self) -> &[&str] {
        if self.neighbours == Impossible { &["a"] } else { &["a", "b"] }
    }

    fn expected(&self, column: &str) -> Option<bool> {
        match column {
            "neighbour" | "its name" if self.neighbours == Impossible => None,
            "neighbour" | "its name" => Some(self.neighbours == Heard),
            "outside" | "from outside" => Some(self.parent != Parent::Nothing),
            _ => Some(false),
        }
    }

    fn make(&self, lab: &Lab, n: usize) {
        let (link, cable) = (self.link(n), format!("p{n}"));
        lab.link("node1", &cable, "client", &cable);
        if self.is_tagged() {
            for host in ["client", "node1"].iter().take(if self.parent == Parent::Found { 2 } else { 1 }) {
                lab.sh(host, &format!("ip link add link {cable} name {link} type vlan id 10 && ip link set {link} up"));
            }
        }
        self.create(lab, n);
        for (host, number) in [("client", OUTSIDE), ("node1", HOST)] {
            // On a sub-interface of ours the host has no address.
            let beside = host == "node1" && self.parent == Parent::Made;
            let [v4, v6] = self.addrs(n, number);
            let link = if beside { &cable } else { &link };
            lab.sh(host, &format!("ip addr add {v4}/24 dev {link} && ip addr add {v6}/64 dev {link} nodad"));
        }
        if self.routed() {
            self.route(lab, n);
        }
    }

    fn create(&self, lab: &Lab, n: usize) {
        let [v4, v6] = [format!("10.90.{n}.0/24"), format!("fd90:{n}::/64")];
        let [gateway4, gateway6] = self.addrs(n, OUTSIDE).map(|a| a.to_string());
        let mut options = vec![format!("{}_mode={}", self.driver, self.mode)];
        options.extend((!self.flag.is_empty()).then(|| format!("ipvlan_flag={}", self.flag)));
        options.extend((self.parent != Parent::Nothing).then(|| format!("parent={}", self.link(n))));
        let network = format!("net{n}");
        let mut args = vec!["network", "create", "-d", self.driver, "--subnet", &v4, "--subnet", &v6];
        // With l3 there is no gateway: the device leads out.
        if !self.routed() {
            args.extend(["--gateway", &gateway4, "--gateway", &gateway6]);
        }
        args.extend(options.iter().flat_map(|o| ["-o", o]));
        lab.heddle("node1", &[&args[..], &[&network]].concat());
        for member in self.members() {
            start(lab, &format!("{member}{n}"), &network);
        }
    }

    /// In l3 nobody is asked for MAC addresses: the outside sends it all to the parent.
    fn route(&self, lab: &Lab, n: usize) {
        let link = self.link(n);
        let mac = lab.sh("node1", &format!("cat /sys/class/net/{link}/address"));
        for (addr, subnet) in self.addrs(n, ROUTER).iter().zip([format!("10.90.{n}.0/24"), format!("fd90:{n}::/64")]) {
            let neighbour = format!("ip neigh replace {addr} lladdr {} dev {link}", mac.trim());
            lab.sh("client", &format!("{neighbour} && ip route replace {subnet} via {addr} dev {link}"));
        }
    }

    fn expect(&self, lab: &Lab, matrix: &mut Matrix<'_>, n: usize, other: &Party) {
        let party = |member: &str| Party::workload(lab, "node1", &format!("{member}{n}"), &format!("net{n}"), PORT);
        let host = |name: &str, number| {
            let addrs = self.addrs(n, number).to_vec();
            Party { host: name.into(), workload: None, addrs, port: PORT }
        };
        let (client, node1) = (host("client", OUTSIDE), host("node1", HOST));
        let (a, b) = (party("a"), (self.neighbours != Impossible).then(|| party("b")));
        for column in COLUMNS {
            let Some(expected) = self.expected(column) else { continue };
            let mut expect = |from: &Party, goal| matrix.expect(&self.name(n), column, from, goal, expected);
            match column {
                "neighbour" => expect(&a, b.as_ref().unwrap().itself()),
                "its name" => expect(&a, b.as_ref().unwrap().named(&format!("b{n}"))),
                "other net" => expect(&a, other.itself()),
                "from other net" => expect(other, a.itself()),
                "outside" => expect(&a, client.itself()),
                "from outside" => expect(&client, a.itself()),
                "from host" => expect(&node1, a.itself()),
                _ => expect(&a, node1.itself()),
            }
        }
    }
}

/// The addresses that one of the numbers stands for, in every row.
fn all(number: u8) -> Vec<IpAddr> {
    ROWS.iter().enumerate().flat_map(|(n, row)| row.addrs(n, number)).collect()
}

fn start(lab: &Lab, name: &str, network: &str) {
    lab.heddle("node1", &["run", "-d", "--name", name, "--network", network, "--", "heddle", "whoami"]);
}

fn there(lab: &Lab, link: &str) -> bool {
    lab.exec("node1", &["ip", "link", "show", link]).status.success()
}

/// Sub-interfaces of ours go with their networks, those of others and all cables stay.
fn remove(lab: &Lab) {
    for (n, row) in ROWS.iter().enumerate().filter(|(_, r)| r.is_tagged()) {
        assert!(there(lab, &row.link(n)), "{}", row.name(n));
        let names: Vec<String> = row.members().iter().map(|m| format!("{m}{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        lab.heddle("node1", &[&["rm", "-f"], &names[..]].concat());
        lab.heddle("node1", &["network", "rm", &format!("net{n}")]);
        assert_eq!(there(lab, &row.link(n)), row.parent == Parent::Found, "{} after its removal", row.name(n));
        assert!(there(lab, &format!("p{n}")), "{}: the cable is gone", row.name(n));
    }
}

#[test]
fn every_mode_on_links_and_vlans_lets_through_what_it_should() {
    let test = "every_mode_on_links_and_vlans_lets_through_what_it_should";
    let modules = [&vm::DATA_PLANE[..], &["macvlan", "ipvlan", "8021q"]].concat();
    let machine =
        |vm: vm::Vm| vm.modules(&modules).tools(&vm::TOOLS).memory_mib(1536).timeout(Duration::from_secs(400));
    if vm::skipped() || vm::ran_in(test, machine) {
        return;
    }
    let begun = Instant::now();
    let lab = Lab::bare("t-parents", 1);
    lab.heddle("node1", &["network", "create", "other"]);
    start(&lab, "other", "other");
    let other = Party::workload(&lab, "node1", "other", "other", PORT);
    println!("up after {:.1?}", begun.elapsed());
    for (n, row) in ROWS.iter().enumerate() {
        row.make(&lab, n);
    }
    println!("made after {:.1?}", begun.elapsed());
    for (host, number) in [("client", OUTSIDE), ("node1", HOST)] {
        lab.answers(host, &all(number), PORT);
    }
    println!("answering after {:.1?}", begun.elapsed());
    let mut matrix = Matrix::new(&lab, &COLUMNS, WITHIN);
    for (n, row) in ROWS.iter().enumerate() {
        row.expect(&lab, &mut matrix, n, &other);
    }
    println!("looked after {:.1?}", begun.elapsed());
    matrix.verify();
    println!("asked after {:.1?}", begun.elapsed());
    remove(&lab);
    println!("removed after {:.1?}", begun.elapsed());
}
