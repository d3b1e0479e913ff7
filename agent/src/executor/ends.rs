//! Rings when a program that runs here has ended, so that nobody has to look all the time.

use super::ProcessExecutor;
use heddle_model::TaskId;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::{collections::BTreeMap, os::fd::OwnedFd, sync::Arc};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Notify,
    task::AbortHandle,
};

/// Watches the shims: the last thing that one does is to write down how its program ended.
#[derive(Default)]
pub struct Ends {
    bell: Arc<Notify>,
    watched: BTreeMap<TaskId, AbortHandle>,
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.watched.values().for_each(AbortHandle::abort);
    }
}

impl Ends {
    /// Others may ring it, too.
    pub fn bell(&self) -> Arc<Notify> {
        self.bell.clone()
    }

    /// Waits until one of them has ended.
    pub async fn rings(&self) {
        self.bell.notified().await;
    }

    /// These run, and no others. What cannot be watched is found by the look that comes now and then.
    pub fn watch<'a>(&mut self, running: impl Iterator<Item = &'a TaskId> + Clone, executor: &ProcessExecutor) {
        let mut before = std::mem::take(&mut self.watched);
        for id in running {
            let watch = before.remove(id).or_else(|| self.follow(executor.shim_of(id)?));
            self.watched.extend(watch.map(|watch| (id.clone(), watch)));
        }
        before.values().for_each(AbortHandle::abort);
    }

    fn follow(&self, shim: u32) -> Option<AbortHandle> {
        let file: OwnedFd = pidfd_open(Pid::from_raw(shim as i32)?, PidfdFlags::NONBLOCK).ok()?;
        // What it warns of, a file that is closed or replaced while it is registered, an OwnedFd cannot do.
        #[allow(deprecated)]
        let file = AsyncFd::with_interest(file, Interest::READABLE).ok()?;
        let bell = self.bell.clone();
        let follow = async move {
            // Readable: it has ended, or cannot be waited for.
            let _ = file.readable().await;
            bell.notify_one();
        };
        Some(tokio::spawn(follow).abort_handle())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::record::{self, Running, TASK, start_time};
    use std::{process::Command, time::Duration};

    #[tokio::test]
    async fn the_end_of_a_shim_rings() {
        let dir = tempfile::tempdir().unwrap();
        let executor = ProcessExecutor::new(dir.path().join("tasks"), "/bin/false".into()).unwrap();
        let id = TaskId::from_random([1; 16]);
        let mut shim = Command::new("sleep").arg("1000").spawn().unwrap();
        let start = start_time(shim.id()).unwrap();
        std::fs::create_dir_all(executor.task_dir(&id)).unwrap();
        let running = Running { shim: shim.id(), shim_start: start, init: shim.id(), init_start: start };
        record::write(&executor.task_dir(&id).join(TASK), &running).unwrap();
        let mut ends = Ends::default();
        ends.watch([&id].into_iter(), &executor);
        let rings = ends.rings();
        assert!(tokio::time::timeout(Duration::from_millis(20), rings).await.is_err(), "it runs");
        shim.kill().unwrap();
        tokio::time::timeout(Duration::from_secs(10), ends.rings()).await.unwrap();
        shim.wait().unwrap();
        ends.watch(std::iter::empty(), &executor);
        assert!(ends.watched.is_empty());
    }
}
