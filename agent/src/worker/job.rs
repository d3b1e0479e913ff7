//! What runs on this host: a task that the managers assigned, or a standalone workload.

use heddle_model::{
    TaskId,
    container::{Container, Mount},
    health::HealthCheck,
    service::{ImageSpec, ProcessSpec},
    task::{Task, TaskState, TaskStatus},
    workload::{DnsConfig, Workload},
};
use nix::sys::signal::Signal;
use std::{net::IpAddr, time::Duration};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    Task(Box<Task>),
    Workload(Box<Workload>),
}

impl Job {
    pub fn id(&self) -> &TaskId {
        match self {
            Job::Task(task) => &task.id,
            Job::Workload(workload) => &workload.id,
        }
    }

    pub fn name(&self) -> String {
        match self {
            Job::Task(task) => task.name(),
            Job::Workload(workload) => workload.spec.annotations.name.clone(),
        }
    }

    /// For whoever is told what it uses.
    pub fn described(&self) -> String {
        let kind = if self.task().is_some() { "task" } else { "workload" };
        format!("{kind} {}", self.name())
    }

    pub fn process(&self) -> &ProcessSpec {
        match self {
            Job::Task(task) => task.spec.runtime.program(),
            Job::Workload(workload) => workload.spec.program(),
        }
    }

    /// None: its program is one of the host.
    pub fn image(&self) -> Option<&ImageSpec> {
        match self {
            Job::Task(task) => task.spec.runtime.image(),
            Job::Workload(workload) => workload.spec.image.as_deref(),
        }
    }

    pub fn stop_grace(&self) -> Duration {
        match self {
            Job::Task(task) => task.spec.stop_grace,
            Job::Workload(workload) => workload.stop_grace.unwrap_or(workload.spec.stop_grace),
        }
    }

    /// How its program is set up. None: as any other.
    pub fn container(&self) -> Option<&Container> {
        self.task().map(|task| &task.spec.container)
    }

    /// What it sees at paths of its own.
    pub fn mounts(&self) -> &[Mount] {
        match self {
            Job::Task(task) => &task.spec.container.mounts,
            Job::Workload(workload) => &workload.spec.mounts,
        }
    }

    /// What asks its program to end.
    pub fn stop_signal(&self) -> Signal {
        let wanted = self.container().and_then(|c| c.stop_signal.as_ref());
        wanted.and_then(|signal| signal.as_str().parse().ok()).unwrap_or(Signal::SIGTERM)
    }

    pub fn dns(&self) -> &DnsConfig {
        match self {
            Job::Task(task) => &task.spec.container.dns,
            Job::Workload(workload) => &workload.spec.dns,
        }
    }

    /// Further lines of its /etc/hosts.
    pub fn extra_hosts(&self) -> &[(String, IpAddr)] {
        match self {
            Job::Task(task) => &task.spec.container.hosts,
            Job::Workload(workload) => &workload.spec.extra_hosts,
        }
    }

    /// How long it goes on after it may be stopped.
    pub fn drain(&self) -> Duration {
        match self {
            Job::Task(task) => task.spec.linger,
            Job::Workload(_) => Duration::ZERO,
        }
    }

    pub fn is_wanted(&self) -> bool {
        match self {
            Job::Task(task) => !task.stop,
            Job::Workload(workload) => workload.wanted,
        }
    }

    /// Its own, by which it shows that it is well. What is to go has nothing to show.
    pub fn health(&self) -> Option<&HealthCheck> {
        self.task().filter(|task| task.desired <= TaskState::Running).and_then(|task| task.spec.health.as_ref())
    }

    /// Whether it shows that it is well by what its image says, if that says something.
    pub fn takes_image_check(&self) -> bool {
        self.task().is_some_and(|task| task.desired <= TaskState::Running && task.spec.takes_image_check())
    }

    /// Grows when what has ended is to run once more.
    pub fn runs(&self) -> u64 {
        match self {
            Job::Task(_) => 0,
            Job::Workload(workload) => workload.runs,
        }
    }

    /// As it was known when the job was given.
    pub fn status(&self) -> &TaskStatus {
        match self {
            Job::Task(task) => &task.status,
            Job::Workload(workload) => &workload.status,
        }
    }

    pub fn task(&self) -> Option<&Task> {
        match self {
            Job::Task(task) => Some(task),
            Job::Workload(_) => None,
        }
    }
}
