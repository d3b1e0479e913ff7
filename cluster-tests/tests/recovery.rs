//! What is left of a cluster goes on: managers that are lost, damaged, wiped, elsewhere, and all of them made again from a file.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{HOSTS, Lab, program, skipped, wait, wait_for};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::PermissionsExt,
    process::Output,
    time::{Duration, Instant},
};

/// "About a second", on a machine that does other things too.
const AT_ONCE: Duration = Duration::from_secs(4);

fn nodes(lab: &Lab, ask: &str) -> Result<Vec<Value>, String> {
    Ok(lab.try_json(ask, &["node", "ls", "--format", "json"])?.as_array().cloned().unwrap_or_default())
}

/// Role and state of each node, by host name.
fn standing(lab: &Lab, ask: &str) -> Result<BTreeMap<String, String>, String> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    Ok(nodes(lab, ask)?
        .iter()
        .map(|n| (text(&n["hostname"]), format!("{} {}", text(&n["role"]), text(&n["state"]))))
        .collect())
}

fn stands(lab: &Lab, ask: &str, wanted: [&str; 3]) {
    let wanted: BTreeMap<_, _> = HOSTS.iter().zip(wanted).map(|(h, w)| ((*h).to_owned(), w.to_owned())).collect();
    wait(&format!("{wanted:?}"), || match standing(lab, ask)? {
        seen if seen == wanted => Ok(()),
        seen => Err(format!("{seen:?}")),
    });
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (text(&output.stdout), text(&output.stderr))
}

fn stale(lab: &Lab, host: &str, args: &[&str]) -> (String, String) {
    let output = lab.exec(host, &[&["heddle", "--stale"], args].concat());
    assert!(output.status.success(), "{args:?}: {:?}", said(&output));
    said(&output)
}

/// A manager follows a leader, by its own word.
fn follows(lab: &Lab, host: &str) {
    wait(&format!("{host} is a manager that follows"), || {
        lab.try_heddle(host, &["service", "ls"])?;
        let (_, age) = stale(lab, host, &["node", "ls"]);
        let (_, ago) = age.split_once(", ").unwrap();
        if ago.starts_with("0.") && ago.contains("leader node") { Ok(()) } else { Err(age) }
    });
}

fn answers(lab: &Lab, at: &str) {
    wait(&format!("{at} answers"), || match lab.ask("client", at, 10, false).failed {
        failed if failed.is_empty() => Ok(()),
        failed => Err(failed),
    });
}

fn raft_file(lab: &Lab, host: &str) -> String {
    lab.state_dir(host) + "/raft/raft.redb"
}

/// Turns over bytes in the middle of what a manager's database has of this name of a row, which is all that it has in clear.
fn garble(file: &str, text: &str) {
    let mut disk = fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut bytes = Vec::new();
    disk.read_to_end(&mut bytes).unwrap();
    let places: Vec<_> = bytes.windows(text.len()).enumerate().filter(|(_, w)| *w == text.as_bytes()).collect();
    assert!(!places.is_empty(), "{file} has no {text:?}");
    for (at, _) in places {
        disk.seek(SeekFrom::Start(at as u64)).unwrap();
        disk.write_all(&[bytes[at] ^ 0x20]).unwrap();
    }
    disk.sync_all().unwrap();
}

#[test]
fn a_majority_is_lost_for_good() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-recovery-lost", 3, 3);
    lab.create_web("web", 3, &["-p", "8080:80"]);
    let refused = lab.refused("node1", &["init", "--force-new-cluster"]);
    assert!(refused.contains("a majority of the managers answers"), "{refused}");
    let services = lab.heddle("node1", &["service", "ls", "--format", "json"]);

    let answers = lab.meanwhile("10.77.0.1:8080", || {
        lab.do_lab(&["kill", "node2", "--daemon"]);
        lab.do_lab(&["kill", "node3", "--daemon"]);
        wait("the loss is noticed", || match lab.try_heddle("node1", &["service", "scale", "web=4"]) {
            Err(said) if said.contains("no quorum") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        for args in [&["service", "scale", "web=4"][..], &["network", "create", "-d", "overlay", "x"], &["node", "ls"]]
        {
            let asked = Instant::now();
            let said = lab.refused("node1", args);
            println!("refused after {:.1?}: {said}", asked.elapsed());
            assert!(asked.elapsed() < AT_ONCE, "{args:?} took {:?}", asked.elapsed());
            let wanted = "no quorum: 1 of 3 managers can be reached and 2 are needed: start 1 more of ";
            assert!(said.contains(wanted) && said.contains("node2 (10.77.0.2:2377)"), "{said}");
            assert!(said.ends_with("run `heddle init --force-new-cluster` on this one"), "{said}");
        }
        // What this manager knows it tells when asked for that.
        let (told, age) = stale(&lab, "node1", &["service", "ls", "--format", "json"]);
        assert_eq!(told, services.trim());
        assert!(age.starts_with("stale: as of revision ") && age.ends_with(" s ago, no leader"), "{age}");
        for args in
            [&["node", "ls"][..], &["network", "ls"], &["service", "ps", "web"], &["network", "inspect", "ingress"]]
        {
            assert!(!stale(&lab, "node1", args).0.is_empty(), "{args:?}");
        }
        let said = lab.refused("node1", &["--stale", "service", "scale", "web=4"]);
        assert!(said.contains("--stale is for commands that look and change nothing"), "{said}");
        // A backup of it is better than none.
        stale(&lab, "node1", &["cluster", "backup", "/tmp/t-recovery-lost.backup"]);

        let made = lab.heddle("node1", &["init", "--force-new-cluster"]);
        assert!(made.contains("only manager") && made.contains("when they are back: node2, node3"), "{made}");
        let left = standing(&lab, "node1").unwrap();
        assert_eq!(left["node1"].split(' ').next(), Some("manager"));
        assert_eq!((left["node2"].as_str(), left["node3"].as_str()), ("worker down", "worker down"));
        lab.heddle("node1", &["service", "scale", "web=2"]);
        wait_for(Duration::from_secs(60), "two run here", || match lab.running("node1", "web")? {
            all if all.len() == 2 && all.iter().all(|t| t["hostname"] == "node1") => Ok(()),
            all => Err(format!("{all:?}")),
        });
    });
    println!("{} requests answered", answers.tasks.values().sum::<u32>());
    assert!(!answers.tasks.is_empty());

    // The others, who would be a majority of before, come back by themselves: as workers, and can be managers again. One is promoted
    // before that: the certificate that it has says what it is to be, and counts no more.
    let heddle = program().display().to_string();
    let asked = lab.exec("node1", &["timeout", "2", &heddle, "node", "promote", "node3"]);
    assert_eq!(asked.status.code(), Some(124), "it would wait for the node: {asked:?}");
    std::thread::scope(|scope| {
        let lab = &lab;
        for host in ["node2", "node3"] {
            scope.spawn(move || lab.do_lab(&["start", host]));
        }
    });
    stands(&lab, "node1", ["manager ready", "worker ready", "manager ready"]);
    lab.heddle("node1", &["node", "promote", "node2"]);
    ["node2", "node3"].iter().for_each(|host| follows(&lab, host));
    stands(&lab, "node2", ["manager ready"; 3]);
    lab.do_lab(&["kill", "node1", "--daemon"]);
    wait("the others go on without it", || lab.try_heddle("node3", &["service", "scale", "web=3"]));
    let _ = fs::remove_file("/tmp/t-recovery-lost.backup");
}

#[test]
fn who_was_only_out_of_reach_gives_way() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-recovery-reach", 3, 3);
    lab.do_lab(&["cut", "node1"]);
    wait("it is alone", || match lab.try_heddle("node1", &["node", "ls"]) {
        Err(said) if said.contains("no quorum") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    wait("it goes on alone", || match lab.try_heddle("node1", &["init", "--force-new-cluster"]) {
        // The last answers of the others are not two seconds old yet.
        Err(said) if said.contains("a majority of the managers answers") => Err(said),
        other => Ok(other.unwrap()),
    });
    lab.heddle("node1", &["network", "create", "-d", "overlay", "kept"]);
    wait("the others go on, too", || lab.try_heddle("node2", &["network", "create", "-d", "overlay", "lost"]));
    lab.do_lab(&["heal"]);
    stands(&lab, "node1", ["manager ready", "worker ready", "worker ready"]);
    for host in ["node2", "node3"] {
        wait("it serves no command", || match lab.try_heddle(host, &["node", "ls"]) {
            Err(said) if said.contains("this node is a worker") => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    let networks = lab.heddle("node1", &["network", "ls"]);
    assert!(networks.contains("kept") && !networks.contains("lost"), "{networks}");
}

#[test]
fn a_backup_makes_the_cluster_again() {
    if skipped() {
        return;
    }
    let lab = Lab::bare("t-recovery-backup", 3);
    lab.heddle("node1", &["init", "--advertise-addr", "eth0"]);
    let token = lab.heddle("node1", &["join-token", "worker", "-q"]);
    lab.heddle("node2", &["join", "--token", token.trim(), "10.77.0.1"]);
    lab.heddle("node1", &["network", "create", "-d", "overlay", "front"]);
    lab.create_web("web", 2, &["-p", "8080:80", "--network", "front"]);
    let id = |host: &str| lab.info(host)["cluster"].clone();
    let (cluster, worker) = (id("node1"), lab.info("node2")["node"].clone());
    let file = lab.state_dir("node3") + "/../backup";
    let told = lab.heddle("node1", &["cluster", "backup", &file]);
    assert!(told.contains(cluster.as_str().unwrap()), "{told}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    lab.heddle("node1", &["network", "create", "-d", "overlay", "later"]);

    // Nobody goes on alone with what it does not have.
    for (host, why) in [
        ("node2", "this node is a worker and does not have the cluster's state: run the command on a manager"),
        (
            "node3",
            "this host is in no cluster and has nothing to go on with: use `heddle init`, or `heddle cluster restore`",
        ),
    ] {
        let place = || ["inCluster", "cluster", "node", "role"].map(|field| lab.info(host)[field].clone());
        let before = place();
        assert_eq!(lab.refused(host, &["init", "--force-new-cluster"]), format!("heddle: {why}"));
        assert_eq!(place(), before, "{host}");
    }

    // Nothing is made of what is none.
    let whole = fs::read(&file).unwrap();
    let bad = file.clone() + ".bad";
    let mut newer = whole.clone();
    newer[19] = 3;
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    for (bytes, said) in [
        (&whole[..whole.len() - 1], "the backup is cut short"),
        (&newer, "use a newer heddle"),
        (&damaged, "it does not match its checksum"),
        (b"#!/bin/sh\n", "this is no backup of a Heddle cluster"),
    ] {
        fs::write(&bad, bytes).unwrap();
        let refused = lab.refused("node3", &["cluster", "restore", &bad, "--advertise-addr", "eth0"]);
        assert!(refused.contains(said), "{refused}");
        assert_eq!(lab.info("node3")["inCluster"], false);
    }
    let refused = lab.refused("node1", &["cluster", "restore", &file]);
    assert!(refused.contains("this host is in cluster") && refused.contains("already"), "{refused}");
    assert!(lab.refused("node3", &["cluster", "restore", "/none"]).contains("cannot read /none"));

    // On another host, with another address: the only manager is lost.
    lab.do_lab(&["kill", "node1"]);
    let told = lab.heddle("node3", &["cluster", "restore", &file, "--advertise-addr", "eth0"]);
    assert!(told.contains("its only manager, at 10.77.0.3:2377"), "{told}");
    assert_eq!(id("node3"), cluster);
    assert_eq!(lab.heddle("node3", &["join-token", "worker", "-q"]), token);
    assert!(lab.heddle("node3", &["network", "ls", "--format", "json"]).contains("front"));
    stands(&lab, "node3", ["worker down", "worker down", "manager ready"]);
    wait("the service runs here", || match lab.running("node3", "web")?.len() {
        2 => Ok(()),
        n => Err(n.to_string()),
    });
    answers(&lab, "10.77.0.3:8080");
    // The worker does not know where that is, and joins again with the old token.
    lab.heddle("node2", &["leave", "--force"]);
    lab.heddle("node2", &["join", "--token", token.trim(), "10.77.0.3"]);
    assert_ne!(lab.info("node2")["node"], worker);
    lab.connected("node2");

    // At the address that the manager had, who still runs finds it by itself.
    let again = file.clone() + "2";
    lab.heddle("node3", &["cluster", "backup", &again]);
    let worker = lab.info("node2")["node"].clone();
    lab.do_lab(&["kill", "node3", "--daemon"]);
    let raft = || fs::read(raft_file(&lab, "node3")).unwrap();
    let before = raft();
    let refused = lab.refused("node3", &["init", "--force-new-cluster"]);
    assert!(refused.ends_with("start it with `heddle daemon`"), "{refused}");
    assert!(raft() == before, "nothing is changed");
    let state = lab.state_dir("node3");
    lab.sh("node3", &format!("rm -rf {state}/node.json {state}/certificates {state}/raft"));
    lab.do_lab(&["start", "node3"]);
    lab.heddle("node3", &["cluster", "restore", &again, "--advertise-addr", "eth0"]);
    lab.connected("node2");
    assert_eq!(lab.info("node2")["node"], worker);
    wait("two run", || match lab.running("node3", "web")?.len() {
        2 => Ok(()),
        n => Err(n.to_string()),
    });
    answers(&lab, "10.77.0.2:8080");
}

#[test]
fn a_manager_whose_disk_lies_gets_everything_anew() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-recovery-disk", 3, 3);
    lab.create_web("web", 3, &["-p", "8080:80"]);
    let log = |host: &str| fs::read_to_string(lab.state_dir(host) + "/daemon.log").unwrap();
    let anew = "the manager's state is damaged: it is got anew from the other managers";
    type Damage<'a> = (&'a str, &'a dyn Fn(&str));
    let damages: [Damage; 3] = [
        ("node2", &|file| garble(file, "committed")),
        ("node3", &|file| fs::OpenOptions::new().write(true).open(file).unwrap().set_len(9000).unwrap()),
        ("node2", &|file| fs::remove_file(file).unwrap()),
    ];
    for (host, damage) in damages {
        lab.do_lab(&["kill", host, "--daemon"]);
        let found = log(host).matches(anew).count();
        damage(&raft_file(&lab, host));
        let gone = !fs::exists(raft_file(&lab, host)).unwrap();
        lab.do_lab(&["start", host]);
        follows(&lab, host);
        assert_eq!(log(host).matches(anew).count(), found + usize::from(!gone), "{host}");
        stands(&lab, host, ["manager ready"; 3]);
    }
    // Until it has been let go it counts for nothing: it and one other are no majority.
    for host in ["node2", "node3"] {
        lab.do_lab(&["kill", host, "--daemon"]);
    }
    fs::remove_file(raft_file(&lab, "node2")).unwrap();
    lab.do_lab(&["start", "node2"]);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        let said = lab.refused("node1", &["network", "create", "-d", "overlay", "never"]);
        assert!(said.contains("no leader") || said.contains("no quorum"), "{said}");
        std::thread::sleep(Duration::from_millis(200));
    }
    lab.do_lab(&["start", "node3"]);
    ["node3", "node2"].iter().for_each(|host| follows(&lab, host));
    stands(&lab, "node2", ["manager ready"; 3]);

    // It counts again: with it, one of the others may go.
    lab.do_lab(&["kill", "node1", "--daemon"]);
    wait("two of three write", || lab.try_heddle("node2", &["network", "create", "-d", "overlay", "after"]));
    wait("three run", || match lab.running("node2", "web")?.len() {
        3 => Ok(()),
        n => Err(n.to_string()),
    });

    // What nobody else has is not given up.
    let alone = Lab::up("t-recovery-alone", 1, 1);
    alone.heddle("node1", &["network", "create", "-d", "overlay", "front"]);
    alone.do_lab(&["kill", "node1", "--daemon"]);
    let file = raft_file(&alone, "node1");
    let whole = fs::read(&file).unwrap();
    garble(&file, "committed");
    let damaged = fs::read(&file).unwrap();
    let state = alone.state_dir("node1");
    let output = alone.exec("node1", &["heddle", "daemon", "--state-dir", &state]);
    let (_, told) = said(&output);
    let told = told.lines().last().unwrap();
    assert!(!output.status.success());
    assert!(told.contains("is damaged") && told.contains("no other manager is known to get it from"), "{told}");
    assert!(told.ends_with("start the daemon and run `heddle cluster restore FILE`"), "{told}");
    assert!(fs::read(&file).unwrap() == damaged, "nothing is changed");
    fs::write(&file, whole).unwrap();
    alone.do_lab(&["start", "node1"]);
    wait("it is there again", || alone.try_heddle("node1", &["network", "inspect", "front"]));
}

#[test]
fn a_wiped_node_comes_back_and_a_moved_one_is_found() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-recovery-wiped", 3, 3);
    lab.create_web("web", 3, &["-p", "8080:80"]);
    lab.heddle("node1", &["node", "demote", "node2"]);
    let tokens = ["worker", "manager"].map(|role| lab.heddle("node1", &["join-token", role, "-q"]));
    lab.heddle("node1", &["node", "promote", "node2"]);
    follows(&lab, "node2");
    let wipe = |host: &str| {
        lab.do_lab(&["kill", host]);
        fs::remove_dir_all(lab.state_dir(host)).unwrap();
        wait("it is down", || match standing(&lab, "node1")? {
            seen if seen[host].ends_with("down") => Ok(()),
            seen => Err(format!("{seen:?}")),
        });
        lab.do_lab(&["start", host]);
    };
    let old = lab.info("node3")["node"].as_str().unwrap().to_owned();
    wipe("node3");
    let join = ["join", "--advertise-addr", "eth0", "--token", tokens[1].trim(), "10.77.0.1"];
    let refused = lab.refused("node3", &join);
    assert!(refused.contains("is manager node3") && refused.contains("`heddle node rm --force"), "{refused}");
    lab.heddle("node1", &["node", "rm", "--force", &old]);
    lab.heddle("node3", &join);
    follows(&lab, "node3");
    stands(&lab, "node1", ["manager ready"; 3]);

    // As a worker it needs nobody's leave; what it was is down until it is removed.
    lab.heddle("node1", &["node", "demote", "node3"]);
    let old = lab.info("node3")["node"].as_str().unwrap().to_owned();
    wipe("node3");
    lab.heddle("node3", &["join", "--advertise-addr", "eth0", "--token", tokens[0].trim(), "10.77.0.1"]);
    let all = wait("both are told", || {
        let all = nodes(&lab, "node1")?;
        let of: Vec<_> =
            all.iter().filter(|n| n["hostname"] == "node3").map(|n| (n["id"] == *old, n["state"].clone())).collect();
        if of.len() == 2 && of.contains(&(true, "down".into())) && of.contains(&(false, "ready".into())) {
            Ok(of)
        } else {
            Err(format!("{of:?}"))
        }
    });
    assert_eq!(all.len(), 2);
    wait("three run and answer everywhere", || {
        let (running, answers) = (lab.running("node1", "web")?, lab.ask("client", "10.77.0.3:8080", 12, false));
        if running.len() == 3 && answers.failed.is_empty() { Ok(()) } else { Err(format!("{running:?} {answers:?}")) }
    });
    lab.heddle("node1", &["node", "rm", &old]);
    assert_eq!(nodes(&lab, "node1").unwrap().len(), 3);
    let node3 = lab.info("node3")["node"].as_str().unwrap().to_owned();
    lab.heddle("node1", &["node", "promote", &node3]);
    follows(&lab, "node3");

    // A manager is elsewhere; of the three first one that follows, then the one that leads.
    for (host, addr) in [("node2", "10.77.0.102"), ("node1", "10.77.0.101")] {
        let (leader, other) = if host == "node2" { ("node1", "node3") } else { ("node2", "node3") };
        println!("{host} moves to {addr}, {leader} asks");
        lab.do_lab(&["kill", host, "--daemon"]);
        let old = addr.replace("10.77.0.10", "10.77.0.");
        let keep = "echo 1 >/proc/sys/net/ipv4/conf/eth0/promote_secondaries";
        lab.sh(
            host,
            &format!("{keep}; ip addr add {addr}/24 dev eth0; ip addr del {old}/24 dev eth0; ip addr; ip route"),
        );
        lab.do_lab_with(&["start", host], &[("HEDDLE_ADVERTISE_ADDR", addr)]);
        let at = format!("{addr}:2377");
        for ask in [leader, other] {
            wait("the others know", || match nodes(&lab, ask)?.iter().find(|n| n["hostname"] == host) {
                Some(node) if node["managerAddr"] == *at => Ok(()),
                other => Err(format!("{other:?}")),
            });
            wait("agents know", || match lab.try_json(ask, &["info", "--format", "json"])?["managers"].clone() {
                managers if managers.as_array().unwrap().contains(&at.as_str().into()) => Ok(()),
                managers => Err(managers.to_string()),
            });
        }
        follows(&lab, host);
    }
    // Nobody needs the old addresses: two of them are a majority, whoever that is.
    lab.do_lab(&["kill", "node3", "--daemon"]);
    wait("both write", || lab.try_heddle("node2", &["network", "create", "-d", "overlay", "moved"]));
    lab.do_lab(&["start", "node3"]);
    follows(&lab, "node3");
    answers(&lab, "10.77.0.102:8080");
}
