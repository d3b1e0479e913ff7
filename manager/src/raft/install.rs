//! A snapshot that another manager sends.

use super::{Raft, RaftSnapshot, TypeConfig};
use openraft::{
    raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse},
    type_config::alias::{SnapshotOf, VoteOf},
};
use std::io;

/// Answered when all that the snapshot stands for is on this disk.
///
/// Raft alone answers one that it does not need as soon as it has accepted the same entries, written or not. The leader
/// counts on the answer: a crash now, and this manager would come back with less than it has said.
pub async fn install_snapshot(
    raft: &Raft,
    vote: VoteOf<TypeConfig>,
    snapshot: SnapshotOf<TypeConfig, RaftSnapshot>,
) -> io::Result<SnapshotResponse<TypeConfig>> {
    let last = snapshot.meta.last_log_id;
    let answer = raft.install_full_snapshot(vote, snapshot).await.map_err(io::Error::other)?;
    // Nothing to append, and answered when all before it is written; or with a higher vote, as the snapshot was.
    let written = AppendEntriesRequest { vote, prev_log_id: last, entries: Vec::new(), leader_commit: last };
    match raft.append_entries(written).await.map_err(io::Error::other)? {
        AppendEntriesResponse::Success => Ok(answer),
        AppendEntriesResponse::HigherVote(vote) => Ok(SnapshotResponse { vote }),
        other => Err(io::Error::other(format!("after a snapshot up to {last:?}: {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ca,
        raft::{LogStore, Machine, Network, Peers, packed::pack},
        store::{Action, Snapshot, now},
    };
    use heddle_model::{ClusterId, NodeId, cluster::Role};
    use heddle_plumbing::{
        seal::Key,
        tls::{Credentials, new_key_and_csr},
    };
    use openraft::{
        BasicNode, Config, Entry, EntryPayload, Membership, StoredMembership,
        async_runtime::WatchReceiver,
        type_config::alias::{LogIdOf, SnapshotMetaOf},
        vote::RaftLeaderId,
    };
    use std::{
        collections::{BTreeMap, BTreeSet},
        sync::Arc,
        time::Duration,
    };
    use tokio::sync::watch;

    type LogId = LogIdOf<TypeConfig>;

    const LEADER: u64 = 1;
    const FOLLOWER: u64 = 2;

    fn vote(term: u64) -> VoteOf<TypeConfig> {
        VoteOf::<TypeConfig>::new_committed(term, LEADER)
    }

    fn at(term: u64, index: u64) -> Option<LogId> {
        Some(LogId::new(vote(term).leader_id().to_committed(), index))
    }

    /// Calls nobody.
    fn network() -> Network {
        let cluster = ClusterId::from_random([1; 16]);
        let root = ca::new_root(&cluster).unwrap();
        let (key, csr) = new_key_and_csr().unwrap();
        let (node, life) = (NodeId::from_random([2; 16]), Duration::from_secs(60));
        let cert = ca::issue(&root, &cluster, &node, Role::Manager, &csr, life).unwrap();
        Network { credentials: Credentials::new(key, cert, root.cert_pem).unwrap(), peers: Peers::default() }
    }

    /// A follower, and whether its disk writes.
    async fn follower() -> (Raft, watch::Sender<bool>) {
        let memory = redb::backends::InMemoryBackend::new();
        let database = redb::Builder::new().create_with_backend(memory).unwrap();
        let (log, mut writer) = LogStore::over(database, &Key::new([7; 32])).unwrap();
        let (disk, mut writes) = watch::channel(true);
        tokio::spawn(async move { while writer.step(async { drop(writes.wait_for(|w| *w).await) }).await {} });
        let config = Arc::new(Config { enable_tick: false, ..Config::default() }.validate().unwrap());
        let machine = Machine::open(log.clone()).unwrap().0;
        (Raft::new(FOLLOWER, config, network(), log, machine).await.unwrap(), disk)
    }

    fn members() -> Membership<u64, BasicNode> {
        let nodes = [LEADER, FOLLOWER].map(|id| (id, BasicNode::default()));
        Membership::new(vec![BTreeSet::from([LEADER, FOLLOWER])], BTreeMap::from(nodes)).unwrap()
    }

    /// All that the leader of the second term has written up to this entry, of which all is committed.
    fn entries(last: u64) -> AppendEntriesRequest<TypeConfig> {
        let payload = |index| match index {
            0 => EntryPayload::Membership(members()),
            _ => EntryPayload::Normal(Action { at: now(), mutations: Vec::new() }.into()),
        };
        let entry = |index| Entry { log_id: at(2, index).unwrap(), payload: payload(index) };
        let entries = (0..=last).map(entry).collect();
        AppendEntriesRequest { vote: vote(2), prev_log_id: None, entries, leader_commit: at(2, last) }
    }

    fn up_to(last: Option<LogId>) -> SnapshotOf<TypeConfig, RaftSnapshot> {
        let meta = SnapshotMetaOf::<TypeConfig> {
            last_log_id: last,
            last_membership: StoredMembership::new(at(2, 0), members()),
        };
        openraft::storage::Snapshot { meta, snapshot: pack(&Snapshot::default()).unwrap() }
    }

    /// Until nobody has anything to do but to wait for the disk.
    async fn rest() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_not_needed_is_answered_when_all_is_written() {
        let (raft, disk) = follower().await;
        raft.append_entries(entries(0)).await.unwrap();
        disk.send_replace(false);
        let appending = tokio::spawn({
            let raft = raft.clone();
            async move { raft.append_entries(entries(3)).await }
        });
        rest().await;
        assert!(!appending.is_finished());
        let alone = raft.install_full_snapshot(vote(2), up_to(at(2, 3)));
        assert_eq!(alone.await.unwrap().vote, vote(2), "raft has accepted the entries");
        let installing = tokio::spawn({
            let raft = raft.clone();
            async move { install_snapshot(&raft, vote(2), up_to(at(2, 3))).await }
        });
        rest().await;
        assert!(!installing.is_finished());
        disk.send_replace(true);
        assert_eq!(installing.await.unwrap().unwrap().vote, vote(2));
        assert!(appending.await.unwrap().unwrap().is_success());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_needed_is_installed() {
        let (raft, _disk) = follower().await;
        raft.append_entries(entries(1)).await.unwrap();
        assert_eq!(install_snapshot(&raft, vote(2), up_to(at(2, 9))).await.unwrap().vote, vote(2));
        assert_eq!(raft.metrics().borrow_watched().last_applied, at(2, 9));
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_of_before_hears_who_leads_now() {
        let (raft, _disk) = follower().await;
        raft.append_entries(entries(3)).await.unwrap();
        let answer = install_snapshot(&raft, vote(1), up_to(at(1, 9))).await.unwrap();
        assert_eq!(answer.vote, vote(2));
        assert_eq!(raft.metrics().borrow_watched().last_applied, at(2, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_other_entries_is_no_success() {
        let (raft, _disk) = follower().await;
        raft.append_entries(entries(3)).await.unwrap();
        // Older than what is committed here, and yet behind it.
        let error = install_snapshot(&raft, vote(2), up_to(at(1, 9))).await.unwrap_err().to_string();
        assert!(error.starts_with("after a snapshot up to"), "{error}");
    }
}
