//! Waiting until a service is as wanted, and showing how far it is.

use crate::{
    client::{Control, said},
    commands::show::{Part, Show},
};
use anyhow::{Result, anyhow, bail};
use futures::StreamExt;
use heddle_proto::v1::{self, UpdateState};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Streaming};

/// Another leader is there by then.
const GONE_LIMIT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(200);
/// States of a task until it runs, and that every host knows it.
const STEPS: u64 = v1::TaskState::Running as u64 + 1;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// As many replicas as wanted, or that nothing is left.
    Wanted,
    Updated,
    RolledBack,
    /// That no task is to move any more.
    Even,
}

/// Where a service is, in one line, and whether that is the end.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    On(String),
    Done,
    Failed(String),
}

fn look(progress: &v1::ServiceProgress, goal: Goal) -> Seen {
    match &progress.update {
        _ if goal == Goal::Even && progress.moves > 0 => Seen::On(format!(
            "moving tasks, {} of {} in rotation on every host",
            progress.in_rotation, progress.desired
        )),
        _ if progress.job.is_some() => job(progress, progress.job.unwrap_or_default()),
        Some(update) if matches!(goal, Goal::Updated | Goal::RolledBack) => updated(progress, update, goal),
        _ => wanted(progress),
    }
}

/// Its tasks are waited for until they end.
fn job(progress: &v1::ServiceProgress, job: v1::JobProgress) -> Seen {
    let v1::JobProgress { completed, failed } = job;
    let wanted = progress.desired;
    let so_far = format!("{completed} of {wanted} completed");
    let ended = progress.running == 0 && progress.stopping == 0;
    match failed {
        0 if completed == wanted && ended => Seen::Done,
        0 => Seen::On(format!("{so_far}, {} running", progress.running)),
        _ if completed + failed >= wanted && ended => {
            let why = progress.reasons.join("; ");
            Seen::Failed(format!("{so_far}, {failed} failed and are not tried again: {why}"))
        }
        _ => Seen::On(format!("{so_far}, {} running, {failed} failed", progress.running)),
    }
}

fn wanted(progress: &v1::ServiceProgress) -> Seen {
    let (done, wanted) = (progress.in_rotation, progress.desired);
    let removing = wanted == 0;
    let reached =
        if removing { progress.gone } else { done == wanted && progress.running == wanted && progress.stopping == 0 };
    let mut text = match removing {
        true => format!("{} tasks left", progress.stopping),
        false => format!("{} of {wanted} running, {done} in rotation on every host", progress.running),
    };
    if progress.stopping > 0 && !removing {
        text.push_str(&format!(", {} stopping", progress.stopping));
    }
    if reached { Seen::Done } else { Seen::On(text) }
}

fn updated(progress: &v1::ServiceProgress, update: &v1::UpdateStatus, goal: Goal) -> Seen {
    let because = if update.message.is_empty() { String::new() } else { format!(": {}", update.message) };
    let so_far = || format!("{} of {} are in rotation as wanted", progress.current, progress.desired);
    match update.state() {
        UpdateState::Updating if progress.reasons.is_empty() => Seen::On(format!("updating, {}", so_far())),
        UpdateState::Updating => Seen::On(format!("updating, {}: {}", so_far(), progress.reasons.join("; "))),
        UpdateState::RollbackStarted => Seen::On(format!("rolling back, {}{because}", so_far())),
        UpdateState::Paused => Seen::Failed(format!("the update is paused{because}")),
        UpdateState::RollbackPaused => Seen::Failed(format!("the rollback is paused{because}")),
        UpdateState::RollbackCompleted if goal == Goal::Updated => {
            Seen::Failed(format!("the update was rolled back{because}"))
        }
        UpdateState::Completed | UpdateState::RollbackCompleted if !update.failed.is_empty() => {
            Seen::Failed(format!("it ended, but not well{because}"))
        }
        UpdateState::Completed | UpdateState::RollbackCompleted | UpdateState::Unspecified => wanted(progress),
    }
}

/// The next progress of a service, whoever leads. None: the time is over.
struct Watch<'a> {
    control: &'a mut Control,
    id: String,
    until: Option<Instant>,
    stream: Option<Streaming<v1::ServiceProgress>>,
}

impl Watch<'_> {
    async fn next(&mut self) -> Result<Option<v1::ServiceProgress>> {
        let mut lost: Option<Instant> = None;
        loop {
            let until = self.until.unwrap_or_else(far);
            if Instant::now() >= until {
                return Ok(None);
            }
            let error = match timeout_at(until, self.advance()).await {
                Err(_) => return Ok(None),
                Ok(Ok(Some(progress))) => return Ok(Some(progress)),
                Ok(Ok(None)) => None,
                Ok(Err(status)) if status.code() == Code::NotFound => return Err(said(status)),
                Ok(Err(status)) => Some(status),
            };
            self.stream = None;
            if lost.get_or_insert_with(Instant::now).elapsed() > GONE_LIMIT {
                let away = || anyhow!("the manager went away while waiting: look with `heddle service ps`");
                return Err(error.map_or_else(away, said));
            }
            sleep(PAUSE).await;
        }
    }

    async fn advance(&mut self) -> Result<Option<v1::ServiceProgress>, tonic::Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let request = v1::RefRequest { r#ref: self.id.clone() };
                none.insert(self.control.watch_service(request).await?.into_inner())
            }
        };
        stream.next().await.transpose()
    }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(86_400)
}

/// Waits until the service is as wanted. On a time-out says what is missing.
pub async fn settle(control: &mut Control, name: &str, id: &str, timeout: Option<u64>, goal: Goal) -> Result<()> {
    let until = timeout.map(|s| Instant::now() + Duration::from_secs(s));
    let mut watch = Watch { control, id: id.to_owned(), until, stream: None };
    let mut show = Show::new(name);
    let mut last = v1::ServiceProgress::default();
    while let Some(progress) = watch.next().await? {
        match look(&progress, goal) {
            Seen::Done => return Ok(()),
            Seen::Failed(why) => bail!("{name}: {why}"),
            Seen::On(text) => {
                show.line(text);
                show.parts(progress.tasks.iter().map(part));
            }
        }
        last = progress;
    }
    let mut why = last.reasons.clone();
    if !last.waiting_for.is_empty() {
        why.push(format!("waiting for {}", last.waiting_for.join(", ")));
    }
    let Seen::On(so_far) = look(&last, goal) else { return Ok(()) };
    bail!("{name}: not done after {} s: {so_far}; {}", timeout.unwrap_or_default(), why.join("; "))
}

/// A task's way into service.
fn part(task: &v1::TaskProgress) -> Part {
    let state = task.state().as_str_name().trim_start_matches("TASK_STATE_").to_lowercase();
    let (steps, text) = match task.in_rotation {
        true => (STEPS, "in rotation".to_owned()),
        false => (task.state() as u64, state),
    };
    let on = if task.hostname.is_empty() { String::new() } else { format!(" on {}", task.hostname) };
    let why = if task.message.is_empty() { String::new() } else { format!(": {}", task.message) };
    Part { name: task.name.clone(), done: steps, of: STEPS, text: format!("{text}{on}{why}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_goes_step_by_step_into_rotation() {
        let task = |state: v1::TaskState, in_rotation| v1::TaskProgress {
            name: "web.1".into(),
            state: state.into(),
            hostname: "node2".into(),
            in_rotation,
            message: String::new(),
        };
        let said = |state, in_rotation| {
            let part = part(&task(state, in_rotation));
            (part.done, part.text)
        };
        assert_eq!(said(v1::TaskState::Pending, false), (2, "pending on node2".into()));
        assert_eq!(said(v1::TaskState::Running, false), (8, "running on node2".into()));
        assert_eq!(said(v1::TaskState::Running, true), (STEPS, "in rotation on node2".into()));
    }

    fn progress(state: UpdateState, failed: &[u64]) -> v1::ServiceProgress {
        let update = v1::UpdateStatus {
            state: state.into(),
            message: "1 of 2 replicas failed: web.1: exit code 1".into(),
            failed: failed.to_vec(),
            ..v1::UpdateStatus::default()
        };
        v1::ServiceProgress { desired: 2, running: 2, in_rotation: 2, update: Some(update), ..Default::default() }
    }

    #[test]
    fn an_update_that_did_not_come_through_is_a_failure() {
        let why = "1 of 2 replicas failed: web.1: exit code 1";
        for (state, goal, failed, want) in [
            (UpdateState::Paused, Goal::Updated, &[1][..], Seen::Failed(format!("the update is paused: {why}"))),
            (
                UpdateState::RollbackCompleted,
                Goal::Updated,
                &[],
                Seen::Failed(format!("the update was rolled back: {why}")),
            ),
            (
                UpdateState::RollbackPaused,
                Goal::RolledBack,
                &[1],
                Seen::Failed(format!("the rollback is paused: {why}")),
            ),
            (UpdateState::Completed, Goal::Updated, &[1], Seen::Failed(format!("it ended, but not well: {why}"))),
            (UpdateState::RollbackCompleted, Goal::RolledBack, &[], Seen::Done),
            (UpdateState::Completed, Goal::Updated, &[], Seen::Done),
            (UpdateState::Paused, Goal::Wanted, &[1], Seen::Done),
        ] {
            assert_eq!(look(&progress(state, failed), goal), want, "{state:?} {goal:?}");
        }
        let on = look(&progress(UpdateState::Updating, &[]), Goal::Updated);
        assert_eq!(on, Seen::On("updating, 0 of 2 are in rotation as wanted".into()));
    }
}
