//! What is said where no majority of the managers answers, and what can be done.

use crate::store::Store;
use futures::future::join_all;
use openraft::async_runtime::WatchReceiver;
use std::{collections::BTreeSet, fmt, time::Duration};
use tokio::net::TcpStream;

const REACH_LIMIT: Duration = Duration::from_millis(300);

/// Who counts, and who does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoQuorum {
    pub voters: usize,
    /// Host names and addresses.
    pub missing: Vec<String>,
}

impl NoQuorum {
    /// `there`: whether another manager, by its number in raft, is heard of.
    pub fn new(store: &Store, there: impl Fn(u64) -> bool) -> Self {
        let metrics = store.raft().metrics().borrow_watched().clone();
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        let missing = voters.iter().filter(|id| **id != metrics.id && !there(**id));
        let state = store.snapshot();
        let name = |id: &u64| {
            let node = state.nodes.values().find(|n| n.manager.as_ref().is_some_and(|m| m.raft_id == *id));
            let addr = metrics.membership_config.membership().get_node(id).map_or("", |n| &n.addr);
            node.map_or_else(|| addr.to_owned(), |n| format!("{} ({addr})", n.description.hostname))
        };
        NoQuorum { voters: voters.len(), missing: missing.map(name).collect() }
    }
}

impl std::error::Error for NoQuorum {}

impl fmt::Display for NoQuorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NoQuorum { voters, missing } = self;
        let (there, needed) = (voters - missing.len().min(*voters), voters / 2 + 1);
        if *voters == 0 {
            return write!(f, "no leader: the other managers have not let this one in yet");
        }
        if there >= needed {
            return write!(f, "no leader: {there} of {voters} managers can be reached, but they agree on none yet");
        }
        write!(
            f,
            "no quorum: {there} of {voters} managers can be reached and {needed} are needed: start {} more of {}, or, if they \
             are lost for good, run `heddle init --force-new-cluster` on this one",
            needed - there,
            missing.join(", ")
        )
    }
}

/// The same, by trying to reach them.
pub async fn look(store: &Store) -> NoQuorum {
    let metrics = store.raft().metrics().borrow_watched().clone();
    let reach = metrics.membership_config.nodes().map(|(id, node)| {
        let (id, addr) = (*id, node.addr.clone());
        async move {
            let tried = tokio::time::timeout(REACH_LIMIT, TcpStream::connect(addr)).await;
            tried.is_ok_and(|connected| connected.is_ok()).then_some(id)
        }
    });
    let there: BTreeSet<u64> = join_all(reach).await.into_iter().flatten().collect();
    NoQuorum::new(store, |id| there.contains(&id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_many_are_missing_and_who() {
        let said = |voters, missing: &[&str]| {
            NoQuorum { voters, missing: missing.iter().map(|m| (*m).to_owned()).collect() }.to_string()
        };
        assert_eq!(
            said(3, &["b (10.0.0.2:2377)", "c (10.0.0.3:2377)"]),
            "no quorum: 1 of 3 managers can be reached and 2 are needed: start 1 more of b (10.0.0.2:2377), c \
             (10.0.0.3:2377), or, if they are lost for good, run `heddle init --force-new-cluster` on this one"
        );
        assert!(
            said(5, &["b", "c", "d", "e"]).contains("1 of 5 managers can be reached and 3 are needed: start 2 more")
        );
        assert_eq!(said(0, &[]), "no leader: the other managers have not let this one in yet");
        assert!(said(3, &["b"]).starts_with("no leader: 2 of 3 managers can be reached"));
    }
}
