//! The durable log in redb.
//!
//! Entries are kept in memory too, since replication reads the newest again and again. Every write goes through one writer
//! that takes all that waits into one transaction and one fsync; a caller is told after that fsync. What is committed is written
//! without one, and follows with the next. On the disk all rows are encrypted.

use super::{
    TypeConfig, decode, encode,
    frame::{self, Place},
    machine::restore,
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
    time::Duration,
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
/// Of the database: nothing is read from it but when it is opened.
const CACHE: usize = 16 << 20;
/// Bytes of entries that are read together, unless one entry has more.
const READ: u64 = 4 << 20;
/// After this long without another write, what was written without an fsync gets one.
const SYNC_AFTER: Duration = Duration::from_millis(100);

type Entry = EntryOf<TypeConfig>;
type LogId = LogIdOf<TypeConfig>;
type Vote = VoteOf<TypeConfig>;

struct Held {
    entry: Entry,
    /// Encoded, and with all before it that were there when it came.
    bytes: u64,
    end: u64,
}

#[derive(Default)]
struct Memory {
    entries: BTreeMap<u64, Held>,
    /// Bytes of the stored snapshot.
    snapshot: u64,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
}

impl Memory {
    fn hold(&mut self, entry: Entry, bytes: u64) {
        let before = self.entries.values().next_back().map_or(0, |held| held.end);
        self.entries.insert(entry.log_id.index, Held { entry, bytes, end: before + bytes });
    }

    /// Bytes of all entries after this one.
    fn bytes_after(&self, index: Option<u64>) -> u64 {
        let all = |held: &Held| held.end;
        let to = self.entries.values().next_back().map_or(0, all);
        let last = index.and_then(|index| self.entries.range(..=index).next_back()).map(|(_, held)| held.end);
        let none = || self.entries.values().next().map_or(0, |first| first.end - first.bytes);
        to - last.unwrap_or_else(none)
    }
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
        let mut builder = Builder::new();
        builder.set_check_integrity_on_open(true).set_cache_size(CACHE);
        let mut database = builder.create(path).map_err(failed)?;
        if plain::is_plain(&database)? {
            database = plain::rewrite(path, database, key)?;
        }
        let (log, mut writer) = Self::over(database, key)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let write = async move { while writer.step(std::future::ready(())).await {} };
        std::thread::Builder::new().name("raft-log".into()).spawn(move || runtime.block_on(write))?;
        Ok(log)
    }

    /// Over any database, with a writer that somebody else has to run.
    pub fn over(database: Database, key: &Key) -> io::Result<(Self, Writer)> {
        let database = Arc::new(database);
        let memory = Arc::new(RwLock::new(load(&database, key)?));
        let (queue, ops) = mpsc::unbounded_channel();
        let writer = Writer { database: database.clone(), key: key.clone(), ops, unsynced: false };
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
        let snapshot = self.read_snapshot()?.map(|(meta, data)| {
            let meta = decode(&meta)?;
            restore(&meta, &data).map(|state| (meta, state))
        });
        let memory = self.memory();
        Ok(Stored {
            vote: memory.vote,
            committed: memory.committed,
            purged: memory.purged,
            snapshot: snapshot.transpose()?,
            entries: memory.entries.values().map(|held| held.entry.clone()).collect(),
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
        let snapshot = rows.last().map_or(0, |(_, data)| data.len() as u64);
        self.write(Op::Replace(rows)).await?;
        let (vote, entries) = (Some(fresh.vote), BTreeMap::new());
        *self.memory_mut() = Memory { entries, snapshot, vote, committed: purged, purged };
        Ok(())
    }

    /// Replaces the stored raft snapshot, whole or not at all.
    pub(super) async fn write_snapshot(&self, meta: Vec<u8>, data: Vec<u8>) -> io::Result<()> {
        let bytes = data.len() as u64;
        self.write(Op::Snapshot(meta, data)).await?;
        self.memory_mut().snapshot = bytes;
        Ok(())
    }

    /// Bytes of the entries after this one, as they are stored.
    pub(super) fn bytes_after(&self, index: Option<u64>) -> u64 {
        self.memory().bytes_after(index)
    }

    /// Bytes of the stored snapshot.
    pub(super) fn snapshot_bytes(&self) -> u64 {
        self.memory().snapshot
    }

    /// Up to which entry to forget so that what is kept up to `last` has no more than these bytes. None: it has no more.
    pub(super) fn surplus(&self, last: u64, most: u64) -> Option<u64> {
        let memory = self.memory();
        let end = memory.entries.range(..=last).next_back().map(|(_, held)| held.end)?;
        let before = |held: &Held| held.end - held.bytes;
        if memory.entries.values().next().is_none_or(|first| end - before(first) <= most) {
            return None;
        }
        let mut back = memory.entries.range(..=last).rev();
        back.find(|(_, held)| end - before(held) > most).map(|(index, _)| *index)
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
            let payload = frame::open(key, Place::Entry(index.value()), bytes.value())?;
            memory.hold(decode(&payload)?, payload.len() as u64);
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
        memory.snapshot = meta.get(SNAPSHOT_DATA).map_err(failed)?.map_or(0, |data| data.value().len() as u64);
    }
    tx.commit().map_err(failed)?;
    Ok(memory)
}

/// Makes durable what the log's users queue, in order.
pub struct Writer {
    database: Arc<Database>,
    key: Key,
    ops: mpsc::UnboundedReceiver<(Op, Done)>,
    /// The last transaction may be lost with the power.
    unsynced: bool,
}

impl Writer {
    /// Waits for something to write, lets `pause` pass, and writes all there is by then. False: nobody will write any more.
    pub async fn step(&mut self, pause: impl Future<Output = ()>) -> bool {
        let received = match self.unsynced {
            false => Ok(self.ops.recv().await),
            true => tokio::time::timeout(SYNC_AFTER, self.ops.recv()).await,
        };
        match received {
            Ok(Some(first)) => {
                pause.await;
                self.write(first);
                true
            }
            Ok(None) => {
                self.sync();
                false
            }
            Err(_) => {
                self.sync();
                true
            }
        }
    }

    fn sync(&mut self) {
        if std::mem::take(&mut self.unsynced)
            && let Err(error) = write_batch(&self.database, &self.key, &[], Durability::Immediate)
        {
            tracing::error!(%error, "cannot write the raft log");
        }
    }

    fn write(&mut self, first: (Op, Done)) {
        let more = std::iter::from_fn(|| self.ops.try_recv().ok());
        let (batch, done): (Vec<Op>, Vec<Done>) = std::iter::once(first).chain(more.take(BATCH - 1)).unzip();
        // Nobody waits for these, and an older value is as good.
        self.unsynced = batch.iter().all(|op| matches!(op, Op::Put(COMMITTED, _)));
        let durability = if self.unsynced { Durability::None } else { Durability::Immediate };
        let result = write_batch(&self.database, &self.key, &batch, durability);
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

fn write_batch(database: &Database, key: &Key, batch: &[Op], durability: Durability) -> io::Result<()> {
    let seal = |place: Place, payload: &[u8]| frame::seal(key, ambient::random(), place, payload);
    let mut tx = database.begin_write().map_err(failed)?;
    tx.set_durability(durability).map_err(failed)?;
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
        Ok(self.memory().entries.range(range).map(|(_, held)| held.entry.clone()).collect())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let memory = self.memory();
        let mut bytes = 0;
        let fits = |(nth, (_, held)): &(usize, (&u64, &Held))| {
            bytes += held.bytes;
            *nth == 0 || bytes <= READ
        };
        let some = memory.entries.range(start..end).enumerate().take_while(fits);
        Ok(some.map(|(_, (_, held))| held.entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.memory().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let memory = self.memory();
        let last = memory.entries.values().next_back().map(|held| held.entry.log_id).or(memory.purged);
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
            let bytes = encode(&entry)?;
            let size = bytes.len() as u64;
            encoded.push((entry.log_id.index, bytes));
            memory.hold(entry, size);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Action, now};
    use openraft::{entry::RaftEntry, vote::RaftLeaderId};

    fn entry(index: u64) -> Entry {
        let leader = openraft::impls::leader_id_std::LeaderId::<u64, u64>::new(1, 1).to_committed();
        Entry::new_normal(openraft::LogId::new(leader, index), Action { at: now(), mutations: Vec::new() }.into())
    }

    /// As soon as the writer of the log before has ended.
    async fn reopened(path: &Path) -> LogStore {
        loop {
            match LogStore::open(path, &Key::new([7; 32])) {
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy => tokio::time::sleep(Duration::from_millis(5)).await,
                opened => return opened.unwrap(),
            }
        }
    }

    async fn filled() -> (tempfile::TempDir, LogStore) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogStore::open(&dir.path().join("raft.redb"), &Key::new([7; 32])).unwrap();
        log.append((1..=9).map(entry), IOFlushed::noop()).await.unwrap();
        (dir, log)
    }

    #[tokio::test]
    async fn it_knows_its_bytes_whatever_is_cut_off() {
        let (dir, mut log) = filled().await;
        let each = log.bytes_after(None) / 9;
        assert!(each > 0);
        assert_eq!((log.bytes_after(Some(4)), log.bytes_after(Some(9))), (5 * each, 0));
        assert_eq!((log.surplus(9, 9 * each), log.surplus(9, 9 * each - 1)), (None, Some(1)));
        assert_eq!((log.surplus(6, each * 2), log.surplus(9, 0)), (Some(4), Some(9)));
        log.truncate_after(Some(entry(7).log_id)).await.unwrap();
        log.append([entry(8)], IOFlushed::noop()).await.unwrap();
        assert_eq!(log.bytes_after(None), 8 * each);
        log.purge(entry(3).log_id).await.unwrap();
        assert_eq!((log.bytes_after(None), log.bytes_after(Some(3)), log.surplus(3, 0)), (5 * each, 5 * each, None));
        log.write_snapshot(vec![1], vec![0; 77]).await.unwrap();
        assert_eq!(log.snapshot_bytes(), 77);
        drop(log);
        let again = reopened(&dir.path().join("raft.redb")).await;
        assert_eq!(again.bytes_after(None), 5 * each);
    }

    #[tokio::test]
    async fn what_is_read_together_has_an_end() {
        let (_dir, mut log) = filled().await;
        let indices = |entries: Vec<Entry>| entries.iter().map(|e| e.log_id.index).collect::<Vec<_>>();
        assert_eq!(indices(log.limited_get_log_entries(2, 5).await.unwrap()), [2, 3, 4]);
        for (index, bytes) in [(3, READ - 1), (4, 1), (5, 1), (6, READ + 1)] {
            log.memory_mut().entries.get_mut(&index).unwrap().bytes = bytes;
        }
        assert_eq!(indices(log.limited_get_log_entries(3, 9).await.unwrap()), [3, 4]);
        assert_eq!(indices(log.limited_get_log_entries(6, 9).await.unwrap()), [6], "one is read, however large");
    }

    /// It follows by itself, and with the next write, and when the log is closed.
    #[tokio::test]
    async fn what_is_committed_is_on_the_disk_soon() {
        let (dir, mut log) = filled().await;
        let path = dir.path().join("raft.redb");
        for index in 1..=5 {
            log.save_committed(Some(entry(index).log_id)).await.unwrap();
        }
        drop(log);
        let mut again = reopened(&path).await;
        assert_eq!(again.read_committed().await.unwrap(), Some(entry(5).log_id));
        again.save_committed(Some(entry(6).log_id)).await.unwrap();
        let copied = dir.path().join("copy.redb");
        tokio::time::sleep(SYNC_AFTER * 10).await;
        std::fs::copy(&path, &copied).unwrap();
        let mut copy = reopened(&copied).await;
        assert_eq!(copy.read_committed().await.unwrap(), Some(entry(6).log_id));
    }
}
