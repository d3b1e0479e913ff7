//! When nothing goes wrong any more all managers come to have the same state, updates and moves end, what is to run runs or has
//! run to its end, and every agent knows.

use crate::{agent::Kept, world::World};
use heddle_manager::{dispatcher, orchestrator, store::Snapshot};
use heddle_model::{task::TaskState, update::UpdateState};
use std::sync::Arc;

/// Why it is not so yet.
pub fn converged(managers: &[Arc<Snapshot>], agents: &[(usize, &Kept)], world: &World) -> Result<(), String> {
    let [first, rest @ ..] = managers else { return Err("no manager is up".into()) };
    if let Some(other) = rest.iter().find(|s| **s != *first) {
        return Err(format!("managers are at versions {} and {}", first.version, other.version));
    }
    for service in first.services.values() {
        let name = &service.spec.annotations.name;
        let wanted = orchestrator::wanted(first, service);
        let running: Vec<_> = first.tasks_of_service(&service.id).filter(|t| t.in_service()).collect();
        if service.spec.mode.is_job() {
            let (completed, failed) = orchestrator::ended(first, service);
            if (completed, failed, running.len()) != (wanted, 0, 0) {
                return Err(format!("{completed} of {wanted} tasks of {name} completed, {failed} failed"));
            }
            continue;
        }
        if running.len() as u64 != wanted {
            return Err(format!("{} of {wanted} replicas of {name} run", running.len()));
        }
        if service.is_updating() || service.moves > 0 {
            return Err(format!("{name} is not at rest: {:?}, {} moves", service.update, service.moves));
        }
        let updated = service.update.as_ref().is_some_and(|u| u.state == UpdateState::Completed && u.failed.is_empty());
        if updated && running.iter().any(|t| t.spec_version != service.spec_version) {
            return Err(format!("{name} is updated, and not all of its tasks are"));
        }
    }
    for (at, kept) in agents {
        let wanted = dispatcher::view(first, &world.node(*at));
        if kept.view != wanted {
            return Err(format!("the agent of host {at} is at revision {}", kept.revision));
        }
        for (id, task) in kept.view.iter().flat_map(|v| &v.tasks) {
            let state = kept.tasks.get(id).copied().unwrap_or(TaskState::New);
            let completed = state == TaskState::Complete;
            if !completed && (task.desired == TaskState::Running) != (state == TaskState::Running) {
                return Err(format!("task {id} is {state} on host {at} and is to be {}", task.desired));
            }
        }
    }
    Ok(())
}
