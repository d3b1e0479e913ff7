//! The way from a follower to the leader.

use crate::{raft::MAX_MESSAGE, store::Store};
use heddle_plumbing::tls::{self, Credentials};
use std::{net::SocketAddr, time::Duration};
use tokio::net::TcpStream;
use tonic::{Status, transport::Channel};

/// An election is over within this time, if there is a quorum.
const ELECTION_LIMIT: Duration = Duration::from_secs(4);
const REACH_LIMIT: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub struct Forward {
    pub store: Store,
    pub credentials: Credentials,
}

impl Forward {
    /// A channel to the leader; None if this manager leads. Waits for an election that is under way.
    pub async fn leader(&self) -> Result<Option<Channel>, Status> {
        let addr = self.leader_addr().await?;
        let dial = |addr| tls::dial(addr, &self.credentials).map_err(|e| Status::internal(e.to_string()));
        addr.map(dial).transpose()
    }

    async fn leader_addr(&self) -> Result<Option<SocketAddr>, Status> {
        let until = tokio::time::Instant::now() + ELECTION_LIMIT;
        loop {
            if self.store.is_leader() {
                return Ok(None);
            }
            let state = self.store.snapshot();
            let leader = self.store.leader().and_then(|id| state.nodes.get(&id).cloned());
            if let Some(manager) = leader.as_ref().and_then(|n| n.manager.as_ref()) {
                // The one that led until now may be gone, and the next not be elected yet.
                let reach = tokio::time::timeout(REACH_LIMIT, TcpStream::connect(manager.addr)).await;
                if reach.is_ok_and(|connected| connected.is_ok()) {
                    return Ok(Some(manager.addr));
                }
            }
            if tokio::time::Instant::now() > until {
                return Err(Status::unavailable(self.store.no_quorum().to_string()));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Generous, for listings of large clusters.
pub const LARGEST: usize = MAX_MESSAGE;
