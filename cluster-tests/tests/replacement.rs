//! Three managers become five and three others again, under load.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, load::Load, skipped, wait, wait_for};
use std::{collections::BTreeSet, time::Duration};

const LIMIT: Duration = Duration::from_secs(60);
/// About a second, on a machine that does other things too.
const PAUSE: Duration = Duration::from_secs(5);

fn voters(lab: &Lab, ask: &str) -> Result<BTreeSet<String>, String> {
    let status = lab.try_json(ask, &["cluster", "status", "--format", "json"])?;
    let voters = status["managers"].as_array().into_iter().flatten().filter(|m| m["voter"] == true);
    Ok(voters.map(|m| m["hostname"].as_str().unwrap_or_default().to_owned()).collect())
}

fn become_voters(lab: &Lab, ask: &str, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|&w| w.to_owned()).collect();
    wait_for(LIMIT, &format!("{wanted:?} vote"), || match voters(lab, ask)? {
        found if found == wanted => Ok(()),
        found => Err(format!("{found:?}")),
    });
}

#[test]
fn every_manager_is_replaced_and_writes_go_on() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-replace", 6, 3);
    let hosts = ["node1", "node2", "node3", "node4", "node5", "node6"];
    lab.create_web("web", 6, &["-p", "8080:80"]);
    let pids = || -> Result<BTreeSet<String>, String> {
        let asked = lab.running("node6", "web").or_else(|_| lab.running("node3", "web"))?;
        Ok(asked.iter().map(|t| format!("{} {}", t["id"], t["pid"])).collect())
    };
    let before = pids().unwrap();
    let load = Load::new(&hosts, &hosts, "node6");
    let written = load.while_doing(&lab, || {
        lab.heddle("node1", &["node", "promote", "node4", "node5"]);
        become_voters(&lab, "node3", &hosts[..5]);
        // The leader among them.
        lab.heddle("node3", &["node", "demote", "node1", "node2"]);
        become_voters(&lab, "node3", &hosts[2..5]);
        lab.heddle("node4", &["node", "promote", "node6"]);
        become_voters(&lab, "node4", &hosts[2..]);
        lab.heddle("node4", &["node", "demote", "node3"]);
        become_voters(&lab, "node4", &hosts[3..]);
    });
    assert!(load.accepted() > 20, "hardly anything was written");
    assert_eq!(load.unanswered(), 0, "requests");
    assert!(load.longest_pause() < PAUSE, "{:?}", load.longest_pause());
    for manager in &hosts[3..] {
        load.is_kept(&lab, manager, &written, LIMIT);
    }
    assert_eq!(wait("the tasks are known", pids), before, "nothing was restarted");
}
