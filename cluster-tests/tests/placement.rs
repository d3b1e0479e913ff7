//! Where tasks come and why, what an update would do, and what tasks are given of their hosts.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, skipped, wait};
use serde_json::Value;
use std::collections::BTreeMap;

fn process<'a>(name: &'a str, more: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    [&["service", "create", "--process", "--name", name], more, &["--"], command].concat()
}

fn hosts(lab: &Lab, service: &str) -> BTreeMap<String, usize> {
    let mut hosts = BTreeMap::new();
    for task in lab.running("node1", service).unwrap() {
        *hosts.entry(task["hostname"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    hosts
}

fn ids(lab: &Lab, service: &str) -> Vec<String> {
    let mut ids: Vec<_> =
        lab.running("node1", service).unwrap().iter().map(|t| t["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

/// What each host has against the tasks that wait, and what would help.
fn against(lab: &Lab, service: &str) -> BTreeMap<String, (String, String)> {
    let told = lab.json("node1", &["service", "explain", service, "--format", "json"]);
    let waiting = told.as_array().unwrap().iter().find(|g| g["placed"] == false).unwrap().clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let node =
        |n: &Value| (text(&n["hostname"]), (text(&n["refusals"][0]["reason"]), text(&n["refusals"][0]["remedy"])));
    waiting["nodes"].as_array().unwrap().iter().map(node).collect()
}

#[test]
fn placement_explains_itself() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-placement", 3, 1);
    for (node, zone) in [("node1", "zone=a"), ("node2", "zone=a"), ("node3", "zone=b")] {
        lab.heddle("node1", &["node", "update", "--label-add", zone, node]);
    }
    let spread = ["--replicas", "4", "--placement-pref", "spread=node.labels.zone"];
    lab.heddle("node1", &process("even", &spread, &["sleep", "1000"]));
    assert_eq!(hosts(&lab, "even"), [("node1", 1), ("node2", 1), ("node3", 2)].map(|(h, n)| (h.to_owned(), n)).into());
    let said = lab.heddle("node1", &["service", "explain", "even"]);
    assert!(said.contains("0 of the service by node.labels.zone, 0 of the service"), "{said}");

    lab.heddle("node1", &["node", "update", "--availability", "drain", "node3"]);
    wait("node3 is left", || match hosts(&lab, "even") {
        found if found == [("node1", 2), ("node2", 2)].map(|(h, n)| (h.to_owned(), n)).into() => Ok(()),
        found => Err(format!("{found:?}")),
    });
    lab.heddle("node1", &["node", "update", "--availability", "active", "node3"]);
    lab.heddle("node1", &["service", "rebalance", "even", "--timeout", "60"]);
    assert_eq!(hosts(&lab, "even"), [("node1", 1), ("node2", 1), ("node3", 2)].map(|(h, n)| (h.to_owned(), n)).into());

    // What is said to help does help.
    lab.heddle("node1", &process("fast", &["--constraint", "node.labels.disk==ssd", "--detach"], &["sleep", "1000"]));
    let told = wait("it is told", || match lab.try_heddle("node1", &["service", "explain", "fast"])? {
        said if said.contains("node.labels.disk==ssd: it has no such label") => Ok(against(&lab, "fast")),
        said => Err(said),
    });
    assert_eq!(told.len(), 3);
    let remedy = told["node2"].1.trim_matches('`').to_owned();
    assert_eq!(remedy, "heddle node update --label-add disk=ssd node2");
    lab.heddle("node1", &remedy.split(' ').skip(1).collect::<Vec<_>>());
    wait("it has come there", || match hosts(&lab, "fast") {
        found if found == [("node2".to_owned(), 1)].into() => Ok(()),
        found => Err(format!("{found:?}")),
    });

    // A plan changes nothing, and what it says comes true.
    let before = ids(&lab, "even");
    let plan = lab.json("node1", &["service", "plan", "even", "--force", "--format", "json"]);
    assert_eq!(plan["tasks"].as_array().unwrap().iter().filter(|t| t["action"] == "is replaced").count(), 4, "{plan}");
    assert_eq!(plan["updateStatus"]["state"], "completed", "{plan}");
    let said = lab.heddle("node1", &["service", "plan", "even", "--constraint-add", "node.hostname==node9"]);
    assert!(said.contains("task.placement.constraints: [] -> [\"node.hostname==node9\"]"), "{said}");
    assert!(
        said.contains("the update fails, and is paused") && said.contains("3 do not match the constraints"),
        "{said}"
    );
    assert_eq!(ids(&lab, "even"), before);
    let said = lab.heddle("node1", &["service", "plan", "even", "--replicas", "5"]);
    assert!(said.contains("1 made, 4 left as they are"), "{said}");

    for (flags, part) in [
        (&["--constraint", "node.zone==a"][..], "\"node.zone\" is nothing that a node has: use node.id"),
        (&["--placement-pref", "spread=zone"], "spread preference: \"zone\" is nothing that a node has"),
        (&["--placement-pref", "node.labels.zone"], "use spread=KEY"),
        (&["--limit-memory", "1m"], "memory limit of 1048576 bytes: use at least 6291456"),
        (&["--limit-memory", "much"], "\"much\" is no number of bytes"),
        (&["--limit-cpu=-1"], "\"-1\" is no number of processors"),
        (&["--limit-memory", "64m", "--reserve-memory", "128m"], "use a limit that is no lower"),
        (&["--limit-cpu", "0.001"], "use one from 0.01 to 65536"),
        (&["--generic-resource", "gpu"], "use NAME=COUNT"),
    ] {
        let output = lab.exec("node1", &[&["heddle"], &process("bad", flags, &["true"])[..]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(part), "{flags:?}: {said}");
    }
}

/// What a task is given of its host holds on a lab's hosts, by whichever version of control groups their kernel has.
fn limits_hold(lab: &Lab) {
    let limits = ["--limit-memory", "64m", "--limit-cpu", "0.2", "--limit-pids", "20", "--reserve-memory", "32m"];
    let flags = [&limits[..], &["--reserve-cpu", "0.1", "--timeout", "300"]].concat();
    lab.heddle("node1", &process("small", &flags, &["sleep", "1000"]));
    let task = lab.running("node1", "small").unwrap().remove(0);
    let inside = |script: &str| {
        let output = lab.in_task(&task, script);
        (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
    };
    // By its own view: each controller's group, where /proc says that it is.
    let find = |name: &str| {
        format!("cat $(find /sys/fs/cgroup -path '*heddle*' -name {name} | grep {})", task["id"].as_str().unwrap())
    };
    let number = |one: &str, two: &str| {
        let (first, second) = (inside(&find(one)).0, inside(&find(two)).0);
        let text = format!("{first}{second}");
        text.split_whitespace().next().map(str::to_owned).unwrap_or_default()
    };
    assert_eq!(number("memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(number("memory.soft_limit_in_bytes", "memory.low"), (32 << 20).to_string());
    assert_eq!(number("cpu.cfs_quota_us", "cpu.max"), "20000");
    assert_eq!(number("pids.max", "pids.max"), "20");
    // A task does not change what it is given.
    let widen = "for f in $(find /sys/fs/cgroup -name pids.max); do echo max > $f && exit 1; done; exit 0";
    assert!(inside(widen).1, "a task has lifted its own limit");
    assert_eq!(number("pids.max", "pids.max"), "20");

    // Too much memory ends a task, and says so.
    let script = "x=aaaaaaaa; while :; do x=$x$x; done";
    let flags = ["--restart-condition", "none", "--limit-memory", "16m", "--detach"];
    lab.heddle("node1", &process("hungry", &flags, &["sh", "-c", script]));
    lab.wait("it is killed", || {
        let tasks = lab.try_json("node1", &["service", "ps", "hungry", "--format", "json"])?;
        match tasks[0]["error"].as_str() {
            Some(error) if error.contains("its memory limit of 16.0 MiB was reached") => Ok(()),
            _ => Err(format!("{tasks}")),
        }
    });
    // So do too many processes: this shell can start no more than it is allowed.
    let script = "exec 2>&1; for n in $(seq 30); do sleep 1000 & done; wait";
    lab.heddle("node1", &process("many", &["--limit-pids", "10", "--detach"], &["sh", "-c", script]));
    lab.wait("it says what it could not", || {
        let said = lab.try_heddle("node1", &["service", "logs", "many"])?;
        if said.to_lowercase().contains("fork") { Ok(()) } else { Err(said) }
    });
    // What wants a whole processor waits for its next share, again and again.
    let flags = ["--limit-cpu", "0.2", "--timeout", "300"];
    lab.heddle("node1", &process("busy", &flags, &["sh", "-c", "while :; do :; done"]));
    let busy = ids(lab, "busy").remove(0);
    let script = format!("cat $(find /sys/fs/cgroup -path '*{busy}*' -name cpu.stat)");
    lab.wait("it is held up", || {
        let stat = lab.sh("node1", &script);
        let held = stat.lines().find_map(|l| l.strip_prefix("nr_throttled ")?.trim().parse::<u64>().ok());
        if held.is_some_and(|n| n > 3) { Ok(()) } else { Err(stat) }
    });
    lab.heddle("node1", &["service", "rm", "small", "hungry", "many", "busy"]);
    lab.wait("no group is left", || {
        match lab.sh("node1", "ls -d /sys/fs/cgroup/heddle /sys/fs/cgroup/*/heddle 2>/dev/null || true") {
            left if left.is_empty() => Ok(()),
            left => Err(left),
        }
    });
}

#[test]
fn what_a_task_is_given_of_its_host_holds() {
    if skipped() {
        return;
    }
    limits_hold(&Lab::up("t-limits", 1, 1));
}

mod emulated {
    use super::*;

    /// A kernel that has version 2 of control groups alone.
    #[test]
    fn version_two_holds_too() {
        if !heddle_cluster_tests::vm::skipped() {
            limits_hold(&Lab::vm("t-limits2", 1, 1, "nftables", &[]));
        }
    }
}
