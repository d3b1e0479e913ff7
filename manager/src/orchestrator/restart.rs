//! Whether, and when, a task that ended is followed by another.

use super::slot::Slot;
use heddle_model::{
    Timestamp,
    service::{RestartCondition, Service},
    task::{Task, TaskState},
};

/// None: never.
pub fn at(service: &Service, ended: &Task, slot: &Slot<'_>) -> Option<Timestamp> {
    let policy = &service.spec.task.restart;
    let failed = ended.status.state != TaskState::Complete;
    let wanted = match policy.condition {
        RestartCondition::None => false,
        RestartCondition::OnFailure => failed,
        RestartCondition::Any => true,
    };
    let in_window = |t: &&Task| policy.window.is_zero() || ended.status.since.since(t.status.since) <= policy.window;
    let attempt = |t: &&Task| {
        let asked = t.status.state == TaskState::Shutdown;
        t.spec_version == ended.spec_version && t.status.state.is_terminal() && !asked
    };
    let attempts = slot.tasks().filter(attempt).filter(in_window).count() as u64;
    let left = policy.max_attempts == 0 || attempts <= policy.max_attempts;
    (wanted && left).then(|| ended.status.since.plus(policy.delay))
}
