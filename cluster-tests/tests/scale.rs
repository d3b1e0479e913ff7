//! What is wanted and what the kernels have agree after every change, and nothing is left at the end.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, footprint::Traces, program, scaling, skipped};
use std::process::Command;

#[test]
fn scaling_and_removing_leave_exactly_what_is_wanted() {
    if skipped() {
        return;
    }
    let before = Traces::of("t-scale");
    let lab = Lab::up("t-scale", 3, 1);
    scaling::scaling_and_removing_leave_exactly_what_is_wanted(&lab);
    drop(lab);
    before.alone_are_left();
    let gone = Command::new(program()).args(["lab", "ps", "--name", "t-scale"]).output().unwrap();
    assert!(!gone.status.success());
}
