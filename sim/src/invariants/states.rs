//! A task's state never goes back, one that ended stays ended, and one that is unhealthy is never well again.

use heddle_manager::store::Snapshot;

pub fn went_back(old: &Snapshot, new: &Snapshot) -> Result<(), String> {
    if new.version < old.version {
        return Err(format!("version {} is followed by {}", old.version, new.version));
    }
    for task in new.tasks.values() {
        let Some(before) = old.tasks.get(&task.id) else { continue };
        if !before.status.may_become(&task.status) || task.desired < before.desired {
            let (was, is) = (before.status.state, task.status.state);
            return Err(format!(
                "task {} goes from {was} to {is}, wanted {} and then {}",
                task.id, before.desired, task.desired
            ));
        }
    }
    Ok(())
}
