//! Reading and writing the cluster's state.

use super::{Action, Conflict, Mutation, Snapshot};
use crate::{
    ambient::now,
    quorum::NoQuorum,
    raft::{
        Raft,
        contact::{Contact, LOST},
    },
};
use heddle_model::{NodeId, Version};
use openraft::{
    Instant as _,
    async_runtime::WatchReceiver,
    errors::{ClientWriteError, RaftError},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// A write that is not committed within this time found no quorum.
const COMMIT_LIMIT: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// New plans after a conflict.
const TRIES: usize = 20;

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Conflict(#[from] Conflict),
    #[error("this manager is not the leader any more: run the command again")]
    NotLeader,
    #[error("the leader changed while writing: look whether it took effect before you run it again")]
    Unknown,
    #[error(transparent)]
    NoQuorum(#[from] NoQuorum),
    #[error("{0}; whether it took effect is not known: look before you run it again")]
    Unconfirmed(NoQuorum),
    #[error("this manager has stopped, and tries to start anew: {0}")]
    Stopped(String),
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Store {
    raft: Raft,
    state: watch::Receiver<Arc<Snapshot>>,
    contact: Contact,
}

impl Store {
    pub fn new(raft: Raft, state: watch::Receiver<Arc<Snapshot>>) -> Self {
        Self { raft, state, contact: Contact::default() }
    }

    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.state.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.state.clone()
    }

    /// The node that leads, as far as this manager knows; None while there is no leader.
    pub fn leader(&self) -> Option<NodeId> {
        let (id, own) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.current_leader?, metrics.id)
        };
        if id == own && !self.is_leader() {
            return None;
        }
        let state = self.state.borrow();
        let leads = |n: &&Arc<heddle_model::node::Node>| n.manager.as_ref().is_some_and(|m| m.raft_id == id);
        state.managers().find(leads).map(|n| n.id.clone())
    }

    pub fn contact(&self) -> &Contact {
        &self.contact
    }

    /// Whether this manager speaks for the cluster: it leads, a majority has answered it lately, and its state has all that
    /// was committed before it led.
    pub fn is_leader(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let alone = metrics.membership_config.voter_ids().count() == 1;
        let heard = alone || metrics.last_quorum_acked.is_some_and(|at| at.elapsed() < LOST);
        let term = metrics.last_applied.map(|applied| applied.leader_id.term);
        metrics.state.is_leader() && heard && term == Some(metrics.current_term)
    }

    /// Grows with every election.
    pub fn term(&self) -> u64 {
        self.raft.metrics().borrow_watched().current_term
    }

    /// Commits one transaction.
    pub async fn write(&self, mutations: Vec<Mutation>) -> Result<Version, WriteError> {
        if self.contact.ago(&self.raft) > LOST {
            return Err(self.no_quorum().into());
        }
        let write = self.raft.client_write(Arc::new(Action { at: now(), mutations }));
        let lost = async {
            while self.contact.ago(&self.raft) <= LOST {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        let written = tokio::select! {
            biased;
            written = write => Some(written),
            () = lost => None,
            () = tokio::time::sleep(COMMIT_LIMIT) => None,
        };
        match written {
            Some(Ok(answer)) => Ok(answer.data?),
            Some(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(WriteError::NotLeader),
            Some(Err(RaftError::APIError(_))) => Err(WriteError::Unknown),
            Some(Err(RaftError::Fatal(e))) => Err(WriteError::Stopped(e.to_string())),
            None => Err(WriteError::Unconfirmed(self.no_quorum())),
        }
    }

    /// What to say when nothing can be committed, by what this manager heard of the others while it led.
    pub fn no_quorum(&self) -> NoQuorum {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let recent = |id: u64| {
            let beat = metrics.heartbeat.as_ref().and_then(|h| h.get(&id).cloned().flatten());
            // Who answered last, a moment before the majority was lost, is gone, too.
            beat.is_some_and(|at| at.elapsed() < LOST / 2)
        };
        NoQuorum::new(self, recent)
    }

    /// Plans on the newest state and commits; plans anew when somebody wrote in between. An empty plan writes nothing.
    pub async fn update<E: From<WriteError>>(
        &self,
        mut plan: impl FnMut(&Snapshot) -> Result<Vec<Mutation>, E>,
    ) -> Result<Arc<Snapshot>, E> {
        let mut tries = TRIES;
        loop {
            let mutations = plan(&self.snapshot())?;
            if mutations.is_empty() {
                return Ok(self.snapshot());
            }
            tries -= 1;
            match self.write(mutations).await {
                Ok(_) => return Ok(self.snapshot()),
                Err(WriteError::Conflict(c)) if c.is_retryable() && tries > 0 => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}
