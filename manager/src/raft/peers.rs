//! Where managers are that have said so themselves, before raft's own membership says it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
};

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Peers(Arc<RwLock<HashMap<u64, SocketAddr>>>);

impl Peers {
    pub fn moved(&self, raft_id: u64, to: SocketAddr) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(raft_id, to);
    }

    pub fn addr(&self, raft_id: u64) -> Option<SocketAddr> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&raft_id).copied()
    }
}
