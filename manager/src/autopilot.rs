//! Managers that are dead for long go by themselves, if an operator wants that: as `node rm --force` has it, one at a time.
//!
//! The rules are those of Consul's autopilot: nobody goes while a change of the managers is under way, while more than a
//! minority of them is dead, or if those that are left would be no majority of what is left.

use crate::{
    control::{NodeError, remove_node},
    raft::raft_id,
    store::{Mutation, Snapshot, Store, WriteError, now},
};
use heddle_model::{
    NodeId, Timestamp,
    cluster::Role,
    node::{Node, NodeState},
};
use openraft::{Instant as _, async_runtime::WatchReceiver};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Raft heard of a manager within this time: it is not dead, whatever its agent does.
const HEARD: Duration = Duration::from_secs(5);

/// Raft's members, by their numbers.
struct Members {
    all: BTreeSet<u64>,
    /// Heard of lately, this manager among them.
    heard: BTreeSet<u64>,
}

/// The dead manager that goes next, and for how long it has been down.
fn next(state: &Snapshot, members: &Members, now: Timestamp) -> Option<(NodeId, Duration)> {
    let limit = state.cluster.as_ref()?.spec.dead_manager_after?;
    let managers: Vec<&Arc<Node>> = state.nodes.values().filter(|n| n.next_role() == Role::Manager).collect();
    let settled = managers.iter().all(|n| n.role == n.spec.role)
        && managers.iter().map(|n| raft_id(&n.id)).collect::<BTreeSet<_>>() == members.all;
    let dead = |n: &&&Arc<Node>| n.status.state == NodeState::Down && !members.heard.contains(&raft_id(&n.id));
    let most = managers.len().saturating_sub(1) / 2;
    if !settled || managers.iter().filter(dead).count() > most {
        return None;
    }
    let due = managers.iter().filter(dead).map(|n| (n, now.since(n.status.since))).filter(|(_, down)| *down >= limit);
    due.max_by_key(|(n, down)| (*down, n.id.clone())).map(|(n, down)| (n.id.clone(), down))
}

fn members(store: &Store) -> Members {
    let metrics = store.raft().metrics().borrow_watched().clone();
    let beats = metrics.heartbeat.unwrap_or_default().into_iter();
    let heard = beats.filter_map(|(id, at)| Some((id, at?.elapsed()))).filter(|(_, silent)| *silent < HEARD);
    Members {
        all: metrics.membership_config.nodes().map(|(id, _)| *id).collect(),
        heard: heard.map(|(id, _)| id).chain([metrics.id]).collect(),
    }
}

/// Why the one that should go stays, or goes a moment later.
#[derive(Debug, thiserror::Error)]
enum Stays {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Whoever follows the events is told why, before the node is gone.
fn say_why(state: &Snapshot, id: &NodeId, down: Duration) -> Vec<Mutation> {
    let message = format!("removed by autopilot: down for {down:?}");
    let node = state.nodes.get(id).filter(|n| n.status.message != message);
    let told = node.map(|n| {
        let mut node = Node::clone(n);
        node.status.message = message;
        Mutation::Update(node.into())
    });
    told.into_iter().collect()
}

/// Lets one dead manager go, if this manager leads and there is one that should.
pub async fn tidy(store: &Store, leads_since: Instant) -> Result<(), WriteError> {
    let state = store.snapshot();
    let Some(limit) = state.cluster.as_ref().and_then(|c| c.spec.dead_manager_after) else { return Ok(()) };
    // A new leader has to hear of the others first, and does not trust the clock by which the one before wrote.
    if leads_since.elapsed() < HEARD.max(limit) {
        return Ok(());
    }
    let Some((id, down)) = next(&state, &members(store), now()) else { return Ok(()) };
    let down = Duration::from_secs(down.as_secs());
    let gone = async {
        let may_go = |state: &Snapshot| match next(state, &members(store), now()) {
            Some((due, _)) if due == id => Ok(Some(remove_node(state, id.as_str(), true)?.1)),
            _ => Ok::<_, NodeError>(None),
        };
        store
            .update(|state| Ok::<_, Stays>(may_go(state)?.map_or_else(Vec::new, |_| say_why(state, &id, down))))
            .await?;
        store.update(|state| Ok::<_, Stays>(may_go(state)?.unwrap_or_default())).await
    };
    match gone.await {
        Ok(state) if !state.nodes.contains_key(&id) => {
            tracing::warn!(node = %id, ?down, "autopilot removed a dead manager");
            Ok(())
        }
        Ok(_) => Ok(()),
        // It is looked at again all the time.
        Err(Stays::Node(why)) => {
            tracing::debug!(node = %id, %why, "autopilot does not remove a dead manager");
            Ok(())
        }
        Err(Stays::Write(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use heddle_model::{cluster::Cluster, node::NodeStatus};

    const LIMIT: Duration = Duration::from_secs(600);
    /// When the managers that are down went down.
    const WENT: Timestamp = Timestamp(1_000_000);

    struct Scene {
        world: World,
        nodes: Vec<Node>,
    }

    /// So many managers, of which the first so many are down.
    fn scene(count: u8, down: usize) -> Scene {
        let mut world = World::new();
        let mut nodes: Vec<Node> = (1..=count).map(|n| world.node(n)).collect();
        for (n, node) in nodes.iter_mut().enumerate() {
            (node.role, node.spec.role) = (Role::Manager, Role::Manager);
            if n < down {
                node.status = NodeStatus { state: NodeState::Down, since: WENT, ..NodeStatus::default() };
            }
        }
        world.write(nodes.iter().cloned().map(|n| Mutation::Create(n.into())).collect());
        let mut scene = Scene { world, nodes };
        scene.limit(Some(LIMIT));
        scene
    }

    impl Scene {
        fn limit(&mut self, limit: Option<Duration>) {
            let mut cluster = Cluster::clone(self.world.state.cluster.as_ref().unwrap());
            cluster.spec.dead_manager_after = limit;
            self.world.write(vec![Mutation::Update(cluster.into())]);
        }

        fn ids(&self, nodes: impl IntoIterator<Item = usize>) -> BTreeSet<u64> {
            nodes.into_iter().map(|n| raft_id(&self.nodes[n].id)).collect()
        }

        /// Which one goes, with raft hearing of these.
        fn goes(&self, heard: impl IntoIterator<Item = usize>, after: Duration) -> Option<usize> {
            let there = self.nodes.iter().filter(|n| self.world.state.nodes.contains_key(&n.id));
            let all = there.map(|n| raft_id(&n.id)).collect();
            let gone = next(&self.world.state, &Members { all, heard: self.ids(heard) }, WENT.plus(after))?.0;
            self.nodes.iter().position(|n| n.id == gone)
        }
    }

    #[test]
    fn who_is_dead_for_long_enough_goes_if_that_is_wanted() {
        let mut scene = scene(3, 1);
        assert_eq!(scene.goes([1, 2], LIMIT - Duration::from_millis(1)), None);
        assert_eq!(scene.goes([1, 2], LIMIT), Some(0));
        assert_eq!(scene.goes([0, 1, 2], LIMIT), None, "raft hears of it: only its agent is silent");
        scene.limit(None);
        assert_eq!(scene.goes([1, 2], LIMIT * 100), None);
    }

    #[test]
    fn never_more_than_a_minority() {
        for (count, down, goes) in
            [(1, 1, false), (2, 1, false), (3, 1, true), (3, 2, false), (4, 1, true), (4, 2, false)]
                .into_iter()
                .chain([(5, 2, true), (5, 3, false), (7, 3, true), (7, 4, false)])
        {
            let scene = scene(count, down);
            assert_eq!(scene.goes(down..count.into(), LIMIT).is_some(), goes, "{down} of {count}");
        }
    }

    #[test]
    fn one_goes_after_the_other_and_a_majority_is_left() {
        let mut scene = scene(5, 2);
        for _ in 0..2 {
            let at = scene.goes(2..5, LIMIT).unwrap();
            let (_, mutations) = remove_node(&scene.world.state, scene.nodes[at].id.as_str(), true).unwrap();
            let before = scene.world.state.clone();
            scene.world.write(mutations);
            // Raft has not let it go yet.
            let members = Members { all: scene.ids(0..5), heard: scene.ids(2..5) };
            assert_eq!(next(&scene.world.state, &members, WENT.plus(LIMIT)), None);
            assert_eq!(before.nodes.len(), scene.world.state.nodes.len() + 1);
        }
        assert_eq!(scene.goes(2..5, LIMIT), None);
        assert_eq!(scene.world.state.nodes.len(), 3);
    }

    #[test]
    fn a_change_under_way_comes_first() {
        let mut scene = scene(4, 1);
        let mut demoted = Node::clone(&scene.world.state.nodes[&scene.nodes[3].id]);
        demoted.spec.role = Role::Worker;
        scene.world.write(vec![Mutation::Update(demoted.into())]);
        assert_eq!(scene.goes(1..4, LIMIT), None);
    }
}
