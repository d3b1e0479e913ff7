//! Entering the namespaces of a program that runs.

use nix::sched::{CloneFlags, setns};
use std::{fs::File, io};

/// The mount namespace comes last: the paths of the others are ours.
const SPACES: [&str; 5] = ["ipc", "uts", "net", "pid", "mnt"];

/// Namespaces of a process, open.
pub struct Namespaces([File; 5]);

impl Namespaces {
    pub fn of(pid: u32) -> io::Result<Self> {
        let open = |space: &str| File::open(format!("/proc/{pid}/ns/{space}"));
        let [ipc, uts, net, pids, mnt] = SPACES;
        Ok(Self([open(ipc)?, open(uts)?, open(net)?, open(pids)?, open(mnt)?]))
    }

    /// Must be called while the process has one thread (setns(2)). Only children come into the pid namespace.
    pub fn enter(self) -> io::Result<()> {
        for (space, file) in SPACES.iter().zip(self.0) {
            setns(file, CloneFlags::empty()).map_err(|errno| {
                let error = io::Error::from(errno);
                io::Error::new(error.kind(), format!("cannot enter the workload's {space} namespace: {error}"))
            })?;
        }
        Ok(())
    }
}
