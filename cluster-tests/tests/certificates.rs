//! Certificates that end: renewed while they count, and after, without a session or a task that notices.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, skipped, spread, wait, wait_for};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

const LIFE: Duration = Duration::from_secs(10);
const HOSTS: [&str; 2] = ["node1", "node2"];

/// A manager and a worker whose certificates count for ten seconds, and a service on both.
fn short_lived(name: &str) -> Lab {
    let lab = Lab::bare(name, 2);
    lab.heddle("node1", &["init", "--advertise-addr", "eth0", "--cert-expiry", "10s"]);
    let token = lab.heddle("node1", &["join-token", "worker", "-q"]);
    lab.heddle("node2", &["join", "--token", token.trim(), "10.77.0.1"]);
    lab.create_web("web", 2, &["-p", "8080:80"]);
    lab
}

fn ends(lab: &Lab, host: &str) -> String {
    lab.info(host)["certificateEnds"].as_str().unwrap().to_owned()
}

fn state(lab: &Lab, host: &str) -> Result<String, String> {
    let nodes = lab.try_json("node1", &["node", "ls", "--format", "json"])?;
    let node = nodes.as_array().into_iter().flatten().find(|n| n["hostname"] == host).cloned();
    Ok(node.unwrap_or_default()["state"].as_str().unwrap_or_default().to_owned())
}

fn ready(lab: &Lab) {
    for host in HOSTS {
        wait_for(LIFE, &format!("{host} is ready"), || match state(lab, host)? {
            state if state == "ready" => Ok(()),
            state => Err(state),
        });
    }
}

fn tasks(lab: &Lab) -> BTreeSet<String> {
    let running = lab.running("node1", "web").unwrap();
    running.iter().map(|t: &Value| format!("{} {}", t["id"], t["pid"])).collect()
}

#[test]
fn they_are_renewed_and_nothing_notices() {
    if skipped() {
        return;
    }
    let lab = short_lived("t-cert-renew");
    let (tasks_before, begun) = (tasks(&lab), Instant::now());
    let mut seen = HOSTS.map(|_| BTreeSet::new());
    while begun.elapsed() < LIFE * 5 / 2 {
        for (host, seen) in HOSTS.iter().zip(&mut seen) {
            seen.insert(ends(&lab, host));
            assert_eq!(state(&lab, host).unwrap(), "ready");
        }
        assert_eq!(lab.ask("client", "10.77.0.2:8080", 1, false).failed, "");
        std::thread::sleep(Duration::from_millis(200));
    }
    for (host, seen) in HOSTS.iter().zip(&seen) {
        println!("{host} had {} certificates", seen.len());
        assert!(seen.len() >= 3, "{host}: {seen:?}");
        let log = format!("/var/lib/heddle-lab/t-cert-renew/{host}/daemon.log");
        let lost = std::fs::read_to_string(log).unwrap().matches("no session with a leader").count();
        assert_eq!(lost, 0, "{host} lost its session");
    }
    assert_eq!(tasks(&lab), tasks_before);
    // A connection that begins now is refused to nobody, and a new manager's neither.
    lab.heddle("node1", &["service", "scale", "web=3"]);
    spread(3, |count| lab.ask("client", "10.77.0.1:8080", count, false));
}

#[test]
fn a_node_that_was_away_for_longer_comes_back() {
    if skipped() {
        return;
    }
    let lab = short_lived("t-cert-away");
    let before = tasks(&lab);
    // The worker alone, then both: then no manager is left whose certificate counts.
    for away in [&HOSTS[1..], &HOSTS[..]] {
        let old: Vec<_> = away.iter().map(|host| ends(&lab, host)).collect();
        away.iter().for_each(|host| lab.do_lab(&["kill", host, "--daemon"]));
        std::thread::sleep(LIFE + Duration::from_secs(1));
        away.iter().for_each(|host| lab.do_lab(&["start", host]));
        ready(&lab);
        for (host, old) in away.iter().zip(old) {
            assert!(ends(&lab, host) > old, "{host}");
        }
    }
    wait("the programs that ran are taken over", || {
        let now = tasks(&lab);
        if now.len() == 2 { Ok(()) } else { Err(format!("{now:?}, {before:?} before")) }
    });
    assert_eq!(lab.ask("client", "10.77.0.2:8080", 4, false).failed, "");
}

#[test]
fn who_was_removed_is_not_let_in_by_an_old_one() {
    if skipped() {
        return;
    }
    let lab = short_lived("t-cert-gone");
    // A copy of what the node is known by, from before it left.
    let state = "/var/lib/heddle-lab/t-cert-gone/node2";
    lab.sh("node2", &format!("cp -a {state} {state}.kept"));
    lab.heddle("node2", &["leave"]);
    lab.do_lab(&["kill", "node2", "--daemon"]);
    lab.sh("node2", &format!("rm -rf {state}; mv {state}.kept {state}"));
    for wait_first in [Duration::ZERO, LIFE + Duration::from_secs(1)] {
        std::thread::sleep(wait_first);
        lab.do_lab(&["start", "node2"]);
        let log = "/var/lib/heddle-lab/t-cert-gone/node2/daemon.log";
        let told = "this node is not in the cluster any more";
        wait("it is told", || {
            let said = std::fs::read_to_string(log).unwrap();
            if said.contains(told) { Ok(()) } else { Err(said) }
        });
        let nodes = lab.json("node1", &["node", "ls", "--format", "json"]);
        assert_eq!(nodes.as_array().unwrap().len(), 1, "{nodes}");
        lab.do_lab(&["kill", "node2", "--daemon"]);
        std::fs::write(log, "").unwrap();
    }
}

/// How far another root is, and the one that counts.
fn root(lab: &Lab) -> (String, String) {
    let output = lab.exec("node1", &["heddle", "cluster", "ca"]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stderr).trim().to_owned(), text(&output.stdout))
}

#[test]
fn another_root_takes_the_place_of_the_first_and_nothing_notices() {
    if skipped() {
        return;
    }
    let lab = Lab::patient("t-cert-root", 3, 2);
    lab.create_web("web", 3, &["-p", "8080:80"]);
    let dir = format!("{}/alice", lab.state_dir("node1"));
    lab.heddle("node1", &["cluster", "user", "add", "alice", "--dir", &dir]);
    let alice = || lab.try_heddle("node2", &["--as", &dir, "node", "ls"]);
    assert!(alice().unwrap().contains("node3"));
    let (tasks_before, (_, first)) = (tasks(&lab), root(&lab));
    let old_token = lab.heddle("node1", &["join-token", "worker", "-q"]);
    // A session may end when its leader gets another manager beside it.
    let lost = || {
        ["node1", "node2"].map(|host| {
            let log = std::fs::read_to_string(lab.state_dir(host) + "/daemon.log").unwrap();
            log.matches("no session with a leader").count()
        })
    };
    let lost_before = lost();

    // One is away: the others change, and wait for it.
    lab.do_lab(&["kill", "node3", "--daemon"]);
    let waits = "2 of 3 nodes have a certificate by it, waiting for node3 (down)";
    let asked = lab.meanwhile("10.77.0.2:8080", || {
        lab.heddle("node2", &["cluster", "ca", "--rotate", "--detach"]);
        wait("it waits for one alone", || match root(&lab) {
            (said, pem) if said.contains(waits) && pem == first => Ok(()),
            other => Err(format!("{other:?}")),
        });
    });
    assert_eq!(asked.failed, "");
    assert!(lab.heddle("node1", &["cluster", "status"]).contains(waits));
    lab.heddle("node1", &["service", "scale", "web=4"]);
    lab.heddle("node1", &["service", "scale", "web=3"]);
    assert!(alice().unwrap().contains("node3"), "the old root counts still");

    lab.do_lab(&["start", "node3"]);
    let second = wait("the first root is gone", || match root(&lab) {
        (said, pem) if said.is_empty() && pem != first => Ok(pem),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(second.matches("BEGIN CERTIFICATE").count(), 1);
    assert_eq!(lost(), lost_before, "sessions were lost");
    wait("each host believes that one alone", || {
        let stored = |host: &str| std::fs::read_to_string(lab.state_dir(host) + "/certificates/root.crt").unwrap();
        let others: Vec<_> = ["node1", "node2", "node3"].into_iter().filter(|host| stored(host) != second).collect();
        if others.is_empty() { Ok(()) } else { Err(format!("{others:?}")) }
    });
    let refused = alice().unwrap_err();
    assert!(refused.contains("heddle: "), "{refused}");
    assert_eq!(lab.json("node1", &["cluster", "user", "ls", "--format", "json"]), serde_json::json!([]));

    // What is stored is whole, on managers and workers: all come back by it.
    for host in ["node1", "node2", "node3"] {
        lab.do_lab(&["kill", host, "--daemon"]);
        lab.do_lab(&["start", host]);
    }
    lab.settled(&["node1", "node2", "node3"], &["web"]);
    let kept = tasks(&lab).intersection(&tasks_before).count();
    assert_eq!(kept, 2, "all but that of the node that was away: {:?}, {tasks_before:?} before", tasks(&lab));
    assert_eq!(lab.ask("client", "10.77.0.3:8080", 4, false).failed, "");

    // A token of before names the first root.
    lab.heddle("node3", &["leave"]);
    let said = lab.refused("node3", &["join", "--token", old_token.trim(), "10.77.0.1"]);
    assert!(said.contains("or for the root that it had before"), "{said}");
    let token = lab.heddle("node2", &["join-token", "worker", "-q"]);
    lab.heddle("node3", &["join", "--token", token.trim(), "10.77.0.1"]);

    // Once more, and waited for; and back while somebody is away.
    let said = lab.heddle("node1", &["cluster", "ca", "--rotate"]);
    assert!(said.starts_with("Every node has a certificate by another root."), "{said}");
    let (_, third) = root(&lab);
    assert_ne!(third, second);
    lab.do_lab(&["kill", "node3", "--daemon"]);
    lab.heddle("node1", &["cluster", "ca", "--rotate", "--detach"]);
    lab.heddle("node1", &["cluster", "ca", "--abort"]);
    lab.do_lab(&["start", "node3"]);
    lab.connected("node3");
    assert_eq!(root(&lab), (String::new(), third));
    let said = lab.refused("node1", &["cluster", "ca", "--abort"]);
    assert_eq!(said, "heddle: no other root certificate is to follow: there is nothing to abort");
}
