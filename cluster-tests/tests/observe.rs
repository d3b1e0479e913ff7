//! What a cluster tells of itself: numbers, readiness, how its managers are, and what becomes of it.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{HOSTS, LIMIT, Lab, skipped, wait};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const ADDR: (&str, &str) = ("HEDDLE_METRICS_ADDR", "127.0.0.1:9464");

/// Status line and body of what a host's daemon answers.
fn get(lab: &Lab, host: &str, path: &str) -> Result<(String, String), String> {
    let ask = format!("exec 3<>/dev/tcp/127.0.0.1/9464 && printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3");
    let output = lab.exec(host, &["bash", "-c", &ask]);
    let text = String::from_utf8(output.stdout).unwrap();
    let (head, body) =
        text.split_once("\r\n\r\n").ok_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()))
}

/// Every sample by its name and labels, as the text format has it; each has a kind and a help text.
fn numbers(lab: &Lab, host: &str) -> BTreeMap<String, f64> {
    let (status, text) = get(lab, host, "/metrics").unwrap();
    assert!(status.ends_with("200 OK"), "{status}");
    let named = |what: &str| -> BTreeSet<&str> {
        text.lines().filter_map(|l| l.strip_prefix(what)?.trim_start().split(' ').next()).collect()
    };
    let (types, helps) = (named("# TYPE"), named("# HELP"));
    assert_eq!(types, helps, "every number is explained");
    let samples = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let family = name.split('{').next().unwrap();
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| family.strip_suffix(end));
        assert!(types.contains(family) || histogram.is_some_and(|h| types.contains(h)), "{line} has no kind");
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
    };
    samples.map(sample).collect()
}

fn sum(lab: &Lab, name: &str) -> f64 {
    HOSTS.iter().map(|host| numbers(lab, host).get(name).copied().unwrap_or(0.0)).sum()
}

fn sums_to(lab: &Lab, name: &str, want: f64) {
    wait(&format!("{name} is {want}"), || match sum(lab, name) {
        sum if sum == want => Ok(()),
        sum => Err(sum.to_string()),
    });
}

fn ready(lab: &Lab, host: &str, want: bool) -> String {
    wait(&format!("{host} is ready: {want}"), || {
        let (status, body) = get(lab, host, "/readyz")?;
        let code = if want { "200 OK" } else { "503 Service Unavailable" };
        if status.ends_with(code) { Ok(body) } else { Err(format!("{status}: {body}")) }
    })
}

fn status(lab: &Lab, host: &str) -> Result<Value, String> {
    lab.try_json(host, &["cluster", "status", "--format", "json"])
}

#[test]
fn daemons_tell_numbers_and_whether_they_are_ready() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-observe-numbers", 3, 3);
    assert!(get(&lab, "node1", "/healthz").is_err(), "nobody listens who was not asked to");
    HOSTS.iter().for_each(|host| lab.do_lab(&["kill", host, "--daemon"]));
    HOSTS.iter().for_each(|host| lab.do_lab_with(&["start", host], &[ADDR]));
    HOSTS.iter().for_each(|host| drop(ready(&lab, host, true)));
    lab.heddle("node1", &["network", "create", "-d", "overlay", "front"]);
    lab.create_web("web", 2, &["--network", "front"]);
    lab.settled(&HOSTS, &["web"]);

    sums_to(&lab, "heddle_raft_is_leader", 1.0);
    sums_to(&lab, "heddle_raft_has_leader", 3.0);
    sums_to(&lab, "heddle_agent_tasks_running", 2.0);
    sums_to(&lab, "heddle_store_objects{kind=\"service\"}", 3.0);
    sums_to(&lab, "heddle_store_objects{kind=\"task\"}", 6.0);
    sums_to(&lab, "heddle_nodes{state=\"ready\"}", 9.0);
    sums_to(&lab, "heddle_dispatcher_sessions", 3.0);
    let leader = lab.leader("node1").unwrap();
    let told = numbers(&lab, &leader);
    let at_least = |name: &str, least: f64| assert!(told.get(name).is_some_and(|n| *n >= least), "{name}: {told:?}");
    at_least("heddle_raft_term", 1.0);
    at_least("heddle_raft_voters", 3.0);
    at_least("heddle_loop_passes_total{loop=\"allocator\",result=\"ok\"}", 1.0);
    at_least("heddle_loop_passes_total{loop=\"dataplane\",result=\"ok\"}", 1.0);
    at_least("heddle_loop_pass_duration_seconds_count{loop=\"scheduler\"}", 1.0);
    at_least("heddle_loop_last_success_timestamp_seconds{loop=\"dataplane\"}", 1.7e9);
    at_least("heddle_dispatcher_ack_latency_seconds_count", 1.0);
    at_least("heddle_certificate_expiry_timestamp_seconds", 1.7e9);
    let applied = told["heddle_raft_last_applied_index"];
    assert!(
        applied <= told["heddle_raft_committed_index"] && applied <= told["heddle_raft_last_log_index"],
        "{told:?}"
    );
    assert_eq!(told["heddle_dataplane_failing"], 0.0);

    // Names are asked for in a task: one that there is, and one that there is not.
    let task = lab.running("node1", "web").unwrap().remove(0);
    let host = task["hostname"].as_str().unwrap().to_owned();
    lab.in_task(&task, "getent hosts web; getent hosts nobody.invalid");
    let told_there = numbers(&lab, &host);
    let asked = |result: &str| told_there.get(&format!("heddle_dns_queries_total{{result=\"{result}\"}}")).copied();
    assert!(asked("answered") >= Some(1.0), "{told_there:?}");

    // Somebody takes away a table of ours.
    let drift = |host: &str| numbers(&lab, host)["heddle_dataplane_drift_total"];
    let before = drift("node1");
    lab.sh("node1", "nft delete table $(nft list tables | grep -m1 heddle | cut -d' ' -f2-)");
    wait("drift is found", || if drift("node1") > before { Ok(()) } else { Err(drift("node1").to_string()) });

    // A manager alone can neither read nor write; its agent has lost the leader too.
    ["node2", "node3"].iter().for_each(|host| lab.do_lab(&["kill", host, "--daemon"]));
    let said = ready(&lab, "node1", false);
    assert!(said.contains("failed  manager: "), "{said}");
    assert_eq!(get(&lab, "node1", "/healthz").unwrap().1, "ok\n");
    let alone = wait("it sees that it is alone", || {
        let told = status(&lab, "node1")?;
        if told["quorum"]["reachable"] == 1 { Ok(told) } else { Err(told.to_string()) }
    });
    assert_eq!(alone["leader"], Value::Null, "{alone}");
    let sentence = "1 of 3 managers can be reached and 2 are needed: nothing can be written until more are back.";
    assert_eq!(alone["quorum"]["sentence"], sentence);
    ["node2", "node3"].iter().for_each(|host| lab.do_lab_with(&["start", host], &[ADDR]));
    HOSTS.iter().for_each(|host| drop(ready(&lab, host, true)));
}

fn events(lab: &Lab, host: &str, since: u64, until: u64) -> Vec<String> {
    let (since, until) = (since.to_string(), until.to_string());
    let told = lab.heddle(host, &["events", "--since", &since, "--until", &until, "--format", "json"]);
    told.lines().map(str::to_owned).collect()
}

fn revision(line: &str) -> u64 {
    serde_json::from_str::<Value>(line).unwrap()["revision"].as_u64().unwrap()
}

#[test]
fn a_lost_leader_is_seen_and_no_change_is_missed_or_told_twice() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-observe-events", 3, 3);
    lab.create_web("web", 2, &[]);
    let whole = status(&lab, "node2").unwrap();
    assert_eq!(whole["quorum"]["sentence"], "3 of 3 managers can be reached: 1 more loss can be survived.");
    let leader = lab.leader("node1").unwrap();
    let others: Vec<&str> = HOSTS.into_iter().filter(|host| *host != leader).collect();

    // One watches all the while, at a follower.
    let watch = ["events", "--since", "0", "--filter", "kind=service", "--format", "json"];
    let watched = lab.lines(others[0], &watch);

    let reached = whole["revision"].as_u64().unwrap();
    let first = events(&lab, others[1], 0, reached);
    assert_eq!(events(&lab, &leader, 0, reached), first, "every manager tells the same");
    for (kind, what) in [("network", "created"), ("node", "updated"), ("service", "created"), ("task", "updated")] {
        let told =
            first.iter().any(|l| l.contains(&format!("\"kind\":\"{kind}\"")) && l.contains(&format!("\"{what}\"")));
        assert!(told, "{kind} {what}: {first:#?}");
    }
    lab.do_lab(&["kill", &leader]);
    let told = wait("the loss is seen", || {
        let told = status(&lab, others[0])?;
        let lost =
            told["managers"].as_array().unwrap().iter().any(|m| m["hostname"] == *leader && m["reachable"] == false);
        if lost && !told["leader"].is_null() { Ok(told) } else { Err(told.to_string()) }
    });
    assert_eq!(told["quorum"]["sentence"], "2 of 3 managers can be reached: no loss can be survived.");
    lab.heddle(others[0], &["service", "scale", "web=4"]);
    lab.heddle(others[0], &["service", "rm", "web"]);

    // Resumed elsewhere, at what the new leader and its follower tell.
    let last = revision(first.last().unwrap());
    let end = status(&lab, others[0]).unwrap()["revision"].as_u64().unwrap();
    let resumed = [first, events(&lab, others[0], last, end)].concat();
    assert_eq!(resumed, events(&lab, others[1], 0, end));
    let revisions: Vec<u64> = resumed.iter().map(|l| revision(l)).collect();
    assert!(revisions.is_sorted(), "{revisions:?}");
    assert_eq!(resumed.iter().collect::<BTreeSet<_>>().len(), resumed.len(), "nothing is told twice");
    let services: Vec<_> = resumed.iter().filter(|l| l.contains("\"kind\":\"service\"")).cloned().collect();
    assert!(services.iter().any(|l| l.contains("replicas 2 -> 4")), "{services:#?}");

    // The one that watched all the while saw the same, without being asked anew.
    let seen: Vec<String> = services.iter().map_while(|_| watched.recv_timeout(LIMIT).ok()).collect();
    assert_eq!(seen, services);
}

#[test]
fn what_cannot_be_watched_is_refused_in_a_sentence() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-observe-refused", 2, 1);
    for (args, said) in [
        (
            &["events", "--since", "9", "--until", "3"][..],
            "heddle: --until 3 is before --since 9: use a later revision",
        ),
        (&["events", "--filter", "colour=red"], "heddle: filter \"colour\": use kind, name, id, action"),
        (
            &["events", "--filter", "kind=disk"],
            "heddle: kind \"disk\" is unknown: use cluster, node, network, service, task, connection",
        ),
    ] {
        assert_eq!(lab.refused("node1", args), said);
    }
    for args in [&["events"][..], &["cluster", "status"]] {
        assert_eq!(lab.refused("node2", args), "heddle: this node is a worker: run the command on a manager");
    }
}
