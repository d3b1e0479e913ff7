//! The scenarios for virtual machines, on hosts that are namespaces.

use heddle_cluster_tests::{Lab, program, skipped};
use std::{path::Path, process::Command};

const LAB: &str = "scenario";

fn scenario(name: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vagrant/scenario");
    let mut command = Command::new(script);
    command.arg(name).envs([("ON", "lab"), ("LAB", LAB)]).env("HEDDLE", program());
    let output = command.output().expect("the script runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}\n{errors}");
    said
}

#[test]
fn what_is_shown_on_virtual_machines_holds_here() {
    if skipped() {
        return;
    }
    let _lab = Lab::up(LAB, 3, 1);
    let said = scenario("mesh");
    assert_eq!(said.lines().filter(|l| l.contains(" x ") && l.ends_with("sees 10.77.0.250")).count(), 9, "{said}");
    let said = scenario("encrypted");
    assert!(said.contains("10 x listener on node2") && said.contains("WireGuard by keys of epoch 1"), "{said}");
    let said = scenario("rolling");
    let counts = said.lines().filter_map(|l| l.split_once(" x ")?.0.trim().parse::<u32>().ok());
    assert_eq!(counts.sum::<u32>(), 3 * 500 + 3 * 30, "{said}");
    let said = scenario("failover");
    assert_eq!(said.lines().filter(|l| l.contains(" x ") && l.ends_with("sees 10.77.0.250")).count(), 6, "{said}");
}
