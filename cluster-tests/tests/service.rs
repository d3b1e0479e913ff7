//! Restart policies, modes, logs, ports of mode host, internal networks, and strangers on the underlay.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, skipped, spread, wait};
use serde_json::Value;

fn all(lab: &Lab, service: &str) -> Vec<Value> {
    lab.json("node1", &["service", "ps", service, "--format", "json"]).as_array().unwrap().clone()
}

fn process<'a>(name: &'a str, more: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    [&["service", "create", "--process", "--name", name], more, &["--"], command].concat()
}

#[test]
fn what_a_task_writes_is_read_and_what_ends_is_restarted_as_asked() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-restarts", 2, 1);
    let script = "echo out of $HEDDLE_SLOT; echo err >&2; exec sleep 1000";
    lab.heddle("node1", &process("talk", &["--replicas", "2"], &["sh", "-c", script]));
    let logs = |args: &[&str]| {
        let output = lab.exec("node1", &[&["heddle", "service", "logs"], args].concat());
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    wait("both tasks are heard", || match logs(&["talk"]) {
        (out, err) if out.contains("out of 1") && out.contains("out of 2") && err.matches("err").count() == 2 => Ok(()),
        seen => Err(format!("{seen:?}")),
    });
    assert_eq!(logs(&["talk", "--raw", "-n", "0"]), (String::new(), String::new()));
    let (timed, _) = logs(&["talk", "-t", "--since", "1h"]);
    let line = timed.lines().find(|l| l.ends_with("| out of 1")).unwrap();
    assert!(line.starts_with("20") && line.contains("Z talk.1."), "{line}");
    assert_eq!(logs(&["talk", "--since", "2999-01-01T00:00:00Z"]).0, "");

    // Twice more, and then no more.
    let policy =
        ["--restart-condition", "on-failure", "--restart-max-attempts", "2", "--restart-delay", "100ms", "--detach"];
    lab.heddle("node1", &process("fails", &policy, &["sh", "-c", "exit 3"]));
    let failed = wait("three tries", || {
        let tasks = all(&lab, "fails");
        let failed = tasks.iter().filter(|t| t["state"] == "failed" && t["exitCode"] == 3).count();
        if failed == 3 { Ok(tasks) } else { Err(format!("{failed} of {}", tasks.len())) }
    });
    assert_eq!(failed.len(), 3);
    // It is not a matter of time: what ended last has waited longer than the delay when another service has come and gone.
    lab.heddle("node1", &process("other", &[], &["sleep", "1000"]));
    lab.heddle("node1", &["service", "rm", "other"]);
    assert_eq!(all(&lab, "fails").len(), 3);

    lab.heddle("node1", &process("once", &["--restart-condition", "none", "--detach"], &["true"]));
    wait("one run", || {
        let tasks = all(&lab, "once");
        if tasks.len() == 1 && tasks[0]["state"] == "complete" { Ok(()) } else { Err(format!("{tasks:?}")) }
    });
    // A program that is killed from outside comes back in its place.
    let before = lab.running("node1", "talk").unwrap().remove(0);
    lab.in_task(&before, "kill -9 $(pgrep -n sleep) || kill -9 -1");
    wait("a new task in the slot", || {
        let now = lab.running("node1", "talk")?;
        let new = now.iter().find(|t| t["slot"] == before["slot"] && t["id"] != before["id"]);
        if new.is_some() && now.len() == 2 { Ok(()) } else { Err(format!("{now:?}")) }
    });
}

#[test]
fn mode_host_answers_only_where_a_task_runs() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-modehost", 2, 1);
    let port = "published=8080,target=80,mode=host";
    let udp = "published=8080,target=80,mode=host,protocol=udp";
    lab.create_web("web", 1, &["-p", port, "-p", udp, "--constraint", "node.hostname==node2"]);
    for (target, client) in [("10.77.0.2:8080", "10.77.0.250"), ("[fd77::2]:8080", "fd77::fa")] {
        for udp in [false, true] {
            let answers = lab.ask("client", target, 3, udp);
            assert_eq!(
                (answers.failed.as_str(), answers.clients.into_iter().collect::<Vec<_>>()),
                ("", vec![client.into()])
            );
        }
    }
    assert!(lab.ask("client", "10.77.0.1:8080", 1, false).failed.contains("refused"));
    // One such port a host: a second replica waits and says why.
    let said = lab.refused("node1", &["service", "scale", "web=2", "--timeout", "2"]);
    assert!(said.contains("have the port taken"), "{said}");
}

#[test]
fn an_internal_network_has_no_way_out() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-internal", 2, 1);
    lab.heddle("node1", &["network", "create", "-d", "overlay", "inside", "--internal"]);
    lab.heddle("node1", &["network", "create", "-d", "overlay", "open"]);
    lab.create_web("closed", 2, &["--network", "inside"]);
    lab.create_web("opened", 1, &["--network", "open"]);
    lab.sh(
        "client",
        &format!("setsid {} whoami --port 99 >/dev/null 2>&1 &", heddle_cluster_tests::program().display()),
    );
    let opened = lab.running("node1", "opened").unwrap().remove(0);
    let host = opened["hostname"].as_str().unwrap().replace("node", "10.77.0.");
    // Out of the gateway, in the host's name.
    wait("the world answers", || {
        let answers = lab.ask_from_task(&opened, "10.77.0.250:99", 1, false);
        if answers.clients.iter().eq([&host]) { Ok(()) } else { Err(format!("{answers:?}")) }
    });
    let closed = lab.running("node1", "closed").unwrap().remove(0);
    assert!(lab.ask_from_task(&closed, "10.77.0.250:99", 1, false).failed.contains("unreachable"));
    let inside = lab.ask_from_task(&closed, "closed:80", 20, false);
    assert_eq!((inside.failed.as_str(), inside.tasks.len()), ("", 2));
}

#[test]
fn nobody_but_a_peer_can_send_into_an_overlay() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-stranger", 2, 1);
    lab.heddle("node1", &["network", "create", "-d", "overlay", "front"]);
    lab.create_web("web", 1, &["--network", "front", "--constraint", "node.hostname==node2"]);
    let task = lab.running("node1", "web").unwrap().remove(0);
    let network = lab.overlay("node1", "front");
    let endpoint = network.tasks("web").remove(0);
    let (mac, addr) = (endpoint["MacAddress"].as_str().unwrap(), endpoint["EndpointIP"].as_str().unwrap());
    let vni = network.vni();
    let tunnel = |own: &str, port: u16| {
        format!(
            "ip link add x type vxlan id {vni} dstport 4789 local {own} remote 10.77.0.2 srcport {port} {} && \
             ip addr add 10.0.1.200/24 dev x && ip link set x up && ip neigh replace {addr} lladdr {mac} dev x && \
             for i in 1 2 3 4 5; do echo x | timeout 1 nc -u -w1 {addr} 80; done; ip link del x",
            port + 1
        )
    };
    let seen = || {
        let text = lab.in_task(&task, "cat /proc/net/snmp | grep ^Udp: | tail -1 | cut -d' ' -f2");
        String::from_utf8_lossy(&text.stdout).trim().parse::<u64>().unwrap()
    };
    let dropped = || {
        let text = lab.sh("node2", "nft list chain inet heddle_underlay vxlan");
        let counts = text
            .lines()
            .filter(|l| l.contains("drop"))
            .filter_map(|l| l.split("packets ").nth(1)?.split_whitespace().next()?.parse::<u64>().ok());
        counts.sum::<u64>()
    };
    let before = (seen(), dropped());
    lab.sh("client", &tunnel("10.77.0.250", 40000));
    assert_eq!(seen(), before.0, "a stranger's frame reached the task");
    assert!(dropped() > before.1, "the stranger's frames were not even seen");
    // What does arrive is counted: the task itself asks its service.
    let answers = lab.ask_from_task(&task, "web:80", 1, true);
    assert_eq!(answers.failed, "");
    assert!(seen() > before.0);
}

#[test]
fn a_service_may_be_on_every_node_and_a_job_ends() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-modes", 3, 1);
    let hosts = |service: &str| {
        let mut hosts: Vec<_> =
            lab.running("node1", service)?.iter().map(|t| t["hostname"].as_str().unwrap().to_owned()).collect();
        hosts.sort();
        Ok::<_, String>(hosts)
    };
    let on = |service: &str, want: &[&str]| {
        wait("its nodes have it", || match hosts(service)? {
            found if found == want => Ok(()),
            found => Err(format!("{found:?}")),
        });
    };
    let whoami = ["heddle", "whoami", "--port", "80"];
    let constraint = ["--mode", "global", "-p", "8080:80", "--constraint", "node.labels.zone!=b"];
    lab.heddle("node1", &process("every", &constraint, &whoami));
    assert_eq!(hosts("every").unwrap(), ["node1", "node2", "node3"], "it is waited for");
    spread(3, |count| lab.ask("client", "10.77.0.2:8080", count, false));
    lab.heddle("node1", &["node", "update", "--label-add", "zone=b", "node2"]);
    on("every", &["node1", "node3"]);
    spread(2, |count| lab.ask("client", "10.77.0.2:8080", count, false));
    lab.heddle("node1", &["node", "update", "--label-rm", "zone", "node2"]);
    on("every", &["node1", "node2", "node3"]);
    lab.heddle("node1", &["service", "update", "--env-add", "A=b", "every"]);
    assert_eq!(hosts("every").unwrap().len(), 3);
    let said = lab.refused("node1", &["service", "scale", "every=2"]);
    assert!(said.contains("\"every\" is global: it has one task on each node"), "{said}");
    let said = lab.refused("node1", &process("x", &["--mode", "global", "--replicas", "2"], &["true"]));
    assert!(said.contains("--replicas 2: a global service has one task on each node"), "{said}");

    // It is over when the command is.
    let job = ["--mode", "replicated-job", "--replicas", "4", "--max-concurrent", "2"];
    lab.heddle("node1", &process("four", &job, &["sh", "-c", "echo did $HEDDLE_SLOT"]));
    let done = |service: &str| all(&lab, service).iter().filter(|t| t["state"] == "complete").count();
    assert_eq!((done("four"), all(&lab, "four").len()), (4, 4));
    let listed = lab.heddle("node1", &["service", "ls"]);
    let line = listed.lines().find(|l| l.contains("four")).unwrap();
    assert!(line.contains("replicated-job") && line.contains("0/0 (4/4 completed)"), "{listed}");
    let logs = lab.heddle("node1", &["service", "logs", "four"]);
    assert!((1..=4).all(|n| logs.contains(&format!("did {n}"))), "{logs}");
    lab.heddle("node1", &["service", "update", "--force", "four"]);
    assert_eq!((done("four"), all(&lab, "four").len()), (4, 4), "another run");
    lab.heddle("node1", &process("each", &["--mode", "global-job"], &["true"]));
    assert_eq!(done("each"), 3);
    let policy = ["--mode", "global-job", "--restart-max-attempts", "1", "--restart-delay", "100ms"];
    let said = lab.refused("node1", &process("bad", &policy, &["sh", "-c", "exit 7"]));
    assert!(said.contains("0 of 3 completed, 3 failed and are not tried again") && said.contains("7"), "{said}");
    let said = lab.refused("node1", &["service", "rollback", "four"]);
    assert!(said.contains("\"four\" is a job: it has no rollback"), "{said}");
    let any = ["--mode", "replicated-job", "--restart-condition", "any"];
    let said = lab.refused("node1", &process("x", &any, &["true"]));
    assert!(said.contains("restart condition any cannot be used with a job"), "{said}");
}
