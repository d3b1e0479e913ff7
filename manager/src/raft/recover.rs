//! What one manager alone makes of its raft state when the others are lost: the same objects, and itself as the only voter.
//!
//! Pure: `log` reads what is stored before raft starts, and writes what comes out of here in its place.

use super::{TypeConfig, packed, raft_id};
use crate::{
    control::removal,
    store::{Action, Mutation, Snapshot},
};
use heddle_model::{
    NodeId, Timestamp, Version,
    cluster::{Cluster, Role},
    node::{ManagerStatus, Node, NodeState, NodeStatus},
};
use openraft::{
    BasicNode, EntryPayload, Membership, StoredMembership,
    type_config::alias::{EntryOf, LogIdOf, SnapshotMetaOf, VoteOf},
    vote::RaftLeaderId,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
};

type LogId = LogIdOf<TypeConfig>;
type Vote = VoteOf<TypeConfig>;

/// Of a cluster that begins from a backup.
pub const FIRST_TERM: u64 = 1;

/// So far ahead of the last known revision goes on what begins anew: further than the managers that are lost, or the time
/// since a backup, can have gone. No node hears a revision, or a term, twice.
pub const LEAP: u64 = 1_000_000_000;

/// What a manager's database holds.
#[derive(Default)]
pub struct Stored {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    pub snapshot: Option<(SnapshotMetaOf<TypeConfig>, Snapshot)>,
    /// In order.
    pub entries: Vec<EntryOf<TypeConfig>>,
}

/// What a database holds after: a log that begins behind a snapshot.
pub struct Fresh {
    pub vote: Vote,
    pub meta: SnapshotMetaOf<TypeConfig>,
    pub data: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("this manager has no state of the cluster yet")]
    Empty,
    #[error("the log lacks entry {0}")]
    Gap(u64),
    #[error("the state cannot be written")]
    Write(#[from] io::Error),
    #[error("the state does not take the change: {0}")]
    Conflict(#[from] crate::store::Conflict),
    #[error("a cluster of one cannot be made: {0}")]
    Membership(String),
}

/// The first entry that is missing between the snapshot and the end of the log.
pub fn gap(stored: &Stored) -> Option<u64> {
    let first = stored.snapshot.as_ref().and_then(|(m, _)| m.last_log_id).map_or(0, |l| l.index + 1);
    let mut next = first;
    for entry in stored.entries.iter().skip_while(|e| e.log_id.index < first) {
        if entry.log_id.index != next {
            return Some(next);
        }
        next += 1;
    }
    // Raft forgets no entry that a snapshot does not cover, and none is committed before it is stored.
    let known = stored.purged.max(stored.committed).map_or(0, |l| l.index + 1);
    (known > next).then_some(next)
}

/// The newest state that follows from what is stored, and how many entries of it may never have been committed: those are
/// kept, since somebody may have been told that they were.
pub fn newest(stored: &Stored) -> Result<(Snapshot, u64), RecoverError> {
    if let Some(index) = gap(stored) {
        return Err(RecoverError::Gap(index));
    }
    let (meta, mut state) = stored.snapshot.clone().unwrap_or_default();
    let after = |e: &&EntryOf<TypeConfig>| Some(e.log_id) > meta.last_log_id;
    let mut unsure = 0;
    for entry in stored.entries.iter().filter(after) {
        if let EntryPayload::Normal(action) = &entry.payload {
            // As at the first time, what conflicts changes nothing.
            state = state.apply(Version(entry.log_id.index), action).unwrap_or(state);
            unsure += u64::from(Some(entry.log_id) > stored.committed);
        }
        state.version = Version(entry.log_id.index);
    }
    if state.cluster.is_none() {
        return Err(RecoverError::Empty);
    }
    Ok((state, unsure))
}

/// The term that nobody has been in yet, as far as this is known.
pub fn next_term(stored: &Stored) -> u64 {
    let last = stored.entries.last().map(|e| e.log_id).or(stored.snapshot.as_ref().and_then(|(m, _)| m.last_log_id));
    let led = last.map_or(0, |l| l.committed_leader_id().term);
    stored.vote.map_or(0, |v| v.leader_id().term).max(led) + 1
}

/// The state after these changes, with this node as the only voter.
pub fn alone(
    state: &Snapshot,
    mutations: Vec<Mutation>,
    at: Timestamp,
    node: &NodeId,
    term: u64,
) -> Result<Fresh, RecoverError> {
    let version = Version(state.version.0 + LEAP);
    let state = state.apply(version, &Action { at, mutations })?;
    let cluster = state.cluster.as_deref().ok_or(RecoverError::Empty)?;
    let again = Cluster { begun: cluster.begun + 1, ..cluster.clone() };
    let state = state.apply(version, &Action { at, mutations: vec![Mutation::Update(again.into())] })?;
    let addr = state.nodes.get(node).and_then(|n| n.manager.as_ref()).map(|m| m.addr.to_string());
    let own = raft_id(node);
    let members = BTreeMap::from([(own, BasicNode::new(addr.unwrap_or_default()))]);
    let membership = Membership::new(vec![BTreeSet::from([own])], members);
    let membership = membership.map_err(|e| RecoverError::Membership(e.to_string()))?;
    // Agents believe no leader of an older term than they have seen: this leaps as far.
    let vote = Vote::new(term.max(version.0), own);
    let last = LogId::new(vote.leader_id().to_committed(), version.0);
    let meta = SnapshotMetaOf::<TypeConfig> {
        last_log_id: Some(last),
        last_membership: StoredMembership::new(Some(last), membership),
    };
    Ok(Fresh { vote, meta, data: packed::pack(&state)? })
}

/// A manager that is none any more: the certificate that it asks for when it is back is a worker's.
fn former(node: &Node, at: Timestamp) -> Mutation {
    let message = "it was a manager before the cluster began anew, and comes back as a worker".to_owned();
    let mut node = Node { role: Role::Worker, manager: None, ..node.clone() };
    node.spec.role = Role::Worker;
    node.status = NodeStatus { state: NodeState::Down, message, since: at };
    Mutation::Update(node.into())
}

fn is_manager(node: &Node) -> bool {
    node.next_role() == Role::Manager
}

/// The other managers are none any more. Their host names.
pub fn without_others(state: &Snapshot, own: &NodeId, at: Timestamp) -> (Vec<Mutation>, Vec<String>) {
    let mut others: Vec<_> = state.nodes.values().filter(|n| n.id != *own && is_manager(n)).collect();
    others.sort_by_key(|n| &n.description.hostname);
    others.into_iter().map(|n| (former(n, at), n.description.hostname.clone())).unzip()
}

/// This node is a manager, whatever was wanted of it, and its manager is at this address.
pub fn itself(state: &Snapshot, own: &NodeId, addr: SocketAddr) -> Option<Mutation> {
    let node = state.nodes.get(own)?;
    let mut next = Node::clone(node);
    (next.role, next.spec.role) = (Role::Manager, Role::Manager);
    next.manager = Some(ManagerStatus { raft_id: raft_id(own), addr });
    (next != **node).then(|| Mutation::Update(next.into()))
}

/// A node's manager is at this address from now on, if it has one.
pub fn at_address(state: &Snapshot, id: &NodeId, addr: SocketAddr) -> Option<Mutation> {
    let node = state.nodes.get(id)?;
    let manager = node.manager.as_ref().filter(|m| m.addr != addr)?;
    let manager = Some(ManagerStatus { addr, ..manager.clone() });
    Some(Mutation::Update(Node { manager, ..Node::clone(node) }.into()))
}

/// A host that restores takes the place of the node that had its data path, and nobody else is a manager.
pub fn in_place_of_others(state: &Snapshot, node: Node, at: Timestamp) -> Vec<Mutation> {
    let mut mutations = Vec::new();
    for other in state.nodes.values() {
        if other.data_path_addr == node.data_path_addr {
            mutations.extend(removal::node(state, other, "its host began anew from a backup", at));
        } else if is_manager(other) {
            mutations.push(former(other, at));
        }
    }
    mutations.push(Mutation::Create(node.into()));
    mutations
}

#[cfg(test)]
mod tests;
