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
    if answer.vote > vote {
        return Ok(answer);
    }
    // Nothing to append, and answered when all before it is written.
    let written = AppendEntriesRequest { vote, prev_log_id: last, entries: Vec::new(), leader_commit: last };
    match raft.append_entries(written).await.map_err(io::Error::other)? {
        AppendEntriesResponse::Success => Ok(answer),
        AppendEntriesResponse::HigherVote(vote) => Ok(SnapshotResponse { vote }),
        other => Err(io::Error::other(format!("after a snapshot up to {last:?}: {other}"))),
    }
}
