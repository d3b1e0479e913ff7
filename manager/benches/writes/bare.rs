//! openraft over redb with as little as can be: entries as they are, one writer that takes all that waits into one commit, a
//! map as the state.

use crate::{
    dir,
    wire::{Voters, Wire},
};
use futures::{Stream, StreamExt};
use heddle_manager::manager::raft_config;
use openraft::{
    BasicNode, Config, EntryPayload, LogState, OptionalSend, Raft, RaftLogReader, RaftSnapshotBuilder, SnapshotPolicy,
    StoredMembership,
    storage::{EntryResponder, IOFlushed, RaftLogStorage, RaftStateMachine},
    type_config::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf},
};
use redb::{Database, Durability, TableDefinition};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt,
    fmt::Debug,
    future::Future,
    io,
    ops::RangeBounds,
    path::Path,
    pin::Pin,
    sync::{Arc, RwLock},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const BATCH: usize = 1024;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Set {
    key: u64,
    value: String,
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.key, self.value)
    }
}

openraft::declare_raft_types!(
    pub Bare:
        D = Set,
        R = (),
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
);

type Entry = EntryOf<Bare>;
type LogId = LogIdOf<Bare>;

enum Op {
    Append(Vec<(u64, Vec<u8>)>, IOFlushed<Bare>),
    Vote(Vec<u8>, oneshot::Sender<()>),
}

#[derive(Default)]
struct Memory {
    entries: BTreeMap<u64, Entry>,
    vote: Option<VoteOf<Bare>>,
    purged: Option<LogId>,
}

#[derive(Clone)]
struct Log {
    memory: Arc<RwLock<Memory>>,
    queue: mpsc::UnboundedSender<Op>,
}

fn commit(database: &Database, batch: &[Op]) {
    let mut tx = database.begin_write().unwrap();
    tx.set_durability(Durability::Immediate).unwrap();
    {
        let (mut log, mut meta) = (tx.open_table(LOG).unwrap(), tx.open_table(META).unwrap());
        for op in batch {
            match op {
                Op::Append(entries, _) => {
                    for (index, bytes) in entries {
                        log.insert(index, bytes.as_slice()).unwrap();
                    }
                }
                Op::Vote(bytes, _) => drop(meta.insert("vote", bytes.as_slice()).unwrap()),
            }
        }
    }
    tx.commit().unwrap();
}

impl Log {
    fn open(path: &Path) -> Self {
        let database = Database::create(path).unwrap();
        let (queue, mut ops) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            while let Some(first) = ops.blocking_recv() {
                let more = std::iter::from_fn(|| ops.try_recv().ok());
                let batch: Vec<Op> = std::iter::once(first).chain(more.take(BATCH - 1)).collect();
                commit(&database, &batch);
                for op in batch {
                    match op {
                        Op::Append(_, callback) => callback.io_completed(Ok(())),
                        Op::Vote(_, done) => drop(done.send(())),
                    }
                }
            }
        });
        Self { memory: Arc::default(), queue }
    }

    fn send(&self, op: Op) -> io::Result<()> {
        self.queue.send(op).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl RaftLogReader<Bare> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        Ok(self.memory.read().unwrap().entries.range(range).map(|(_, e)| e.clone()).collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<Bare>>> {
        Ok(self.memory.read().unwrap().vote)
    }
}

impl RaftLogStorage<Bare> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Bare>> {
        let memory = self.memory.read().unwrap();
        let last = memory.entries.values().next_back().map(|e| e.log_id).or(memory.purged);
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Bare>) -> io::Result<()> {
        let (tx, rx) = oneshot::channel();
        self.send(Op::Vote(rmp_serde::to_vec(vote).map_err(io::Error::other)?, tx))?;
        rx.await.map_err(io::Error::other)?;
        self.memory.write().unwrap().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Bare>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut encoded = Vec::new();
        for entry in entries {
            encoded.push((entry.log_id.index, rmp_serde::to_vec(&entry).map_err(io::Error::other)?));
            self.memory.write().unwrap().entries.insert(entry.log_id.index, entry);
        }
        self.send(Op::Append(encoded, callback))
    }

    /// Nobody else leads here, so nothing is ever taken back.
    async fn truncate_after(&mut self, _: Option<LogId>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let mut memory = self.memory.write().unwrap();
        memory.entries = memory.entries.split_off(&(log_id.index + 1));
        memory.purged = Some(log_id);
        Ok(())
    }
}

#[derive(Default)]
pub struct State {
    applied: Option<LogId>,
    membership: StoredMembershipOf<Bare>,
    values: BTreeMap<u64, String>,
}

/// There is no need for one: the log is kept whole.
pub struct NoSnapshot;

impl RaftSnapshotBuilder<Bare> for NoSnapshot {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Bare, Vec<u8>>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl RaftStateMachine<Bare> for State {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = NoSnapshot;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembershipOf<Bare>)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Bare>>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            self.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Normal(set) => drop(self.values.insert(set.key, set.value)),
                EntryPayload::Membership(m) => self.membership = StoredMembership::new(Some(entry.log_id), m),
                EntryPayload::Blank => {}
            }
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> NoSnapshot {
        NoSnapshot
    }

    async fn install_snapshot(&mut self, _: &SnapshotMetaOf<Bare>, _: Vec<u8>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Bare, Vec<u8>>>> {
        Ok(None)
    }
}

pub struct Cluster {
    rafts: Vec<Raft<Bare, State>>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    pub async fn of(voters: u64) -> Self {
        let (dir, wires) = (dir(), Voters::default());
        let config = Config { snapshot_policy: SnapshotPolicy::Never, ..raft_config("bench") };
        let config = Arc::new(config.validate().unwrap());
        let mut rafts = Vec::new();
        for n in 1..=voters {
            let log = Log::open(&dir.path().join(format!("{n}.redb")));
            let wire = Wire::<Bare, State> { voters: wires.clone(), to: n };
            let raft = Raft::new(n, config.clone(), wire, log, State::default()).await.unwrap();
            wires.write().unwrap().insert(n, raft.clone());
            rafts.push(raft);
        }
        let members: BTreeMap<u64, BasicNode> = (1..=voters).map(|n| (n, BasicNode::new(n.to_string()))).collect();
        rafts[0].initialize(members).await.unwrap();
        while !rafts.iter().any(Raft::is_leader) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self { rafts, _dir: dir }
    }

    /// What one client writes as its nth.
    pub fn writer(&self) -> impl Fn(u64, u64) -> Pin<Box<dyn Future<Output = ()> + Send>> + Clone + Send + 'static {
        let raft = self.rafts.iter().find(|r| r.is_leader()).unwrap().clone();
        move |key, nth| {
            let raft = raft.clone();
            Box::pin(async move {
                raft.client_write(Set { key, value: format!("reported {nth}") }).await.unwrap();
            })
        }
    }

    pub async fn end(self) {
        for raft in &self.rafts {
            raft.shutdown().await.unwrap();
        }
    }
}
