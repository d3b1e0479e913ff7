//! Entering a workload's namespaces.

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use std::{fs::File, io};

/// The mount namespace comes last: the paths of the others are ours.
const SPACES: [&str; 5] = ["ipc", "uts", "net", "pid", "mnt"];

/// Must be called while the process has one thread (setns(2)). Only children come into the pid namespace.
pub fn enter(pid: u32) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("exec enters the workload's namespaces: run the command as root");
    }
    if pid == 0 {
        bail!("the workload is not running");
    }
    let open = |space: &&str| File::open(format!("/proc/{pid}/ns/{space}"));
    let files = SPACES.iter().map(open).collect::<io::Result<Vec<_>>>().context("the workload has just ended")?;
    for (space, file) in SPACES.iter().zip(files) {
        setns(file, CloneFlags::empty()).with_context(|| format!("cannot enter the workload's {space} namespace"))?;
    }
    Ok(())
}
