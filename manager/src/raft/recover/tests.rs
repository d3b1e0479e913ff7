use super::*;
use crate::{
    raft::{LogStore, machine},
    world::World,
};
use heddle_plumbing::seal::Key;
use openraft::{
    Entry,
    storage::{RaftLogStorage, RaftStateMachine},
};
use std::sync::Arc;

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(Vote::new(term, 1).leader_id().to_committed(), index)
}

/// Three managers and a worker, made by entries 1 to 4 of the log in term 3; the last is not known to be committed.
fn stored() -> (Stored, Vec<Node>) {
    let mut world = World::new();
    let cluster = Cluster::clone(world.state.cluster.as_ref().unwrap());
    let mut nodes: Vec<Node> = (1..=4).map(|n| world.node(n)).collect();
    for node in &mut nodes[..3] {
        (node.role, node.spec.role) = (Role::Manager, Role::Manager);
        let addr = SocketAddr::new(node.data_path_addr, 2377);
        node.manager = Some(ManagerStatus { raft_id: raft_id(&node.id), addr });
    }
    let mut made: Vec<Vec<Mutation>> =
        vec![vec![Mutation::Create(cluster.into()), Mutation::Create(nodes[0].clone().into())]];
    made.extend(nodes[1..].iter().map(|n| vec![Mutation::Create(n.clone().into())]));
    let entry = |(n, mutations): (usize, Vec<Mutation>)| {
        let action = Action { at: Timestamp(n as u64), mutations };
        Entry { log_id: log_id(3, n as u64 + 1), payload: EntryPayload::Normal(action.into()) }
    };
    let blank = Entry { log_id: log_id(3, 0), payload: EntryPayload::Blank };
    let entries = std::iter::once(blank).chain(made.into_iter().enumerate().map(entry)).collect();
    let vote = Some(Vote::new(4, 9));
    (Stored { vote, committed: Some(log_id(3, 3)), entries, ..Stored::default() }, nodes)
}

#[test]
fn all_that_is_stored_counts_and_what_is_unsure_is_told() {
    let (mut stored, nodes) = stored();
    let (state, unsure) = newest(&stored).unwrap();
    assert_eq!((state.nodes.len(), state.version, unsure), (4, Version(4), 1));
    // The same with a part of it in a snapshot, whether the log has that part still or not.
    let meta = SnapshotMetaOf::<TypeConfig> { last_log_id: Some(log_id(3, 2)), last_membership: Default::default() };
    let early = newest(&Stored { entries: stored.entries[..3].to_vec(), ..Stored::default() }).unwrap().0;
    assert_eq!(early.nodes.len(), 2);
    stored.snapshot = Some((meta, early));
    assert_eq!(newest(&stored).unwrap(), (state.clone(), 1));
    stored.entries.drain(..3);
    stored.purged = Some(log_id(3, 2));
    assert_eq!(newest(&stored).unwrap(), (state, 1));
    assert!(nodes.iter().all(|n| newest(&stored).unwrap().0.nodes.contains_key(&n.id)));
}

#[test]
fn what_is_missing_is_found() {
    let without = |n: usize| {
        let (mut stored, _) = stored();
        stored.entries.remove(n);
        gap(&stored)
    };
    assert_eq!([0, 1, 2, 3].map(without), [Some(0), Some(1), Some(2), Some(3)]);
    assert_eq!(without(4), None, "nobody knows of an entry after the last");
    let (mut whole, _) = stored();
    assert_eq!(gap(&whole), None);
    whole.committed = Some(log_id(3, 5));
    assert_eq!(gap(&whole), Some(5), "what is committed was stored");
    let (mut cut, _) = stored();
    cut.purged = Some(log_id(3, 1));
    cut.entries.drain(..2);
    assert_eq!(gap(&cut), Some(0), "what was forgotten is in a snapshot");
    assert!(matches!(newest(&Stored::default()), Err(RecoverError::Empty)));
}

#[tokio::test]
async fn one_goes_on_alone_with_everything() {
    let (stored, nodes) = stored();
    let own = &nodes[1].id;
    let (state, _) = newest(&stored).unwrap();
    let (mut mutations, former) = without_others(&state, own, Timestamp(50));
    assert_eq!(former, ["h1", "h3"]);
    mutations.extend(itself(&state, own, "192.0.2.77:2377".parse().unwrap()));
    let fresh = alone(&state, mutations, Timestamp(50), own, next_term(&stored)).unwrap();
    assert_eq!(fresh.vote, Vote::new(4 + LEAP, raft_id(own)), "nobody was in this term");
    let last = fresh.meta.last_log_id.unwrap();
    assert_eq!((last.committed_leader_id().term, last.index), (4 + LEAP, 4 + LEAP));
    let members: Vec<_> = fresh.meta.last_membership.nodes().map(|(id, n)| (*id, n.addr.clone())).collect();
    assert_eq!(members, [(raft_id(own), "192.0.2.77:2377".to_owned())]);
    assert_eq!(fresh.meta.last_membership.voter_ids().collect::<Vec<_>>(), [raft_id(own)]);

    // As raft finds it when it starts.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("raft.redb");
    let mut log = LogStore::open(&file, &Key::new([7; 32])).unwrap();
    log.replace(fresh).await.unwrap();
    let (mut machine, found) = machine::Machine::open(log.clone()).unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(last));
    assert_eq!(machine.applied_state().await.unwrap().0, Some(last));
    let found: Arc<Snapshot> = found.borrow().clone();
    let before = state.cluster.as_ref().unwrap();
    let now = found.cluster.as_ref().unwrap();
    assert_eq!((now.begun, &now.id, &now.join_tokens), (1, &before.id, &before.join_tokens));
    assert_eq!(found.nodes.len(), 4);
    for node in &nodes {
        let now = &found.nodes[&node.id];
        let wanted = if node.id == *own { Role::Manager } else { Role::Worker };
        assert_eq!((now.role, now.spec.role, now.manager.is_some()), (wanted, wanted, node.id == *own));
        let down = node.id == nodes[0].id || node.id == nodes[2].id;
        assert_eq!(now.status.state == NodeState::Down, down);
    }
    let worker = &nodes[3].id;
    assert_eq!(found.nodes[worker], state.nodes[worker]);
}

#[test]
fn who_restores_takes_the_place_of_who_had_its_address() {
    let (stored, nodes) = stored();
    let (state, _) = newest(&stored).unwrap();
    let mut node = nodes[0].clone();
    node.id = NodeId::from_random([9; 16]);
    let mutations = in_place_of_others(&state, node.clone(), Timestamp(50));
    let fresh = alone(&state, mutations, Timestamp(50), &node.id, FIRST_TERM).unwrap();
    let after = machine::restore(&fresh.meta, &fresh.data).unwrap();
    assert!(!after.nodes.contains_key(&nodes[0].id));
    let cluster = after.cluster.as_ref().unwrap();
    assert_eq!(cluster.begun, 1);
    assert!(cluster.removed.contains_key(&nodes[0].id), "the certificate of before counts no more");
    let managers: Vec<_> = after.nodes.values().filter(|n| n.next_role() == Role::Manager).map(|n| &n.id).collect();
    assert_eq!(managers, [&node.id]);
    assert_eq!(after.nodes[&nodes[3].id], state.nodes[&nodes[3].id], "a worker stays what it is");
}

#[test]
fn an_address_is_of_a_manager_and_changes_nothing_else() {
    let (stored, nodes) = stored();
    let (state, _) = newest(&stored).unwrap();
    let addr = "192.0.2.77:2377".parse().unwrap();
    assert_eq!(at_address(&state, &nodes[3].id, addr), None, "a worker has none");
    assert_eq!(at_address(&state, &nodes[0].id, nodes[0].manager.as_ref().unwrap().addr), None);
    let mut wanted = Node::clone(&state.nodes[&nodes[0].id]);
    wanted.manager.as_mut().unwrap().addr = addr;
    assert_eq!(at_address(&state, &nodes[0].id, addr), Some(Mutation::Update(wanted.into())));
}
