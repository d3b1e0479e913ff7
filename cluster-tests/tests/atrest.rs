//! What managers write is of no use without their keys.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{HOSTS, Lab, skipped, wait};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

const MARK: &str = "rest-marker-6f1d20c7";
const PEM: &str = "PRIVATE KEY-----";

/// All files below, but for what has been removed since.
fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.map(Result::unwrap) {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => files(&entry.path(), found),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

/// Files of a host's state that have these bytes, below its directory.
fn holding(lab: &Lab, host: &str, text: &str) -> Vec<String> {
    let root = lab.state_dir(host);
    let mut all = Vec::new();
    files(Path::new(&root), &mut all);
    assert!(all.iter().any(|f| f.ends_with("raft/raft.redb")), "{all:?}");
    let has = |file: &PathBuf| match fs::read(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        bytes => bytes.unwrap().windows(text.len()).any(|w| w == text.as_bytes()),
    };
    all.iter().filter(|f| has(f)).map(|f| f.strip_prefix(&root).unwrap().display().to_string()).collect()
}

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
        assert_eq!(holding(&lab, host, MARK), Vec::<String>::new(), "{host}");
        // Of the node, not of the cluster: it is the control that files are really searched.
        assert_eq!(holding(&lab, host, PEM), ["certificates/node.key"], "{host}");
        assert!(kept(&lab, host, "clear").ends_with('\n'));
    }

    // The whole state at once, as a raft snapshot.
    for host in ["node2", "node3"] {
        lab.do_lab(&["kill", host, "--daemon"]);
    }
    wait("the majority is lost", || lab.try_heddle("node1", &["init", "--force-new-cluster"]));
    assert!(lab.heddle("node1", &["service", "inspect", "secret"]).contains(MARK));
    assert_eq!(holding(&lab, "node1", MARK), Vec::<String>::new());
    assert_eq!(holding(&lab, "node1", PEM), ["certificates/node.key"]);
    restart(&lab, "node1");
    wait("it reads it", || match lab.try_heddle("node1", &["service", "inspect", "secret"])? {
        text if text.contains(MARK) => Ok(()),
        text => Err(text),
    });
}
