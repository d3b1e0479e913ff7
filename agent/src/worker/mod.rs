//! What to do next for each task of this host, decided from what is wanted, what runs and what is ready. Pure.
//!
//! ```text
//! job     what runs: a task or a workload        health  what the checks of a task have shown, and when the next is due
//! ```

mod health;
mod job;
#[cfg(test)]
mod tests;

pub use health::Outcome;
pub use job::Job;

use crate::executor::{Exit, TaskProcess};
use health::{Health, Verdict};
use heddle_model::{
    TaskId, Timestamp,
    health::HealthCheck,
    task::{TaskState, TaskStatus},
};
use std::{collections::BTreeMap, time::Duration};

/// A program that does not listen on its published ports by then runs without them.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// In which most programs are there for their clients.
const SOON: Duration = Duration::from_secs(2);

/// A task's namespace outlives a program that was asked to stop by so much: what clients send as it closes its connections
/// is answered by the kernel there, and by nobody when it is gone.
const CLOSING: Duration = Duration::from_millis(500);

/// The message of what could not be started at all.
pub const NOT_STARTED: &str = "could not be started";

const NOT_HEALTHY: &str = "starting, not healthy yet";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// As last given.
    pub job: Job,
    /// What whoever gave it should know.
    pub status: TaskStatus,
    stopping: Option<Stopping>,
    /// None: it has no check, or it is not time for the first one.
    health: Option<Health>,
    /// What its image says. Known when its program runs.
    image_check: Option<HealthCheck>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stopping {
    term_at: Timestamp,
    kill_at: Timestamp,
    termed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Todo {
    Start(TaskId),
    Term(TaskId),
    Kill(TaskId),
    /// Its outcome goes to [`Worker::checked`].
    Check(TaskId),
}

/// The tasks that are here, wanted or still ending.
#[derive(Debug, Default)]
pub struct Worker {
    pub tasks: BTreeMap<TaskId, Local>,
}

/// A job's own check or, if it says nothing of that, its image's.
fn check<'a>(job: &'a Job, image: Option<&'a HealthCheck>) -> Option<&'a HealthCheck> {
    job.health().or(image.filter(|_| job.takes_image_check()))
}

impl Local {
    fn new(job: &Job) -> Self {
        Self { job: job.clone(), status: job.status().clone(), stopping: None, health: None, image_check: None }
    }

    /// By which it shows that it is well.
    pub fn check(&self) -> Option<&HealthCheck> {
        check(&self.job, self.image_check.as_ref())
    }

    /// Whether its namespace and links are needed.
    pub fn needs_sandbox(&self) -> bool {
        !self.status.state.is_terminal()
    }

    /// Its program runs. Nobody is sent to it before it answers. True: its health is to be checked now.
    fn run(&mut self, answers: impl FnOnce(&Job) -> bool, now: Timestamp) -> bool {
        let runs = self.status.state >= TaskState::Running;
        let late = now >= self.status.since.plus(OPEN_LIMIT);
        let Some(check) = check(&self.job, self.image_check.as_ref()) else {
            if !runs && answers(&self.job) {
                self.reach(TaskState::Running, "started", now);
            } else if !runs && late {
                self.reach(TaskState::Running, "started, but nothing listens on its published ports", now);
            }
            return false;
        };
        if self.status.unhealthy {
            return false;
        }
        if self.health.is_none() {
            // Before a daemon that took it over, it was found to be well.
            let known = runs.then(|| Health::known(check, now));
            let first = || (answers(&self.job) || late).then(|| Health::new(check, self.status.since));
            self.health = known.or_else(first);
        }
        self.health.as_mut().is_some_and(|health| health.begins(now))
    }

    /// Whether a check of it is of any use.
    pub fn is_checked(&self) -> bool {
        let ends = self.stopping.is_some() || self.status.unhealthy || self.status.state.is_terminal();
        self.health.is_some() && self.check().is_some() && !ends
    }

    fn beginning(&self) -> &'static str {
        if self.check().is_some() { NOT_HEALTHY } else { "starting" }
    }

    fn reach(&mut self, state: TaskState, message: &str, now: Timestamp) {
        if self.status.state < state {
            self.status = TaskStatus { state, since: now, message: message.into(), ..self.status.clone() };
        }
    }

    fn is_closing(&self, exit: &Exit, now: Timestamp) -> bool {
        let asked = self.stopping.is_some() && self.job.task().is_some();
        asked && now < Timestamp(exit.at_ms).plus(CLOSING)
    }

    fn end(&mut self, exit: &Exit) {
        if self.status.state.is_terminal() {
            return;
        }
        let (state, message, error) = match (&exit.error, exit.code) {
            _ if self.status.unhealthy => (TaskState::Failed, "failed".to_owned(), self.status.error.clone()),
            _ if self.stopping.is_some() => (TaskState::Shutdown, "stopped".to_owned(), String::new()),
            (Some(error), _) => (TaskState::Failed, "failed".into(), error.clone()),
            (None, 0) => (TaskState::Complete, "finished".into(), String::new()),
            (None, code) => (TaskState::Failed, "failed".into(), format!("exit code {code}")),
        };
        self.status.state = state;
        self.status.since = Timestamp(exit.at_ms);
        self.status.message = message;
        self.status.error = error;
        self.status.exit_code = Some(exit.code);
    }
}

impl Worker {
    /// Whether one was started a moment ago, and is not known to serve yet.
    pub fn soon(&self, now: Timestamp) -> bool {
        let begins = |local: &Local| local.status.state == TaskState::Starting && now.since(local.status.since) < SOON;
        self.tasks.values().any(begins)
    }

    /// Takes over what is wanted now. A task that is here and not wanted any more is stopped; what has ended and is not
    /// wanted is forgotten.
    pub fn assign(&mut self, wanted: &BTreeMap<TaskId, Job>, running: &[TaskId], now: Timestamp) {
        for (id, job) in wanted {
            let local = self.tasks.entry(id.clone()).or_insert_with(|| Local::new(job));
            if job.runs() > local.job.runs() {
                *local = Local::new(job);
            }
            local.job = job.clone();
            if job.status().unhealthy && !local.status.unhealthy {
                // A daemon before this one has said so.
                local.status.unhealthy = true;
                local.status.error.clone_from(&job.status().error);
            }
            if !running.contains(id) && local.status.state >= TaskState::Starting && !local.status.state.is_terminal() {
                local.end(&Exit::lost());
            }
        }
        self.tasks.retain(|id, local| wanted.contains_key(id) || local.needs_sandbox());
        for (id, local) in &mut self.tasks {
            let stop = wanted.get(id).is_none_or(|job| !job.is_wanted());
            if !stop || !local.needs_sandbox() {
                continue;
            }
            let term_at = now.plus(local.job.drain());
            let kill_at = term_at.plus(local.job.stop_grace());
            match &mut local.stopping {
                None => local.stopping = Some(Stopping { term_at, kill_at, termed: false }),
                // Who is asked once more may be given less time.
                Some(stopping) => stopping.kill_at = stopping.kill_at.min(kill_at),
            }
        }
    }

    /// What to do now, given what runs, which sandboxes the kernel has, and which programs, by pid, are ready to answer.
    pub fn advance(
        &mut self,
        processes: &BTreeMap<TaskId, TaskProcess>,
        ready: impl Fn(&TaskId) -> bool,
        answers: impl Fn(&Job, u32) -> bool,
        now: Timestamp,
    ) -> Vec<Todo> {
        let mut todo = Vec::new();
        for (id, local) in &mut self.tasks {
            if !local.needs_sandbox() {
                continue;
            }
            // It could not be looked at: nothing is known of it.
            let Some(process) = processes.get(id) else { continue };
            match process {
                TaskProcess::Ended(exit) if local.is_closing(exit, now) => continue,
                TaskProcess::Ended(exit) => local.end(exit),
                // When it began is what its checks, and who waits for it to answer, go by.
                TaskProcess::Preparing(said) if local.status.message != *said => local.status.message.clone_from(said),
                TaskProcess::Preparing(_) | TaskProcess::Unknown => {}
                TaskProcess::Running { pid, health } => {
                    local.image_check.clone_from(health);
                    local.reach(TaskState::Starting, local.beginning(), now);
                    local.status.pid = Some(*pid);
                    if local.stopping.is_none() && local.run(|job| answers(job, *pid), now) {
                        todo.push(Todo::Check(id.clone()));
                    }
                }
                TaskProcess::Absent if local.stopping.is_some() => {
                    local.end(&Exit { code: 0, error: None, at_ms: now.0 });
                }
                TaskProcess::Absent => {
                    local.reach(TaskState::Preparing, "preparing its network", now);
                    if ready(id) {
                        // An image has to come first.
                        if local.job.image().is_none() {
                            local.reach(TaskState::Starting, local.beginning(), now);
                        }
                        todo.push(Todo::Start(id.clone()));
                    }
                }
            }
            if let (Some(stopping), false) = (&mut local.stopping, local.status.state.is_terminal()) {
                if now >= stopping.kill_at {
                    todo.push(Todo::Kill(id.clone()));
                } else if now >= stopping.term_at && !stopping.termed {
                    stopping.termed = true;
                    todo.push(Todo::Term(id.clone()));
                }
            }
        }
        todo
    }

    /// How a check ended. Why the task is unhealthy, if that made it so.
    pub fn checked(&mut self, id: &TaskId, outcome: Outcome, now: Timestamp) -> Option<&str> {
        let local = self.tasks.get_mut(id).filter(|local| local.is_checked())?;
        match local.health.as_mut()?.ended(outcome, now)? {
            Verdict::Healthy => {
                local.reach(TaskState::Running, "started", now);
                None
            }
            Verdict::Failing(why) => {
                if local.status.state < TaskState::Running {
                    local.status.message = format!("{NOT_HEALTHY}: {why}");
                }
                None
            }
            Verdict::Unhealthy(why) => {
                local.status.unhealthy = true;
                local.status.message = "unhealthy".into();
                local.status.error = why;
                Some(&local.status.error)
            }
        }
    }

    /// The program could not be started at all.
    pub fn reject(&mut self, id: &TaskId, error: String, now: Timestamp) {
        if let Some(local) = self.tasks.get_mut(id) {
            local.end(&Exit { code: 127, error: Some(error), at_ms: now.0 });
            local.status.message = NOT_STARTED.into();
        }
    }
}
