//! Beside other firewalls whose default is to forward nothing: ours works, and theirs has exactly the announced rule more.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{LIMIT, Lab, program, skipped, wait, wait_for};
use serde_json::Value;
use std::time::Duration;

/// The kernel tells of changes, so that what others do is answered at once: before the next look, which is after ten seconds.
/// A datagram that is lost meanwhile takes five.
const AT_ONCE: Duration = Duration::from_secs(8);
const HOSTS: [&str; 2] = ["node1", "node2"];
const RULE: &str = "-m mark --mark 0x20000000/0x20000000 -m comment --comment heddle -j ACCEPT";

struct Kind {
    name: &'static str,
    load: String,
    /// Takes our rule away, as somebody who does not know of it would.
    rob: String,
    /// The lines that are more than before, of both families.
    more: [String; 2],
}

/// A ruleset in both families by one kind of iptables, with our rule in `chain`.
fn iptables(rules: &str, kind: &'static str, chain: &str) -> (String, String) {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/rulesets");
    let load = format!("iptables-{kind}-restore < {dir}/{rules}.v4 && ip6tables-{kind}-restore < {dir}/{rules}.v6");
    (load, format!("iptables-{kind} -D {chain} {RULE}; ip6tables-{kind} -D {chain} {RULE}"))
}

fn as_nft(name: &'static str, chain: &str) -> Kind {
    let (load, rob) = iptables(name, "nft", chain);
    // So it is to iptables itself; nft prints the same rule in its own words.
    let line = format!("-A {chain} {RULE}");
    Kind { name, load, rob, more: [line.clone(), line] }
}

fn legacy() -> Kind {
    let (load, rob) = iptables("docker", "legacy", "DOCKER-USER");
    let line = format!("-A DOCKER-USER {RULE}");
    Kind { name: "legacy", load, rob, more: [line.clone(), line] }
}

fn firewalld() -> Kind {
    let chain = "inet firewalld filter_FORWARD";
    Kind {
        name: "firewalld",
        load: format!("nft -f {}/rulesets/firewalld.nft", env!("CARGO_MANIFEST_DIR")),
        rob: format!("nft delete rule {chain} handle $(nft -a list chain {chain} | sed -n 's/.*heddle.* handle //p')"),
        more: ["meta mark & 0x20000000 == 0x20000000 accept comment \"heddle\"".into(), String::new()],
    }
}

/// Everything that is not ours, in the words of whoever made it, without counters.
fn foreign(lab: &Lab, host: &str) -> String {
    let script = "nft list tables 2>/dev/null | grep -v -e heddle -e ' ip6\\? ' | while read -r _ f n; do nft -s list table $f $n; done\n\
        for v in '' 6; do\n\
            nft list tables 2>/dev/null | grep -q \" ip$v filter\" && ip${v}tables-nft -S 2>/dev/null\n\
            nft list tables 2>/dev/null | grep -q \" ip$v nat\" && ip${v}tables-nft -t nat -S 2>/dev/null\n\
            grep -qs filter /proc/net/ip${v}_tables_names && ip${v}tables-legacy -S && ip${v}tables-legacy -t nat -S\n\
        done; true";
    lab.sh(host, script)
}

/// Lines that are in `now` and not in `before`, with all others in their old order.
fn added(before: &str, now: &str) -> Vec<String> {
    let mut old = before.lines().peekable();
    let new = now.lines().filter(|line| old.next_if_eq(line).is_none()).map(|l| l.trim().to_owned()).collect();
    assert_eq!(old.next(), None, "a foreign line is gone or moved: {now}");
    new
}

/// Replicas on both hosts answer on both hosts by both families, TCP and UDP, and see the client itself.
fn works(lab: &Lab) -> Result<(), String> {
    for (target, client) in [
        ("10.77.0.1", "10.77.0.250"),
        ("10.77.0.2", "10.77.0.250"),
        ("[fd77::1]", "fd77::fa"),
        ("[fd77::2]", "fd77::fa"),
    ] {
        for udp in [false, true] {
            let answers = lab.ask("client", &format!("{target}:8080"), 10, udp);
            if !answers.failed.is_empty() || answers.nodes.len() != 2 || !answers.clients.contains(client) {
                return Err(format!("{target} udp={udp}: {answers:?}"));
            }
        }
    }
    Ok(())
}

/// Every replica reaches the world, the others by the virtual address and by a published port; so do the hosts.
fn the_way_out_works(lab: &Lab) {
    for task in lab.running("node1", "web").unwrap() {
        // The last by way of the port that its own host publishes.
        let host = task["hostname"].as_str().unwrap();
        let own = format!("{}:8080", host.replace("node", "10.77.0."));
        for target in ["10.77.0.250:9000", "[fd77::fa]:9000", "web:80", own.as_str()] {
            let answers = lab.ask_from_task(&task, target, 4, false);
            assert_eq!(answers.failed, "", "{target} from {host}");
        }
    }
    for host in HOSTS {
        assert_eq!(lab.ask(host, "127.0.0.1:8080", 4, false).failed, "", "{host} by 127.0.0.1");
    }
}

/// What `doctor` announces: the rules of each foreign chain, and whether they are there.
fn announced(lab: &Lab, host: &str) -> Vec<(String, bool)> {
    let checks: Value = lab.json(host, &["doctor", "--format", "json"]);
    let rules = checks.as_array().unwrap().iter().filter(|c| c["rule"].is_string());
    rules.map(|c| (c["rule"].as_str().unwrap().to_owned(), c["inserted"] == true)).collect()
}

fn beside(kind: &Kind) {
    let lab = Lab::bare(&format!("t-fw-{}", kind.name), 2);
    let before: Vec<String> = HOSTS
        .iter()
        .map(|host| {
            lab.sh(host, &kind.load);
            foreign(&lab, host)
        })
        .collect();
    let lines: Vec<&str> = kind.more.iter().map(String::as_str).filter(|l| !l.is_empty()).collect();
    let told = announced(&lab, "node1");
    assert!(told.len() == lines.len() && told.iter().all(|(_, there)| !there), "{told:?}");

    lab.heddle("node1", &["init", "--advertise-addr", "eth0"]);
    let token = lab.heddle("node1", &["join-token", "worker", "-q"]);
    lab.heddle("node2", &["join", "--token", token.trim(), "--advertise-addr", "eth0", "10.77.0.1"]);
    lab.heddle("node1", &["network", "create", "-d", "overlay", "front"]);
    lab.create_web("web", 2, &["-p", "8080:80", "-p", "8080:80/udp", "--network", "front"]);
    lab.sh("client", &format!("timeout 300 {} whoami --port 9000 >/dev/null 2>&1 &", program().display()));
    wait("the world answers", || {
        let answers = lab.ask("client", "10.77.0.250:9000", 1, false);
        if answers.failed.is_empty() { Ok(()) } else { Err(answers.failed) }
    });
    wait("requests are answered beside rules that were there before", || works(&lab));
    the_way_out_works(&lab);
    for (host, before) in HOSTS.iter().zip(&before) {
        assert_eq!(added(before, &foreign(&lab, host)), lines, "{host}");
    }
    let after: Vec<_> = told.iter().map(|(rule, _)| (rule.clone(), true)).collect();
    assert_eq!(announced(&lab, "node1"), after);

    // It is that rule which does it: without, and with nobody there to put it back, nothing is forwarded.
    let there = lab.running("node1", "web").unwrap().into_iter().find(|t| t["hostname"] == "node2").unwrap();
    lab.do_lab(&["kill", "node2", "--daemon"]);
    lab.sh("node2", &kind.rob);
    let answers = lab.ask_from_task(&there, "10.77.0.250:9000", 1, false);
    assert!(answers.tasks.is_empty(), "the foreign rules let out by themselves: {answers:?}");
    // firewalld lets in whatever is translated.
    if kind.name != "firewalld" {
        let answers = lab.ask("client", "10.77.0.2:8080", 1, false);
        assert!(answers.tasks.is_empty(), "the foreign rules let in by themselves: {answers:?}");
    }
    lab.do_lab(&["start", "node2"]);
    // Its replica went elsewhere meanwhile.
    lab.heddle("node1", &["service", "scale", "web=4"]);
    wait("the rule is back after a restart", || works(&lab));
    // With a daemon that is there it is back at once, where the kernel tells of it.
    lab.sh("node2", &kind.rob);
    let limit = if kind.name == "legacy" { LIMIT } else { AT_ONCE };
    wait_for(limit, "the rule is back", || {
        let seen = announced(&lab, "node2");
        if seen.iter().all(|(_, there)| *there) { Ok(()) } else { Err(format!("{seen:?}")) }
    });

    // Everything is flushed; then the foreign rules come back, after ours.
    lab.sh("node2", "nft flush ruleset");
    wait_for(AT_ONCE, "requests are answered after a flush", || works(&lab));
    lab.sh("node2", &kind.load);
    wait("requests are answered beside rules that came later", || works(&lab));
    wait("the rule is in the new chains", || {
        let seen = announced(&lab, "node2");
        if seen.len() == lines.len() && seen.iter().all(|(_, there)| *there) {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    });
    assert_eq!(added(&before[1], &foreign(&lab, "node2")), lines);
    the_way_out_works(&lab);

    lab.heddle("node2", &["leave"]);
    lab.heddle("node1", &["leave", "--force"]);
    for (host, before) in HOSTS.iter().zip(&before) {
        assert_eq!(&foreign(&lab, host), before, "{host} is as it was");
    }
}

/// Whether the program works here; if not, that is said, and is a failure where `REQUIRE` is set.
fn has(program: &str) -> bool {
    let script = format!("unshare -n {program} -L -n");
    let works = std::process::Command::new("sh").args(["-c", &script]).output().unwrap().status.success();
    assert!(works || std::env::var_os("REQUIRE").is_none(), "REQUIRE is set and this needs {program}");
    if !works {
        println!("SKIPPED: {program}");
    }
    works
}

#[test]
fn docker() {
    if !skipped() && has("iptables-nft") {
        beside(&as_nft("docker", "DOCKER-USER"));
    }
}

/// A container of docker's, behind its bridge. It answers on port 9000.
fn container(lab: &Lab, host: &str) {
    lab.sh(
        host,
        &format!(
            "ip link add docker0 type bridge && ip addr add 172.30.0.1/16 dev docker0 && ip link set docker0 up
             ip netns add theirs && ip link add their0 type veth peer name eth0 netns theirs
             ip link set their0 master docker0 && ip link set their0 up
             ip -n theirs link set lo up && ip -n theirs link set eth0 up
             ip -n theirs addr add 172.30.0.2/16 dev eth0 && ip -n theirs route add default via 172.30.0.1
             setsid ip netns exec theirs {} whoami --port 9000 </dev/null >/dev/null 2>&1 &",
            program().display()
        ),
    );
    wait("the container answers its host", || lab.ask(host, "172.30.0.2:9000", 1, false).by());
}

#[test]
fn dockers_containers_stay_behind_dockers_rules() {
    if skipped() || !has("iptables-nft") {
        return;
    }
    let lab = Lab::up("t-fw-guests", 1, 1);
    lab.sh("node1", &as_nft("docker", "DOCKER-USER").load);
    container(&lab, "node1");
    lab.answers("client", &["10.77.0.250".parse().unwrap()], 9000);
    lab.create_web("web", 1, &[]);
    lab.run_web("node1", "own", &["-p", "8080:80"]);
    let task = lab.running("node1", "web").unwrap().remove(0);
    let asks = |target: &str| {
        let answers = [lab.ask_from_task(&task, target, 1, false), lab.ask_from("node1", "own", target, false)];
        answers.map(|a| a.by().is_ok())
    };
    wait("what is ours reaches the world", || match asks("10.77.0.250:9000") {
        [true, true] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(asks("172.30.0.2:9000"), [false, false], "nobody opened docker's network for the gateway or a bridge");
    // What docker's own rules let pass, passes: theirs out, by a port that we publish; and ours in, once somebody says so.
    let program = program().display().to_string();
    let ask = ["ip", "netns", "exec", "theirs", &program, "whoami", "--ask", "10.77.0.1:8080"];
    let answer = lab.exec("node1", &ask);
    assert!(answer.status.success(), "{answer:?}");
    lab.sh("node1", "iptables-nft -I DOCKER-USER -o docker0 -j ACCEPT");
    assert_eq!(asks("172.30.0.2:9000"), [true, true]);
}

#[test]
fn ufw() {
    if !skipped() && has("iptables-nft") {
        beside(&as_nft("ufw", "FORWARD"));
    }
}

#[test]
fn firewalld_like() {
    if !skipped() {
        beside(&firewalld());
    }
}

#[test]
fn legacy_iptables() {
    if !skipped() && has("iptables-legacy") {
        beside(&legacy());
    }
}

#[test]
fn a_table_that_only_its_owner_may_change_is_reported_with_the_way_out() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-fw-owned", 1, 1);
    // What the owner is told goes through a pipe that is held open.
    let rules = "add table inet firewalld { flags owner; chain filter_FORWARD { type filter hook forward priority 10; policy drop; }; }";
    lab.sh(
        "node1",
        "mkfifo /run/owner
         (timeout 120 nft -i < /run/owner & timeout 120 sleep 120 > /run/owner &) >/dev/null 2>&1",
    );
    let tell = |what: &str| lab.sh("node1", &format!("timeout 10 sh -c 'echo \"$0\" > /run/owner' '{what}'"));
    tell(rules);
    let errors = || {
        let info = lab.try_json("node1", &["info", "--format", "json"])?;
        Ok::<_, String>(info["dataPlaneErrors"].to_string())
    };
    let told = wait("the chain is reported", || {
        let said = errors()?;
        if said.contains("firewalld") { Ok(said) } else { Err(said) }
    });
    assert!(told.contains("firewall-cmd --zone=trusted --add-interface=heddle_gw"), "{told}");
    assert!(lab.heddle("node1", &["doctor"]).contains("firewall-cmd --zone=trusted --add-interface=heddle_gw"));
    // The rest goes on; and as soon as the operator has done it, all is well.
    lab.create_web("web", 1, &[]);
    tell("insert rule inet firewalld filter_FORWARD iifname \"heddle_gw\" accept");
    wait("the chain is open", || {
        let said = errors()?;
        if said == "[]" { Ok(()) } else { Err(said) }
    });
}
