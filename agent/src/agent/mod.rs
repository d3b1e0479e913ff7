//! The agent put together.
//!
//! ```text
//! actor    one loop: what the managers say, what runs, what the kernel has     memory  what is kept on disk
//! ```

mod actor;
mod memory;

use crate::{
    dataplane::desired::LocalHost,
    executor::ProcessExecutor,
    host,
    kernel::linux::{LinuxKernel, watch::Watch},
    reconciler::Reconciler,
    session::Session,
    worker::Worker,
};
use actor::Actor;
use heddle_model::net::Mtu;
use heddle_plumbing::tls::Credentials;
use memory::Memory;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::AbortHandle,
};
use tonic::transport::Channel;

pub struct Config {
    /// `agent` below the state directory.
    pub dir: PathBuf,
    /// The program that has `task-shim` as a verb.
    pub shim: PathBuf,
    pub credentials: Credentials,
    /// Where to look for the leader first.
    pub managers: Vec<SocketAddr>,
    pub data_path_addr: IpAddr,
}

/// What the agent says of itself.
#[derive(Debug, Clone, Default)]
pub struct Status {
    pub connected: bool,
    pub managers: Vec<String>,
    pub assigned_revision: u64,
    pub applied_revision: u64,
    pub errors: Vec<String>,
    pub running: u32,
    pub removed: bool,
}

/// The running agent. Its tasks and its kernel objects stay when it is dropped.
pub struct Agent {
    pub status: watch::Receiver<Status>,
    /// The channel to the leader, while there is a session.
    pub leader: watch::Receiver<Option<Channel>>,
    stop: mpsc::Sender<tokio::sync::oneshot::Sender<()>>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Agent {
    pub fn start(config: Config) -> io::Result<Self> {
        fs::create_dir_all(&config.dir)?;
        host::keep_router_advertisements()?;
        let mut memory = Memory::open(&config.dir);
        let gateway = host::gateway_subnet(memory.gateway)?;
        memory.gateway = Some(gateway.v4);
        let managers: BTreeSet<_> = config.managers.iter().chain(&memory.managers).copied().collect();
        let (events, heard) = mpsc::channel(64);
        let (speak, spoken) = watch::channel(None);
        let anew = Arc::new(Notify::new());
        let session = Session {
            credentials: config.credentials.clone(),
            managers: managers.into_iter().collect(),
            data_path_addr: config.data_path_addr,
            describe: host::describe,
            events,
            speak,
            anew: anew.clone(),
        };
        let (status_send, status) = watch::channel(Status::default());
        let (leader_send, leader) = watch::channel(None);
        let (stop, stopped) = mpsc::channel(1);
        let node = config.credentials.identity().node;
        let actor = Actor {
            local: LocalHost {
                node: node.clone(),
                data_path_addr: config.data_path_addr,
                gateway,
                gateway_mtu: Mtu::ETHERNET,
                balancer: Default::default(),
            },
            node,
            executor: ProcessExecutor::new(config.dir.join("tasks"), config.shim)?,
            reconciler: Reconciler::new(LinuxKernel::new()),
            watch: Watch::start()?,
            worker: Worker::default(),
            view: None,
            revision: 0,
            acked: 0,
            gateways: BTreeMap::new(),
            resolvers: BTreeMap::new(),
            zones: BTreeMap::new(),
            sandboxes: BTreeSet::new(),
            reported: BTreeMap::new(),
            followers: HashMap::new(),
            memory,
            spoken,
            anew,
            status: status_send,
            leader: leader_send,
        };
        let tasks =
            vec![tokio::spawn(session.run()).abort_handle(), tokio::spawn(actor.run(heard, stopped)).abort_handle()];
        Ok(Self { status, leader, stop, tasks })
    }

    /// Ends every task and takes away everything of ours in the kernel: for leaving the cluster.
    pub async fn purge(&self) {
        let (done, wait) = tokio::sync::oneshot::channel();
        if self.stop.send(done).await.is_ok() {
            let _ = wait.await;
        }
    }
}
