//! Daemons, hosts, leaders and cables fail.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, skipped, spread, wait, wait_for};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

const HOSTS: [&str; 3] = ["node1", "node2", "node3"];

fn pids(tasks: &[Value]) -> BTreeSet<(String, u64)> {
    tasks.iter().map(|t| (t["hostname"].as_str().unwrap().to_owned(), t["pid"].as_u64().unwrap())).collect()
}

fn converge(lab: &Lab, ask: &str, count: usize) -> Vec<Value> {
    wait("every replica runs and answers", || {
        let running = lab.running(ask, "web")?;
        if running.len() != count {
            return Err(format!("{} running", running.len()));
        }
        let answers = lab.ask("client", "10.77.0.1:8080", 30, false);
        if answers.failed.is_empty() && answers.tasks.len() == count {
            Ok(running)
        } else {
            Err(format!("{answers:?}"))
        }
    })
}

#[test]
fn a_workers_daemon_is_killed_and_takes_its_tasks_over_again() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-daemon", 3, 1);
    lab.create_web("web", 3, &["-p", "8080:80"]);
    let before = pids(&lab.running("node1", "web").unwrap());
    lab.do_lab(&["kill", "node2", "--daemon"]);
    // Nobody has been told anything yet, and the programs run on.
    spread(3, |count| lab.ask("client", "10.77.0.2:8080", count, false));
    lab.do_lab(&["start", "node2"]);
    wait("node2 is connected", || match lab.info("node2") {
        info if info["connected"] == true => Ok(()),
        info => Err(info.to_string()),
    });
    converge(&lab, "node1", 3);
    assert_eq!(pids(&lab.running("node1", "web").unwrap()), before, "the same processes serve");

    // The exit of a task that ended while its daemon was dead is not lost.
    lab.heddle(
        "node1",
        &[
            "service",
            "create",
            "--process",
            "--name",
            "job",
            "--restart-condition",
            "none",
            "--constraint",
            "node.hostname==node3",
            "--",
            "sh",
            "-c",
            "sleep 2; exit 7",
        ],
    );
    lab.do_lab(&["kill", "node3", "--daemon"]);
    wait("the program ended", || {
        let ended =
            lab.sh("node3", "cat /var/lib/heddle-lab/t-daemon/node3/agent/tasks/*/exit.json 2>/dev/null || true");
        if ended.contains("\"code\":7") { Ok(()) } else { Err(ended) }
    });
    lab.do_lab(&["start", "node3"]);
    wait("the exit code arrives", || {
        let tasks = lab.try_json("node1", &["service", "ps", "job", "--format", "json"])?;
        let codes: Vec<_> = tasks.as_array().into_iter().flatten().map(|t| t["exitCode"].clone()).collect();
        if codes.contains(&Value::from(7)) { Ok(()) } else { Err(tasks.to_string()) }
    });
}

#[test]
fn a_worker_host_dies_and_its_replicas_come_back_elsewhere() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-host", 3, 1);
    lab.create_web("web", 3, &["-p", "8080:80"]);
    lab.do_lab(&["kill", "node3"]);
    let down = || {
        let nodes = lab.try_json("node1", &["node", "ls", "--format", "json"])?;
        let state = nodes.as_array().unwrap().iter().find(|n| n["hostname"] == "node3").map(|n| n["state"].clone());
        if state == Some("down".into()) { Ok(()) } else { Err(format!("{state:?}")) }
    };
    wait_for(Duration::from_secs(3), "node3 is found to be down", down);
    // One second after that, no new connection goes there.
    std::thread::sleep(Duration::from_secs(1));
    let answers = lab.ask("client", "10.77.0.2:8080", 60, false);
    assert_eq!((answers.failed.as_str(), answers.nodes.contains("node3")), ("", false));
    let running = converge(&lab, "node1", 3);
    assert!(running.iter().all(|t| t["hostname"] != "node3"));
    // It comes back, without what was on it.
    lab.do_lab(&["start", "node3"]);
    wait("node3 is ready again", || down().map_or_else(|_| Ok(()), |()| Err("down".into())));
    lab.settled(&HOSTS, &["web"]);
    assert_eq!(lab.ask("client", "10.77.0.3:8080", 20, false).failed, "");
}

#[test]
fn a_daemon_that_stalls_is_down_only_as_long_as_it_does() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-stall", 2, 1);
    let state = || {
        let nodes = lab.try_json("node1", &["node", "ls", "--format", "json"])?;
        let found = nodes.as_array().into_iter().flatten().find(|n| n["hostname"] == "node2");
        found.and_then(|n| n["state"].as_str().map(str::to_owned)).ok_or_else(|| nodes.to_string())
    };
    let is = |wanted: &str| state().and_then(|seen| if seen == wanted { Ok(()) } else { Err(seen) });
    // Its connections outlive so short a time: nothing begins anew.
    lab.sh("node2", "kill -STOP $(pgrep -of 'heddle daemon')");
    wait("node2 is down", || is("down"));
    lab.sh("node2", "kill -CONT $(pgrep -of 'heddle daemon')");
    wait_for(Duration::from_secs(5), "node2 is ready again", || is("ready"));
}

#[test]
fn the_leader_of_three_managers_dies() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-leader", 3, 3);
    lab.create_web("web", 3, &["-p", "8080:80"]);
    let leader = lab.leader("node1").unwrap();
    let rest: Vec<&str> = HOSTS.into_iter().filter(|h| *h != leader).collect();
    lab.do_lab(&["kill", &leader, "--daemon"]);
    let killed = Instant::now();
    // The data plane of the others asks nobody.
    let address = rest[0].replace("node", "10.77.0.");
    assert_eq!(lab.ask("client", &format!("{address}:8080"), 20, false).failed, "");
    wait_for(Duration::from_secs(4), "writes work again", || {
        lab.try_heddle(rest[0], &["network", "create", "-d", "overlay", "after"])
    });
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    let new = wait("a new leader", || lab.leader(rest[1]));
    assert_ne!(new, leader);
    lab.do_lab(&["start", &leader]);
    wait("the old leader follows", || {
        let seen = lab.leader(&leader)?;
        if seen == lab.leader(rest[0])? { Ok(()) } else { Err(seen) }
    });
    converge(&lab, rest[0], 3);

    // Without a quorum a write is refused with a reason, and what was published goes on answering.
    lab.do_lab(&["kill", rest[0], "--daemon"]);
    lab.do_lab(&["kill", rest[1], "--daemon"]);
    let said = lab.refused(&leader, &["network", "create", "-d", "overlay", "never"]);
    assert!(said.contains("no quorum") && said.contains("of 3 managers"), "{said}");
    let address = leader.replace("node", "10.77.0.");
    assert_eq!(lab.ask("client", &format!("{address}:8080"), 20, false).failed, "");
}

#[test]
fn a_cable_is_cut_and_mended() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-cut", 3, 1);
    lab.create_web("web", 3, &["-p", "8080:80"]);
    lab.do_lab(&["cut", "node3"]);
    wait("the replica of node3 runs elsewhere", || {
        let running = lab.running("node1", "web")?;
        if running.len() == 3 && running.iter().all(|t| t["hostname"] != "node3") {
            Ok(())
        } else {
            Err(format!("{running:?}"))
        }
    });
    assert_eq!(lab.ask("client", "10.77.0.2:8080", 30, false).failed, "");
    lab.do_lab(&["heal"]);
    wait("node3 is connected", || match lab.info("node3") {
        info if info["connected"] == true => Ok(()),
        info => Err(info.to_string()),
    });
    lab.settled(&HOSTS, &["web"]);
    assert_eq!(lab.ask("client", "10.77.0.3:8080", 30, false).failed, "");
    // Only between two hosts.
    lab.do_lab(&["cut", "node2:node3"]);
    assert_ne!(lab.exec("node2", &["heddle", "whoami", "--ask", "10.77.0.3:2377"]).status.code(), Some(0));
    assert_eq!(lab.ask("client", "10.77.0.1:8080", 10, false).failed, "");
    lab.do_lab(&["heal"]);
    assert_eq!(lab.ask("client", "10.77.0.2:8080", 30, false).failed, "");
}

#[test]
fn every_daemon_restarts_at_once_and_not_one_object_differs() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-restart", 3, 3);
    lab.heddle("node1", &["network", "create", "-d", "overlay", "front"]);
    lab.create_web("web", 3, &["-p", "8080:80", "--network", "front"]);
    lab.settled(&HOSTS, &["web"]);
    let objects = |host: &str| -> Result<Vec<Value>, String> {
        let mut all = vec![
            lab.try_json(host, &["service", "inspect", "web"])?,
            lab.try_json(host, &["network", "inspect", "-v", "front", "ingress"])?,
            lab.try_json(host, &["service", "ps", "web", "--format", "json"])?,
        ];
        for network in all[1].as_array_mut().into_iter().flatten() {
            // What each host alone knows, of its own.
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
    };
    let kernel = |host: &str| {
        lab.sh(host, "ls /run/netns | sort; ip -o link show | grep -o 'hd[a-z0-9]*\\|heddle_gw' | sort; for n in $(ls /run/netns | sort); do ip netns exec $n nft list tables; ip -n $n route; done")
    };
    let before = objects("node1").unwrap();
    let kernels: Vec<_> = HOSTS.iter().map(|h| kernel(h)).collect();
    for host in HOSTS {
        lab.do_lab(&["kill", host, "--daemon"]);
    }
    for host in HOSTS {
        lab.do_lab(&["start", host]);
    }
    wait("everything is as it was", || {
        let after = objects("node2")?;
        let differs = after.iter().zip(&before).find(|(a, b)| a != b);
        differs.map_or(Ok(()), |(a, b)| Err(format!("{a}\n  instead of\n{b}")))
    });
    lab.settled(&HOSTS, &["web"]);
    let after: Vec<_> = HOSTS.iter().map(|h| kernel(h)).collect();
    assert_eq!(after, kernels);
    assert_eq!(lab.ask("client", "10.77.0.3:8080", 30, false).failed, "");
}
