//! Runs tasks: as processes of the host in namespaces of their own, or as containers of images.
//!
//! ```text
//! daemon ── starts ─> shim (outlives the daemon) ── parent of ─> init (pid 1 of the task) ─> the program
//!    │                                                                         memory  its secrets and configs
//!    ├── looks at the task's directory: task.json, exit.json, log.jsonl          ends  rings when a shim has ended
//!    ├── check: a command of a health check, in the task's namespaces            enter  how it gets there
//!    └── group: what a task may use of the host     view: what it sees of it     identity: as whom it runs
//! ```
//!
//! Tasks of images are containerd's to run ([`Containers`]); what they leave in their directories is the same, and who asks for a
//! task ([`Executor`]) does not see which way it runs.

mod check;
mod containers;
mod either;
mod ends;
mod enter;
mod group;
mod identity;
mod log;
mod memory;
pub(crate) mod record;
mod shim;
mod view;

pub use check::{CheckCommand, check_in_task, run_check};
pub use containers::{Containers, FromImage};
pub use either::{CheckProgram, Executor};
pub use ends::Ends;
pub use enter::Namespaces;
pub use group::{join as join_groups, remove as remove_groups};
pub use identity::Identity;
pub use log::{Line, Reader as LogReader, Stream};
pub use memory::MemoryFile;
pub use record::{Exit, HOST_NETNS, ShimSpec};
pub use shim::{Outcome, keep_log, run as run_shim};

use crate::volumes;
use heddle_model::{TaskId, health::HealthCheck};
use memory::PLACES;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use record::{EXIT, Running, SPEC, TASK};
use std::{
    fs,
    io::{self, BufWriter},
    path::PathBuf,
    process::{Command, Stdio},
};

/// Directories of ended tasks that are kept for their logs.
const KEPT: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskProcess {
    /// Never started here.
    Absent,
    /// What is done before it can run.
    Preparing(String),
    Running {
        /// The task's pid 1, as the host sees it.
        pid: u32,
        /// Of its image.
        health: Option<HealthCheck>,
    },
    Ended(Exit),
    /// Whoever runs it does not answer.
    Unknown,
}

pub struct ProcessExecutor {
    dir: PathBuf,
    shim: PathBuf,
}

impl ProcessExecutor {
    /// `dir` holds a directory per task; `shim` is the program that has `task-shim` as a verb.
    pub fn new(dir: PathBuf, shim: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        volumes::sweep(&dir)?;
        Ok(Self { dir, shim })
    }

    pub fn task_dir(&self, task: &TaskId) -> PathBuf {
        self.dir.join(task.as_str())
    }

    /// Tasks that were started here and not removed.
    pub fn list(&self) -> io::Result<Vec<TaskId>> {
        let names = fs::read_dir(&self.dir)?.filter_map(|e| e.ok()?.file_name().into_string().ok());
        Ok(names.filter_map(|n| n.parse().ok()).collect())
    }

    /// Starts a program. Returns when it runs, or says why it cannot. What secrets and configs hold is not written down.
    pub fn start(&self, task: &TaskId, spec: &ShimSpec, secret: &[MemoryFile]) -> io::Result<()> {
        let dir = self.task_dir(task);
        fs::create_dir_all(&dir)?;
        self.reset(task);
        fs::write(dir.join(SPEC), serde_json::to_vec(spec)?)?;
        self.make_places(secret)?;
        let mut shim = Command::new(&self.shim)
            .arg("task-shim")
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.join("shim.log"))?)
            .spawn()?;
        if let Some(input) = shim.stdin.take() {
            // One that ended at once says why by itself.
            let _ = rmp_serde::encode::write(&mut BufWriter::new(input), secret);
        }
        let status = shim.wait()?;
        if status.success() {
            return Ok(());
        }
        if let Some(error) = record::read::<Exit>(&dir.join(EXIT))?.and_then(|e| e.error) {
            return Err(io::Error::other(error));
        }
        let text = fs::read_to_string(dir.join("shim.log")).unwrap_or_default();
        Err(io::Error::other(text.lines().last().unwrap_or("the shim did not start").to_owned()))
    }

    /// Makes the places of secrets and configs on a host that has none: in its own view they stay empty.
    fn make_places(&self, secret: &[MemoryFile]) -> io::Result<()> {
        for place in PLACES.into_iter().filter(|place| secret.iter().any(|f| f.is_in(place))) {
            match fs::create_dir(place) {
                Ok(()) => fs::write(self.made(place), "")?,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(io::Error::new(e.kind(), format!("cannot make {place}: {e}"))),
            }
        }
        Ok(())
    }

    /// There if the place was made here.
    fn made(&self, place: &str) -> PathBuf {
        self.dir.join(format!("made{}", place.replace('/', "-")))
    }

    /// Takes those away that were made here.
    pub fn clear_places(&self) {
        for place in PLACES {
            if fs::remove_file(self.made(place)).is_ok() {
                let _ = fs::remove_dir(place);
            }
        }
    }

    /// What a task's program was started with. None: it never was.
    pub fn started(&self, task: &TaskId) -> io::Result<Option<ShimSpec>> {
        record::read(&self.task_dir(task).join(SPEC))
    }

    /// Forgets how the task ended, so that it can run once more. What it printed stays.
    pub fn reset(&self, task: &TaskId) {
        for stale in [EXIT, TASK] {
            let _ = fs::remove_file(self.task_dir(task).join(stale));
        }
        group::remove(task.as_str());
    }

    /// Forgets a task that has ended, with what it printed and the volumes that are its own.
    pub fn forget(&self, task: &TaskId) {
        group::remove(task.as_str());
        self.forget_volumes(task);
        let _ = fs::remove_dir_all(self.task_dir(task));
    }

    fn forget_volumes(&self, task: &TaskId) {
        volumes::forget(&self.task_dir(task), &self.dir);
    }

    pub fn state(&self, task: &TaskId) -> io::Result<TaskProcess> {
        let dir = self.task_dir(task);
        if let Some(exit) = record::read::<Exit>(&dir.join(EXIT))? {
            return Ok(TaskProcess::Ended(exit));
        }
        let Some(running) = record::read::<Running>(&dir.join(TASK))? else { return Ok(TaskProcess::Absent) };
        let runs = TaskProcess::Running { pid: running.init, health: None };
        if record::start_time(running.init).is_some_and(|t| t == running.init_start) {
            return Ok(runs);
        }
        // Between the end of the program and the shim's last word.
        if record::start_time(running.shim).is_some_and(|t| t == running.shim_start) {
            return Ok(runs);
        }
        match record::read::<Exit>(&dir.join(EXIT))? {
            Some(exit) => Ok(TaskProcess::Ended(exit)),
            None => {
                // What its shim would have done.
                let exit = Exit::lost();
                group::remove(task.as_str());
                record::write(&dir.join(EXIT), &exit)?;
                Ok(TaskProcess::Ended(exit))
            }
        }
    }

    /// The process that writes down how the task ends. None: it was never started, or has ended.
    fn shim_of(&self, task: &TaskId) -> Option<u32> {
        let running = record::read::<Running>(&self.task_dir(task).join(TASK)).ok()??;
        (record::start_time(running.shim)? == running.shim_start).then_some(running.shim)
    }

    /// Signals the task's pid 1, which passes it on. A task that has ended is left alone.
    pub fn signal(&self, task: &TaskId, signal: Signal) -> io::Result<()> {
        match self.state(task)? {
            TaskProcess::Running { pid, .. } => match kill(Pid::from_raw(pid as i32), signal) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
                Err(e) => Err(e.into()),
            },
            TaskProcess::Absent | TaskProcess::Preparing(_) | TaskProcess::Ended(_) | TaskProcess::Unknown => Ok(()),
        }
    }

    /// Forgets volumes of ended tasks, and all else of the oldest, except those in `keep`.
    pub fn prune(&self, keep: impl Fn(&TaskId) -> bool) -> io::Result<()> {
        let mut ended = Vec::new();
        for task in self.list()?.into_iter().filter(|t| !keep(t)) {
            match self.state(&task)? {
                TaskProcess::Running { .. } | TaskProcess::Preparing(_) | TaskProcess::Unknown => {}
                TaskProcess::Absent => self.forget(&task),
                TaskProcess::Ended(_) => {
                    self.forget_volumes(&task);
                    ended.push((fs::metadata(self.task_dir(&task))?.modified()?, task));
                }
            }
        }
        ended.sort();
        ended.iter().rev().skip(KEPT).for_each(|(_, task)| self.forget(task));
        Ok(())
    }
}
