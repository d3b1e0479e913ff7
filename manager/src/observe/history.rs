//! The last changes of the store, in order, for those who watch: each manager keeps its own, and all keep the same.

use super::change::Change;
use heddle_model::{Timestamp, Version};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// Changes that are kept.
const KEPT: usize = 10_000;

/// What one transaction changed; never empty.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    pub revision: Version,
    pub at: Timestamp,
    pub changes: Vec<Change>,
}

/// What was asked for is not known here any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "revision {asked} is too long ago: what came after revision {oldest} is known here, so use --since {oldest} or more"
)]
pub struct Expired {
    pub asked: Version,
    pub oldest: Version,
}

#[derive(Default)]
struct Inner {
    batches: VecDeque<Arc<Batch>>,
    /// In all batches.
    count: usize,
    /// All after this revision is there.
    after: Version,
}

pub struct History {
    inner: Mutex<Inner>,
    /// The revision up to which everything is known.
    newest: watch::Sender<Version>,
    kept: usize,
}

impl History {
    /// Of a store that is at this revision.
    pub fn new(at: Version) -> Self {
        Self::keeping(KEPT, at)
    }

    fn keeping(kept: usize, at: Version) -> Self {
        let inner = Inner { after: at, ..Inner::default() };
        Self { inner: Mutex::new(inner), newest: watch::Sender::new(at), kept }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in the next revision, with what it changed.
    pub fn note(&self, revision: Version, at: Timestamp, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let mut inner = self.inner();
        inner.count += changes.len();
        inner.batches.push_back(Arc::new(Batch { revision, at, changes }));
        while inner.count > self.kept && inner.batches.len() > 1 {
            let Some(oldest) = inner.batches.pop_front() else { break };
            inner.count -= oldest.changes.len();
            inner.after = oldest.revision;
        }
    }

    /// The store has reached this revision: those who watch hear of what is new.
    pub fn reached(&self, revision: Version) {
        self.newest.send_replace(revision);
    }

    /// The store came to this revision by a way that tells no changes.
    pub fn skip(&self, to: Version) {
        *self.inner() = Inner { after: to, ..Inner::default() };
        self.newest.send_replace(to);
    }

    /// The newest revision, whenever it changes.
    pub fn watch(&self) -> watch::Receiver<Version> {
        self.newest.subscribe()
    }

    /// What came after a revision, the oldest first, and at most up to `limit`.
    pub fn between(&self, since: Version, limit: Version) -> Result<Vec<Arc<Batch>>, Expired> {
        let inner = self.inner();
        if since < inner.after {
            return Err(Expired { asked: since, oldest: inner.after });
        }
        let start = inner.batches.partition_point(|b| b.revision <= since);
        Ok(inner.batches.iter().skip(start).take_while(|b| b.revision <= limit).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::What;
    use heddle_model::Kind;

    fn change(id: u64) -> Change {
        Change { kind: Kind::Task, id: id.to_string(), name: String::new(), what: What::Created, detail: String::new() }
    }

    fn noted(revisions: std::ops::RangeInclusive<u64>) -> History {
        let history = History::keeping(4, Version(0));
        for n in revisions {
            history.note(Version(n), Timestamp(n), vec![change(n), change(100 + n)]);
            history.reached(Version(n));
        }
        history
    }

    fn revisions(history: &History, since: u64, limit: u64) -> Result<Vec<u64>, Expired> {
        let found = history.between(Version(since), Version(limit))?;
        Ok(found.iter().map(|b| b.revision.0).collect())
    }

    #[test]
    fn what_came_after_a_revision_is_there_without_gap_or_repetition() {
        let history = noted(1..=2);
        assert_eq!(revisions(&history, 0, 9), Ok(vec![1, 2]));
        assert_eq!(revisions(&history, 1, 9), Ok(vec![2]));
        assert_eq!(revisions(&history, 0, 1), Ok(vec![1]));
        assert_eq!(revisions(&history, 2, 9), Ok(vec![]));
        assert_eq!(revisions(&history, 7, 9), Ok(vec![]));
    }

    #[test]
    fn what_is_too_long_ago_is_refused_with_what_there_is() {
        let history = noted(1..=5);
        assert_eq!(revisions(&history, 3, 9), Ok(vec![4, 5]));
        let said = revisions(&history, 2, 9).unwrap_err();
        assert_eq!(said, Expired { asked: Version(2), oldest: Version(3) });
        assert!(said.to_string().ends_with("so use --since 3 or more"), "{said}");
        history.skip(Version(20));
        assert_eq!(revisions(&history, 5, 30).unwrap_err().oldest, Version(20));
        assert_eq!(*history.watch().borrow(), Version(20));
    }

    #[test]
    fn a_transaction_is_kept_whole_however_large() {
        let history = History::keeping(4, Version(0));
        history.note(Version(1), Timestamp(1), vec![change(1)]);
        history.note(Version(2), Timestamp(1), (0..9).map(change).collect());
        history.note(Version(3), Timestamp(1), Vec::new());
        assert_eq!(history.between(Version(1), Version(9)).unwrap()[0].changes.len(), 9);
        assert!(history.between(Version(0), Version(9)).is_err());
    }
}
