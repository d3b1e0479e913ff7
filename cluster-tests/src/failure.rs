//! What has to hold when daemons, hosts, leaders and cables fail, on three hosts that run nothing yet.

use crate::{Answers, HOSTS, Lab, spread, wait_for};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

const CLOSED_PORT: u16 = 99;

fn pids(tasks: &[Value]) -> BTreeSet<(String, String)> {
    tasks.iter().map(|t| (t["hostname"].to_string(), t["pid"].to_string())).collect()
}

fn entry(host: &str) -> String {
    format!("{}:8080", host.replace("node", "10.77.0."))
}

fn publish_web(lab: &Lab) {
    lab.create_web("web", 3, &["-p", "8080:80"]);
}

fn answered(lab: &Lab, by: &str, count: u32) -> Answers {
    let answers = lab.ask("client", &entry(by), count, false);
    assert_eq!(answers.failed, "", "{by}: {answers:?}");
    answers
}

/// Waits until so many replicas run, none of them on `without`, and all of them answer.
fn converge(lab: &Lab, seen_by: &str, count: usize, without: Option<&str>) -> Vec<Value> {
    lab.wait("every replica runs and answers", || {
        let running = lab.running(seen_by, "web")?;
        let strays = running.iter().filter(|t| without.is_some_and(|host| t["hostname"] == host)).count();
        if running.len() != count || strays > 0 {
            return Err(format!("{} running, {strays} of them on {without:?}", running.len()));
        }
        let answers = lab.ask("client", &entry(seen_by), 30, false);
        if answers.failed.is_empty() && answers.tasks.len() == count {
            Ok(running)
        } else {
            Err(format!("{answers:?}"))
        }
    })
}

fn becomes(lab: &Lab, host: &str, limit: Duration, state: &str) {
    wait_for(limit, &format!("{host} is {state}"), || {
        lab.node_state("node1", host).and_then(|seen| if seen == state { Ok(()) } else { Err(seen) })
    });
}

pub fn a_workers_daemon_is_killed_and_takes_its_tasks_over_again(lab: &Lab) {
    publish_web(lab);
    let before = pids(&lab.running("node1", "web").expect("web runs"));
    lab.do_lab(&["kill", "node2", "--daemon"]);
    // Nobody has been told anything yet, and the programs run on.
    spread(3, |count| lab.ask("client", &entry("node2"), count, false));
    lab.do_lab(&["start", "node2"]);
    lab.connected("node2");
    converge(lab, "node1", 3, None);
    assert_eq!(pids(&lab.running("node1", "web").expect("web runs")), before, "the same processes serve");

    // The exit of a task that ended while its daemon was dead is not lost.
    let job = ["service", "create", "--process", "--name", "job", "--restart-condition", "none", "--detach"];
    let place = [
        "--constraint",
        "node.hostname==node3",
        "--",
        "sh",
        "-c",
        "until test -e /tmp/end; do sleep 0.1; done; exit 7",
    ];
    lab.heddle("node1", &[&job[..], &place].concat());
    let task = lab.wait("the job runs", || lab.running("node1", "job")?.pop().ok_or_else(|| "not yet".into()));
    lab.do_lab(&["kill", "node3", "--daemon"]);
    assert!(lab.in_task(&task, "touch /tmp/end").status.success());
    lab.wait("the program ended", || {
        let ended = lab.sh("node3", &format!("cat {}/agent/tasks/*/exit.json || true", lab.state_dir("node3")));
        if ended.contains("\"code\":7") { Ok(()) } else { Err(ended) }
    });
    lab.sh("node3", "rm -f /tmp/end");
    lab.do_lab(&["start", "node3"]);
    lab.wait("the exit code arrives", || {
        let tasks = lab.try_json("node1", &["service", "ps", "job", "--format", "json"])?;
        let codes: Vec<_> = tasks.as_array().into_iter().flatten().map(|t| t["exitCode"].clone()).collect();
        if codes.contains(&Value::from(7)) { Ok(()) } else { Err(tasks.to_string()) }
    });
}

pub fn a_worker_host_dies_and_its_replicas_come_back_elsewhere(lab: &Lab) {
    publish_web(lab);
    lab.do_lab(&["kill", "node3"]);
    becomes(lab, "node3", lab.at_most(Duration::from_secs(3)), "down");
    // One second after that, no new connection goes there.
    let found = Instant::now();
    thread::sleep(Duration::from_secs(1));
    wait_for(lab.at_most(Duration::ZERO), "no new connection goes to node3", || {
        let answers = lab.ask("client", &entry("node2"), 12, false);
        if answers.failed.is_empty() { Ok(()) } else { Err(format!("{answers:?}")) }
    });
    println!("no new connection to a dead host, looked at {:.1?} after it was found to be down", found.elapsed());
    assert!(!answered(lab, "node2", 60).nodes.contains("node3"));
    converge(lab, "node1", 3, Some("node3"));
    // It comes back, without what was on it.
    lab.do_lab(&["start", "node3"]);
    becomes(lab, "node3", lab.limit, "ready");
    lab.settled(&HOSTS, &["web"]);
    answered(lab, "node3", 20);
}

pub fn the_leader_of_three_managers_dies(lab: &Lab) {
    publish_web(lab);
    let leader = lab.leader("node1").expect("a leader");
    let rest: Vec<&str> = HOSTS.into_iter().filter(|h| *h != leader).collect();
    // The data plane of the others asks nobody meanwhile.
    let answers = lab.meanwhile(&entry(rest[0]), || {
        lab.do_lab(&["kill", &leader, "--daemon"]);
        let killed = Instant::now();
        wait_for(lab.at_most(Duration::from_secs(4)), "writes work again", || {
            lab.try_heddle(rest[0], &["network", "create", "-d", "overlay", "after"])
        });
        println!("writes work again {:.1?} after the leader was killed", killed.elapsed());
        let new = lab.wait("a new leader", || lab.leader(rest[1]));
        assert_ne!(new, leader);
        lab.do_lab(&["start", &leader]);
        lab.wait("the old leader follows", || {
            let seen = lab.leader(&leader)?;
            if seen == lab.leader(rest[0])? { Ok(()) } else { Err(seen) }
        });
    });
    println!("{} requests while the leader was killed and came back", answers.tasks.values().sum::<u32>());
    assert_eq!(answers.failed, "");
    converge(lab, rest[0], 3, None);

    // Without a quorum a write is refused with a reason, and what was published goes on answering.
    for host in &rest {
        lab.do_lab(&["kill", host, "--daemon"]);
    }
    let said = lab.refused(&leader, &["network", "create", "-d", "overlay", "never"]);
    assert!(said.contains("no quorum") && said.contains("of 3 managers"), "{said}");
    answered(lab, &leader, 20);
    for host in &rest {
        lab.do_lab(&["start", host]);
    }
    lab.settled(&HOSTS, &["web"]);
}

pub fn a_cable_is_cut_and_mended(lab: &Lab) {
    publish_web(lab);
    lab.do_lab(&["cut", "node3"]);
    converge(lab, "node1", 3, Some("node3"));
    answered(lab, "node2", 30);
    lab.do_lab(&["heal"]);
    lab.connected("node3");
    lab.settled(&HOSTS, &["web"]);
    answered(lab, "node3", 30);
    // Only between two hosts.
    // Nobody listens there, which only the host itself can tell.
    let reaches =
        |from: &str, to: &str| lab.ask(from, &format!("{to}:{CLOSED_PORT}"), 1, false).failed.contains("refused");
    lab.do_lab(&["cut", "node2:node3"]);
    assert!(!reaches("node2", "10.77.0.3") && reaches("node2", "10.77.0.1") && reaches("node1", "10.77.0.3"));
    answered(lab, "node1", 10);
    lab.do_lab(&["heal"]);
    assert!(reaches("node2", "10.77.0.3"));
    answered(lab, "node2", 30);
}

/// What the managers have, as a host tells it, without what each host alone knows.
fn objects(lab: &Lab, host: &str) -> Result<Vec<Value>, String> {
    let mut all = vec![
        lab.try_json(host, &["service", "inspect", "web"])?,
        lab.try_json(host, &["network", "inspect", "-v", "front", "ingress"])?,
        lab.try_json(host, &["service", "ps", "web", "--format", "json"])?,
    ];
    for network in all[1].as_array_mut().into_iter().flatten() {
        network["Containers"] = Value::Null;
        for service in network["Services"].as_object_mut().into_iter().flat_map(|all| all.values_mut()) {
            service["LocalLBIndex"] = Value::Null;
        }
    }
    let mut nodes = lab.try_json(host, &["node", "ls", "--format", "json"])?;
    for node in nodes.as_array_mut().into_iter().flatten() {
        // Who leads may change, and with it when each node was last seen to be ready.
        ["leader", "version"].iter().for_each(|key| node[key] = Value::Null);
        // Found out anew every second.
        node["description"]["listening"] = Value::Null;
    }
    all.push(nodes);
    Ok(all)
}

pub fn every_daemon_restarts_at_once_and_not_one_object_differs(lab: &Lab) {
    lab.heddle("node1", &["network", "create", "-d", "overlay", "front"]);
    lab.create_web("web", 3, &["-p", "8080:80", "--network", "front"]);
    lab.settled(&HOSTS, &["web"]);
    let kernels = || {
        HOSTS.map(|host| {
            lab.sh(host, "ls /run/netns | sort; ip -o link show | grep -o 'hd[a-z0-9]*\\|heddle_gw' | sort; for n in $(ls /run/netns | sort); do ip netns exec $n nft list tables; ip -n $n route; done")
        })
    };
    let (before, was) = (objects(lab, "node1").expect("they are told"), kernels());
    for action in [&["kill", "--daemon"][..], &["start"]] {
        thread::scope(|scope| {
            for host in HOSTS {
                scope.spawn(move || lab.do_lab(&[action, &[host]].concat()));
            }
        });
    }
    lab.wait("everything is as it was", || {
        let after = objects(lab, "node2")?;
        let differs = after.iter().zip(&before).find(|(a, b)| a != b);
        differs.map_or(Ok(()), |(a, b)| Err(format!("{a}\n  instead of\n{b}")))
    });
    lab.settled(&HOSTS, &["web"]);
    assert_eq!(kernels(), was);
    answered(lab, "node3", 30);
}
