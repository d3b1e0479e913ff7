//! Both ways of running a task behind one type: who starts, signals or checks it does not say which of them it takes.

use super::{
    CheckCommand, MemoryFile, ProcessExecutor, ShimSpec, TaskProcess,
    containers::{ContainerCheck, ContainerTask, Containers, FromImage},
    group,
};
use heddle_engine::spec::Run;
use heddle_model::{TaskId, health::Probe};
use nix::sys::signal::Signal;
use std::{io, path::PathBuf, sync::Arc, time::Duration};

/// What tells a program how its host finds others.
const HOST_FILES: [&str; 2] = ["/etc/hosts", "/etc/resolv.conf"];

#[derive(Clone)]
pub struct Executor {
    pub processes: Arc<ProcessExecutor>,
    pub containers: Containers,
}

/// A program of a health check.
pub enum CheckProgram {
    Process(CheckCommand),
    Container(ContainerCheck),
}

impl CheckProgram {
    /// What was wrong, if anything was.
    pub async fn run(self, limit: Duration) -> io::Result<Result<(), String>> {
        match self {
            Self::Process(check) => check.run(limit).await,
            Self::Container(check) => check.run(limit).await,
        }
    }
}

impl Executor {
    /// Starts a program, of the host or of an image.
    ///
    /// # Errors
    /// It cannot run. Of a container that is seen in its state.
    pub fn start(
        &self,
        task: &TaskId,
        spec: ShimSpec,
        secret: Vec<MemoryFile>,
        image: Option<FromImage>,
    ) -> io::Result<()> {
        let Some(image) = image else { return self.processes.start(task, &spec, &secret) };
        let on_host = spec.is_on_host();
        let run = Run {
            entrypoint: image.spec.entrypoint.clone(),
            args: spec.command.clone(),
            env: spec.env.clone(),
            dir: spec.dir.clone(),
            hostname: spec.hostname.clone(),
            netns: (!on_host).then(|| spec.netns.clone()),
            // What a host knows, whoever shares its network should.
            files: if on_host { HOST_FILES.map(|file| (file.into(), file.to_owned())).into() } else { vec![] },
            container: spec.container.clone(),
            volumes: image.volumes.clone(),
            resources: spec.resources.clone(),
            cgroup: format!("/heddle/{task}"),
            groups: group::facts(),
        };
        self.containers.start(task, ContainerTask { image, run, beside: spec, secret })
    }

    pub fn state(&self, task: &TaskId) -> io::Result<TaskProcess> {
        if self.containers.begun(task) { self.containers.state(task) } else { self.processes.state(task) }
    }

    /// Signals a task's program. One that has ended is left alone.
    pub fn signal(&self, task: &TaskId, signal: Signal) -> io::Result<()> {
        match self.containers.begun(task) {
            true => {
                self.containers.signal(task, signal);
                Ok(())
            }
            false => self.processes.signal(task, signal),
        }
    }

    /// What tries the program of a health check in a running task. None: it asks by the network.
    pub fn check(&self, task: &TaskId, probe: &Probe) -> Option<CheckProgram> {
        let in_container = self.containers.begun(task);
        Some(match probe {
            Probe::Command(command) if in_container => {
                let args = ["/bin/sh", "-c", command].map(str::to_owned).into();
                CheckProgram::Container(self.containers.check(task, args))
            }
            Probe::Exec(args) if in_container => CheckProgram::Container(self.containers.check(task, args.clone())),
            Probe::Command(command) => CheckProgram::Process(self.processes.check(task, command)),
            Probe::Exec(args) => {
                // What a shell cannot be told was refused when the service was made.
                let command = shlex::try_join(args.iter().map(String::as_str)).unwrap_or_default();
                CheckProgram::Process(self.processes.check(task, &command))
            }
            Probe::Http { .. } | Probe::Tcp(_) => return None,
        })
    }

    pub fn task_dir(&self, task: &TaskId) -> PathBuf {
        self.processes.task_dir(task)
    }

    /// Tasks that were started here and not removed.
    pub fn list(&self) -> io::Result<Vec<TaskId>> {
        self.processes.list()
    }

    /// Forgets how the task ended, so that it can run once more. What it printed stays.
    pub fn reset(&self, task: &TaskId) {
        self.processes.reset(task);
    }

    /// Takes away what is nobody's, and what is kept of the oldest that ended.
    pub fn tidy(&self, wanted: impl Fn(&TaskId) -> bool) -> io::Result<()> {
        self.containers.sweep(&wanted);
        self.processes.prune(|task| wanted(task) || self.containers.holds(task))
    }

    /// Ends all containers but those of these.
    pub async fn end_containers(&self, kept: impl Fn(&TaskId) -> bool) {
        self.containers.clear(kept).await;
    }

    /// Forgets all tasks but these, which have ended.
    pub fn forget_all(&self, kept: impl Fn(&TaskId) -> bool) {
        for task in self.list().unwrap_or_default().iter().filter(|task| !kept(task)) {
            self.processes.forget(task);
        }
        self.processes.clear_places();
    }
}
