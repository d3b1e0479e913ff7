//! What managers write is of no use to who takes their disks, and with autolock not even to who takes whole hosts.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{HOSTS, Lab, program, skipped, wait};
use serde_json::Value;
use std::fs;

const MARK: &str = "rest-marker-6f1d20c7";
const PEM: &str = "PRIVATE KEY-----";
const REFUSAL: &str = "heddle: this manager is locked: run `heddle unlock`";

fn state_key(lab: &Lab, host: &str) -> Option<String> {
    fs::read_to_string(lab.state_dir(host) + "/certificates/state.key").ok()
}

/// Waits until a host's state key is kept so.
fn kept(lab: &Lab, host: &str, how: &str) -> String {
    wait(&format!("the state key of {host} is {how}"), || match state_key(lab, host) {
        Some(text) if text.starts_with(how) => Ok(text),
        other => Err(format!("{other:?}")),
    })
}

fn restart(lab: &Lab, host: &str) {
    lab.do_lab(&["kill", host, "--daemon"]);
    lab.do_lab(&["start", host]);
}

fn is_locked(lab: &Lab, host: &str) {
    assert_eq!(lab.refused(host, &["node", "ls"]), REFUSAL);
    assert_eq!(lab.refused(host, &["cluster", "status"]), REFUSAL);
    assert_eq!(lab.info(host)["locked"], true);
}

/// `heddle unlock` with this on its standard input: what it says last, and whether it was done.
fn unlock(lab: &Lab, host: &str, key: &str) -> (bool, String) {
    let script = format!("echo '{key}' | {} unlock", program().display());
    let output = lab.exec(host, &["sh", "-c", &script]);
    let text =
        String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr }).into_owned();
    (output.status.success(), text.lines().last().unwrap_or_default().to_owned())
}

fn unlocks(lab: &Lab, host: &str, key: &str) {
    let (done, said) = unlock(lab, host, key);
    assert!(done && said.ends_with("is unlocked."), "{said}");
}

fn serves(lab: &Lab, host: &str) {
    wait(&format!("{host} serves"), || lab.try_heddle(host, &["node", "ls"]).map(drop));
    lab.connected(host);
}

/// The line of a command's output that is an unlock key.
fn key_in(output: &str) -> String {
    let mut keys = output.lines().map(str::trim).filter(|l| l.starts_with("HDLKEY-1-"));
    let key = keys.next().unwrap_or_else(|| panic!("no key in {output}")).to_owned();
    assert_eq!((key.len(), keys.next()), ("HDLKEY-1-".len() + 43, None));
    key
}

/// Host and pid of each of three programs.
fn programs(lab: &Lab) -> Vec<(String, String)> {
    let place = |t: &Value| (t["hostname"].as_str().unwrap_or_default().to_owned(), t["pid"].to_string());
    wait("three run", || match lab.running("node1", "web")? {
        all if all.len() == 3 => Ok(all.iter().map(place).collect()),
        all => Err(format!("{all:?}")),
    })
}

/// Those of them that should be there on a host still are.
fn live_on(lab: &Lab, host: &str, programs: &[(String, String)]) {
    for (_, pid) in programs.iter().filter(|(h, _)| h == host) {
        lab.sh(host, &format!("test -d /proc/{pid}"));
    }
}

fn answers(lab: &Lab, at: &str) {
    wait(&format!("{at} answers"), || match lab.ask("client", at, 10, false).failed {
        failed if failed.is_empty() => Ok(()),
        failed => Err(failed),
    });
}

#[test]
fn nothing_of_the_cluster_is_in_clear() {
    if skipped() {
        return;
    }
    let lab = Lab::up("rest-clear", 3, 3);
    let token = format!("TOKEN={MARK}");
    let place = ["--constraint", "node.labels.nowhere==yes", "--detach"];
    let head = ["service", "create", "--process", "--name", "secret", "--env", &token];
    lab.heddle("node1", &[&head[..], &place, &["--", "sleep", "1000"]].concat());
    // It runs nowhere: agents keep what their tasks are started with in clear.
    for host in HOSTS {
        wait("every manager knows it", || match lab.try_heddle(host, &["service", "inspect", "secret"])? {
            text if text.contains(MARK) => Ok(()),
            text => Err(text),
        });
        assert_eq!(lab.holding(host, MARK), Vec::<String>::new(), "{host}");
        // Of the node, not of the cluster: it is the control that files are really searched.
        assert_eq!(lab.holding(host, PEM), ["certificates/node.key"], "{host}");
        assert!(kept(&lab, host, "clear").ends_with('\n'));
    }

    // The whole state at once, as a raft snapshot.
    for host in ["node2", "node3"] {
        lab.do_lab(&["kill", host, "--daemon"]);
    }
    wait("the majority is lost", || lab.try_heddle("node1", &["init", "--force-new-cluster"]));
    assert!(lab.heddle("node1", &["service", "inspect", "secret"]).contains(MARK));
    assert_eq!(lab.holding("node1", MARK), Vec::<String>::new());
    assert_eq!(lab.holding("node1", PEM), ["certificates/node.key"]);
    restart(&lab, "node1");
    wait("it reads it", || match lab.try_heddle("node1", &["service", "inspect", "secret"])? {
        text if text.contains(MARK) => Ok(()),
        text => Err(text),
    });

    // A backup has all of it, autolock or not.
    let file = format!("{}/backup", lab.state_dir("node1"));
    lab.heddle("node1", &["cluster", "update", "--autolock"]);
    let key = key_in(&lab.heddle("node1", &["cluster", "unlock-key"]));
    kept(&lab, "node1", "wrapped");
    lab.heddle("node1", &["cluster", "backup", &file]);
    lab.heddle("node1", &["leave", "--force"]);
    lab.heddle("node1", &["cluster", "restore", &file, "--advertise-addr", "eth0"]);
    fs::remove_file(&file).unwrap();
    assert!(lab.heddle("node1", &["service", "inspect", "secret"]).contains(MARK));
    assert!(state_key(&lab, "node1").unwrap().starts_with("wrapped"), "from the first moment on");
    for text in [MARK, PEM] {
        assert_eq!(lab.holding("node1", text), Vec::<String>::new());
    }
    restart(&lab, "node1");
    is_locked(&lab, "node1");
    unlocks(&lab, "node1", &key);
    serves(&lab, "node1");
}

#[test]
fn a_locked_manager_waits_for_its_key_and_nothing_else_does() {
    if skipped() {
        return;
    }
    let lab = Lab::bare("rest-lock", 3);
    let made = lab.heddle("node1", &["init", "--advertise-addr", "eth0", "--autolock"]);
    let key = key_in(&made);
    assert_eq!(key_in(&lab.heddle("node1", &["cluster", "unlock-key"])), key);
    let token = lab.heddle("node1", &["join-token", "manager", "-q"]);
    for host in ["node2", "node3"] {
        lab.heddle(host, &["join", "--advertise-addr", "eth0", "--token", token.trim(), "10.77.0.1"]);
    }
    for host in HOSTS {
        kept(&lab, host, "wrapped");
        assert_eq!(lab.holding(host, PEM), Vec::<String>::new(), "{host}");
    }
    lab.create_web("web", 3, &["-p", "8080:80"]);
    let all = programs(&lab);

    // One of three: its programs and its data plane go on, and it tells nothing. To the others it is a host that is silent.
    lab.do_lab(&["kill", "node2", "--daemon"]);
    lab.do_lab_with(&["start", "node2"], &[("HEDDLE_METRICS_ADDR", "127.0.0.1:9464")]);
    is_locked(&lab, "node2");
    wait("its agent goes on", || match lab.info("node2") {
        info if info["tasksRunning"] == 1 => Ok(()),
        info => Err(info.to_string()),
    });
    // It mends what somebody breaks meanwhile.
    lab.sh("node2", "nft flush ruleset");
    let ask = "exec 3<>/dev/tcp/127.0.0.1/9464 && printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3";
    let ready = String::from_utf8(lab.exec("node2", &["bash", "-c", ask]).stdout).unwrap();
    assert!(ready.contains("503 Service Unavailable") && ready.contains("manager: this manager is locked"), "{ready}");
    answers(&lab, "10.77.0.2:8080");
    for (args, wanted) in [
        (&["leave"][..], REFUSAL),
        (&["init", "--force-new-cluster"], REFUSAL),
        (&["init"], "already: run `heddle leave` first"),
        (&["service", "ls", "--stale"], REFUSAL),
    ] {
        let said = lab.refused("node2", args);
        assert!(said.ends_with(wanted), "{args:?}: {said}");
    }
    let other = format!("HDLKEY-1-{}", "A".repeat(43));
    for (wrong, wanted) in [
        (other.as_str(), "this is not the key that this manager was locked with: it stays locked"),
        ("HDLKEY-1-short", "copy it whole from `heddle cluster unlock-key`"),
        ("", "copy it whole from `heddle cluster unlock-key`"),
    ] {
        let (done, said) = unlock(&lab, "node2", wrong);
        assert!(!done && said.ends_with(wanted), "{wrong:?}: {said}");
        is_locked(&lab, "node2");
    }
    live_on(&lab, "node2", &all);
    let (done, said) = unlock(&lab, "node1", &key);
    assert!(!done && said == "heddle: this host has no manager that is locked", "{said}");
    unlocks(&lab, "node2", &key);
    serves(&lab, "node2");

    // All of them at once: nobody is left to make programs anew elsewhere.
    let all = programs(&lab);
    HOSTS.iter().for_each(|host| lab.do_lab(&["kill", host, "--daemon"]));
    HOSTS.iter().for_each(|host| lab.do_lab(&["start", host]));
    HOSTS.iter().for_each(|host| is_locked(&lab, host));
    HOSTS.iter().for_each(|host| live_on(&lab, host, &all));
    answers(&lab, "10.77.0.1:8080");
    unlocks(&lab, "node1", &key);
    wait("one of three has no majority", || match lab.try_heddle("node1", &["service", "scale", "web=3"]) {
        Err(said) if said.contains("quorum") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    unlocks(&lab, "node3", &key);
    serves(&lab, "node1");
    unlocks(&lab, "node2", &key);
    HOSTS.iter().for_each(|host| serves(&lab, host));
    programs(&lab);

    // Who has lost the key takes the host out.
    restart(&lab, "node3");
    is_locked(&lab, "node3");
    lab.heddle("node3", &["leave", "--force"]);
    assert_eq!(lab.info("node3")["inCluster"], false);
    assert_eq!(state_key(&lab, "node3"), None);
}

#[test]
fn keys_change_and_managers_that_were_away_follow() {
    if skipped() {
        return;
    }
    let lab = Lab::up("rest-rotate", 3, 3);
    let off = lab.refused("node1", &["cluster", "unlock-key"]);
    assert!(off.ends_with("turn it on with `heddle cluster update --autolock=true`"), "{off}");
    let first = key_in(&lab.heddle("node1", &["cluster", "update", "--autolock=true"]));
    assert_eq!(key_in(&lab.heddle("node2", &["cluster", "update", "--autolock=true"])), first, "it is on already");
    let wrapped: Vec<String> = HOSTS.iter().map(|host| kept(&lab, host, "wrapped")).collect();

    // Who is away when the key changes is locked with the one of before.
    lab.do_lab(&["kill", "node3", "--daemon"]);
    let second =
        key_in(&wait("two of three write", || lab.try_heddle("node1", &["cluster", "unlock-key", "--rotate", "-q"])));
    assert_ne!(second, first);
    for (host, before) in HOSTS.iter().zip(&wrapped).take(2) {
        wait("it is locked anew", || match state_key(&lab, host) {
            Some(text) if text != *before => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    lab.do_lab(&["start", "node3"]);
    is_locked(&lab, "node3");
    assert!(!unlock(&lab, "node3", &second).0);
    unlocks(&lab, "node3", &first);
    wait("it hears of the new one", || match state_key(&lab, "node3") {
        Some(text) if text != wrapped[2] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    restart(&lab, "node3");
    assert!(!unlock(&lab, "node3", &first).0);
    unlocks(&lab, "node3", &second);
    serves(&lab, "node3");

    // A worker has nothing to lock, and what becomes a manager again has.
    lab.heddle("node1", &["node", "demote", "node3"]);
    wait("its key is gone", || match state_key(&lab, "node3") {
        None => Ok(()),
        other => Err(format!("{other:?}")),
    });
    restart(&lab, "node3");
    lab.connected("node3");
    lab.heddle("node1", &["node", "promote", "node3"]);
    kept(&lab, "node3", "wrapped");
    assert_eq!(lab.holding("node3", PEM), Vec::<String>::new());

    // Off again: they start by themselves, also who was away.
    wait(
        "it votes",
        || match lab.try_json("node1", &["cluster", "status", "--format", "json"])?["quorum"]["reachable"] {
            ref reachable if *reachable == 3 => Ok(()),
            ref other => Err(other.to_string()),
        },
    );
    lab.do_lab(&["kill", "node3", "--daemon"]);
    let said = wait("two write", || lab.try_heddle("node1", &["cluster", "update", "--autolock=false"]));
    assert_eq!(said, "Managers start unlocked.\n");
    for host in ["node1", "node2"] {
        kept(&lab, host, "clear");
    }
    lab.do_lab(&["start", "node3"]);
    unlocks(&lab, "node3", &second);
    kept(&lab, "node3", "clear");
    for host in HOSTS {
        restart(&lab, host);
        serves(&lab, host);
    }
}
