//! Tasks of one host, looked at step by step.

use super::*;
use heddle_model::{
    Meta, NodeId, ServiceId, Version,
    health::{HealthCheck, Probe},
    service::{ImageSpec, ProcessSpec, Runtime, TaskSpec},
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
        spec: TaskSpec::default().into(),
        spec_version: Version(1),
        node: Some(NodeId::from_random([3; 16])),
        bound: None,
        choice: None,
        attachments: vec![],
        host_ports: vec![],
        desired,
        stop: desired > TaskState::Running,
        started: None,
        not_before: Timestamp(0),
        status: TaskStatus { state, ..TaskStatus::default() },
    }
}

fn of_image() -> TaskSpec {
    let image = ImageSpec { image: "nginx".parse().unwrap(), entrypoint: None, program: ProcessSpec::default() };
    TaskSpec { runtime: Runtime::Image(Box::new(image)), ..TaskSpec::default() }
}

fn running(health: Option<HealthCheck>) -> TaskProcess {
    TaskProcess::Running { pid: 7, health }
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
    host.process = running(None);
    assert_eq!(host.step(3), (vec![], Some(TaskState::Running)));
    host.process = ended(0);
    assert_eq!(host.step(4), (vec![], Some(TaskState::Complete)));
}

#[test]
fn a_container_begins_when_its_image_is_there_however_long_that_takes() {
    let id = TaskId::from_random([1; 16]);
    let mut task = task(TaskState::Assigned, TaskState::Running);
    task.spec = of_image().into();
    let mut host = Host::new(TaskState::Assigned, TaskProcess::Absent);
    host.want(Some(task.clone()), 0);
    host.sandbox = true;
    assert_eq!(host.step(1), (vec![Todo::Start(id.clone())], Some(TaskState::Preparing)));
    host.process = TaskProcess::Preparing("pulling nginx".into());
    assert_eq!(host.step(20_000), (vec![], Some(TaskState::Preparing)));
    assert_eq!(host.worker.tasks[&id].status.message, "pulling nginx");
    host.answers = false;
    host.process = running(None);
    assert_eq!(host.step(20_001).1, Some(TaskState::Starting));
    assert_eq!(host.worker.tasks[&id].status.since, Timestamp(20_001), "it has from now on to answer");
    // Who is to go while the image comes is asked to, as any other.
    host.process = TaskProcess::Preparing("pulling nginx".into());
    host.want(Some(Task { stop: true, desired: TaskState::Shutdown, ..task }), 20_002);
    assert_eq!(host.step(20_302).0, [Todo::Term(id)]);
    host.process = TaskProcess::Ended(Exit { code: 143, error: None, at_ms: 20_303 });
    assert_eq!(host.step(20_900).1, Some(TaskState::Shutdown));
}

#[test]
fn nobody_is_sent_to_a_program_before_it_answers() {
    let mut host = Host::new(TaskState::Starting, running(None));
    host.answers = false;
    assert_eq!(host.step(9_999).1, Some(TaskState::Starting));
    let mut late = Host { worker: Worker::default(), ..host };
    late.want(Some(task(TaskState::Starting, TaskState::Running)), 0);
    assert_eq!(late.step(10_000).1, Some(TaskState::Running));
    let mut host = Host::new(TaskState::Starting, running(None));
    assert_eq!(host.step(1).1, Some(TaskState::Running));
    host.answers = false;
    assert_eq!(host.step(2).1, Some(TaskState::Running), "once is enough");
}

#[test]
fn stopping_drains_asks_and_then_kills() {
    let id = TaskId::from_random([1; 16]);
    let mut host = Host::new(TaskState::Running, running(None));
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
    let mut host = Host::new(TaskState::Running, running(None));
    host.want(Some(Task { stop: false, ..task(TaskState::Running, TaskState::Shutdown) }), 0);
    assert_eq!(host.step(100_000), (vec![], Some(TaskState::Running)));
}

#[test]
fn a_second_request_to_stop_can_be_more_urgent() {
    let id = TaskId::from_random([1; 16]);
    let mut host = Host::new(TaskState::Running, running(None));
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
    let mut host = Host::new(TaskState::Running, running(None));
    assert_eq!(host.worker.advance(&BTreeMap::new(), |_| true, |_, _| true, Timestamp(1)), vec![]);
    assert_eq!(host.worker.tasks[&id].status.state, TaskState::Running);
}

#[test]
fn what_is_not_wanted_is_stopped_before_it_is_forgotten() {
    let mut host = Host::new(TaskState::Running, running(None));
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
    let mut host = Host::new(TaskState::Running, running(None));
    host.process = ended(3);
    assert_eq!(host.step(1).1, Some(TaskState::Failed));
    let status = &host.worker.tasks[&TaskId::from_random([1; 16])].status;
    assert_eq!((status.exit_code, status.error.as_str()), (Some(3), "exit code 3"));
}

fn checked(state: TaskState, desired: TaskState) -> Task {
    let mut task = task(state, desired);
    let interval = Duration::from_secs(10);
    task.spec.health =
        Some(HealthCheck { interval, retries: 2, ..HealthCheck::new(Probe::Tcp(80.try_into().unwrap())) });
    task
}

impl Host {
    fn with_check(state: TaskState) -> Self {
        let process = running(None);
        let mut host = Host { worker: Worker::default(), process, sandbox: true, answers: true };
        host.want(Some(checked(state, TaskState::Running)), 0);
        host
    }

    /// A check is due, and ends so.
    fn check(&mut self, at: u64, outcome: Outcome) -> Option<String> {
        let id = TaskId::from_random([1; 16]);
        assert_eq!(self.step(at).0, [Todo::Check(id.clone())]);
        self.worker.checked(&id, outcome, Timestamp(at)).map(str::to_owned)
    }

    fn status(&self) -> &TaskStatus {
        &self.worker.tasks[&TaskId::from_random([1; 16])].status
    }
}

#[test]
fn a_task_with_a_check_runs_when_it_has_succeeded() {
    let mut host = Host::with_check(TaskState::Starting);
    host.answers = false;
    assert_eq!(host.step(1), (vec![], Some(TaskState::Starting)), "nothing listens yet");
    host.answers = true;
    assert_eq!(host.check(2, Err("no".into())), None);
    assert_eq!(host.step(3), (vec![], Some(TaskState::Starting)));
    assert_eq!(host.status().message, "starting, not healthy yet: no");
    assert_eq!(host.check(5002, Ok(())), None);
    assert_eq!((host.status().state, host.status().since), (TaskState::Running, Timestamp(5002)));
    // Its program need not listen for the first check for ever.
    let mut host = Host::with_check(TaskState::Starting);
    host.answers = false;
    assert_eq!(host.step(9_999).0, vec![]);
    assert_eq!(host.check(10_000, Ok(())), None);
    assert_eq!(host.step(10_001), (vec![], Some(TaskState::Running)));
}

#[test]
fn the_check_of_an_image_is_made_where_nothing_else_is_said() {
    let exec = || Some(HealthCheck::new(Probe::Exec(vec!["true".into()])));
    let id = TaskId::from_random([1; 16]);
    let host = |change: &dyn Fn(&mut TaskSpec)| {
        let mut task = task(TaskState::Starting, TaskState::Running);
        let mut spec = of_image();
        change(&mut spec);
        task.spec = spec.into();
        let mut host = Host { worker: Worker::default(), process: running(exec()), sandbox: true, answers: true };
        host.want(Some(task), 0);
        host
    };
    let mut plain = host(&|_| ());
    assert_eq!(plain.step(1), (vec![Todo::Check(id.clone())], Some(TaskState::Starting)));
    assert_eq!(plain.worker.tasks[&id].check(), exec().as_ref());
    assert_eq!(plain.worker.checked(&id, Err("no".into()), Timestamp(2)), None);
    assert_eq!(plain.status().message, "starting, not healthy yet: no");
    plain.check(5002, Ok(()));
    assert_eq!(plain.status().state, TaskState::Running);
    // What is said counts, and that there is none, too.
    let own = HealthCheck::new(Probe::Command("own".into()));
    let said = host(&|spec| spec.health = Some(own.clone()));
    assert_eq!(said.worker.tasks[&id].check(), Some(&own));
    let mut none = host(&|spec| spec.no_healthcheck = true);
    assert_eq!(none.step(1), (vec![], Some(TaskState::Running)));
    let mut without = host(&|_| ());
    without.process = running(None);
    assert_eq!(without.step(1), (vec![], Some(TaskState::Running)));
}

#[test]
fn an_unhealthy_task_says_why_goes_on_until_it_may_stop_and_has_failed() {
    let mut host = Host::with_check(TaskState::Running);
    assert_eq!(host.check(0, Err("first".into())), None);
    let why = "unhealthy: 2 checks failed: second";
    assert_eq!(host.check(10_000, Err("second".into())).as_deref(), Some(why));
    assert!(host.status().unhealthy && host.status().state == TaskState::Running && host.status().error == why);
    assert_eq!(host.step(60_000), (vec![], Some(TaskState::Running)), "no check, and no signal yet");
    let id = TaskId::from_random([1; 16]);
    assert_eq!(host.worker.checked(&id, Ok(()), Timestamp(60_000)), None);
    assert!(host.status().unhealthy, "it does not recover");
    host.want(Some(Task { stop: true, ..checked(TaskState::Running, TaskState::Running) }), 60_001);
    assert_eq!(host.step(61_000).0, [Todo::Term(id)]);
    host.process = ended(0);
    assert_eq!(host.step(62_000).1, Some(TaskState::Failed));
    assert_eq!(host.status().error, why);
}

#[test]
fn a_daemon_that_takes_over_believes_what_the_one_before_said() {
    let mut host = Host::with_check(TaskState::Running);
    assert_eq!(host.step(1).1, Some(TaskState::Running), "it stays in service");
    let status =
        TaskStatus { state: TaskState::Running, unhealthy: true, error: "why".into(), ..TaskStatus::default() };
    let mut host = Host::with_check(TaskState::Running);
    host.want(Some(Task { status, ..checked(TaskState::Running, TaskState::Running) }), 0);
    assert_eq!(host.step(1).0, vec![]);
    assert!(host.status().unhealthy && host.status().error == "why");
}

#[test]
fn what_is_to_go_is_not_checked() {
    let mut host = Host::with_check(TaskState::Running);
    let leaving = Task { stop: false, ..checked(TaskState::Running, TaskState::Shutdown) };
    host.want(Some(leaving), 0);
    assert_eq!(host.step(1), (vec![], Some(TaskState::Running)));
    // Not even by the one that was under way.
    let mut host = Host::with_check(TaskState::Starting);
    let id = TaskId::from_random([1; 16]);
    assert_eq!(host.step(1).0, [Todo::Check(id.clone())]);
    host.want(Some(checked(TaskState::Starting, TaskState::Shutdown)), 2);
    assert_eq!(host.worker.checked(&id, Ok(()), Timestamp(3)), None);
    assert_eq!(host.status().state, TaskState::Starting);
}
