//! Whether the cluster has begun anew without this manager. Those of before could still be a majority of what it was, and must
//! not go on beside it.

use crate::{
    manager::ManagerError,
    store::{Snapshot, Store},
};
use futures::future::join_all;
use heddle_plumbing::tls::{self, Credentials};
use heddle_proto::v1::{self, raft_client::RaftClient};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic::Request;

/// A manager starts without the word of who does not answer by then.
const CALL_LIMIT: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Asks every other manager that this state knows.
pub async fn check(state: &Snapshot, credentials: &Credentials) -> Result<(), ManagerError> {
    let own = credentials.identity().node;
    let begun = state.cluster.as_ref().map_or(0, |c| c.begun);
    let others = state.nodes.values().filter(|n| n.id != own).filter_map(|n| n.manager.as_ref()).map(|m| m.addr);
    let ask = async |addr| {
        let mut request = Request::new(v1::RaftStandingRequest {});
        request.set_timeout(CALL_LIMIT);
        let asked = RaftClient::new(tls::dial(addr, credentials)).standing(request).await;
        Some(asked.ok()?.into_inner().begun)
    };
    match join_all(others.map(ask)).await.into_iter().flatten().any(|theirs| theirs > begun) {
        true => Err(ManagerError::Outvoted),
        false => Ok(()),
    }
}

/// Looks again and again, and takes this manager out of raft if it is so.
pub async fn watch(store: Store, credentials: Credentials, cancel: CancellationToken, outvoted: CancellationToken) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        if let Err(error) = check(&store.snapshot(), &credentials).await {
            tracing::error!("{error}");
            let _ = store.raft().shutdown().await;
            outvoted.cancel();
            return;
        }
    }
}
