//! The durable log in redb.
//!
//! Entries are kept in memory too, since replication reads the newest again and again. Every write goes through one writer
//! that takes all that waits into one transaction and one fsync; a caller is told after that fsync. On the disk all rows are
//! encrypted.

use super::{
    TypeConfig, decode, encode,
    frame::{self, Place},
    plain,
    recover::{Fresh, Stored},
};
use crate::ambient;
use heddle_plumbing::seal::Key;
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
    type_config::alias::{EntryOf, LogIdOf, VoteOf},
};
use redb::{Builder, Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    ops::RangeBounds,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};
use tokio::sync::{mpsc, oneshot};

pub(super) const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";
const SNAPSHOT_META: &str = "snapshot.meta";
const SNAPSHOT_DATA: &str = "snapshot.data";

/// Operations that one transaction takes at most.
const BATCH: usize = 1024;

type Entry = EntryOf<TypeConfig>;
type LogId = LogIdOf<TypeConfig>;
type Vote = VoteOf<TypeConfig>;

#[derive(Default)]
struct Memory {
    entries: BTreeMap<u64, Entry>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
}

enum Op {
    Append(Vec<(u64, Vec<u8>)>),
    /// Forget what is after this index; None: everything.
    Truncate(Option<u64>),
    /// Forget up to and including this index.
    Purge(u64, Vec<u8>),
    Put(&'static str, Vec<u8>),
    /// The stored raft snapshot: its meta and its data.
    Snapshot(Vec<u8>, Vec<u8>),
    /// Forget every entry, and put these in their place, all at once.
    Replace(Vec<(&'static str, Vec<u8>)>),
}

enum Done {
    Append(IOFlushed<TypeConfig>),
    Wait(oneshot::Sender<io::Result<()>>),
    Nobody,
}

/// Cheap to clone; clones share one database. The writer ends, with all that was queued written, when the last is dropped.
#[derive(Clone)]
pub struct LogStore {
    memory: Arc<RwLock<Memory>>,
    queue: mpsc::UnboundedSender<(Op, Done)>,
    database: Arc<Database>,
    key: Key,
}

/// Damage is told from other failures by its kind: `InvalidData`.
pub(super) fn failed(e: impl Into<redb::Error>) -> io::Error {
    let e = e.into();
    let kind = match &e {
        redb::Error::Corrupted(_) => io::ErrorKind::InvalidData,
        redb::Error::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => io::ErrorKind::InvalidData,
        redb::Error::Io(e) => e.kind(),
        redb::Error::DatabaseAlreadyOpen => io::ErrorKind::ResourceBusy,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, e)
}

impl LogStore {
    /// Opens the database, or makes it, and reads the log into memory. A thread writes. What is there in clear is encrypted first.
    pub fn open(path: &Path, key: &Key) -> io::Result<Self> {
        let mut database = Builder::new().set_check_integrity_on_open(true).create(path).map_err(failed)?;
        if plain::is_plain(&database)? {
            database = plain::rewrite(path, database, key)?;
        }
        let (log, mut writer) = Self::over(database, key)?;
        std::thread::Builder::new().name("raft-log".into()).spawn(move || while writer.blocking_step() {})?;
        Ok(log)
    }

    /// Over any database, with a writer that somebody else has to run.
    pub fn over(database: Database, key: &Key) -> io::Result<(Self, Writer)> {
        let database = Arc::new(database);
        let memory = Arc::new(RwLock::new(load(&database, key)?));
        let (queue, ops) = mpsc::unbounded_channel();
        let writer = Writer { database: database.clone(), key: key.clone(), ops };
        Ok((Self { memory, queue, database, key: key.clone() }, writer))
    }

    /// The stored raft snapshot: its meta and its data.
    pub(super) fn read_snapshot(&self) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        let read = self.database.begin_read().map_err(failed)?;
        let meta = read.open_table(META).map_err(failed)?;
        let get = |name| match meta.get(name).map_err(failed)? {
            Some(row) => frame::open(&self.key, Place::Meta(name), row.value()).map(Some),
            None => Ok(None),
        };
        Ok(get(SNAPSHOT_META)?.zip(get(SNAPSHOT_DATA)?))
    }

    /// All that is stored.
    pub(crate) fn stored(&self) -> io::Result<Stored> {
        let snapshot = self.read_snapshot()?.map(|(meta, data)| super::machine::unpack(&decode(&meta)?, &data));
        let memory = self.memory();
        Ok(Stored {
            vote: memory.vote,
            committed: memory.committed,
            purged: memory.purged,
            snapshot: snapshot.transpose()?,
            entries: memory.entries.values().cloned().collect(),
        })
    }

    /// Replaces all that is stored by a snapshot and a vote, whole or not at all.
    pub(crate) async fn replace(&self, fresh: Fresh) -> io::Result<()> {
        let purged = fresh.meta.last_log_id;
        let rows = vec![
            (VOTE, encode(&fresh.vote)?),
            (COMMITTED, encode(&purged)?),
            (PURGED, encode(&purged)?),
            (SNAPSHOT_META, encode(&fresh.meta)?),
            (SNAPSHOT_DATA, fresh.data),
        ];
        self.write(Op::Replace(rows)).await?;
        let (vote, entries) = (Some(fresh.vote), BTreeMap::new());
        *self.memory_mut() = Memory { entries, vote, committed: purged, purged };
        Ok(())
    }

    /// Replaces the stored raft snapshot, whole or not at all.
    pub(super) async fn write_snapshot(&self, meta: Vec<u8>, data: Vec<u8>) -> io::Result<()> {
        self.write(Op::Snapshot(meta, data)).await
    }

    fn send(&self, op: Op, done: Done) -> io::Result<()> {
        self.queue.send((op, done)).map_err(|_| io::Error::other("the log's writer has ended"))
    }

    async fn write(&self, op: Op) -> io::Result<()> {
        let (tx, rx) = oneshot::channel();
        self.send(op, Done::Wait(tx))?;
        rx.await.map_err(|_| io::Error::other("the log's writer has ended"))?
    }

    fn memory(&self) -> std::sync::RwLockReadGuard<'_, Memory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory_mut(&self) -> std::sync::RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unseal<T: DeserializeOwned>(key: &Key, place: Place, row: &[u8]) -> io::Result<T> {
    decode(&frame::open(key, place, row)?)
}

fn load(database: &Database, key: &Key) -> io::Result<Memory> {
    let tx = database.begin_write().map_err(failed)?;
    let mut memory = Memory::default();
    {
        let log = tx.open_table(LOG).map_err(failed)?;
        for row in log.iter().map_err(failed)? {
            let (index, bytes) = row.map_err(failed)?;
            let index = index.value();
            memory.entries.insert(index, unseal(key, Place::Entry(index), bytes.value())?);
        }
        let meta = tx.open_table(META).map_err(failed)?;
        if let Some(bytes) = meta.get(VOTE).map_err(failed)? {
            memory.vote = unseal(key, Place::Meta(VOTE), bytes.value())?;
        }
        if let Some(bytes) = meta.get(COMMITTED).map_err(failed)? {
            memory.committed = unseal(key, Place::Meta(COMMITTED), bytes.value())?;
        }
        if let Some(bytes) = meta.get(PURGED).map_err(failed)? {
            memory.purged = unseal(key, Place::Meta(PURGED), bytes.value())?;
        }
    }
    tx.commit().map_err(failed)?;
    Ok(memory)
}

/// Makes durable what the log's users queue, in order.
pub struct Writer {
    database: Arc<Database>,
    key: Key,
    ops: mpsc::UnboundedReceiver<(Op, Done)>,
}

impl Writer {
    /// Waits for something to write, lets `pause` pass, and writes all there is by then. False: nobody will write any more.
    pub async fn step(&mut self, pause: impl Future<Output = ()>) -> bool {
        let Some(first) = self.ops.recv().await else { return false };
        pause.await;
        self.write(first);
        true
    }

    fn blocking_step(&mut self) -> bool {
        self.ops.blocking_recv().map(|first| self.write(first)).is_some()
    }

    fn write(&mut self, first: (Op, Done)) {
        let more = std::iter::from_fn(|| self.ops.try_recv().ok());
        let (batch, done): (Vec<Op>, Vec<Done>) = std::iter::once(first).chain(more.take(BATCH - 1)).unzip();
        let result = write_batch(&self.database, &self.key, &batch);
        if let Err(error) = &result {
            tracing::error!(%error, "cannot write the raft log");
        }
        for done in done {
            let copy = match &result {
                Ok(()) => Ok(()),
                Err(e) => Err(io::Error::new(e.kind(), e.to_string())),
            };
            match done {
                Done::Append(callback) => callback.io_completed(copy),
                Done::Wait(tx) => drop(tx.send(copy)),
                Done::Nobody => {}
            }
        }
    }
}

fn write_batch(database: &Database, key: &Key, batch: &[Op]) -> io::Result<()> {
    let seal = |place: Place, payload: &[u8]| frame::seal(key, ambient::random(), place, payload);
    let mut tx = database.begin_write().map_err(failed)?;
    tx.set_durability(Durability::Immediate).map_err(failed)?;
    {
        let mut log = tx.open_table(LOG).map_err(failed)?;
        let mut meta = tx.open_table(META).map_err(failed)?;
        for op in batch {
            match op {
                Op::Append(entries) => {
                    for (index, bytes) in entries {
                        log.insert(index, seal(Place::Entry(*index), bytes).as_slice()).map_err(failed)?;
                    }
                }
                Op::Truncate(last) => {
                    log.retain_in(last.map_or(0, |l| l + 1).., |_, _| false).map_err(failed)?;
                }
                Op::Purge(last, id) => {
                    log.retain_in(..=*last, |_, _| false).map_err(failed)?;
                    meta.insert(PURGED, seal(Place::Meta(PURGED), id).as_slice()).map_err(failed)?;
                }
                Op::Put(name, bytes) => {
                    meta.insert(*name, seal(Place::Meta(name), bytes).as_slice()).map_err(failed)?;
                }
                Op::Replace(rows) => {
                    log.retain(|_, _| false).map_err(failed)?;
                    for (name, bytes) in rows {
                        meta.insert(*name, seal(Place::Meta(name), bytes).as_slice()).map_err(failed)?;
                    }
                }
                Op::Snapshot(about, data) => {
                    for (name, bytes) in [(SNAPSHOT_META, about), (SNAPSHOT_DATA, data)] {
                        meta.insert(name, seal(Place::Meta(name), bytes).as_slice()).map_err(failed)?;
                    }
                }
            }
        }
    }
    tx.commit().map_err(failed)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        Ok(self.memory().entries.range(range).map(|(_, e)| e.clone()).collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.memory().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let memory = self.memory();
        let last = memory.entries.values().next_back().map(|e| e.log_id).or(memory.purged);
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.write(Op::Put(VOTE, encode(vote)?)).await?;
        self.memory_mut().vote = Some(*vote);
        Ok(())
    }

    /// Not waited for: an older value only means that more is applied anew from the log.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.memory_mut().committed = committed;
        self.send(Op::Put(COMMITTED, encode(&committed)?), Done::Nobody)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.memory().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut encoded = Vec::new();
        let mut memory = self.memory_mut();
        for entry in entries {
            encoded.push((entry.log_id.index, encode(&entry)?));
            memory.entries.insert(entry.log_id.index, entry);
        }
        drop(memory);
        self.send(Op::Append(encoded), Done::Append(callback))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let last = last.map(|l| l.index);
        self.memory_mut().entries.split_off(&last.map_or(0, |l| l + 1));
        self.write(Op::Truncate(last)).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        {
            let mut memory = self.memory_mut();
            memory.entries = memory.entries.split_off(&(log_id.index + 1));
            memory.purged = Some(log_id);
        }
        self.write(Op::Purge(log_id.index, encode(&Some(log_id))?)).await
    }
}
