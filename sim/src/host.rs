//! One manager: raft, store, leader's loop and sessions as in the real one, on a disk, a network and a clock that are made up.

use crate::{
    disk::Disk,
    net::{At, Net, Outbound},
    peer::Peers,
};
use futures::StreamExt;
use heddle_manager::{
    ambient,
    dispatcher::{SessionServer, Sessions},
    leader,
    manager::raft_config,
    raft::{LogStore, Machine, Raft, raft_id},
    store::Store,
};
use heddle_model::{NodeId, Timestamp};
use heddle_plumbing::seal::Key;
use heddle_proto::v1;
use openraft::SnapshotPolicy;
use std::{
    cell::RefCell,
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Every host's clock starts about here, in milliseconds since 1970.
pub const EPOCH: u64 = 1_800_000_000_000;
/// Entries between two raft snapshots, and kept after one: few, so that laggards need the snapshot.
const SNAPSHOT_EVERY: u64 = 60;
const KEPT: u64 = 20;

/// What runs on a host, as its jobs see it.
pub struct Guest {
    pub raft: Raft,
    pub store: Store,
    pub sessions: SessionServer,
    net: Net,
    at: At,
}

impl Guest {
    /// Serves the session of a node's agent, or says that it does not lead.
    pub fn serve(
        &self,
        node: NodeId,
        agent: At,
        down: mpsc::Sender<v1::ManagerMessage>,
    ) -> Result<Outbound<v1::AgentMessage>, Option<NodeId>> {
        if !self.store.is_leader() {
            return Err(self.store.leader());
        }
        let (up, heard) = mpsc::channel(256);
        let (say, mut said) = mpsc::channel(64);
        let heard = ReceiverStream::new(heard).map(Ok::<_, tonic::Status>);
        tokio::spawn(self.sessions.clone().serve(node, heard, say));
        let mut wire = self.net.stream(self.at, agent, down);
        tokio::spawn(async move {
            while let Some(message) = said.recv().await {
                if !wire.send(message) {
                    break;
                }
            }
        });
        Ok(self.net.stream(agent, self.at, up))
    }
}

/// A runtime whose clock goes only as far as it is told.
pub struct Clocked {
    runtime: Runtime,
    start: Instant,
    /// Milliseconds since the start of the world when it started.
    since: u64,
}

impl Clocked {
    pub fn new(now: u64) -> Self {
        let mut builder = Builder::new_current_thread();
        #[cfg(tokio_unstable)]
        builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&ambient::random::<16>()));
        #[allow(clippy::expect_used)]
        let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
        let start = runtime.block_on(async { Instant::now() });
        Self { runtime, start, since: now }
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> tokio::task::JoinHandle<()> {
        self.runtime.spawn(task)
    }

    /// Lets everything run until this moment.
    pub fn run_until(&self, now: u64) {
        let until = self.start + Duration::from_millis(now - self.since);
        self.runtime.block_on(async { tokio::time::sleep_until(until).await });
    }

    /// It stood still until now, while its clock went on.
    pub fn wake_at(&self, now: u64) {
        let until = self.start + Duration::from_millis(now - self.since);
        let jump = async { tokio::time::advance(until.saturating_duration_since(Instant::now())).await };
        self.runtime.block_on(jump);
    }
}

pub struct Host {
    pub at: At,
    pub node: NodeId,
    pub disk: Disk,
    /// What its log is encrypted with.
    key: Key,
    /// Its clock is wrong by so many milliseconds.
    pub skew: i64,
    /// Milliseconds that a sync takes.
    pub sync_ms: Arc<std::sync::atomic::AtomicU64>,
    running: Option<(Clocked, Arc<OnceLock<Arc<Guest>>>)>,
}

impl Host {
    pub fn new(at: At, node: NodeId) -> Self {
        let key = Key::new(ambient::random());
        Self { at, node, disk: Disk::default(), key, skew: 0, sync_ms: Arc::new(1.into()), running: None }
    }

    pub fn is_up(&self) -> bool {
        self.running.is_some()
    }

    /// None while it starts, or is down.
    pub fn guest(&self) -> Option<&Arc<Guest>> {
        self.running.as_ref()?.1.get()
    }

    pub fn start(&mut self, now: u64, net: &Net) {
        let clocked = Clocked::new(now);
        let ready = Arc::new(OnceLock::new());
        let (node, disk, key) = (self.node.clone(), self.disk.clone(), self.key.clone());
        let boot = boot(self.at, node, disk, key, self.sync_ms.clone(), net.clone(), ready.clone());
        clocked.spawn(boot);
        self.running = Some((clocked, ready));
    }

    /// The power is gone.
    pub fn crash(&mut self, rng: &mut rand::rngs::SmallRng) {
        // The disk first: nothing that is dropped writes any more.
        self.disk.crash(rng);
        self.running = None;
    }

    pub fn run_until(&mut self, now: u64) {
        if let Some((clocked, _)) = &self.running {
            ambient::set_clock(Timestamp((EPOCH + now).saturating_add_signed(self.skew)));
            let _host = tracing::info_span!("host", at = self.at, now).entered();
            clocked.run_until(now);
        }
    }

    pub fn wake_at(&mut self, now: u64) {
        if let Some((clocked, _)) = &self.running {
            clocked.wake_at(now);
        }
    }
}

thread_local! {
    /// What went wrong on a host while it started.
    pub static BROKEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

async fn boot(
    at: At,
    node: NodeId,
    disk: Disk,
    key: Key,
    sync_ms: Arc<std::sync::atomic::AtomicU64>,
    net: Net,
    ready: Arc<OnceLock<Arc<Guest>>>,
) {
    let started = start(at, node, &disk, &key, sync_ms, net, ready).await;
    if let Err(error) = started
        && !disk.blown()
    {
        BROKEN.with_borrow_mut(|b| b.push(format!("host {at} does not start: {error}")));
    }
}

async fn start(
    at: At,
    node: NodeId,
    disk: &Disk,
    key: &Key,
    sync_ms: Arc<std::sync::atomic::AtomicU64>,
    net: Net,
    ready: Arc<OnceLock<Arc<Guest>>>,
) -> Result<(), String> {
    let database = redb::Builder::new().create_with_backend(disk.open()).map_err(|e| e.to_string())?;
    let (log, mut writer) = LogStore::over(database, key).map_err(|e| e.to_string())?;
    tokio::spawn(async move {
        let pause = || Duration::from_millis(sync_ms.load(std::sync::atomic::Ordering::Relaxed));
        while writer.step(tokio::time::sleep(pause())).await {}
    });
    let (machine, state) = Machine::open(log.clone()).map_err(|e| e.to_string())?;
    let config = openraft::Config {
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: KEPT,
        ..raft_config("simulated")
    };
    let config = Arc::new(config.validate().map_err(|e| e.to_string())?);
    let peers = Peers { at, net: net.clone() };
    let raft = Raft::new(raft_id(&node), config, peers, log, machine).await.map_err(|e| e.to_string())?;
    let store = Store::new(raft.clone(), state);
    let sessions = Arc::new(Sessions::default());
    tokio::spawn(leader::run(store.clone(), sessions.clone(), CancellationToken::new()));
    let sessions = SessionServer::start(store.clone(), sessions, CancellationToken::new());
    let guest = Arc::new(Guest { raft, store, sessions, net: net.clone(), at });
    let mut jobs = net.listen(at);
    let _ = ready.set(guest.clone());
    while let Some(job) = jobs.recv().await {
        tokio::spawn(job(guest.clone()));
    }
    Ok(())
}
