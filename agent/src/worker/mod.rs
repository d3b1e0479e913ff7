//! What to do next for each task of this host, decided from what is wanted, what runs and what is ready. Pure.

mod job;

pub use job::Job;

use crate::executor::{Exit, TaskProcess};
use heddle_model::{
    TaskId, Timestamp,
    task::{TaskState, TaskStatus},
};
use std::{collections::BTreeMap, time::Duration};

/// A program that does not listen on its published ports by then runs without them.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// A task's namespace outlives a program that was asked to stop by so much: what clients send as it closes its connections
/// is answered by the kernel there, and by nobody when it is gone.
const CLOSING: Duration = Duration::from_millis(500);

/// The message of what could not be started at all.
pub const NOT_STARTED: &str = "could not be started";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// As last given.
    pub job: Job,
    /// What whoever gave it should know.
    pub status: TaskStatus,
    stopping: Option<Stopping>,
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
}

/// The tasks that are here, wanted or still ending.
#[derive(Debug, Default)]
pub struct Worker {
    pub tasks: BTreeMap<TaskId, Local>,
}

impl Local {
    /// Whether its namespace and links are needed.
    pub fn needs_sandbox(&self) -> bool {
        !self.status.state.is_terminal()
    }

    /// Its program runs. Nobody is sent to it before it answers.
    fn run(&mut self, answers: bool, now: Timestamp) {
        if answers {
            self.reach(TaskState::Running, "started", now);
        } else if now >= self.status.since.plus(OPEN_LIMIT) {
            self.reach(TaskState::Running, "started, but nothing listens on its published ports", now);
        }
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
    /// Takes over what is wanted now. A task that is here and not wanted any more is stopped; what has ended and is not
    /// wanted is forgotten.
    pub fn assign(&mut self, wanted: &BTreeMap<TaskId, Job>, running: &[TaskId], now: Timestamp) {
        for (id, job) in wanted {
            let fresh = || Local { job: job.clone(), status: job.status().clone(), stopping: None };
            let local = self.tasks.entry(id.clone()).or_insert_with(fresh);
            if job.runs() > local.job.runs() {
                *local = fresh();
            }
            local.job = job.clone();
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
                TaskProcess::Running { pid } => {
                    local.status.pid = Some(*pid);
                    if local.stopping.is_none() && local.status.state < TaskState::Running {
                        local.run(answers(&local.job, *pid), now);
                    }
                }
                TaskProcess::Absent if local.stopping.is_some() => {
                    local.end(&Exit { code: 0, error: None, at_ms: now.0 });
                }
                TaskProcess::Absent => {
                    local.reach(TaskState::Preparing, "preparing its network", now);
                    if ready(id) {
                        local.reach(TaskState::Starting, "starting", now);
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

    /// The program could not be started at all.
    pub fn reject(&mut self, id: &TaskId, error: String, now: Timestamp) {
        if let Some(local) = self.tasks.get_mut(id) {
            local.end(&Exit { code: 127, error: Some(error), at_ms: now.0 });
            local.status.message = NOT_STARTED.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_model::{
        Meta, NodeId, ServiceId, Version,
        service::{Placement, ProcessSpec, RestartPolicy, Runtime, TaskSpec},
        task::Task,
    };
    use std::time::Duration;

    fn task(state: TaskState, desired: TaskState) -> Task {
        Task {
            id: TaskId::from_random([1; 16]),
            meta: Meta::default(),
            service: ServiceId::from_random([2; 16]),
            service_name: "web".into(),
            slot: 1,
            spec: TaskSpec {
                runtime: Runtime::Process(ProcessSpec::default()),
                restart: RestartPolicy::default(),
                placement: Placement::default(),
                networks: vec![],
                stop_grace: Duration::from_secs(10),
                linger: TaskSpec::LINGER,
                files: Vec::new(),
                force_update: 0,
                health: None,
            }
            .into(),
            spec_version: Version(1),
            node: Some(NodeId::from_random([3; 16])),
            attachments: vec![],
            host_ports: vec![],
            desired,
            stop: desired > TaskState::Running,
            started: None,
            not_before: Timestamp(0),
            status: TaskStatus { state, ..TaskStatus::default() },
        }
    }

    struct Host {
        worker: Worker,
        process: TaskProcess,
        sandbox: bool,
        answers: bool,
    }

    impl Host {
        fn new(state: TaskState, process: TaskProcess) -> Self {
            let mut host = Host { worker: Worker::default(), process, sandbox: false, answers: true };
            host.want(Some(task(state, TaskState::Running)), 0);
            host
        }

        fn want(&mut self, task: Option<Task>, now: u64) {
            let known = TaskId::from_random([1; 16]);
            let running: &[TaskId] = if self.process == TaskProcess::Absent { &[] } else { &[known] };
            let wanted = task.into_iter().map(|t| (t.id.clone(), Job::Task(Box::new(t)))).collect();
            self.worker.assign(&wanted, running, Timestamp(now));
        }

        fn step(&mut self, now: u64) -> (Vec<Todo>, Option<TaskState>) {
            let id = TaskId::from_random([1; 16]);
            let processes = BTreeMap::from([(id.clone(), self.process.clone())]);
            let todo = self.worker.advance(&processes, |_| self.sandbox, |_, _| self.answers, Timestamp(now));
            (todo, self.worker.tasks.get(&id).map(|l| l.status.state))
        }
    }

    fn ended(code: i32) -> TaskProcess {
        TaskProcess::Ended(Exit { code, error: None, at_ms: 9 })
    }

    #[test]
    fn a_task_starts_when_its_sandbox_stands() {
        let id = TaskId::from_random([1; 16]);
        let mut host = Host::new(TaskState::Assigned, TaskProcess::Absent);
        assert_eq!(host.step(1), (vec![], Some(TaskState::Preparing)));
        host.sandbox = true;
        assert_eq!(host.step(2), (vec![Todo::Start(id)], Some(TaskState::Starting)));
        host.process = TaskProcess::Running { pid: 7 };
        assert_eq!(host.step(3), (vec![], Some(TaskState::Running)));
        host.process = ended(0);
        assert_eq!(host.step(4), (vec![], Some(TaskState::Complete)));
    }

    #[test]
    fn nobody_is_sent_to_a_program_before_it_answers() {
        let mut host = Host::new(TaskState::Starting, TaskProcess::Running { pid: 7 });
        host.answers = false;
        assert_eq!(host.step(9_999).1, Some(TaskState::Starting));
        let mut late = Host { worker: Worker::default(), ..host };
        late.want(Some(task(TaskState::Starting, TaskState::Running)), 0);
        assert_eq!(late.step(10_000).1, Some(TaskState::Running));
        let mut host = Host::new(TaskState::Starting, TaskProcess::Running { pid: 7 });
        assert_eq!(host.step(1).1, Some(TaskState::Running));
        host.answers = false;
        assert_eq!(host.step(2).1, Some(TaskState::Running), "once is enough");
    }

    #[test]
    fn stopping_drains_asks_and_then_kills() {
        let id = TaskId::from_random([1; 16]);
        let mut host = Host::new(TaskState::Running, TaskProcess::Running { pid: 7 });
        host.want(Some(task(TaskState::Running, TaskState::Shutdown)), 1000);
        assert_eq!(host.step(1001).0, vec![]);
        assert_eq!(host.step(1300).0, vec![Todo::Term(id.clone())]);
        assert_eq!(host.step(1301).0, vec![]);
        assert_eq!(host.step(11300).0, vec![Todo::Kill(id)]);
        host.process = TaskProcess::Ended(Exit { code: 143, error: None, at_ms: 11_300 });
        assert_eq!(host.step(11_799), (vec![], Some(TaskState::Running)), "its last packets are answered");
        assert_eq!(host.step(11_800).1, Some(TaskState::Shutdown));
        host.want(None, 11_801);
        assert!(host.worker.tasks.is_empty());
    }

    #[test]
    fn a_task_that_balancers_still_lead_to_goes_on() {
        let mut host = Host::new(TaskState::Running, TaskProcess::Running { pid: 7 });
        host.want(Some(Task { stop: false, ..task(TaskState::Running, TaskState::Shutdown) }), 0);
        assert_eq!(host.step(100_000), (vec![], Some(TaskState::Running)));
    }

    #[test]
    fn a_second_request_to_stop_can_be_more_urgent() {
        let id = TaskId::from_random([1; 16]);
        let mut host = Host::new(TaskState::Running, TaskProcess::Running { pid: 7 });
        let mut ending = task(TaskState::Running, TaskState::Shutdown);
        host.want(Some(ending.clone()), 0);
        assert_eq!(host.step(300).0, vec![Todo::Term(id.clone())]);
        host.want(Some(ending.clone()), 5000);
        assert_eq!(host.step(10_299).0, vec![]);
        ending.spec.stop_grace = Duration::ZERO;
        host.want(Some(ending), 6000);
        assert_eq!(host.step(6300).0, vec![Todo::Kill(id)]);
    }

    #[test]
    fn what_cannot_be_looked_at_is_neither_ended_nor_started() {
        let id = TaskId::from_random([1; 16]);
        let mut host = Host::new(TaskState::Running, TaskProcess::Running { pid: 7 });
        assert_eq!(host.worker.advance(&BTreeMap::new(), |_| true, |_, _| true, Timestamp(1)), vec![]);
        assert_eq!(host.worker.tasks[&id].status.state, TaskState::Running);
    }

    #[test]
    fn what_is_not_wanted_is_stopped_before_it_is_forgotten() {
        let mut host = Host::new(TaskState::Running, TaskProcess::Running { pid: 7 });
        host.want(None, 0);
        assert_eq!(host.worker.tasks.len(), 1);
        host.process = ended(0);
        assert_eq!(host.step(509).1, Some(TaskState::Shutdown));
        host.want(None, 510);
        assert!(host.worker.tasks.is_empty());
    }

    #[test]
    fn a_task_that_the_host_forgot_has_failed() {
        let host = Host::new(TaskState::Running, TaskProcess::Absent);
        let local = &host.worker.tasks[&TaskId::from_random([1; 16])];
        assert_eq!((local.status.state, local.status.exit_code), (TaskState::Failed, Some(137)));
    }

    #[test]
    fn a_bad_exit_is_told_with_its_code() {
        let mut host = Host::new(TaskState::Running, TaskProcess::Running { pid: 7 });
        host.process = ended(3);
        assert_eq!(host.step(1).1, Some(TaskState::Failed));
        let status = &host.worker.tasks[&TaskId::from_random([1; 16])].status;
        assert_eq!((status.exit_code, status.error.as_str()), (Some(3), "exit code 3"));
    }
}
