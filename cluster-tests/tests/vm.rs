//! Debian's own kernel, emulated: Heddle runs on it, and links that this machine's kernel may lack do what is known of
//! them.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, program, spread, vm};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// What many kernels that are made for virtual machines lack.
const RARE: [&str; 6] = ["ipvlan", "macvlan", "8021q", "dummy", "wireguard", "tun"];

fn try_ip(args: &str) -> Result<String, String> {
    let output = Command::new("ip").args(args.split_whitespace()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn ip(args: &str) -> String {
    try_ip(args).unwrap_or_else(|e| panic!("ip {args}: {e}"))
}

/// The test program of the agent's library. Asked for with all others, as they are built: alone it would have other features.
fn agents_tests() -> std::path::PathBuf {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let args = ["test", "--workspace", "--lib", "--no-run", "--message-format=json"];
    let mut command = Command::new(cargo);
    // What cargo tells this test of itself would have some build scripts run anew, and all that needs them built again.
    let of_test = |name: &str| ["CARGO_PKG_", "CARGO_MANIFEST_", "OUT_DIR"].iter().any(|begin| name.starts_with(begin));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_test)) {
        command.env_remove(name);
    }
    let output = command.args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let mut messages = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let agents = |m: &Value| m["target"]["name"] == "heddle_agent";
    messages.find_map(|m| m["executable"].as_str().filter(|_| agents(&m)).map(Into::into)).unwrap()
}

/// Two children of one parent, each in a namespace, beside the parent's own host and somebody outside.
struct Row {
    kind: &'static str,
    mode: &'static str,
    /// None: the parent itself.
    vlan: Option<u16>,
    /// From a to b. None: there can be no b.
    to_sibling: Option<bool>,
    arp: bool,
}

fn row(kind: &'static str, mode: &'static str, to_sibling: Option<bool>) -> Row {
    Row { kind, mode, vlan: None, to_sibling, arp: !mode.starts_with("l3") }
}

const HOST: &str = "10.0.0.1";
const OUTSIDE: &str = "10.0.0.254";
/// Somebody else outside, behind another VLAN's tag: in the children's subnet, and in one that the host has there too.
const STRANGER: [&str; 2] = ["10.0.0.253", "10.0.11.253"];

impl Row {
    /// In l3 and l3s the outside has to route to the children: they have a subnet of their own.
    fn address(&self, child: &str) -> String {
        let number = if child == "a" { 2 } else { 3 };
        format!("10.{}.0.{number}", u8::from(!self.arp))
    }

    fn make(&self, n: usize) {
        let [host, out] = ["host", "out"].map(|name| format!("{name}{n}"));
        for space in [&host, &out] {
            ip(&format!("netns add {space}"));
        }
        ip(&format!("-n {host} link add p0 type veth peer name o0 netns {out}"));
        let (mut parent, mut peer) = ("p0".to_owned(), "o0".to_owned());
        for (space, link) in [(&host, "p0"), (&out, "o0")] {
            ip(&format!("-n {space} link set {link} up"));
        }
        if let Some(vlan) = self.vlan {
            ip(&format!("-n {host} link add link p0 name p0.{vlan} type vlan id {vlan}"));
            ip(&format!("-n {out} link add link o0 name o0.{vlan} type vlan id {vlan}"));
            let strange = format!("strange{n}");
            ip(&format!("netns add {strange}"));
            ip(&format!("-n {host} link add link p0 name other type vlan id {}", vlan + 1));
            ip(&format!("-n {host} address add 10.0.11.1/24 dev other"));
            ip(&format!("-n {out} link add link o0 name other type vlan id {}", vlan + 1));
            ip(&format!("-n {out} link set other netns {strange}"));
            for address in STRANGER {
                ip(&format!("-n {strange} address add {address}/24 dev other"));
            }
            for space in [&host, &strange] {
                ip(&format!("-n {space} link set other up"));
            }
            (parent, peer) = (format!("p0.{vlan}"), format!("o0.{vlan}"));
        }
        for (space, link, address) in [(&host, &parent, HOST), (&out, &peer, OUTSIDE)] {
            ip(&format!("-n {space} address add {address}/24 dev {link}"));
            ip(&format!("-n {space} link set {link} up"));
        }
        if !self.arp {
            ip(&format!("-n {out} route add 10.1.0.0/24 via {HOST}"));
        }
        for child in ["a", "b"] {
            let (kind, mode) = (self.kind, self.mode);
            let made = try_ip(&format!("-n {host} link add link {parent} name {child} type {kind} mode {mode}"));
            if child == "b" && self.to_sibling.is_none() {
                assert!(made.unwrap_err().contains("Invalid argument"), "{kind} {mode}");
                return;
            }
            made.unwrap_or_else(|e| panic!("{kind} {mode}: {e}"));
            if mode == "source" {
                let shown: Vec<Value> = serde_json::from_str(&ip(&format!("-n {out} -j link show {peer}"))).unwrap();
                let mac = shown[0]["address"].as_str().unwrap();
                ip(&format!("-n {host} link set dev {child} type macvlan macaddr add {mac}"));
            }
            let space = format!("{child}{n}");
            ip(&format!("netns add {space}"));
            ip(&format!("-n {host} link set dev {child} netns {space}"));
            ip(&format!("-n {space} address add {}/24 dev {child}", self.address(child)));
            ip(&format!("-n {space} link set dev {child} up"));
            if !self.arp {
                ip(&format!("-n {space} route add default dev {child}"));
            }
        }
    }

    fn remove(&self, n: usize) {
        for space in ["a", "b", "host", "out", "strange"] {
            // There may be no b, and nobody strange.
            let _ = try_ip(&format!("netns del {space}{n}"));
        }
    }

    /// What answers, by column.
    fn look(&self, n: usize) -> BTreeMap<&'static str, bool> {
        let mut asked = vec![
            ("a -> outside", ping(&format!("a{n}"), OUTSIDE)),
            ("outside -> a", ping(&format!("out{n}"), &self.address("a"))),
            ("a -> own host", ping(&format!("a{n}"), HOST)),
        ];
        if self.to_sibling.is_some() {
            asked.push(("a -> b", ping(&format!("a{n}"), &self.address("b"))));
        }
        if self.vlan.is_some() {
            asked.push(("a -> other VLAN", ping(&format!("a{n}"), STRANGER[0])));
            asked.push(("host -> other VLAN", ping(&format!("host{n}"), STRANGER[1])));
        }
        let mut seen: BTreeMap<_, _> =
            asked.into_iter().map(|(column, mut ping)| (column, ping.wait().unwrap().success())).collect();
        seen.insert("ARP", !ip(&format!("-n a{n} link show a")).contains("NOARP"));
        seen
    }

    fn expected(&self) -> BTreeMap<&'static str, bool> {
        let mut wanted = BTreeMap::from([
            ("a -> outside", true),
            ("outside -> a", true),
            ("a -> own host", false),
            ("ARP", self.arp),
        ]);
        wanted.extend(self.to_sibling.map(|yes| ("a -> b", yes)));
        if self.vlan.is_some() {
            wanted.extend([("a -> other VLAN", false), ("host -> other VLAN", true)]);
        }
        wanted
    }
}

/// Succeeds with the first of a few answers.
fn ping(space: &str, address: &str) -> Child {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", space, "ping", "-q", "-c", "2", "-W", "1", address]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

mod emulated {
    use super::*;

    #[test]
    fn the_kernel_is_debians_and_lacks_nothing() {
        let all = [&vm::DATA_PLANE[..], &vm::IPVS, &RARE].concat();
        if vm::skipped() || vm::ran_inside("the_kernel_is_debians_and_lacks_nothing", &all, &vm::TOOLS) {
            return;
        }
        let version = std::fs::read_to_string("/proc/version").unwrap();
        assert!(version.contains("Debian") && version.contains("-cloud-amd64"), "{version}");
        for link in [
            "add d0 type dummy",
            "add link d0 name d0.10 type vlan id 10",
            "add link d0.10 name i0 type ipvlan mode l3s",
            "add w0 type wireguard",
        ] {
            ip(&format!("link {link}"));
        }
        assert!(ip("-d link show i0").contains("ipvlan  mode l3s"));
        let output = Command::new(program()).args(["doctor", "--format", "json"]).output().unwrap();
        let checks: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
        // The machine has our program and no containerd.
        let bad: Vec<_> = checks.iter().filter(|c| c["ok"] != true && c["check"] != "containerd, for images").collect();
        assert!(bad.is_empty() && checks.len() > 10, "{bad:?}");
    }

    #[test]
    fn what_a_program_writes_and_how_it_ends_come_back() {
        if vm::skipped() {
            return;
        }
        let run = |name: &str, command: &[&str], limit: u64| {
            vm::machine(name).command(command).env("ANSWER", "42").timeout(Duration::from_secs(limit)).run()
        };
        // It writes more than pipes hold, leaves somebody behind who keeps them open, and sleeps for longer than the limit.
        let script = "sleep 100000 & seq 100000; echo $ANSWER >/dev/stderr; sleep 1000; exit 3";
        let output = run("vm-exit", &["sh", "-c", script], 60).unwrap();
        assert_eq!((output.ended, output.stderr.as_str()), (vm::Ended::Exit(3), "42\n"));
        assert_eq!(output.stdout, (1..=100_000).map(|n| format!("{n}\n")).collect::<String>());
        let output = run("vm-signal", &["sh", "-c", "kill -9 $$"], 60).unwrap();
        assert_eq!((output.ended, output.stdout.as_str()), (vm::Ended::Signal(9), ""));

        let said = run("vm-late", &["sh", "-c", "echo begun; while :; do :; done"], 45).unwrap_err().to_string();
        assert!(said.contains("not done after 45s\nbegun\n"), "{said}");
        let said = run("vm-nothing", &["no-such-program"], 60).unwrap_err().to_string();
        assert!(said.contains("without a report") && said.contains("init: no-such-program: No such file"), "{said}");
        let said = vm::machine("vm-module").modules(&["nonsense"]).run().unwrap_err().to_string();
        assert!(said.ends_with("has no module nonsense"), "{said}");
    }

    #[test]
    #[ignore = "takes a minute, and acceptance.rs has the same on three machines"]
    fn a_cluster_answers_on_every_host() {
        let test = "a_cluster_answers_on_every_host";
        let machine = |vm: vm::Vm| vm.modules(&vm::DATA_PLANE).tools(&vm::TOOLS).timeout(Duration::from_secs(240));
        if vm::skipped() || vm::ran_in(test, machine) {
            return;
        }
        let start = std::time::Instant::now();
        let lab = Lab::up("t-vm", 2, 1);
        println!("up after {:.1?}", start.elapsed());
        lab.create_web("web", 2, &["-p", "8080:80"]);
        println!("the service after {:.1?}", start.elapsed());
        for target in ["10.77.0.1:8080", "10.77.0.2:8080", "[fd77::1]:8080", "[fd77::2]:8080"] {
            spread(2, |count| lab.ask("client", target, count, false));
        }
        println!("asked after {:.1?}", start.elapsed());
    }

    #[test]
    fn what_the_agent_asks_of_a_kernel_it_gets_there() {
        if vm::skipped() {
            return;
        }
        let modules = [&vm::DATA_PLANE[..], &vm::IPVS, &RARE].concat();
        let output = vm::machine("vm-agent-tests")
            .modules(&modules)
            .tools(&[&vm::TOOLS[..], &["bridge", "ss", "wg"]].concat())
            .binary(agents_tests(), "/usr/bin/agent-tests")
            .command(&[
                "/usr/bin/agent-tests",
                "tests::parents",
                "ipvs::tests",
                "tunnel::sockets",
                "tunnel::another",
                "--nocapture",
                "--test-threads=1",
            ])
            .env("REQUIRE", "ipvs,wireguard,tun,macvlan,ipvlan,vlan")
            .timeout(Duration::from_secs(540))
            .run()
            .unwrap_or_else(|e| panic!("{e:#}"));
        println!("{}{}\nin {:.1?}", output.stdout, output.stderr, output.took);
        assert_eq!(output.ended, vm::Ended::Exit(0));
        assert!(!output.stdout.contains("SKIPPED") && output.stdout.contains("test result: ok."));
    }

    #[test]
    fn children_of_a_link_reach_whom_they_should() {
        let test = "children_of_a_link_reach_whom_they_should";
        if vm::skipped() || vm::ran_inside(test, &["veth", "macvlan", "ipvlan", "8021q"], &["ip"]) {
            return;
        }
        let mut rows = vec![
            row("macvlan", "bridge", Some(true)),
            row("macvlan", "private", Some(false)),
            row("macvlan", "vepa", Some(false)),
            row("macvlan", "passthru", None),
            row("macvlan", "source", Some(false)),
        ];
        for (mode, to_sibling) in [
            ("l2 bridge", true),
            ("l2 private", false),
            ("l2 vepa", false),
            ("l3 bridge", true),
            ("l3 private", false),
            ("l3 vepa", false),
            ("l3s bridge", true),
            ("l3s private", false),
            ("l3s vepa", false),
        ] {
            rows.push(row("ipvlan", mode, Some(to_sibling)));
        }
        for (kind, mode) in [("macvlan", "bridge"), ("ipvlan", "l2 bridge"), ("ipvlan", "l3 bridge")] {
            rows.push(Row { vlan: Some(10), ..row(kind, mode, Some(true)) });
        }
        const COLUMNS: [&str; 7] =
            ["a -> b", "a -> outside", "outside -> a", "a -> own host", "a -> other VLAN", "host -> other VLAN", "ARP"];
        println!("\n{:28}{}", "", COLUMNS.map(|c| format!("{c:>20}")).concat());
        let mut wrong = Vec::new();
        for (n, row) in rows.iter().enumerate() {
            row.make(n);
            let (seen, expected) = (row.look(n), row.expected());
            row.remove(n);
            let name =
                format!("{} {}{}", row.kind, row.mode, row.vlan.map(|v| format!(", VLAN {v}")).unwrap_or_default());
            let word = |column| seen.get(column).map_or("-", |yes| if *yes { "yes" } else { "no" });
            println!("{name:28}{}", COLUMNS.map(|c| format!("{:>20}", word(c))).concat());
            if seen != expected {
                wrong.push(format!("{name}: {seen:?}, not {expected:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
