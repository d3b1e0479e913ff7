//! Writes what agents report: of all of them together, so that a thousand that report at once are a few transactions.

use crate::store::{Mutation, Store};
use std::time::Duration;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

/// Messages of one agent that wait to be written. Beyond that its session ends, and the next one tells all anew.
const WAITING: usize = 256;
/// Mutations of one transaction, after which no more are added.
const MOST: usize = 2000;
/// A report is offered to raft again for this long, so often.
const LIMIT: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(100);

struct Batch {
    mutations: Vec<Mutation>,
    done: oneshot::Sender<()>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Reports {
    store: Store,
    writer: mpsc::Sender<Batch>,
}

impl Reports {
    /// Writes until the last clone is gone.
    pub fn start(store: Store) -> Self {
        let (writer, batches) = mpsc::channel(1);
        tokio::spawn(write(store.clone(), batches));
        Self { store, writer }
    }

    /// Where one session's reports go, in order.
    pub fn queue(&self) -> mpsc::Sender<Vec<Mutation>> {
        let (send, queue) = mpsc::channel(WAITING);
        tokio::spawn(self.clone().pass_on(queue));
        send
    }

    /// One batch of a session at a time: what comes meanwhile is the next.
    async fn pass_on(self, mut queue: mpsc::Receiver<Vec<Mutation>>) {
        while let Some(mut mutations) = queue.recv().await {
            while let Ok(more) = queue.try_recv() {
                mutations.extend(more);
            }
            // Its own earlier reports are in the store by now, so what is no news to it is none at all.
            let state = self.store.snapshot();
            if !mutations.iter().any(|mutation| state.is_news(mutation)) {
                continue;
            }
            let (done, written) = oneshot::channel();
            if self.writer.send(Batch { mutations, done }).await.is_err() || written.await.is_err() {
                return;
            }
        }
    }
}

/// A report that finds no quorum is kept and offered again; the agent sends all of its states anew on its next session.
async fn write(store: Store, mut batches: mpsc::Receiver<Batch>) {
    while let Some(Batch { mut mutations, done }) = batches.recv().await {
        let mut waiting = vec![done];
        while mutations.len() < MOST
            && let Ok(more) = batches.try_recv()
        {
            mutations.extend(more.mutations);
            waiting.push(more.done);
        }
        let until = Instant::now() + LIMIT;
        while let Err(error) = store.write(mutations.clone()).await {
            if !store.is_leader() || Instant::now() > until {
                tracing::warn!(%error, "reports of nodes are lost until their next sessions");
                break;
            }
            // A leader that hears of no majority refuses at once.
            tokio::time::sleep(AGAIN).await;
        }
        for done in waiting {
            // Its session may have ended.
            let _ = done.send(());
        }
    }
}
