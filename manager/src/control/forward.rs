//! The way from a follower to the leader.

use crate::{
    quorum,
    raft::{MAX_MESSAGE, contact::LOST},
    store::{Snapshot, Store},
};
use heddle_model::cluster::Role;
use heddle_plumbing::{
    access::{Access, Standing},
    caller::{Caller, NodeIdentity, UserIdentity},
    tls::{self, Credentials},
};
use heddle_proto::v1::{self, control_client::ControlClient};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpStream;
use tonic::{Status, transport::Channel};

/// After the leader was last heard of, the next one is elected within this time, if there is a quorum.
const ELECTION_LIMIT: Duration = Duration::from_millis(2500);
const REACH_LIMIT: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub struct Forward {
    pub store: Store,
    pub credentials: Credentials,
}

/// What a node hears that the cluster does not know.
pub fn removed() -> Status {
    Status::not_found("this node is not in the cluster any more: run `heddle leave`, then join again")
}

/// Whether this state stands by the caller's certificate, for an RPC of this access. `newest`: the state lacks nobody.
fn admits(state: &Snapshot, access: Access, caller: &Caller, newest: bool) -> Result<(), Status> {
    match caller {
        Caller::Node(identity) => stands(state, access, identity, newest),
        Caller::User(identity) => user_stands(state, identity),
        Caller::Local | Caller::Anonymous => Ok(()),
    }
}

/// One that came a moment ago is refused by a follower until it hears of it.
fn user_stands(state: &Snapshot, identity: &UserIdentity) -> Result<(), Status> {
    let cluster = state.cluster.as_ref().filter(|c| c.id == identity.cluster);
    match cluster.and_then(|c| c.users.get(&identity.name)) {
        Some(user) if user.id == identity.id => Ok(()),
        _ => Err(Status::permission_denied(format!("user {} was removed from the cluster", identity.name))),
    }
}

/// Whether this state stands by a node's certificate, for an RPC of this access. `newest`: the state lacks nobody.
fn stands(state: &Snapshot, access: Access, identity: &NodeIdentity, newest: bool) -> Result<(), Status> {
    let Some(cluster) = &state.cluster else { return Ok(()) };
    if cluster.id != identity.cluster {
        return Err(Status::permission_denied("the certificate is of another cluster"));
    }
    match state.nodes.get(&identity.node) {
        // As a node it goes on until it has the certificate of its new role. To a new manager raft replays also the time before
        // the others were promoted: refusing them for that, it would never come to know better.
        Some(node)
            if newest && access != Access::Member && identity.role == Role::Manager && node.role == Role::Worker =>
        {
            Err(Status::permission_denied("this certificate counts no more: the node was demoted"))
        }
        // A follower may not have heard yet of a node that came a moment ago.
        None if newest || cluster.removed.contains_key(&identity.node) => Err(removed()),
        Some(_) | None => Ok(()),
    }
}

impl Forward {
    /// What this manager knows of certificates that count no more.
    pub fn standing(&self) -> Standing {
        let store = self.store.clone();
        Arc::new(move |access, caller| admits(&store.snapshot(), access, caller, store.is_leader()))
    }

    /// Whether it is a manager whose certificate counts, which may ask for other nodes.
    pub fn speaks_for_others(&self, identity: &NodeIdentity) -> Result<(), Status> {
        if identity.role != Role::Manager {
            return Err(Status::permission_denied("a worker may not do this: a manager's certificate is needed"));
        }
        stands(&self.store.snapshot(), Access::Manager, identity, self.store.is_leader())
    }

    /// A channel to the leader; None if this manager leads. Waits for an election that is under way.
    pub async fn leader(&self) -> Result<Option<Channel>, Status> {
        Ok(self.leader_addr().await?.map(|addr| tls::dial(addr, &self.credentials)))
    }

    /// Asks the leader whether it still leads.
    pub async fn confirm(&self) -> Result<(), Status> {
        match self.leader().await? {
            Some(leader) => ControlClient::new(leader).get_cluster(v1::GetClusterRequest {}).await.map(drop),
            None => self.newest().await.map(drop),
        }
    }

    /// The newest state: this manager still leads, and has applied all that was committed before the call.
    pub async fn newest(&self) -> Result<Arc<Snapshot>, Status> {
        let raft = self.store.raft();
        let none = || Status::unavailable(self.store.no_quorum().to_string());
        if self.store.contact().ago(raft) > LOST {
            return Err(none());
        }
        match tokio::time::timeout(LOST, raft.ensure_linearizable(openraft::ReadPolicy::ReadIndex)).await {
            Ok(Ok(_)) => Ok(self.store.snapshot()),
            _ => Err(none()),
        }
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
    use heddle_model::{ClusterId, Timestamp};

    #[test]
    fn a_certificate_outlives_neither_the_node_nor_its_role() {
        let mut world = World::new();
        let mut nodes = [world.node(1), world.node(2), world.node(3)];
        nodes[0].role = Role::Manager;
        world.write(nodes[..2].iter().cloned().map(|n| crate::store::Mutation::Create(n.into())).collect());
        let cluster = world.state.cluster.as_ref().unwrap().id.clone();
        let holds = |n: usize, role| NodeIdentity { node: nodes[n].id.clone(), role, cluster: cluster.clone() };
        let refused =
            |access, who: &NodeIdentity| [false, true].map(|newest| stands(&world.state, access, who, newest).is_err());
        for access in [Access::Member, Access::Manager, Access::Operator] {
            let demoted = access != Access::Member;
            assert_eq!(refused(access, &holds(0, Role::Manager)), [false, false]);
            assert_eq!(refused(access, &holds(1, Role::Worker)), [false, false]);
            // Promoted, and still with the certificate that it asks for the new one by.
            assert_eq!(refused(access, &holds(0, Role::Worker)), [false, false]);
            assert_eq!(refused(access, &holds(1, Role::Manager)), [false, demoted], "demoted, or not yet promoted");
            assert_eq!(refused(access, &holds(2, Role::Manager)), [false, true], "removed, or not heard of yet");
        }
        let mut changed = (**world.state.cluster.as_ref().unwrap()).clone();
        changed.remove(nodes[2].id.clone(), Timestamp(0));
        let mut told = world.state.clone();
        told.cluster = Some(changed.into());
        for access in [Access::Member, Access::Manager, Access::Operator] {
            assert!(
                stands(&told, access, &holds(2, Role::Manager), false).is_err(),
                "removed, and this follower knows"
            );
        }
        let stranger = NodeIdentity { cluster: ClusterId::from_random([2; 16]), ..holds(0, Role::Manager) };
        assert_eq!(refused(Access::Member, &stranger), [true, true]);
    }
}
