//! The way from a follower to the leader.

use crate::{
    quorum,
    raft::MAX_MESSAGE,
    store::{Snapshot, Store},
};
use heddle_model::cluster::Role;
use heddle_plumbing::{
    caller::{Access, Caller, require},
    tls::{self, Credentials},
};
use std::{net::SocketAddr, time::Duration};
use tokio::net::TcpStream;
use tonic::{Request, Status, transport::Channel};

/// After the leader was last heard of, the next one is elected within this time, if there is a quorum.
const ELECTION_LIMIT: Duration = Duration::from_millis(2500);
const REACH_LIMIT: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub struct Forward {
    pub store: Store,
    pub credentials: Credentials,
}

/// Whether this state says that the caller's certificate counts no more: the node is a manager no longer, or is gone.
/// `newest`: the state lacks nobody.
fn outlived(state: &Snapshot, caller: &Caller, newest: bool) -> bool {
    let Caller::Node(identity) = caller else { return false };
    match state.nodes.get(&identity.node) {
        Some(node) => identity.role == Role::Manager && node.role == Role::Worker,
        None => newest && state.cluster.is_some(),
    }
}

impl Forward {
    /// The caller, if this access admits it and its certificate still counts.
    pub fn admit<T>(&self, request: &Request<T>, access: Access) -> Result<Caller, Status> {
        let caller = require(request, access)?;
        // A follower may not have heard yet of a manager that came a moment ago.
        if access != Access::Anyone && outlived(&self.store.snapshot(), &caller, self.store.is_leader()) {
            return Err(Status::permission_denied("this certificate counts no more: the node was demoted or removed"));
        }
        Ok(caller)
    }

    /// A channel to the leader; None if this manager leads. Waits for an election that is under way.
    pub async fn leader(&self) -> Result<Option<Channel>, Status> {
        let addr = self.leader_addr().await?;
        let dial = |addr| tls::dial(addr, &self.credentials).map_err(|e| Status::internal(e.to_string()));
        addr.map(dial).transpose()
    }

    async fn leader_addr(&self) -> Result<Option<SocketAddr>, Status> {
        let since = self.store.contact().ago(self.store.raft());
        let until = tokio::time::Instant::now() + ELECTION_LIMIT.saturating_sub(since);
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
                return Err(Status::unavailable(quorum::look(&self.store).await.to_string()));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Generous, for listings of large clusters.
pub const LARGEST: usize = MAX_MESSAGE;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use heddle_model::ClusterId;
    use heddle_plumbing::caller::NodeIdentity;

    #[test]
    fn a_certificate_outlives_neither_the_node_nor_its_role() {
        let mut world = World::new();
        let mut nodes = [world.node(1), world.node(2), world.node(3)];
        nodes[0].role = Role::Manager;
        world.write(nodes[..2].iter().cloned().map(|n| crate::store::Mutation::Create(n.into())).collect());
        let holds = |n: usize, role| {
            Caller::Node(NodeIdentity { node: nodes[n].id.clone(), role, cluster: ClusterId::from_random([2; 16]) })
        };
        let said = |caller: &Caller| [false, true].map(|newest| outlived(&world.state, caller, newest));
        assert_eq!(said(&holds(0, Role::Manager)), [false, false]);
        assert_eq!(said(&holds(1, Role::Worker)), [false, false]);
        // Promoted, and still with the certificate that it asks for the new one by.
        assert_eq!(said(&holds(0, Role::Worker)), [false, false]);
        assert_eq!(said(&holds(1, Role::Manager)), [true, true], "demoted");
        assert_eq!(said(&holds(2, Role::Manager)), [false, true], "removed, or not heard of yet");
        assert_eq!(said(&Caller::Local), [false, false]);
    }
}
