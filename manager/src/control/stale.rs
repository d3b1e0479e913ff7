//! Reads that need no leader: a manager answers them by what it has itself, which may be old.

use crate::store::Store;
use heddle_proto::v1;
use tonic::{Request, Status};

/// Marks a request that may be answered so.
pub const HEADER: &str = "heddle-stale";

pub fn asked<T>(request: &Request<T>) -> bool {
    request.metadata().contains_key(HEADER)
}

pub fn refuse<T>(request: &Request<T>) -> Result<(), Status> {
    match asked(request) {
        true => Err(Status::invalid_argument("--stale is for commands that look and change nothing: leave it out")),
        false => Ok(()),
    }
}

/// How old this manager's state is.
pub fn replica(store: &Store) -> v1::Replica {
    let heard = store.contact().ago(store.raft());
    let state = store.snapshot();
    let leader = store.leader().filter(|_| heard <= crate::raft::contact::LOST);
    v1::Replica {
        revision: state.version.0,
        heard_ms_ago: heard.as_millis() as u64,
        leader: leader.and_then(|id| state.nodes.get(&id).map(|n| n.description.hostname.clone())).unwrap_or_default(),
    }
}
