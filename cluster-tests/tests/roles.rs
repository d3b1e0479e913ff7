//! Nodes that become managers and cease to be, get no tasks any more, and are forgotten: the service answers all the while.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, skipped, wait};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
};

const HOSTS: [&str; 3] = ["node1", "node2", "node3"];

fn nodes(lab: &Lab, ask: &str) -> Result<Vec<Value>, String> {
    Ok(lab.try_json(ask, &["node", "ls", "--format", "json"])?.as_array().cloned().unwrap_or_default())
}

fn managers(lab: &Lab, ask: &str) -> Result<BTreeSet<String>, String> {
    let managers = nodes(lab, ask)?.into_iter().filter(|n| n["role"] == "manager");
    Ok(managers.map(|n| n["hostname"].as_str().unwrap().to_owned()).collect())
}

fn tasks(lab: &Lab, ask: &str, service: &str) -> BTreeSet<(String, String)> {
    let running = lab.running(ask, service).unwrap();
    running.iter().map(|t| (t["hostname"].as_str().unwrap().to_owned(), t["pid"].to_string())).collect()
}

/// Nobody may fail to get an answer while this is done.
fn answered<T>(lab: &Lab, f: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                for host in ["10.77.0.1:8080", "10.77.0.2:8080", "10.77.0.3:8080"] {
                    assert_eq!(lab.ask("client", host, 5, false).failed, "");
                    count += 5;
                }
            }
            count
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
        done.store(true, Ordering::Relaxed);
        println!("{} requests answered", asked.join().unwrap());
        result.unwrap_or_else(|e| std::panic::resume_unwind(e))
    })
}

#[test]
fn managers_come_and_go_and_nothing_else_notices() {
    if skipped() {
        return;
    }
    let lab = Lab::patient("t-roles", 3, 1);
    lab.create_web("web", 3, &["-p", "8080:80"]);
    let before = tasks(&lab, "node1", "web");
    let said = lab.refused("node1", &["node", "demote", "node1"]);
    assert_eq!(said, "heddle: node node1 is the only manager: promote another one first");
    let said = lab.refused("node2", &["node", "ls"]);
    assert!(said.contains("this node is a worker"), "{said}");

    answered(&lab, || {
        lab.heddle("node1", &["node", "promote", "node2", "node3"]);
        for host in HOSTS {
            let all = wait("every manager knows all", || match managers(&lab, host)? {
                all if all.len() == 3 => Ok(all),
                all => Err(format!("{all:?}")),
            });
            assert_eq!(all, BTreeSet::from(HOSTS.map(str::to_owned)));
        }
    });

    // Each of them counts: without the first, the two others go on.
    let votes = |ask: &str| {
        wait("all vote", || match lab.try_json(ask, &["info", "--format", "json"])? {
            info if info["managers"].as_array().is_some_and(|m| m.len() == 3) => Ok(()),
            info => Err(info.to_string()),
        });
    };
    HOSTS.iter().for_each(|host| votes(host));
    lab.do_lab(&["kill", "node1", "--daemon"]);
    wait("the others write", || lab.try_heddle("node2", &["service", "scale", "web=4", "--detach"]));
    lab.do_lab(&["start", "node1"]);
    wait("the three agree", || match managers(&lab, "node1")? {
        all if all.len() == 3 => Ok(()),
        all => Err(format!("{all:?}")),
    });
    wait("four run", || match lab.running("node2", "web")?.len() {
        4 => Ok(()),
        n => Err(n.to_string()),
    });
    let running = tasks(&lab, "node2", "web");
    assert!(running.is_superset(&before), "{running:?} after {before:?}");

    // The leader goes itself: another leads, and it is a worker like others.
    answered(&lab, || {
        let leader = wait("one leads", || lab.leader("node2"));
        let other = HOSTS.iter().find(|h| **h != leader).unwrap();
        lab.heddle(other, &["node", "demote", &leader]);
        wait("it serves no command any more", || match lab.try_heddle(&leader, &["node", "ls"]) {
            Err(said) if said.contains("this node is a worker") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let left = wait("two are left", || match managers(&lab, other)? {
            left if left.len() == 2 => Ok(left),
            left => Err(format!("{left:?}")),
        });
        assert!(!left.contains(&leader));
        // And back again, by the log of the others, not by its own.
        lab.heddle(other, &["node", "promote", &leader]);
        wait("it serves again", || lab.try_heddle(&leader, &["node", "ls"]).map(drop));
        let another = HOSTS.iter().find(|h| *h != other && **h != leader).unwrap();
        lab.heddle(&leader, &["node", "demote", another, other]);
        assert_eq!(wait("one is left", || managers(&lab, &leader)), BTreeSet::from([leader.clone()]));
        lab.heddle(&leader, &["service", "scale", "web=3"]);
        for worker in [another, other] {
            let raft = format!("/var/lib/heddle-lab/t-roles/{worker}/raft");
            wait("nothing of raft is left on a worker", || match std::fs::exists(&raft) {
                Ok(false) => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
        // A restart changes nothing of that.
        for host in HOSTS {
            lab.do_lab(&["kill", host, "--daemon"]);
            lab.do_lab(&["start", host]);
        }
        assert_eq!(wait("one is there", || managers(&lab, &leader)), BTreeSet::from([leader.clone()]));
    });
}

#[test]
fn a_node_is_spared_emptied_and_forgotten() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-forget", 3, 1);
    lab.create_web("web", 3, &["-p", "8080:80"]);
    let on = |host: &str| lab.running("node1", "web").unwrap().iter().filter(|t| t["hostname"] == host).count();
    lab.heddle("node1", &["node", "update", "--availability", "pause", "node3"]);
    lab.heddle("node1", &["service", "scale", "web=6"]);
    assert_eq!(on("node3"), 1, "a pause takes nothing away, and brings nothing");
    lab.heddle("node1", &["node", "update", "--availability", "drain", "--label-add", "zone=b", "node3"]);
    wait("it is empty", || match lab.running("node1", "web")? {
        all if all.len() == 6 && all.iter().all(|t| t["hostname"] != "node3") => Ok(()),
        all => Err(format!("{all:?}")),
    });
    assert_eq!(lab.ask("client", "10.77.0.3:8080", 20, false).failed, "", "it answers for the others");
    assert_eq!(lab.json("node1", &["node", "inspect", "node3"])[0]["labels"]["zone"], "b");

    let said = lab.refused("node1", &["node", "rm", "node3"]);
    assert!(said.contains("node node3 is not down: run `heddle leave` there, or use --force"), "{said}");
    assert!(lab.refused("node1", &["node", "rm", "node1"]).contains("node node1 is a manager: demote it first"));
    lab.do_lab(&["kill", "node2"]);
    wait("it is down", || match nodes(&lab, "node1")?.iter().find(|n| n["hostname"] == "node2") {
        Some(node) if node["state"] == "down" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    lab.heddle("node1", &["node", "rm", "node2"]);
    lab.heddle("node1", &["node", "rm", "--force", "node3"]);
    assert_eq!(nodes(&lab, "node1").unwrap().len(), 1);
    wait("all run on what is left", || match lab.running("node1", "web")?.len() {
        6 => Ok(()),
        n => Err(n.to_string()),
    });
    // Who was cast out is told, and can come in anew.
    wait("it is told", || match lab.try_heddle("node3", &["leave"]) {
        Ok(_) => Ok(()),
        Err(said) => Err(said),
    });
    let token = lab.heddle("node1", &["join-token", "worker", "-q"]);
    lab.heddle("node3", &["join", "--token", token.trim(), "10.77.0.1"]);
    assert_eq!(nodes(&lab, "node1").unwrap().len(), 2);
}
