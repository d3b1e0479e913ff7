//! Health checks of service tasks: each kind of them, what becomes of a task that fails them, and of an update to one that does.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, program, skipped, wait};
use serde_json::Value;

/// Of which nothing else on this machine has a process.
const SLEEP: &str = "sleep 54321";

fn create<'a>(name: &'a str, more: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    let checks = ["--health-interval", "200ms", "--restart-delay", "100ms"];
    [&["service", "create", "--process", "--name", name], &checks[..], more, &["--"], command].concat()
}

fn all(lab: &Lab, service: &str) -> Result<Vec<Value>, String> {
    let tasks = lab.try_json("node1", &["service", "ps", service, "--format", "json"])?;
    Ok(tasks.as_array().cloned().unwrap_or_default())
}

/// The only task of a service that has got so far.
fn in_state(lab: &Lab, service: &str, state: &str) -> Value {
    wait(&format!("{service} is {state}"), || {
        let tasks = all(lab, service)?;
        let found = tasks.iter().find(|t| t["state"] == state && t["pid"].is_u64());
        found.cloned().ok_or_else(|| format!("{tasks:?}"))
    })
}

fn ids(tasks: &[Value]) -> Vec<String> {
    let mut ids: Vec<String> = tasks.iter().map(|t| format!("{} {}", t["id"], t["pid"])).collect();
    ids.sort();
    ids
}

/// How many a check has left on a host, or has now.
fn sleeping(lab: &Lab, host: &str) -> usize {
    lab.sh(host, &format!("pgrep -fxc '{SLEEP}' || true")).trim().parse().unwrap()
}

#[test]
fn tasks_are_checked_and_the_unhealthy_are_replaced() {
    if skipped() {
        return;
    }
    let lab = Lab::patient("t-health", 2, 1);
    // What is private to each task shows where the check runs: its files, its port, its variables.
    let serve = format!("touch /dev/shm/ok; exec {} whoami --port 80", program().display());
    let serve = ["sh", "-c", &serve];
    // It runs on when nothing listens any more.
    let beside = format!("{} whoami --port 80 & exec sleep 1000", program().display());
    let beside = ["sh", "-c", &beside];
    let command = "echo looking; test -e /dev/shm/ok && test -n \"$HEDDLE_SLOT\" || { echo the file is gone; exit 3; }";
    let web =
        ["-p", "8080:80", "--replicas", "2", "--health-cmd", command, "--health-retries", "2", "--drain-linger", "1s"];
    lab.heddle("node1", &create("web", &web, &serve));
    lab.heddle("node1", &create("http", &["--health-http", "80/healthz"], &beside));
    lab.heddle("node1", &create("tcp", &["--health-tcp", "80"], &beside));
    let shown = lab.json("node1", &["service", "inspect", "http"])[0]["spec"]["task"]["health"].clone();
    assert_eq!(shown["probe"]["http"], serde_json::json!({ "port": 80, "path": "/healthz" }), "{shown}");

    a_task_is_not_running_before_it_is_healthy(&lab);
    checks_that_take_too_long_leave_nothing(&lab);
    a_killed_daemon_takes_no_task_away(&lab);
    an_unhealthy_task_is_replaced_and_nobody_notices(&lab);
    a_bad_update_is_rolled_back(&lab);

    let said = lab.refused("node1", &create("x", &[], &["true"]));
    let want = "--health-interval: the service has no health check of its own, give --health-cmd, --health-http or --health-tcp, too";
    assert!(said.ends_with(want), "{said}");
    let tasks = ["http", "tcp"].map(|service| (service, in_state(&lab, service, "running")));
    for (_, task) in &tasks {
        assert!(lab.in_task(task, "kill -9 $(pgrep -f '[w]hoami --port')").status.success());
    }
    for (service, task) in &tasks {
        wait("another follows, and it is said why", || {
            let tasks = all(&lab, service)?;
            let ended = tasks.iter().find(|t| t["id"] == task["id"]).ok_or("it is forgotten")?;
            let said = ended["error"].as_str().unwrap_or_default();
            let why = said.starts_with("unhealthy: 3 checks failed: port 80: ") && said.contains("refused");
            let follows = lab.running("node1", service)?.iter().any(|t| t["id"] != task["id"]);
            if why && ended["state"] == "failed" && follows { Ok(()) } else { Err(format!("{tasks:?}")) }
        });
    }
    lab.heddle("node1", &["service", "rm", "web", "http", "tcp", "late", "slow"]);
    for host in ["node1", "node2"] {
        wait("no check is left", || match lab.sh(host, "pgrep -af '[t]ask-check' || true") {
            left if left.is_empty() => Ok(()),
            left => Err(left),
        });
    }
}

fn a_task_is_not_running_before_it_is_healthy(lab: &Lab) {
    let check = ["--health-cmd", "test -e /dev/shm/up", "--health-start-period", "1h", "--detach"];
    lab.heddle("node1", &create("late", &check, &["sleep", "1000"]));
    let task = in_state(lab, "late", "starting");
    assert!(task["message"].as_str().unwrap().starts_with("starting, not healthy yet"), "{task}");
    assert!(lab.in_task(&task, "touch /dev/shm/up").status.success());
    assert_eq!(in_state(lab, "late", "running")["id"], task["id"]);
}

fn checks_that_take_too_long_leave_nothing(lab: &Lab) {
    // One of the two leaves its parent and its session.
    let command = format!("echo >>/dev/shm/tries; setsid {SLEEP} & {SLEEP}");
    let rules = [
        "--health-timeout",
        "100ms",
        "--health-start-period",
        "1h",
        "--constraint",
        "node.hostname==node2",
        "--detach",
    ];
    lab.heddle("node1", &create("slow", &[&["--health-cmd", &command][..], &rules].concat(), &["sleep", "1000"]));
    let task = in_state(lab, "slow", "starting");
    wait("it was tried often", || {
        let tries = lab.in_task(&task, "wc -l </dev/shm/tries").stdout;
        let tries = String::from_utf8_lossy(&tries).trim().parse().unwrap_or(0);
        if tries >= 5 { Ok(()) } else { Err(format!("{tries} times")) }
    });
    // Those of the one that is under way.
    let left = sleeping(lab, "node2");
    assert!(left <= 2, "{left} processes are left");
}

fn a_killed_daemon_takes_no_task_away(lab: &Lab) {
    let before = ids(&lab.running("node1", "web").unwrap());
    let answers = lab.meanwhile("10.77.0.1:8080", || {
        lab.do_lab(&["kill", "node2", "--daemon"]);
        wait("the check that was under way ends", || match sleeping(lab, "node2") {
            0 => Ok(()),
            left => Err(format!("{left} processes are left")),
        });
        lab.do_lab(&["start", "node2"]);
        lab.connected("node2");
        wait("checks go on", || match sleeping(lab, "node2") {
            0 => Err("none".into()),
            _ => Ok(()),
        });
    });
    assert_eq!(answers.failed, "");
    assert_eq!(ids(&lab.running("node1", "web").unwrap()), before);
}

fn an_unhealthy_task_is_replaced_and_nobody_notices(lab: &Lab) {
    let running = lab.running("node1", "web").unwrap();
    // The daemon of its host was killed before.
    let task = running.iter().find(|t| t["hostname"] == "node2").unwrap();
    let answers = lab.meanwhile("10.77.0.1:8080", || {
        assert!(lab.in_task(task, "rm /dev/shm/ok").status.success());
        let seen = || {
            let tasks = all(lab, "web")?;
            tasks.into_iter().find(|t| t["id"] == task["id"]).ok_or_else(|| "it is forgotten".to_owned())
        };
        let why = "unhealthy: 2 checks failed: exit code 3: the file is gone";
        wait("it is unhealthy", || match seen()? {
            t if t["unhealthy"] == true && t["error"] == why => Ok(()),
            t => Err(t.to_string()),
        });
        // It runs on for a second, for what is under way.
        let name = format!("web.{}.{}", task["slot"], task["id"].as_str().unwrap());
        wait("nobody is led to it", || match lab.ask("client", "10.77.0.2:8080", 12, false) {
            a if a.failed.is_empty() && !a.tasks.contains_key(&name) => Ok(()),
            a => Err(format!("{a:?}")),
        });
        assert_eq!(seen().unwrap()["state"], "running");
        wait("another runs in its place", || {
            let (old, now) = (seen()?, lab.running("node1", "web")?);
            let replaced = now.len() == 2 && now.iter().all(|t| t["id"] != task["id"]);
            let ended = old["state"] == "failed" && old["error"] == why;
            if replaced && ended { Ok(()) } else { Err(format!("{old} {now:?}")) }
        });
    });
    assert_eq!(answers.failed, "");
    let table = lab.heddle("node1", &["service", "ps", "web"]);
    assert!(table.contains("exit code 3: the file is gone"), "{table}");
}

fn a_bad_update_is_rolled_back(lab: &Lab) {
    let before = ids(&lab.running("node1", "web").unwrap());
    let rules = ["--update-order", "start-first", "--update-failure-action", "rollback", "--rollback-monitor", "100ms"];
    let never = ["--health-cmd", "echo never; exit 1", "--health-retries", "1", "web"];
    let said = lab.refused("node1", &[&["service", "update"], &rules[..], &never].concat());
    assert!(said.contains("the update was rolled back: 1 of 2 replicas failed: web."), "{said}");
    assert!(said.ends_with(": unhealthy: 1 check failed: exit code 1: never"), "{said}");
    assert_eq!(ids(&lab.running("node1", "web").unwrap()), before);
}
