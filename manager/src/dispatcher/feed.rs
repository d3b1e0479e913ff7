//! Looks at every new state once, and wakes the sessions of those whom it may concern.

use super::{
    Sessions,
    assignment::{Concerned, concerned},
};
use crate::store::Store;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Until cancelled, or the store is gone.
pub async fn run(store: Store, sessions: Arc<Sessions>, cancel: CancellationToken) {
    let mut watch = store.watch();
    let mut old = watch.borrow_and_update().clone();
    sessions.changed(&Concerned::All, old.clone());
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            changed = watch.changed() => if changed.is_err() { return },
        }
        let new = watch.borrow_and_update().clone();
        // Whoever leads has sessions, and nobody else.
        let concerned = if sessions.open() > 0 { concerned(&old, &new) } else { Concerned::All };
        sessions.changed(&concerned, new.clone());
        old = new;
    }
}
