//! Keeps the log small by its bytes, as raft does by the count of entries: a few writes of many tasks are more than many of one.

use super::{LogStore, Raft};
use openraft::async_runtime::WatchReceiver;
use tokio_util::sync::CancellationToken;

/// Bytes of entries after which a snapshot is made; as many as the last snapshot stands for, if that is more: what snapshots
/// cost together stays in proportion to what was written.
const SNAPSHOT_AFTER: u64 = 32 << 20;
/// About so many times as much as its bytes: it is compressed, and entries are not. What does not compress is not taken for so
/// much more.
const COMPRESSED: u64 = 8;
const MOST: u64 = 512 << 20;
/// Bytes of entries that are kept although a snapshot has them: a manager that is a little behind needs no snapshot.
const KEEP: u64 = 16 << 20;

fn is_due(entries: u64, snapshot: u64) -> bool {
    entries > SNAPSHOT_AFTER.max(snapshot).max(MOST.min(snapshot * COMPRESSED))
}

/// Until cancelled, or raft ends.
pub async fn run(raft: Raft, log: LogStore, cancel: CancellationToken) {
    let mut metrics = raft.metrics();
    // The snapshot that there was when another was asked for.
    let mut asked = None;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = metrics.changed() => if changed.is_err() { return },
        }
        let last = metrics.borrow_watched().snapshot.map(|id| id.index);
        let mut done = Ok(());
        if asked != Some(last) && is_due(log.bytes_after(last), log.snapshot_bytes()) {
            asked = Some(last);
            done = raft.trigger().snapshot().await;
        } else if let Some(upto) = last.and_then(|last| log.surplus(last, KEEP)) {
            done = raft.trigger().purge_log(upto).await;
        }
        if done.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_as_far_apart_as_they_are_large() {
        assert!(!is_due(SNAPSHOT_AFTER, 0));
        assert!(is_due(SNAPSHOT_AFTER + 1, 0));
        assert!(!is_due(SNAPSHOT_AFTER * COMPRESSED, SNAPSHOT_AFTER));
        assert!(is_due(SNAPSHOT_AFTER * COMPRESSED + 1, SNAPSHOT_AFTER));
        assert!(is_due(MOST + 1, MOST / 2));
        assert!(!is_due(MOST * 2, MOST * 2));
        assert!(is_due(MOST * 2 + 1, MOST * 2));
    }
}
