//! Entering a workload's namespaces.

use anyhow::{Context, Result, bail};
use heddle_agent::executor::{Namespaces, join_groups};

/// Must be called while the process has one thread. Only children come into the pid namespace.
pub fn enter(pid: u32) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("exec enters the workload's namespaces: run the command as root");
    }
    if pid == 0 {
        bail!("the workload is not running");
    }
    // Better a program that counts for whoever began it than none.
    let _ = join_groups(pid);
    Namespaces::of(pid).context("the workload has just ended")?.enter()?;
    Ok(())
}
