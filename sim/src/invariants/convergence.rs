//! When nothing goes wrong any more all managers come to have the same state, what is to run runs, and every agent knows.

use crate::{agent::Kept, world::World};
use heddle_manager::{dispatcher, orchestrator, store::Snapshot};
use heddle_model::task::TaskState;
use std::sync::Arc;

/// Why it is not so yet.
pub fn converged(managers: &[Arc<Snapshot>], agents: &[(usize, &Kept)], world: &World) -> Result<(), String> {
    let [first, rest @ ..] = managers else { return Err("no manager is up".into()) };
    if let Some(other) = rest.iter().find(|s| **s != *first) {
        return Err(format!("managers are at versions {} and {}", first.version, other.version));
    }
    for service in first.services.values() {
        let wanted = orchestrator::wanted(first, service);
        let running = first.tasks_of_service(&service.id).filter(|t| t.in_service()).count() as u64;
        if running != wanted {
            return Err(format!("{running} of {wanted} replicas of {} run", service.spec.annotations.name));
        }
    }
    for (at, kept) in agents {
        let wanted = dispatcher::view(first, &world.node(*at));
        if kept.view != wanted {
            return Err(format!("the agent of host {at} is at revision {}", kept.revision));
        }
        for (id, task) in kept.view.iter().flat_map(|v| &v.tasks) {
            let state = kept.tasks.get(id).copied().unwrap_or(TaskState::New);
            if (task.desired == TaskState::Running) != (state == TaskState::Running) {
                return Err(format!("task {id} is {state} on host {at} and is to be {}", task.desired));
            }
        }
    }
    Ok(())
}
