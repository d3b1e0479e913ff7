//! Hosts that are virtual machines cannot be made: what is said. What they do is in `acceptance.rs`.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::program;
use std::process::Command;

#[test]
fn what_is_missing_is_said_before_anything_is_made() {
    let empty = tempfile::tempdir().unwrap();
    let output = Command::new(program())
        .args(["lab", "up", "--vm", "--name", "t-vmnone", "--tool", "no-such-tool"])
        .env("HEDDLE_VM_CACHE", empty.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{output:?}");
    assert!(said.contains("no-such-tool") && said.trim().lines().count() == 1, "{said}");
    assert!(!std::path::Path::new("/run/heddle-lab/t-vmnone").exists());
}
