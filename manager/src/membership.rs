//! Who votes: managers come by themselves and go one at a time, as the wanted roles of nodes say.

use crate::{
    raft::{Raft, TypeConfig, raft_id},
    store::{Mutation, Snapshot, Store},
};
use heddle_model::{
    NodeId,
    cluster::Role,
    node::{Node, NodeState},
};
use openraft::{
    BasicNode, ChangeMembers,
    async_runtime::WatchReceiver,
    errors::{ChangeMembershipError, ClientWriteError, RaftError},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// A change that finds no majority within this time is tried again.
const LIMIT: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(20);

/// What the leader does next. One thing at a time, so that a majority of the one set is a majority of the next.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// It is to go itself: somebody else leads from then on.
    HandOver,
    Dismiss(u64),
    /// Its node says another address.
    Move(u64, String),
    /// No member any more: its next certificate is a worker's.
    Demoted(NodeId),
}

fn next(state: &Snapshot, members: &BTreeMap<u64, String>, own: u64) -> Option<Step> {
    state.cluster.as_ref()?;
    let stays = |id: &u64| state.nodes.values().any(|n| n.spec.role == Role::Manager && raft_id(&n.id) == *id);
    if let Some(id) = members.keys().find(|id| !stays(id)) {
        return Some(if *id == own { Step::HandOver } else { Step::Dismiss(*id) });
    }
    let at = |n: &Node| n.manager.as_ref().map(|m| (m.raft_id, m.addr.to_string()));
    let told = state.managers().filter_map(|n| at(n));
    if let Some((id, addr)) = told.into_iter().find(|(id, addr)| members.get(id).is_some_and(|known| known != addr)) {
        return Some(Step::Move(id, addr));
    }
    let former = |n: &&std::sync::Arc<Node>| n.role == Role::Manager && n.spec.role == Role::Worker;
    state.nodes.values().find(former).map(|n| Step::Demoted(n.id.clone()))
}

/// Does the next thing there is to do, if this manager leads.
pub async fn settle(store: &Store) {
    let raft = store.raft();
    let metrics = raft.metrics().borrow_watched().clone();
    let members = metrics.membership_config.nodes().map(|(id, node)| (*id, node.addr.clone())).collect();
    // A new leader may not have applied yet what its log says of members' nodes.
    let config = *metrics.membership_config.log_id();
    if config.map(|id| id.index) > metrics.last_applied.map(|id| id.index) {
        return;
    }
    let Some(step) = next(&store.snapshot(), &members, metrics.id) else { return };
    let done = async {
        match &step {
            Step::HandOver => hand_over(store).await,
            Step::Dismiss(id) => dismiss(raft, *id).await,
            Step::Move(id, addr) => {
                change(raft, ChangeMembers::SetNodes(BTreeMap::from([(*id, BasicNode::new(addr))])), true).await
            }
            Step::Demoted(id) => {
                let demote = |state: &Snapshot| {
                    let node = state.nodes.get(id).filter(|n| n.spec.role == Role::Worker);
                    let worker =
                        |n: &std::sync::Arc<Node>| Node { role: Role::Worker, manager: None, ..Node::clone(n) };
                    Ok::<_, crate::store::WriteError>(
                        node.map(|n| Mutation::Update(worker(n).into())).into_iter().collect(),
                    )
                };
                store.update(demote).await.map(drop).map_err(|e| e.to_string())
            }
        }
    };
    match tokio::time::timeout(LIMIT, done).await {
        Ok(Ok(())) => tracing::info!(?step, "managers changed"),
        Ok(Err(error)) => tracing::warn!(?step, %error, "managers do not change yet"),
        Err(_) => tracing::warn!(?step, "managers do not change yet: no majority answers"),
    }
}

/// Waits until a node that was removed is no member any more either; for no longer than that may take.
pub async fn gone(store: &Store, node: &NodeId) {
    let id = raft_id(node);
    let wait = store.raft().wait(Some(LIMIT));
    let left = wait.metrics(|m| m.membership_config.nodes().all(|(member, _)| *member != id), "it is no member");
    if let Err(error) = left.await {
        tracing::warn!(%node, %error, "a node that was removed is a member of raft still");
    }
}

/// Lets another manager lead, one that is there if possible. An error: there is none.
pub async fn hand_over(store: &Store) -> Result<(), String> {
    let raft = store.raft();
    let own = raft.metrics().borrow_watched().id;
    let state = store.snapshot();
    let ready = |id: &u64| {
        let node = state.nodes.values().find(|n| raft_id(&n.id) == *id);
        node.is_some_and(|n| n.spec.role == Role::Manager && n.status.state == NodeState::Ready)
    };
    let mut heirs: Vec<u64> = raft.voter_ids().filter(|id| *id != own).collect();
    heirs.sort_by_key(|id| !ready(id));
    let heir = heirs.first().ok_or("there is no other manager")?;
    raft.trigger().transfer_leader(*heir).await.map_err(|e| e.to_string())?;
    let wait = raft.wait(Some(LIMIT));
    let follows = wait.metrics(|m| m.current_leader.is_some_and(|l| l != own), "another manager leads");
    follows.await.map(drop).map_err(|e| e.to_string())
}

/// Waits until a node that is to be a manager votes; for no longer than that may take.
pub async fn votes(store: &Store, node: &NodeId) {
    let id = raft_id(node);
    let wait = store.raft().wait(Some(LIMIT));
    let votes = wait.metrics(|m| m.membership_config.voter_ids().any(|voter| voter == id), "it votes");
    if let Err(error) = votes.await {
        tracing::warn!(%node, %error, "a node that was promoted does not vote yet");
    }
}

type Changed<T> = Result<T, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>;

/// One change after the other: raft refuses two at a time.
async fn in_turn<T, F: Future<Output = Changed<T>>>(change: impl Fn() -> F) -> Result<(), String> {
    loop {
        match change().await {
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)))) => {
                tokio::time::sleep(AGAIN).await;
            }
            changed => return changed.map(drop).map_err(|e| e.to_string()),
        }
    }
}

async fn change(raft: &Raft, to: ChangeMembers<u64, BasicNode>, retain: bool) -> Result<(), String> {
    in_turn(|| raft.change_membership(to.clone(), retain)).await
}

/// Into raft: it votes when it has caught up.
pub async fn admit(raft: &Raft, id: u64, addr: &str) -> Result<(), String> {
    in_turn(|| raft.add_learner(id, BasicNode::new(addr), true)).await?;
    change(raft, ChangeMembers::AddVoterIds(BTreeSet::from([id])), true).await
}

/// Out of raft, as a voter and as a learner.
pub async fn dismiss(raft: &Raft, id: u64) -> Result<(), String> {
    let gone = BTreeSet::from([id]);
    if raft.voter_ids().any(|voter| voter == id) {
        change(raft, ChangeMembers::RemoveVoters(gone.clone()), false).await?;
    }
    if raft.metrics().borrow_watched().membership_config.nodes().any(|(n, _)| *n == id) {
        change(raft, ChangeMembers::RemoveNodes(gone), false).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use heddle_model::node::ManagerStatus;

    #[test]
    fn who_is_to_go_goes_and_the_leader_last() {
        let mut world = World::new();
        let mut nodes: Vec<Node> = (1..=3).map(|n| world.node(n)).collect();
        nodes.iter_mut().for_each(|n| (n.role, n.spec.role) = (Role::Manager, Role::Manager));
        let ids: Vec<u64> = nodes.iter().map(|n| raft_id(&n.id)).collect();
        let at = |n: u8| format!("192.0.2.{n}:2377");
        let members = BTreeMap::from_iter(ids.iter().copied().zip((1..=3).map(at)));
        for node in &mut nodes {
            let raft_id = raft_id(&node.id);
            node.manager = Some(ManagerStatus { raft_id, addr: members[&raft_id].parse().unwrap() });
        }
        world.write(nodes.iter().cloned().map(|n| Mutation::Create(n.into())).collect());
        assert_eq!(next(&world.state, &members, ids[0]), None);

        let wish = |world: &mut World, n: usize| {
            let mut node = Node::clone(&world.state.nodes[&nodes[n].id]);
            node.spec.role = Role::Worker;
            world.write(vec![Mutation::Update(node.into())]);
        };
        wish(&mut world, 1);
        assert_eq!(next(&world.state, &members, ids[0]), Some(Step::Dismiss(ids[1])));
        assert_eq!(next(&world.state, &members, ids[1]), Some(Step::HandOver));
        let mut left = members.clone();
        left.remove(&ids[1]);
        assert_eq!(next(&world.state, &left, ids[0]), Some(Step::Demoted(nodes[1].id.clone())));

        let moved = BTreeMap::from([(ids[0], members[&ids[0]].clone()), (ids[2], at(9))]);
        assert_eq!(next(&world.state, &moved, ids[0]), Some(Step::Move(ids[2], members[&ids[2]].clone())));

        // One that nobody knows any more goes, too.
        let id = nodes[2].id.to_string();
        world.write(vec![Mutation::Remove { kind: heddle_model::Kind::Node, id, version: None }]);
        assert_eq!(next(&world.state, &left, ids[0]), Some(Step::Dismiss(ids[2])));
    }
}
