//! Applies what raft has committed. The newest snapshot is published to everybody who watches.

use super::{
    LogStore, TypeConfig, decode, encode,
    packed::{pack, unpack},
};
use crate::{
    observe::{History, changes},
    store::Snapshot,
};
use futures::{Stream, StreamExt};
use heddle_model::Version;
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
    type_config::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf},
};
use std::{io, sync::Arc};
use tokio::sync::watch;

/// All objects, packed.
pub type RaftSnapshot = Vec<u8>;

type Meta = SnapshotMetaOf<TypeConfig>;

pub struct Machine {
    log: LogStore,
    applied: Option<LogIdOf<TypeConfig>>,
    membership: StoredMembershipOf<TypeConfig>,
    state: watch::Sender<Arc<Snapshot>>,
    history: Arc<History>,
}

/// The state that a snapshot stands for.
pub(super) fn restore(meta: &Meta, data: &[u8]) -> io::Result<Snapshot> {
    unpack(Version(meta.last_log_id.map_or(0, |l| l.index)), data)
}

impl Machine {
    /// Starts from the raft snapshot in the database, if there is one. What was committed after it follows from the log.
    pub fn open(log: LogStore) -> io::Result<(Self, watch::Receiver<Arc<Snapshot>>)> {
        let (mut applied, mut membership, mut state) = (None, Default::default(), Snapshot::default());
        if let Some((meta, data)) = log.read_snapshot()? {
            let meta: Meta = decode(&meta)?;
            state = restore(&meta, &data)?;
            applied = meta.last_log_id;
            membership = meta.last_membership;
        }
        let history = Arc::new(History::new(state.version));
        let (state, watch) = watch::channel(Arc::new(state));
        Ok((Self { log, applied, membership, state, history }, watch))
    }

    /// What it applies, transaction by transaction.
    pub fn history(&self) -> Arc<History> {
        self.history.clone()
    }
}

/// Works on values of one moment while the machine goes on.
pub struct Builder {
    log: LogStore,
    meta: Meta,
    state: Arc<Snapshot>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = RaftSnapshot;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, RaftSnapshot>> {
        let data = pack(&self.state)?;
        self.log.write_snapshot(encode(&self.meta)?, data.clone()).await?;
        Ok(openraft::storage::Snapshot { meta: self.meta.clone(), snapshot: data })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = RaftSnapshot;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogIdOf<TypeConfig>>, StoredMembershipOf<TypeConfig>)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut state = self.state.borrow().clone();
        let mut answers = Vec::new();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            self.applied = Some(entry.log_id);
            let version = Version(entry.log_id.index);
            let applied = match &entry.payload {
                EntryPayload::Normal(action) => state.apply(version, action).map(|next| {
                    self.history.note(version, action.at, changes(&state, &next, &action.mutations));
                    state = Arc::new(next);
                    version
                }),
                EntryPayload::Membership(membership) => {
                    self.membership = openraft::StoredMembership::new(Some(entry.log_id), membership.clone());
                    Ok(version)
                }
                EntryPayload::Blank => Ok(version),
            };
            answers.extend(responder.map(|r| (r, applied)));
        }
        // Published before anybody is answered: a writer reads its own write.
        self.state.send_replace(state);
        self.history.reached(Version(self.applied.map_or(0, |id| id.index)));
        for (responder, applied) in answers {
            responder.send(applied);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            log: self.log.clone(),
            meta: Meta { last_log_id: self.applied, last_membership: self.membership.clone() },
            state: self.state.borrow().clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: RaftSnapshot) -> io::Result<()> {
        let state = restore(meta, &snapshot)?;
        self.log.write_snapshot(encode(meta)?, snapshot).await?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.history.skip(state.version);
        self.state.send_replace(Arc::new(state));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<TypeConfig, RaftSnapshot>>> {
        let Some((meta, data)) = self.log.read_snapshot()? else { return Ok(None) };
        Ok(Some(openraft::storage::Snapshot { meta: decode(&meta)?, snapshot: data }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_plumbing::seal::Key;
    use openraft::{
        StorageError,
        testing::log::{StoreBuilder, Suite},
    };

    struct Stores;

    impl StoreBuilder<TypeConfig, LogStore, Machine, tempfile::TempDir> for Stores {
        async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine), StorageError<TypeConfig>> {
            let dir = tempfile::tempdir().unwrap();
            let log = LogStore::open(&dir.path().join("raft.redb"), &Key::new([7; 32])).unwrap();
            let machine = Machine::open(log.clone()).unwrap().0;
            Ok((dir, log, machine))
        }
    }

    /// openraft's own suite for storage.
    #[tokio::test]
    async fn storage_passes_the_suite() {
        Suite::test_all(Stores).await.unwrap();
    }
}
