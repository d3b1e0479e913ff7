//! Managers that are dead for long go by themselves, and never so many that those that are left could decide nothing.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, skipped, wait, wait_for};
use serde_json::Value;
use std::{collections::BTreeSet, time::Duration};

/// The shortest time that is taken.
const DEAD_AFTER: Duration = Duration::from_secs(10);

fn status(lab: &Lab, ask: &str) -> Result<Value, String> {
    lab.try_json(ask, &["cluster", "status", "--format", "json"])
}

/// The members of raft, by host name.
fn members(lab: &Lab, ask: &str) -> Result<BTreeSet<String>, String> {
    let status = status(lab, ask)?;
    let managers = status["managers"].as_array().into_iter().flatten();
    Ok(managers.map(|m| m["hostname"].as_str().unwrap_or_default().to_owned()).collect())
}

fn is(lab: &Lab, ask: &str, wanted: &[&str]) -> Result<(), String> {
    match members(lab, ask)? {
        found if found.iter().eq(wanted) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

#[test]
fn a_manager_that_is_dead_for_long_goes_by_itself() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-autopilot", 4, 4);
    let all = ["node1", "node2", "node3", "node4"];
    wait("all are members", || is(&lab, "node1", &all));
    let said = lab.refused("node1", &["cluster", "update", "--autopilot", "1s"]);
    assert_eq!(said, "heddle: autopilot 1s: use 10s to 8760h, or off");
    let said = lab.heddle("node1", &["cluster", "update", "--autopilot", "10s"]);
    assert_eq!(said.trim(), "Autopilot removes managers that are down for 10s.");
    assert_eq!(status(&lab, "node2").unwrap()["deadManagerAfterMs"], DEAD_AFTER.as_millis() as u64);

    lab.do_lab(&["kill", "node4"]);
    wait_for(DEAD_AFTER * 4, "node4 is no member any more", || is(&lab, "node1", &all[..3]));
    assert!(!lab.heddle("node1", &["node", "ls"]).contains("node4"), "it is forgotten");
    let newest = status(&lab, "node1").unwrap()["revision"].to_string();
    let events = lab.heddle("node1", &["events", "--since", "0", "--until", &newest, "--filter", "kind=node"]);
    assert!(events.contains("removed by autopilot: down for"), "{events}");
    // It is told so when it is back, and makes no trouble.
    lab.do_lab(&["start", "node4"]);
    wait("it may leave and come in anew", || lab.try_heddle("node4", &["leave", "--force"]).map(drop));
}
