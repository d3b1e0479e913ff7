//! How long ago a manager was in touch with a majority: as the leader by the others' answers, else by the leader's calls.

use super::Raft;
use openraft::{Instant as _, async_runtime::WatchReceiver};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// A leader that no majority has answered for so long leads nobody.
pub const LOST: Duration = Duration::from_secs(2);

/// Cheap to clone. A new one has just been in touch: others need time to be heard of.
#[derive(Debug, Clone)]
pub struct Contact(Arc<Mutex<Instant>>);

impl Default for Contact {
    fn default() -> Self {
        Contact(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Contact {
    /// The leader called.
    pub fn heard(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Time since this manager was last in touch with a majority.
    pub fn ago(&self, raft: &Raft) -> Duration {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        if !raft.is_leader() {
            return heard;
        }
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let mut voters = metrics.membership_config.voter_ids();
        if voters.all(|id| id == metrics.id) {
            return Duration::ZERO;
        }
        metrics.last_quorum_acked.map_or(heard, |at| at.elapsed().min(heard))
    }
}
