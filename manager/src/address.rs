//! A manager whose address changed: it tells the others itself, since none of them can reach it; the leader writes it down, and
//! raft's membership and the agents' lists follow from that.

use crate::{
    raft::{Peers, recover},
    store::{Snapshot, Store, WriteError},
};
use futures::future::join_all;
use heddle_model::NodeId;
use heddle_plumbing::tls::{self, Credentials};
use heddle_proto::v1::{self, raft_client::RaftClient};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Request;

const CALL_LIMIT: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(500);

/// Writes down where a node's manager is.
pub async fn keep(store: &Store, node: &NodeId, addr: SocketAddr) -> Result<(), WriteError> {
    store.update(|state| Ok(recover::at_address(state, node, addr).into_iter().collect())).await.map(drop)
}

/// Dials the others where the state says they are, as soon as it does. Raft's own links would stay as they were made, and who
/// moved may have told the process that ran here before.
pub async fn follow(mut state: watch::Receiver<Arc<Snapshot>>, peers: Peers, cancel: CancellationToken) {
    let mut known = BTreeMap::new();
    loop {
        let now = state.borrow_and_update().clone();
        for manager in now.managers().filter_map(|n| n.manager.as_ref()) {
            // From one change to the next: somebody who has moved on says so before the state does.
            if known.insert(manager.raft_id, manager.addr) != Some(manager.addr) {
                peers.moved(manager.raft_id, manager.addr);
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = state.changed() => if changed.is_err() { return },
        }
    }
}

/// Runs until everybody knows where this manager is.
pub async fn announce(store: Store, credentials: Credentials, addr: SocketAddr, cancel: CancellationToken) {
    let own = credentials.identity().node;
    let mut state = store.watch();
    loop {
        let known = state.borrow_and_update().nodes.get(&own).and_then(|n| n.manager.clone()).map(|m| m.addr);
        match known {
            Some(at) if at == addr => return,
            Some(_) if store.is_leader() => {
                if let Err(error) = keep(&store, &own, addr).await {
                    tracing::debug!(%error, "this manager's address is not written down yet");
                }
            }
            Some(_) => tell(&store, &credentials, addr).await,
            // It has not heard of itself yet.
            None => {}
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

async fn tell(store: &Store, credentials: &Credentials, addr: SocketAddr) {
    let own = credentials.identity().node;
    let state = store.snapshot();
    let others = state.nodes.values().filter(|n| n.id != own).filter_map(|n| n.manager.as_ref()).map(|m| m.addr);
    let tell = async |other| {
        let channel = tls::dial(other, credentials);
        let mut request = Request::new(v1::RaftMovedRequest { addr: addr.to_string() });
        request.set_timeout(CALL_LIMIT);
        if let Err(status) = RaftClient::new(channel).moved(request).await {
            tracing::debug!(%other, %status, "a manager does not hear yet where this one is");
        }
    };
    join_all(others.map(tell)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{store::Mutation, world::World};
    use heddle_model::{
        cluster::Role,
        node::{ManagerStatus, Node},
    };

    fn port(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    fn write_down(world: &mut World, raft_id: u64, node: &NodeId, addr: SocketAddr) {
        let node = Node::clone(&world.state.nodes[node]);
        let manager = Some(ManagerStatus { raft_id, addr });
        world.write(vec![Mutation::Update(Node { role: Role::Manager, manager, ..node }.into())]);
    }

    #[tokio::test]
    async fn who_has_said_a_newer_address_keeps_it_until_the_state_has_another() {
        let mut world = World::new();
        let nodes = world.ready_nodes(2);
        write_down(&mut world, 1, &nodes[0], port(1000));
        let (states, state) = watch::channel(Arc::new(world.state.clone()));
        let (peers, cancel) = (Peers::default(), CancellationToken::new());
        let following = tokio::spawn(follow(state, peers.clone(), cancel.clone()));
        // Whatever has changed beside it, the second manager's is there when all are.
        let pass = async |world: &mut World, second| {
            write_down(world, 2, &nodes[1], port(second));
            states.send_replace(Arc::new(world.state.clone()));
            let followed = async {
                while peers.addr(2) != Some(port(second)) {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), followed).await.unwrap();
            peers.addr(1)
        };
        assert_eq!(pass(&mut world, 2000).await, Some(port(1000)));
        peers.moved(1, port(1001));
        assert_eq!(pass(&mut world, 2001).await, Some(port(1001)), "the state has the one before");
        write_down(&mut world, 1, &nodes[0], port(1002));
        assert_eq!(pass(&mut world, 2002).await, Some(port(1002)));
        cancel.cancel();
        following.await.unwrap();
    }
}
