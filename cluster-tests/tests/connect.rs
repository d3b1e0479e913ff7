//! Overlays for workloads of single hosts, and joining and leaving networks while running.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, skipped, texts, wait};
use serde_json::Value;

const A: &str = "node1";
const B: &str = "node2";

fn overlay(lab: &Lab, name: &str, more: &[&str]) {
    lab.heddle(A, &[&["network", "create", "-d", "overlay", "--attachable", name], more].concat());
}

/// A service's only task, and its host.
fn task(lab: &Lab, service: &str) -> (Value, String) {
    let task = lab.running(A, service).unwrap().remove(0);
    let host = task["hostname"].as_str().unwrap().to_owned();
    (task, host)
}

fn id(task: &Value) -> String {
    task["id"].as_str().unwrap().to_owned()
}

/// Names of what is connected to an overlay by itself, as a manager tells it.
fn connected(lab: &Lab, manager: &str, network: &str) -> Vec<String> {
    let all = lab.overlay(manager, network).0["Connections"].clone();
    let mut names: Vec<_> = all.as_array().unwrap().iter().map(|c| c["Name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn workloads_of_two_hosts_and_services_meet_on_an_overlay() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-con-over", 3, 2);
    overlay(&lab, "front", &["--subnet", "10.90.0.0/24"]);
    lab.heddle(A, &["network", "create", "-d", "overlay", "services"]);
    lab.create_web("svc", 2, &["--network", "front"]);
    lab.run_web(A, "here", &["--network", "name=front,alias=h", "--ip", "10.90.0.100"]);
    lab.run_web(B, "there", &["--network", "front", "--network-alias", "t"]);
    assert_eq!(lab.address(A, "here", "front", true), "10.90.0.100");

    // At once, both ways, by name, alias and address, and through the service.
    for udp in [false, true] {
        for target in ["there:80", "t:80"] {
            assert_eq!(lab.ask_from(A, "here", target, udp).by(), Ok("there".into()), "{target} udp={udp}");
        }
        for target in ["here:80", "h:80", "10.90.0.100:80"] {
            assert_eq!(lab.ask_from(B, "there", target, udp).by(), Ok("here".into()), "{target} udp={udp}");
        }
        for (host, name) in [(A, "here"), (B, "there")] {
            let by = lab.ask_from(host, name, "svc:80", udp).by().unwrap();
            assert!(by.starts_with("svc."), "{name} udp={udp}: {by}");
        }
    }
    let there6 = format!("[{}]:80", lab.address(B, "there", "front", false));
    assert_eq!(lab.ask_from(A, "here", &there6, false).by(), Ok("there".into()));
    for task in lab.running(A, "svc").unwrap() {
        for (target, name) in [("here:80", "here"), ("t:80", "there")] {
            assert_eq!(lab.ask_from_task(&task, target, 1, false).by(), Ok(name.into()), "{target}");
        }
    }
    assert_eq!(lab.dig(A, "here", "-x 10.90.0.100"), ["here.front."]);
    // What cannot be published is told, whether this host knew the network or not.
    overlay(&lab, "inside", &["--internal"]);
    for name in ["first", "second"] {
        let args = ["run", "-d", "--name", name, "--network", "inside", "-p", "8080:80", "--", "sleep", "100"];
        let output = lab.exec(B, &[&["heddle"], &args[..]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.contains("ublished ports are discarded"), "{said}");
        let ports = lab.workload(B, name)["NetworkSettings"]["Ports"].clone();
        assert!(ports.as_object().is_none_or(serde_json::Map::is_empty), "{ports}");
    }
    lab.heddle(B, &["rm", "-f", "first", "second"]);
    // Every manager shows both.
    for manager in [A, B] {
        wait("the connections are told", || {
            let names = connected(&lab, manager, "front");
            if names == ["here", "there"] { Ok(()) } else { Err(format!("{manager}: {names:?}")) }
        });
    }
    let said = lab.refused(A, &["run", "-d", "--network", "services", "--", "true"]);
    assert!(said.contains("\"services\" is for services alone: create it with --attachable"), "{said}");
    let said = lab.refused(A, &["run", "-d", "--network", "ingress", "--", "true"]);
    assert!(said.contains("carries published ports"), "{said}");
    let said = lab.refused(B, &["run", "-d", "--network", "front", "--ip", "10.90.0.100", "--", "true"]);
    assert!(said.contains("10.90.0.100 is in use by"), "{said}");
    let names = lab.heddle(A, &["ps", "-a", "-q", "--no-trunc"]);
    let here = lab.workload(A, "here")["Id"].as_str().unwrap().to_owned();
    let tasks: Vec<String> = lab.running(A, "svc").unwrap().iter().map(id).collect();
    assert!(names.lines().all(|n| n == here || tasks.iter().any(|t| t == n)), "nothing half-made: {names}");

    // The place goes with the workload, and the address is free for somebody else.
    lab.heddle(A, &["rm", "-f", "here"]);
    assert_eq!(lab.dig(B, "there", "here A"), Vec::<String>::new());
    wait("the address is free", || {
        lab.try_heddle(
            B,
            &["run", "-d", "--name", "next", "--network", "front", "--ip", "10.90.0.100", "--", "sleep", "60"],
        )
    });
    lab.heddle(B, &["rm", "-f", "next"]);
    let said = lab.refused(A, &["network", "rm", "front"]);
    assert!(said.contains("front") && said.contains("svc"), "{said}");
    lab.heddle(A, &["service", "rm", "svc"]);
    wait("only the workload is on it", || {
        let said = lab.refused(A, &["network", "rm", "front"]);
        if said.contains("there") { Ok(()) } else { Err(said) }
    });
    // With the host that leaves, its places end.
    lab.heddle(B, &["leave", "--force"]);
    lab.try_heddle(A, &["node", "rm", "--force", B]).ok();
    wait("nobody is on it any more", || lab.try_heddle(A, &["network", "rm", "front"]));
}

#[test]
fn what_runs_joins_and_leaves_bridges_and_overlays_at_once() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-con-live", 2, 1);
    overlay(&lab, "front", &["--subnet", "10.90.0.0/24"]);
    overlay(&lab, "back", &["--subnet", "10.91.0.0/24"]);
    lab.create_web("svc", 1, &["--network", "front"]);
    lab.create_web("db", 1, &["--network", "back"]);
    let (task, host) = task(&lab, "svc");
    let node = host.as_str();
    lab.heddle(node, &["network", "create", "br", "--subnet", "10.92.0.0/24"]);
    lab.run_web(node, "plain", &["--network", "br"]);
    lab.run_web(node, "mover", &[]);
    let pid = lab.pid(node, "mover");
    let inside = |lab: &Lab| lab.inside(node, "mover", "ip -o -4 addr show; ip route");

    // A workload and a bridge.
    let before = inside(&lab);
    lab.heddle(node, &["network", "connect", "br", "mover", "--ip", "10.92.0.50", "--alias", "m"]);
    assert_eq!(lab.ask_from(node, "mover", "plain:80", false).by(), Ok("plain".into()));
    assert_eq!(lab.ask_from(node, "plain", "m:80", false).by(), Ok("mover".into()));
    assert_eq!(lab.ask_from(node, "plain", "10.92.0.50:80", true).by(), Ok("mover".into()));
    assert!(inside(&lab).contains("10.92.0.50/24"));
    let said = lab.refused(node, &["network", "connect", "br", "mover"]);
    assert!(said.contains("mover is connected to network br already"), "{said}");
    lab.heddle(node, &["network", "disconnect", "br", "mover"]);
    assert_eq!(inside(&lab), before);
    assert_eq!(lab.dig(node, "plain", "m A"), Vec::<String>::new());
    assert!(lab.ask_from(node, "plain", "10.92.0.50:80", false).by().is_err());
    assert!(lab.ask_from(node, "mover", "plain:80", false).by().is_err());

    // A workload and an overlay, with its services.
    lab.heddle(node, &["network", "connect", "back", "mover", "--ip", "10.91.0.50", "--alias", "m"]);
    assert!(lab.ask_from(node, "mover", "db:80", false).by().unwrap().starts_with("db."));
    let (db, _) = self::task(&lab, "db");
    assert_eq!(lab.ask_from_task(&db, "m:80", 1, false).by(), Ok("mover".into()));
    assert_eq!(lab.ask_from_task(&db, "10.91.0.50:80", 1, true).by(), Ok("mover".into()));
    let vip = lab.overlay(A, "back").vips("db").remove(0);
    lab.heddle(node, &["network", "disconnect", "back", "mover"]);
    assert!(lab.ask_from(node, "mover", &format!("{vip}:80"), false).by().is_err(), "the virtual address is gone");
    assert!(lab.ask_from(node, "mover", "db:80", false).by().is_err());
    assert!(lab.ask_from_task(&db, "10.91.0.50:80", 1, false).by().is_err());
    assert_eq!(inside(&lab), before);

    // A running task and a bridge, then another overlay.
    lab.heddle(node, &["network", "connect", "br", &id(&task), "--alias", "s"]);
    assert!(lab.ask_from(node, "plain", "s:80", false).by().unwrap().starts_with("svc."));
    assert_eq!(lab.ask_from_task(&task, "plain:80", 1, false).by(), Ok("plain".into()));
    lab.heddle(node, &["network", "disconnect", "br", &id(&task)]);
    assert!(lab.ask_from(node, "plain", "s:80", false).by().is_err());
    assert!(lab.ask_from_task(&task, "plain:80", 1, false).by().is_err());
    lab.heddle(node, &["network", "connect", "back", &id(&task), "--alias", "s"]);
    assert!(lab.ask_from_task(&task, "db:80", 1, false).by().unwrap().starts_with("db."));
    assert!(lab.ask_from_task(&db, "s:80", 1, false).by().unwrap().starts_with("svc."));
    let said = lab.refused(node, &["network", "disconnect", "front", &id(&task)]);
    assert!(said.contains("by its service"), "{said}");
    lab.heddle(node, &["network", "disconnect", "back", &id(&task)]);
    assert!(lab.ask_from_task(&task, "db:80", 1, false).by().is_err());
    // It is whom it was, and the same process.
    assert!(lab.ask_from_task(&task, "svc:80", 1, false).by().is_ok());
    assert_eq!(lab.pid(node, "mover"), pid);
    assert_eq!(self::task(&lab, "svc").0["id"], task["id"]);
}

#[test]
fn what_an_operator_looks_for_is_shown() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-con-show", 2, 1);
    overlay(&lab, "front", &["--label", "tier=front"]);
    overlay(&lab, "back", &[]);
    overlay(&lab, "unused", &[]);
    lab.heddle(A, &["network", "create", "br", "--label", "tier=front"]);
    lab.heddle(A, &["network", "create", "idle", "--label", "keep"]);
    lab.create_web("svc", 2, &["--network", "front", "--network", "back", "-p", "8080:80"]);
    lab.run_web(A, "web", &["--network", "br", "-p", "8081:80"]);
    for task in lab.running(A, "svc").unwrap() {
        // Of a service on several overlays, on each.
        assert_eq!(task["attachments"].as_array().unwrap().len(), 3, "{task}");
        for name in ["svc.front:80", "svc.back:80"] {
            assert!(lab.ask_from_task(&task, name, 1, false).by().unwrap().starts_with("svc."), "{name}");
        }
    }
    // Its host's own network: one listener a host, ports ignored with a word about it.
    let args = [
        "service",
        "create",
        "--process",
        "--name",
        "wide",
        "--replicas",
        "2",
        "--replicas-max-per-node",
        "1",
        "--network",
        "host",
        "-p",
        "9999:99",
    ];
    let output = lab.exec(A, &[&["heddle"], &args[..], &["--", "heddle", "whoami", "--port", "99"]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("published ports are ignored in host network mode"), "{said}");
    for n in 1..=2 {
        wait("it listens on the host", || lab.ask("client", &format!("10.77.0.{n}:99"), 1, false).by());
        assert!(lab.ask("client", &format!("10.77.0.{n}:9999"), 1, false).by().is_err());
    }

    let ingress = lab.overlay(A, "ingress").0;
    assert_eq!(
        (&ingress["Ingress"], &ingress["Scope"], &ingress["Driver"]),
        (&true.into(), &"swarm".into(), &"overlay".into())
    );
    assert_eq!(ingress["Containers"]["ingress-sbox"]["Name"], "ingress-endpoint");
    assert_eq!(ingress["Peers"].as_array().unwrap().len(), 2);
    assert!(
        texts(&ingress["Services"]["svc"]["Ports"]).contains(&"Target: 80/tcp, Publish: 8080".to_owned()),
        "{ingress:#}"
    );
    let gateway = lab.json(A, &["network", "inspect", "heddle_gwbridge"])[0].clone();
    assert_eq!((&gateway["Driver"], &gateway["Scope"]), (&"bridge".into(), &"local".into()));
    assert_eq!(gateway["Options"]["com.docker.network.bridge.enable_icc"], "false");
    assert_eq!(gateway["Containers"]["ingress-sbox"]["Name"], "gateway_ingress-sbox");
    assert!(gateway["IPAM"]["Config"][0]["Gateway"].is_string(), "{gateway:#}");

    let rules = lab.json(A, &["network", "rules", "--format", "json"]);
    let line = |section: &str, network: &str, part: &str| {
        rules["Rules"].as_array().unwrap().iter().any(|r| {
            r["Section"] == section
                && r["Network"] == network
                && format!("{} {}", r["Match"], r["Action"]).contains(part)
        })
    };
    for (section, network, part) in [
        ("published", "br", "tcp *:8081"),
        ("published", "ingress", "tcp *:8080"),
        ("translated", "br", "source becomes this host's"),
        ("virtual", "front", "svc"),
        ("virtual", "back", "svc"),
        ("filter", "", "VXLAN"),
        ("encapsulated", "front", "VXLAN"),
    ] {
        assert!(line(section, network, part), "{section} {network} {part}: {rules:#}");
    }
    assert_eq!(rules["Drift"].to_string(), "[]");

    let ls = |filters: &[&str]| {
        let mut args = vec!["network", "ls", "--format", "json"];
        filters.iter().for_each(|f| args.extend(["--filter", f]));
        let rows = lab.json(A, &args);
        let mut names: Vec<_> =
            rows.as_array().unwrap().iter().map(|r| r["Name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(ls(&["label=tier=front"]), ["br", "front"]);
    assert_eq!(ls(&["label=tier", "driver=bridge"]), ["br"]);
    assert_eq!(ls(&["scope=swarm"]), ["back", "front", "ingress", "unused"]);
    assert_eq!(ls(&["type=builtin"]), ["bridge", "heddle_gwbridge", "host", "ingress", "none"]);
    assert_eq!(ls(&["dangling=true"]), ["idle", "unused"]);
    assert_eq!(ls(&["name=un"]), ["unused"]);
    // What nobody uses goes; what is labelled so stays for now.
    let gone = lab.heddle(A, &["network", "prune", "-f", "--filter", "label!=keep"]);
    assert!(gone.contains("unused") && !gone.contains("idle"), "{gone}");
    let gone = lab.heddle(A, &["network", "prune", "-f"]);
    assert!(gone.contains("idle"), "{gone}");
    assert_eq!(ls(&["type=custom"]), ["back", "br", "front"]);
    let said = lab.refused(A, &["network", "rm", "heddle_gwbridge"]);
    assert!(said.contains("used by the cluster"), "{said}");
}
