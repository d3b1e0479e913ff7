//! Writes what agents report: of all of them together, so that a thousand that report at once are a few transactions.

use crate::store::{Mutation, Snapshot, Store};
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
    /// Dropped if they are not written.
    done: oneshot::Sender<()>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Reports {
    store: Store,
    /// Each session has at most one batch in it.
    writer: mpsc::UnboundedSender<Batch>,
}

impl Reports {
    /// Writes until the last clone is gone.
    pub fn start(store: Store) -> Self {
        let (writer, batches) = mpsc::unbounded_channel();
        tokio::spawn(write(store.clone(), batches));
        Self { store, writer }
    }

    /// Where one session's reports go, in order. It is closed when some are lost: the session should end, and the agent tell all
    /// anew on its next one.
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
            mutations.retain(|mutation| is_news(&state, mutation));
            if mutations.is_empty() {
                continue;
            }
            let (done, written) = oneshot::channel();
            if self.writer.send(Batch { mutations, done }).is_err() || written.await.is_err() {
                return;
            }
        }
    }
}

/// A node that was late beats several times until that is written: once is enough.
fn is_news(state: &Snapshot, mutation: &Mutation) -> bool {
    let same = match mutation {
        Mutation::NodeStatus { id, status } => state.nodes.get(id).is_some_and(|n| n.status.state == status.state),
        _ => false,
    };
    !same && state.is_news(mutation)
}

/// A report that finds no quorum is kept and offered again.
async fn write(store: Store, mut batches: mpsc::UnboundedReceiver<Batch>) {
    while let Some(Batch { mut mutations, done }) = batches.recv().await {
        let mut waiting = vec![done];
        while mutations.len() < MOST
            && let Ok(more) = batches.try_recv()
        {
            mutations.extend(more.mutations);
            waiting.push(more.done);
        }
        let until = Instant::now() + LIMIT;
        let mut written = true;
        while let Err(error) = store.write(mutations.clone()).await {
            if !store.is_leader() || Instant::now() > until {
                tracing::warn!(%error, "reports of nodes are lost: their sessions end");
                written = false;
                break;
            }
            // A leader that hears of no majority refuses at once.
            tokio::time::sleep(AGAIN).await;
        }
        for done in waiting.into_iter().filter(|_| written) {
            // Its session may have ended.
            let _ = done.send(());
        }
    }
}
