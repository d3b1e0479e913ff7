//! Looks at every new state once, and wakes the sessions of those whom it may concern.

use super::{Sessions, assignment::concerned};
use crate::store::Store;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Until cancelled, or the store is gone.
pub async fn run(store: Store, sessions: Arc<Sessions>, cancel: CancellationToken) {
    let mut watch = store.watch();
    let mut old = watch.borrow_and_update().clone();
    sessions.changed(&super::assignment::Concerned::All, old.version);
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            changed = watch.changed() => if changed.is_err() { return },
        }
        let new = watch.borrow_and_update().clone();
        sessions.changed(&concerned(&old, &new), new.version);
        old = new;
    }
}
