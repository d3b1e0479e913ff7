//! A manager whose address changed: it tells the others itself, since none of them can reach it; the leader writes it down, and
//! raft's membership and the agents' lists follow from that.

use crate::{
    raft::{Peers, recover},
    store::{Store, WriteError},
};
use futures::future::join_all;
use heddle_model::NodeId;
use heddle_plumbing::tls::{self, Credentials};
use heddle_proto::v1::{self, raft_client::RaftClient};
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};
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
pub async fn follow(store: Store, peers: Peers, cancel: CancellationToken) {
    let mut state = store.watch();
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
