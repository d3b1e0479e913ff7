//! Services that change while clients ask through every host, on new connections and on those that they keep: nobody may
//! be left without an answer. And updates that fail.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{HOSTS, Lab, program, skipped, wait};
use serde_json::Value;
use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// No load goes on for longer.
const LIMIT: Duration = Duration::from_secs(60);
/// What one client asks before it begins anew.
const BATCH: &str = "100";
/// So many are asked in all, at least.
const ENOUGH: u32 = 10_000;

/// Asks through each host while something is done, and on until that was often enough. No request may fail.
fn answered(lab: &Lab, what: &str, act: impl FnOnce()) {
    let (done, total) = (AtomicBool::new(false), AtomicU32::new(0));
    let began = Instant::now();
    let caller = lab.running("node1", "caller").unwrap().remove(0);
    // From the host outside, or from a task by the service's virtual address.
    let client = |target: String, how: &[&str]| {
        let mut failed = String::new();
        let on = || !done.load(Ordering::Relaxed) || total.load(Ordering::Relaxed) < ENOUGH;
        while on() && failed.is_empty() && began.elapsed() < LIMIT {
            let every = if how.is_empty() { "2" } else { "10" };
            let mut args = vec!["heddle", "whoami", "--ask", &target, "--count", BATCH, "--every", every];
            args.extend(how);
            let output = match target.starts_with("web:") {
                true => lab.in_task(&caller, &args.join(" ").replacen("heddle", &program().display().to_string(), 1)),
                false => lab.exec("client", &args),
            };
            total.fetch_add(counted(&String::from_utf8_lossy(&output.stdout)), Ordering::Relaxed);
            failed += &String::from_utf8_lossy(&output.stderr);
        }
        failed
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (1..=3)
            // Of one family they would share ports: a backend tells clients apart by their addresses and ports alone.
            .flat_map(|n| {
                [(format!("10.77.0.{n}:8080"), &[][..]), (format!("[fd77::{n}]:8080"), &["--keep-alive"][..])]
            })
            .chain([("10.77.0.1:8080".into(), &["--udp"][..]), ("[fd77::2]:8080".into(), &["--udp", "--keep-alive"])])
            .chain([("web:80".into(), &["--udp", "--keep-alive"][..]), ("web:80".into(), &["--keep-alive"])])
            .map(|(target, how)| scope.spawn(move || client(target, how)))
            .collect();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        done.store(true, Ordering::Relaxed);
        let failures: String = clients.into_iter().map(|c| c.join().unwrap()).collect();
        let total = total.load(Ordering::Relaxed);
        println!("{what:<40} {total:>6} requests in {:>4.1?}", began.elapsed());
        result.unwrap_or_else(|e| std::panic::resume_unwind(e));
        assert_eq!(failures, "", "{what}");
        assert!(total >= ENOUGH, "{what}: only {total} requests");
    });
}

/// From the lines `COUNT x TASK on NODE sees CLIENT`.
fn counted(said: &str) -> u32 {
    said.lines().filter_map(|l| l.split_once(" x ")?.0.trim().parse::<u32>().ok()).sum()
}

fn update<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["service", "update", "--update-monitor", "1s", "--rollback-monitor", "1s", "web"], more].concat()
}

/// Runs on every host that has been told, and nothing else does.
fn tasks(lab: &Lab, ask: &str, count: usize) -> Vec<Value> {
    wait("so many run", || match lab.running(ask, "web")? {
        all if all.len() == count => Ok(all),
        all => Err(format!("{} run", all.len())),
    })
}

fn ids(tasks: &[Value]) -> Vec<String> {
    let mut ids: Vec<String> = tasks.iter().map(|t| t["id"].to_string()).collect();
    ids.sort();
    ids
}

fn service(lab: &Lab, ask: &str) -> Result<Value, String> {
    Ok(lab.try_json(ask, &["service", "inspect", "web"])?[0].clone())
}

#[test]
fn whatever_changes_every_request_is_answered() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-update", 3, 3);
    lab.heddle("node1", &["network", "create", "-d", "overlay", "front"]);
    lab.create_web("web", 6, &["-p", "8080:80", "-p", "8080:80/udp", "--env", "A=1", "--network", "front"]);
    lab.create_web("caller", 1, &["--network", "front", "--constraint", "node.hostname==node1"]);
    let before = ids(&tasks(&lab, "node1", 6));
    for (order, more) in [("stop-first", "A=2"), ("start-first", "A=3")] {
        answered(&lab, &format!("update, {order}"), || {
            let set = ["--update-order", order, "--update-parallelism", "2", "--env-add", more];
            lab.heddle("node2", &update(&set));
        });
        assert!(ids(&tasks(&lab, "node1", 6)).iter().all(|t| !before.contains(t)));
    }
    let seen = service(&lab, "node1").unwrap();
    assert_eq!(seen["updateStatus"]["state"], "completed", "{seen}");
    answered(&lab, "rollback", || drop(lab.heddle("node3", &["service", "rollback", "web"])));
    let seen = service(&lab, "node1").unwrap();
    assert_eq!(seen["updateStatus"]["state"], "rollback_completed", "{seen}");
    assert_eq!(seen["spec"]["task"]["runtime"]["Process"]["env"]["A"], "2", "{seen}");
    answered(&lab, "scale 6 to 3, 12, 3 and 6", || {
        for count in ["web=3", "web=12", "web=3", "web=6"] {
            lab.heddle("node1", &["service", "scale", count]);
        }
    });
    answered(&lab, "a neighbour comes and goes", || {
        lab.create_web("neighbour", 3, &["-p", "8081:80"]);
        lab.heddle("node2", &["service", "scale", "neighbour=0"]);
        assert_eq!(lab.running("node1", "neighbour"), Ok(vec![]));
        lab.heddle("node2", &["service", "scale", "neighbour=2"]);
        lab.heddle("node1", &["service", "rm", "neighbour"]);
    });
    answered(&lab, "a node is drained", || {
        lab.heddle("node1", &["node", "update", "--availability", "drain", "node3"]);
        wait("it is empty", || match lab.running("node1", "web")? {
            all if all.len() == 6 && all.iter().all(|t| t["hostname"] != "node3") => Ok(()),
            all => Err(format!("{all:?}")),
        });
    });
    lab.heddle("node1", &["node", "update", "--availability", "active", "node3"]);
    answered(&lab, "tasks move back to it", || {
        lab.heddle("node1", &["service", "rebalance", "web", "--timeout", "60"]);
        let on_node3 = tasks(&lab, "node1", 6).iter().filter(|t| t["hostname"] == "node3").count();
        assert_eq!(on_node3, 2);
    });
    answered(&lab, "the leader changes while updating", || {
        let leader = lab.leader("node1").unwrap();
        let other = HOSTS.into_iter().find(|h| *h != leader).unwrap();
        let before = ids(&tasks(&lab, other, 6));
        lab.heddle(other, &update(&["--env-add", "A=4", "--detach"]));
        wait("some are replaced", || match ids(&lab.running(other, "web")?) {
            now if now.iter().any(|t| !before.contains(t)) => Ok(()),
            _ => Err("none".into()),
        });
        lab.do_lab(&["kill", &leader, "--daemon"]);
        lab.do_lab(&["start", &leader]);
        wait("another goes on with it", || match service(&lab, other)? {
            seen if seen["updateStatus"]["state"] == "completed" => Ok(()),
            seen => Err(seen["updateStatus"].to_string()),
        });
        assert!(ids(&tasks(&lab, other, 6)).iter().all(|t| !before.contains(t)));
    });
    answered(&lab, "a bad update is rolled back", || bad_updates_are_rolled_back(&lab));
    bad_updates_end_as_they_should(&lab);
}

/// A program that ends at once, start-first: nobody who serves is touched.
fn bad_updates_are_rolled_back(lab: &Lab) {
    let before = ids(&tasks(lab, "node1", 6));
    let rules = ["--update-order", "start-first", "--update-failure-action", "rollback", "--update-parallelism", "1"];
    let said = lab.refused("node1", &update(&[&rules[..], &["--", "sh", "-c", "exit 3"]].concat()));
    assert!(said.contains("the update was rolled back: 1 of 6 replicas failed: web."), "{said}");
    assert!(said.contains(": exit code 3"), "{said}");
    assert_eq!(ids(&tasks(lab, "node1", 6)), before);
}

/// What a new task can lack, in each way that an update can take it: nobody who serves is touched, and the reason is told.
fn bad_updates_end_as_they_should(lab: &Lab) {
    lab.heddle("node1", &["service", "scale", "web=3"]);
    let before = ids(&tasks(lab, "node1", 3));
    let never = ["--health-cmd", "exit 5", "--health-interval", "100ms", "--health-retries", "2"];
    let causes: [(&str, &[&str], &str); 3] = [
        ("a command that fails", &["--", "sh", "-c", "exit 3"], "exit code 3"),
        ("a health check that never passes", &never, "exit code 5"),
        ("a constraint that fits nowhere", &["--constraint-add", "node.hostname==nowhere"], "no suitable node"),
    ];
    let actions = [
        ("pause", "the update is paused: 1 of 3 replicas failed: web.", "paused"),
        ("continue", "it ended, but not well: 3 of 3 replicas failed: web.", "completed"),
        ("rollback", "the update was rolled back: 1 of 3 replicas failed: web.", "rollback_completed"),
    ];
    for (cause, set, why) in causes {
        for (action, outcome, state) in actions {
            let rules = ["--update-parallelism", "1", "--update-order", "start-first", "--update-deadline", "2s"];
            let began = Instant::now();
            let said = lab.refused("node1", &update(&[&rules[..], &["--update-failure-action", action], set].concat()));
            let took = began.elapsed();
            println!("{cause:<34} {action:<9} {state:<19} after {took:>4.1?}");
            assert!(said.contains(outcome) && said.contains(why), "{cause}, {action}: {said}");
            // Each of three may take its deadline.
            assert!(took < Duration::from_secs(15), "{cause}, {action}: {took:?}");
            let seen = service(lab, "node1").unwrap();
            assert_eq!(seen["updateStatus"]["state"], state, "{cause}, {action}");
            assert_eq!(ids(&tasks(lab, "node1", 3)), before, "{cause}, {action}");
            if action != "rollback" {
                lab.heddle("node1", &["service", "rollback", "web"]);
            }
            assert_eq!(ids(&tasks(lab, "node1", 3)), before, "{cause}, {action}");
        }
    }
}
