//! Ports of a host that lead to its workloads: every form, from everywhere, beside other firewalls.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, program, skipped, wait, wait_for};
use std::time::Duration;

const NODE: &str = "node1";
/// Other hosts reach the host by these, and it sees them by those.
const OUTSIDE: [(&str, &str); 2] = [("10.77.0.1", "10.77.0.250"), ("[fd77::1]", "fd77::fa")];

/// Asks from the client of the lab, from the host itself, or from a workload on it.
fn answer(lab: &Lab, from: &str, target: &str, udp: bool) -> Result<String, String> {
    match from {
        "client" => lab.ask("client", target, 1, udp).by(),
        "host" => lab.ask(NODE, target, 1, udp).by(),
        workload => lab.ask_from(NODE, workload, target, udp).by(),
    }
}

/// Every one of these is answered by `web`, or by nobody; all that differ are told at once.
fn expect(lab: &Lab, what: &str, cells: &[(&str, &str, bool, bool)]) {
    let mut wrong = Vec::new();
    for (from, target, udp, reached) in cells {
        let got = answer(lab, from, target, *udp);
        if got.as_deref() == Ok("web") && !reached || got.is_err() && *reached {
            wrong.push(format!("{from} to {target} udp={udp}: {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
}

/// The port of the host that a target got.
fn chosen(lab: &Lab, name: &str, target: &str) -> String {
    let seen = lab.workload(NODE, name);
    seen["NetworkSettings"]["Ports"][target][0]["HostPort"].as_str().unwrap().to_owned()
}

/// Whether a process of the host can have the port.
fn can_bind(lab: &Lab, addr: &str, port: &str, udp: bool) -> bool {
    let script = format!(
        "import socket;f=socket.AF_INET6 if ':' in '{addr}' else socket.AF_INET\n\
         s=socket.socket(f,socket.SOCK_DGRAM if {} else socket.SOCK_STREAM)\n\
         f==socket.AF_INET6 and s.setsockopt(41,26,1)\n\
         s.bind(('{addr}',{port}))",
        u8::from(udp)
    );
    lab.exec(NODE, &["python3", "-c", &script]).status.success()
}

#[test]
fn every_form_leads_from_where_it_should() {
    if skipped() {
        return;
    }
    let lab = Lab::bare("t-pub-forms", 1);
    lab.heddle(NODE, &["network", "create", "front"]);
    lab.heddle(NODE, &["network", "create", "back"]);
    let more = [
        "--network",
        "front",
        "-p",
        "8080:80",
        "-p",
        "8080:80/udp",
        "-p",
        "10.77.0.1:8081:80",
        "-p",
        "127.0.0.1:8082:80",
        "-p",
        "[fd77::1]:8083:80",
        "-p",
        "8090-8092:80-82",
        "-p",
        "8100-8110:80",
        "-p",
        "80/tcp",
        "-p",
        "0.0.0.0::80/udp",
    ];
    lab.run_web(NODE, "web", &more);
    lab.run_web(NODE, "same", &["--network", "front"]);
    lab.run_web(NODE, "other", &["--network", "back"]);
    lab.run_web(NODE, "plain", &[]);
    lab.run_web(NODE, "range", &["-p", "8100-8110:80"]);
    assert_eq!(chosen(&lab, "range", "80/tcp"), "8101", "the first of the range that is free");
    let random = lab.workload(NODE, "web")["NetworkSettings"]["Ports"]["80/tcp"].clone();
    let random = random.as_array().unwrap().iter().filter_map(|b| b["HostPort"].as_str());
    let random: Vec<&str> = random.filter(|p| p.parse::<u32>().unwrap() >= 32768).collect();
    let random = (*random.first().unwrap()).to_owned();
    let (random4, random6) = (format!("10.77.0.1:{random}"), format!("[fd77::1]:{random}"));

    let mut cells = vec![
        ("client", "10.77.0.1:8081", false, true),
        ("client", "[fd77::1]:8081", false, false),
        ("client", "10.77.0.1:8081", true, false),
        ("client", "10.77.0.1:8082", false, false),
        ("host", "127.0.0.1:8082", false, true),
        ("host", "10.77.0.1:8082", false, false),
        ("client", "[fd77::1]:8083", false, true),
        ("client", "10.77.0.1:8083", false, false),
        ("client", "10.77.0.1:8090", false, true),
        ("client", "10.77.0.1:8100", false, true),
        ("client", &random4, false, true),
        ("client", &random6, false, true),
        ("client", "10.77.0.1:80", false, false),
        ("host", "127.0.0.1:8081", false, false),
    ];
    for from in ["client", "host", "same", "other", "plain", "web"] {
        for target in ["10.77.0.1:8080", "[fd77::1]:8080"] {
            cells.extend([(from, target, false, true), (from, target, true, true)]);
        }
        if from != "host" && from != "client" {
            // Its own loopback is not the host's.
            cells.push((from, "127.0.0.1:8080", false, false));
        }
    }
    cells.extend([("host", "127.0.0.1:8080", false, true), ("host", "127.0.0.1:8080", true, true)]);
    let gateway = format!(
        "{}:8080",
        lab.sh(NODE, "ip -4 -o addr show heddle0").split(['/', ' ']).find(|w| w.starts_with("172.")).unwrap()
    );
    cells.extend([("plain", gateway.as_str(), false, true), ("same", gateway.as_str(), false, true)]);
    for filtered in ["1", "0"] {
        lab.sh(
            NODE,
            &format!("for f in iptables ip6tables; do echo {filtered} > /proc/sys/net/bridge/bridge-nf-call-$f; done"),
        );
        expect(&lab, &format!("bridge-nf-call {filtered}"), &cells);
        for (target, client) in OUTSIDE {
            for udp in [false, true] {
                let answers = lab.ask("client", &format!("{target}:8080"), 3, udp);
                assert_eq!(answers.clients.iter().collect::<Vec<_>>(), [client], "{target} udp={udp}");
            }
        }
    }
    // Who is not published is not reached, whoever has a route to it.
    lab.sh("client", "ip route add 172.16.0.0/12 via 10.77.0.1");
    let direct = format!("{}:80", lab.address(NODE, "web", "front", true));
    expect(
        &lab,
        "by its own address",
        &[
            ("client", &direct, false, false),
            ("other", &direct, false, false),
            ("same", &direct, false, true),
            ("host", &direct, false, true),
        ],
    );
}

#[test]
fn gateway_modes_and_the_default_binding() {
    if skipped() {
        return;
    }
    let lab = Lab::bare("t-pub-modes", 1);
    let mode = |mode: &str| {
        [
            format!("com.docker.network.bridge.gateway_mode_ipv4={mode}"),
            format!("com.docker.network.bridge.gateway_mode_ipv6={mode}"),
        ]
    };
    for (name, n) in [("nat", "81"), ("nat-unprotected", "82"), ("routed", "83")] {
        let [v4, v6] = mode(name);
        let (subnet4, subnet6) = (format!("10.{n}.0.0/24"), format!("fd{n}::/64"));
        lab.heddle(
            NODE,
            &["network", "create", name, "-o", &v4, "-o", &v6, "--subnet", &subnet4, "--subnet", &subnet6],
        );
        lab.sh("client", &format!("ip route add {subnet4} via 10.77.0.1; ip -6 route add {subnet6} via fd77::1"));
    }
    lab.sh("client", &format!("timeout 200 {} whoami --port 9000 >/dev/null 2>&1 &", program().display()));
    wait("the world answers", || lab.ask("client", "10.77.0.250:9000", 1, false).by());
    // mode, at the host's port, at its own published port, at its own other port; and what the world sees of it.
    for (name, n, translated, own, other, source) in [
        ("nat", "81", true, false, false, "10.77.0.1"),
        ("nat-unprotected", "82", true, true, true, "10.77.0.1"),
        ("routed", "83", false, true, false, "10.83.0.9"),
    ] {
        let (v4, v6) = (format!("10.{n}.0.9"), format!("fd{n}::9"));
        lab.run_web(NODE, "web", &["--network", name, "--ip", &v4, "--ip6", &v6, "-p", "8080:80", "-p", "8080:80/udp"]);
        lab.run_web(NODE, "shut", &["--network", name, "--ip", &format!("10.{n}.0.8")]);
        for udp in [false, true] {
            let targets = [
                ("10.77.0.1:8080".to_owned(), translated),
                ("[fd77::1]:8080".into(), translated),
                (format!("{v4}:80"), own),
                (format!("[{v6}]:80"), own),
            ];
            let cells: Vec<_> = targets.iter().map(|(t, reached)| ("client", t.as_str(), udp, *reached)).collect();
            expect(&lab, name, &cells);
        }
        let shut = answer(&lab, "client", &format!("10.{n}.0.8:80"), false);
        assert_eq!(shut.is_ok(), other, "{name}: {shut:?}");
        let seen = lab.ask_from(NODE, "web", "10.77.0.250:9000", false);
        assert_eq!(seen.clients.iter().collect::<Vec<_>>(), [source], "{name}: {seen:?}");
        lab.heddle(NODE, &["rm", "-f", "web", "shut"]);
    }
    lab.heddle(NODE, &["network", "create", "bound", "-o", "com.docker.network.bridge.host_binding_ipv4=127.0.0.1"]);
    lab.run_web(
        NODE,
        "web",
        &["--network", "bound", "-p", "8080:80", "-p", "0.0.0.0:8081:80", "-p", "10.77.0.1:8082:80"],
    );
    expect(
        &lab,
        "bound to 127.0.0.1",
        &[
            ("host", "127.0.0.1:8080", false, true),
            ("client", "10.77.0.1:8080", false, false),
            ("client", "[fd77::1]:8080", false, false),
            ("client", "10.77.0.1:8082", false, true),
            ("host", "127.0.0.1:8082", false, false),
        ],
    );
}

#[test]
fn a_published_port_is_held_and_given_back() {
    if skipped() {
        return;
    }
    let lab = Lab::bare("t-pub-held", 1);
    lab.heddle(NODE, &["network", "create", "front"]);
    lab.run_web(NODE, "web", &["--network", "front", "-p", "8080:80", "-p", "8081:80/udp", "-p", "127.0.0.1:8082:80"]);
    let held = || {
        [
            ("0.0.0.0", "8080", false),
            ("::", "8080", false),
            ("10.77.0.1", "8080", false),
            ("0.0.0.0", "8081", true),
            ("127.0.0.1", "8082", false),
        ]
        .map(|(addr, port, udp)| !can_bind(&lab, addr, port, udp))
    };
    assert_eq!(held(), [true; 5]);
    assert!(
        can_bind(&lab, "0.0.0.0", "8080", true) && can_bind(&lab, "10.77.0.1", "8082", false),
        "nothing more than that"
    );
    let listed = lab.listed_still(NODE);
    let said = lab.refused(NODE, &["run", "-d", "-p", "8079:80", "-p", "8080:80", "--", "true"]);
    assert!(said.contains("port 8080/tcp of this host is in use: publish another"), "{said}");
    assert!(can_bind(&lab, "0.0.0.0", "8079", false), "what it had got is free again");
    assert_eq!(lab.listed_still(NODE), listed);

    for (end, again) in [(vec!["stop", "-t", "5", "web"], true), (vec!["rm", "-f", "web"], false)] {
        lab.heddle(NODE, &end);
        assert_eq!(held(), [false; 5], "{end:?}");
        assert!(lab.ask("client", "10.77.0.1:8080", 1, false).failed.contains("refused"), "{end:?}");
        if again {
            // Somebody took it meanwhile.
            lab.sh(
                NODE,
                &format!(
                    "timeout 200 {} whoami --port 8080 >/dev/null 2>&1 & echo $! > /run/taker",
                    program().display()
                ),
            );
            wait("somebody listens", || lab.ask(NODE, "127.0.0.1:8080", 1, false).by());
            let said = lab.refused(NODE, &["start", "web"]);
            assert!(said.contains("port 8080/tcp of this host is in use"), "{said}");
            assert!(can_bind(&lab, "0.0.0.0", "8081", true));
            lab.sh(NODE, "kill $(cat /run/taker)");
            wait("nobody listens", || if can_bind(&lab, "::", "8080", false) { Ok(()) } else { Err("bound".into()) });
            lab.heddle(NODE, &["start", "web"]);
            assert_eq!(lab.ask("client", "10.77.0.1:8080", 1, false).by(), Ok("web".into()));
        }
    }
    // Somebody takes it while no daemon is there to hold it; when he goes, it is held again.
    lab.run_web(NODE, "web", &["--network", "front", "-p", "8080:80", "-p", "8081:80/udp"]);
    lab.do_lab(&["kill", NODE, "--daemon"]);
    lab.sh(
        NODE,
        &format!("timeout 200 {} whoami --port 8080 >/dev/null 2>&1 & echo $! > /run/taker", program().display()),
    );
    wait("somebody has it", || if can_bind(&lab, "::", "8080", false) { Err("free".into()) } else { Ok(()) });
    lab.do_lab(&["start", NODE]);
    wait("the other port is held", || if can_bind(&lab, "::", "8081", true) { Err("free".into()) } else { Ok(()) });
    lab.sh(NODE, "taker=$(cat /run/taker); kill $taker; timeout 10 tail --pid=$taker -f /dev/null");
    wait("the daemon has it", || if can_bind(&lab, "::", "8080", false) { Err("free".into()) } else { Ok(()) });
    lab.heddle(NODE, &["rm", "-f", "web"]);
    // One that ends by itself gives back too.
    lab.heddle(NODE, &["run", "-d", "--name", "brief", "-p", "8080:80", "--", "true"]);
    wait("it is free again", || if can_bind(&lab, "0.0.0.0", "8080", false) { Ok(()) } else { Err("bound".into()) });
    // A process of the host, by one address, is in the way of all of them.
    lab.sh(NODE, "timeout 200 nc -l 10.77.0.1 7070 >/dev/null 2>&1 & true");
    wait("it listens", || if can_bind(&lab, "10.77.0.1", "7070", false) { Err("free".into()) } else { Ok(()) });
    let said = lab.refused(NODE, &["run", "-d", "-p", "7070:80", "--", "true"]);
    assert!(said.contains("port 7070/tcp of this host is in use"), "{said}");
}

#[test]
fn beside_a_cluster_ports_have_one_owner_and_tasks_reach_them() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-pub-mesh", 2, 1);
    lab.heddle(NODE, &["network", "create", "-d", "overlay", "--attachable", "over"]);
    lab.heddle(NODE, &["network", "create", "front"]);
    lab.create_web("svc", 2, &["--network", "over", "-p", "9090:80"]);
    lab.run_web(NODE, "web", &["--network", "front", "-p", "8080:80", "-p", "8080:80/udp"]);
    // Only on an overlay: the gateway bridge publishes for it.
    lab.run_web(NODE, "over-web", &["--network", "over", "-p", "8081:80"]);
    // Two members of one gateway bridge are kept apart by the bridge itself. Where it hands frames to the filters they are
    // translated before it looks, so that these two are a stranger's frames to it even on the way by the host's address.
    lab.sh(NODE, "for f in iptables ip6tables; do echo 0 > /proc/sys/net/bridge/bridge-nf-call-$f; done");
    let tasks = lab.running(NODE, "svc").unwrap();
    assert_eq!(tasks.len(), 2);
    for task in &tasks {
        let on = task["hostname"].as_str().unwrap();
        for target in ["10.77.0.1:8080", "[fd77::1]:8080"] {
            for udp in [false, true] {
                assert_eq!(
                    lab.ask_from_task(task, target, 1, udp).by(),
                    Ok("web".into()),
                    "a task on {on} to {target} udp={udp}"
                );
            }
        }
        assert_eq!(lab.ask_from_task(task, "10.77.0.1:8081", 1, false).by(), Ok("over-web".into()), "a task on {on}");
    }
    for (target, client) in OUTSIDE {
        for (port, name) in [("8080", "web"), ("8081", "over-web")] {
            let answers = lab.ask("client", &format!("{target}:{port}"), 2, false);
            assert_eq!(
                (answers.by(), answers.clients.iter().map(String::as_str).collect()),
                (Ok(name.into()), vec![client]),
                "{target}:{port}"
            );
        }
    }
    for from in ["web", "over-web"] {
        for target in
            ["10.77.0.1:8080", "10.77.0.1:8081", "10.77.0.1:9090", "10.77.0.2:9090", "[fd77::1]:8080", "[fd77::1]:8081"]
        {
            assert!(
                answer(&lab, from, target, false).is_ok(),
                "{from} to {target}: {:?}",
                answer(&lab, from, target, false)
            );
        }
    }
    assert_eq!(lab.ask("node2", "10.77.0.1:8080", 1, false).by(), Ok("web".into()));

    let said = lab.refused(NODE, &["run", "-d", "-p", "9090:80", "--", "true"]);
    assert!(said.contains("port 9090/tcp is published by service \"svc\": publish another"), "{said}");
    wait("the managers know of the port", || {
        let node = lab.try_json(NODE, &["node", "inspect", NODE])?;
        if node.to_string().contains("8080") { Ok(()) } else { Err(node.to_string()) }
    });
    let said = lab.refused(
        NODE,
        &["service", "create", "--process", "--name", "late", "-p", "8080:80", "--", "heddle", "whoami"],
    );
    assert!(said.contains("port 8080/tcp") && said.contains(NODE), "{said}");
}

/// How soon what others do to the tables is answered.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Published ports, hairpin and the way out.
fn works(lab: &Lab) -> Result<(), String> {
    let own = [
        ("client", "10.77.0.1:8080"),
        ("client", "[fd77::1]:8080"),
        ("host", "127.0.0.1:8080"),
        ("same", "10.77.0.1:8080"),
        ("other", "10.77.0.1:8080"),
        ("web", "10.77.0.1:8080"),
        ("same", "web:80"),
        ("same", "[fd77::1]:8080"),
    ];
    for (from, target) in own {
        answer(lab, from, target, false).map_err(|e| format!("{from} to {target}: {e}"))?;
    }
    for from in ["web", "other"] {
        for target in ["10.77.0.250:9000", "[fd77::fa]:9000"] {
            answer(lab, from, target, false).map_err(|e| format!("{from} to {target}: {e}"))?;
        }
    }
    Ok(())
}

/// Everything that is not ours, without our one rule; nft does not print the comment of one that iptables made.
fn foreign(lab: &Lab) -> String {
    let script = "nft list tables | grep -v heddle | while read -r _ f n; do nft -s list table $f $n; done";
    lab.sh(NODE, script)
        .lines()
        .filter(|l| !l.contains("heddle") && !l.contains("0x20000000"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn beside(name: &str, load: &str) {
    let lab = Lab::bare(&format!("t-pub-{name}"), 1);
    lab.sh(NODE, load);
    let before = foreign(&lab);
    assert!(before.contains("FORWARD"), "{before}");
    lab.heddle(NODE, &["network", "create", "front"]);
    lab.heddle(NODE, &["network", "create", "back"]);
    lab.run_web(NODE, "web", &["--network", "front", "-p", "8080:80"]);
    lab.run_web(NODE, "same", &["--network", "front"]);
    lab.run_web(NODE, "other", &["--network", "back"]);
    lab.sh("client", &format!("timeout 200 {} whoami --port 9000 >/dev/null 2>&1 &", program().display()));
    wait("the world answers", || lab.ask("client", "10.77.0.250:9000", 1, false).by());
    // True when the commands have returned, not some time later.
    assert_eq!(works(&lab), Ok(()), "beside rules that were there before");
    let outsider = format!("{}:80", lab.address(NODE, "other", "back", true));
    assert!(answer(&lab, "web", &outsider, false).is_err(), "what the others let through is no way past ours");
    assert_eq!(foreign(&lab), before);
    lab.sh(NODE, "nft flush ruleset");
    wait_for(AT_ONCE, "everything is back after a flush", || works(&lab));
    assert!(answer(&lab, "web", &outsider, false).is_err(), "and so is the isolation");
    lab.sh(NODE, load);
    wait("everything works beside rules that came later", || works(&lab));
    assert_eq!(foreign(&lab), before);
    lab.heddle(NODE, &["rm", "-f", "web", "same", "other"]);
    lab.heddle(NODE, &["network", "rm", "front", "back"]);
    wait("nothing of ours is left", || {
        let rules = lab.sh(NODE, "nft list ruleset");
        if rules.contains("heddle") { Err(rules) } else { Ok(()) }
    });
    assert_eq!(foreign(&lab), before);
}

#[test]
fn beside_docker() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/rulesets");
    if !skipped() {
        beside("docker", &format!("iptables-nft-restore < {dir}/docker.v4 && ip6tables-nft-restore < {dir}/docker.v6"));
    }
}

#[test]
fn beside_firewalld() {
    if !skipped() {
        beside("firewalld", &format!("nft -f {}/rulesets/firewalld.nft", env!("CARGO_MANIFEST_DIR")));
    }
}
