//! What may be changed of the cluster as a whole.

use super::{ControlError, SpecError, autolock};
use crate::store::{Mutation, Snapshot};
use heddle_model::cluster::{Cluster, ClusterSpec, Secret};
use heddle_proto::v1;

/// What makes it as wanted: nothing if it is. If autolock is turned on, it is with the fresh key.
pub fn update(
    state: &Snapshot,
    request: &v1::UpdateClusterRequest,
    fresh: &Secret,
) -> Result<Vec<Mutation>, ControlError> {
    let Some(before) = &state.cluster else { return Ok(Vec::new()) };
    let mut next = Cluster::clone(before);
    if let Some(millis) = request.dead_manager_after_ms {
        next.spec.dead_manager_after = ClusterSpec::dead_manager_after_of(millis).map_err(SpecError::from)?;
    }
    if let Some(changed) = request.autolock.and_then(|on| autolock::set(&next, on, fresh)) {
        next = changed;
    }
    Ok(if next == **before { Vec::new() } else { vec![Mutation::Update(next.into())] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use std::time::Duration;

    #[test]
    fn autopilot_is_set_and_turned_off() {
        let mut world = World::new();
        let request = |millis| v1::UpdateClusterRequest { dead_manager_after_ms: millis, autolock: None };
        let fresh = Secret("fresh".into());
        let mut set = |millis| {
            let mutations = update(&world.state, &request(millis), &fresh).unwrap();
            let changed = !mutations.is_empty();
            world.write(mutations);
            (changed, world.state.cluster.as_ref().unwrap().spec.dead_manager_after)
        };
        let minute = Some(Duration::from_secs(60));
        assert_eq!(set(None), (false, None));
        assert_eq!(set(Some(60_000)), (true, minute));
        assert_eq!(set(Some(60_000)), (false, minute));
        assert_eq!(set(None), (false, minute));
        assert_eq!(set(Some(0)), (true, None));
        for (millis, time) in [(1, "1ms"), (9_999, "9.999s"), (u64::MAX, "18446744073709551.615s")] {
            let said = update(&world.state, &request(Some(millis)), &fresh).unwrap_err().to_string();
            assert_eq!(said, format!("autopilot {time}: use 10s to 8760h, or off"));
        }
    }

    #[test]
    fn one_setting_leaves_the_others() {
        let mut world = World::new();
        let fresh = Secret("fresh".into());
        let mut set = |autolock, dead_manager_after_ms| {
            let request = v1::UpdateClusterRequest { autolock, dead_manager_after_ms };
            world.write(update(&world.state, &request, &fresh).unwrap());
            let cluster = world.state.cluster.as_ref().unwrap();
            (cluster.unlock_key.is_some(), cluster.spec.dead_manager_after.is_some())
        };
        assert_eq!(set(Some(true), None), (true, false));
        assert_eq!(set(None, Some(60_000)), (true, true));
        assert_eq!(set(Some(false), Some(0)), (false, false));
    }
}
