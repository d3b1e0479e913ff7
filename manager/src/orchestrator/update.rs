//! Which replicas an update replaces now, how far it is, and what becomes of it when some fail. All that it knows is in the
//! store: another leader goes on where this one ended.

use super::{
    places::is_open,
    restart,
    slot::{Slot, in_rotation},
};
use crate::{
    control::check,
    plan::{Context, Plan},
    store::Snapshot,
};
use heddle_model::{
    Timestamp, Version,
    service::{RestartCondition, Service},
    task::{Task, TaskState},
    update::{FailureAction, UpdateConfig, UpdateStatus},
};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub struct Step {
    /// Replicas whose task is replaced now.
    pub slots: BTreeSet<u64>,
    /// The service as it is from now on, if the update came further.
    pub service: Option<Service>,
}

/// How far one replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Outdated {
        serves: bool,
    },
    /// Something of it is on the way, in or out.
    Moving,
    /// In every balancer; the next one waits until then.
    Resting(Timestamp),
    /// It may still prove bad until then.
    Watched(Timestamp),
    /// Its node gets no new tasks now: it is replaced when it does.
    Held,
    Done,
}

/// What an update is judged by.
struct View<'a> {
    state: &'a Snapshot,
    service: &'a Service,
    status: &'a UpdateStatus,
    config: &'a UpdateConfig,
    now: Timestamp,
    acked: Version,
}

pub fn plan(
    state: &Snapshot,
    service: &Service,
    slots: &BTreeMap<u64, Slot<'_>>,
    replicas: u64,
    context: &Context<'_>,
    plan: &mut Plan,
) -> Step {
    let Some(status) = service.update.as_ref().filter(|u| u.state.in_progress()) else { return Step::default() };
    let config = service.update_config();
    let view = View { state, service, status, config, now: context.now, acked: context.acked };
    let mut next = status.clone();
    for (number, slot) in slots.iter().filter(|(n, _)| !status.failed.contains(n)) {
        if let Some(why) = view.failure(slot, plan) {
            next.failed.insert(*number);
            next.message = why;
        }
    }
    let failed = next.failed.len() as u64;
    if config.max_failure_ratio.is_exceeded(failed, replicas) && config.failure_action != FailureAction::Continue {
        let message = format!("{failed} of {replicas} replicas failed: {}", next.message);
        return Step { service: Some(view.stop(next, message)), ..Step::default() };
    }
    let counted = slots.iter().filter(|(n, _)| !next.failed.contains(n));
    let phases: BTreeMap<u64, Phase> = counted.map(|(n, slot)| (*n, view.phase(slot))).collect();
    let chosen = choose(&phases, config.parallelism);
    let complete = slots.len() as u64 == replicas
        && phases.values().all(|phase| match phase {
            Phase::Done | Phase::Held => true,
            Phase::Resting(until) | Phase::Watched(until) => {
                plan.wake_at(*until);
                false
            }
            Phase::Outdated { .. } | Phase::Moving => false,
        });
    if complete {
        next.state = next.state.completed();
        next.completed = Some(view.now);
        if failed > 0 {
            next.message = format!("{failed} of {replicas} replicas failed: {}", next.message);
        }
    }
    let service = (next != *status).then(|| Service { update: Some(next), ..service.clone() });
    Step { slots: chosen, service }
}

/// As many as may be replaced beside those that are being replaced; first those that do not serve.
fn choose(phases: &BTreeMap<u64, Phase>, parallelism: u64) -> BTreeSet<u64> {
    let busy = phases.values().filter(|p| matches!(p, Phase::Moving | Phase::Resting(_))).count() as u64;
    let room = if parallelism == 0 { u64::MAX } else { parallelism.saturating_sub(busy) };
    let outdated = |(number, phase): (&u64, &Phase)| match phase {
        Phase::Outdated { serves } => Some((*serves, *number)),
        _ => None,
    };
    let waiting: BTreeSet<(bool, u64)> = phases.iter().filter_map(outdated).collect();
    waiting.into_iter().take(usize::try_from(room).unwrap_or(usize::MAX)).map(|(_, number)| number).collect()
}

impl View<'_> {
    fn is_new(&self, task: &Task) -> bool {
        task.spec_version == self.service.spec_version && task.meta.created_at >= self.status.started
    }

    fn phase(&self, slot: &Slot<'_>) -> Phase {
        let newest = slot.newest();
        match slot.current(self.state, self.service) {
            Some(task) if !in_rotation(task, self.acked) || slot.is_leaving(self.state) => Phase::Moving,
            Some(task) if slot.live(self.state).any(|t| t.id != task.id) => Phase::Moving,
            Some(task) if !self.is_new(task) => Phase::Done,
            Some(task) => self.rest(task),
            None if newest.is_some_and(|t| t.desired == TaskState::Running && self.is_new(t)) => {
                // If it ended and is not to be followed by another, that is all.
                let next = |t: &Task| !t.status.state.is_terminal() || restart::at(self.service, t, slot).is_some();
                let again = newest.is_some_and(next);
                if again { Phase::Moving } else { Phase::Done }
            }
            None if slot.is_leaving(self.state) => Phase::Moving,
            None => match slot.live(self.state).next() {
                Some(_) if slot.bound().is_some_and(|id| !self.state.nodes.get(id).is_some_and(|n| is_open(n))) => {
                    Phase::Held
                }
                Some(_) => Phase::Outdated { serves: slot.tasks().any(Task::in_service) },
                None if newest.is_some_and(|t| t.desired == TaskState::Running) => Phase::Outdated { serves: false },
                None => Phase::Moving,
            },
        }
    }

    fn rest(&self, task: &Task) -> Phase {
        let since = task.started.unwrap_or(task.meta.updated_at);
        let (rested, watched) = (since.plus(self.config.delay), since.plus(self.config.monitor));
        if self.now < rested {
            Phase::Resting(rested)
        } else if self.now < watched {
            Phase::Watched(watched)
        } else {
            Phase::Done
        }
    }

    /// Why a new task of the slot counts as failed; None: it does not, or not yet.
    fn failure(&self, slot: &Slot<'_>, plan: &mut Plan) -> Option<String> {
        if let Some(task) = slot.tasks().find(|t| self.is_new(t) && self.failed(t)) {
            let status = &task.status;
            let why = if status.error.is_empty() { &status.message } else { &status.error };
            return Some(format!("{}: {why}", task.name()));
        }
        let task = slot.current(self.state, self.service)?;
        if in_rotation(task, self.acked) || self.config.deadline.is_zero() {
            return None;
        }
        let deadline = task.meta.created_at.max(self.status.started).plus(self.config.deadline);
        if self.now < deadline {
            plan.wake_at(deadline);
            return None;
        }
        let so_far = if task.in_service() { "not every host has it in its balancers" } else { &task.status.message };
        Some(format!("{}: not in service after {:?}: {so_far}", task.name(), self.config.deadline))
    }

    /// Whether it ended by itself, or became unhealthy, too soon. One that was never seen to run did.
    fn failed(&self, task: &Task) -> bool {
        let ended = match task.status.state {
            TaskState::Failed | TaskState::Rejected => true,
            TaskState::Complete => self.service.spec.task.restart.condition == RestartCondition::Any,
            _ => task.status.unhealthy,
        };
        ended && task.started.is_none_or(|at| task.meta.updated_at.since(at) <= self.config.monitor)
    }

    /// More have failed than may: back, if that is wanted and there is a way, or no further.
    fn stop(&self, mut next: UpdateStatus, message: String) -> Service {
        let mut service = self.service.clone();
        let back = self.config.failure_action == FailureAction::Rollback && !next.state.is_rollback();
        let way = service.previous.as_ref().map(|p| check::change(self.state, self.service, p.spec.clone()));
        let closed = match way {
            Some(Ok(_)) if back => {
                service.roll_back(self.now, message);
                return service;
            }
            Some(Err(e)) if back => format!("; it cannot be rolled back: {e}"),
            None if back => "; there is no spec before it to go back to".to_owned(),
            _ => String::new(),
        };
        next.state = next.state.paused();
        next.completed = Some(self.now);
        next.message = message + &closed;
        service.update = Some(next);
        service
    }
}
