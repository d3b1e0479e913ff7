//! The agent put together. It is there from the daemon's start to its end; being in a cluster is something that comes and goes.
//!
//! ```text
//! actor       one loop: what is wanted, what runs, what the kernel has
//! membership  what the managers say, what they are told     memory   what of it is kept on disk
//! sandboxes   which namespaces that needs, with which legs   picture  what others see of all this
//! launch      what a program is started with                missing  what a pass left undone, and to whom
//! answers     whether a program is there for its clients     flows    led away from who leaves
//! ```

mod actor;
mod answers;
mod flows;
mod launch;
mod membership;
mod memory;
mod missing;
mod picture;
mod sandboxes;

pub use actor::{Command, chain, now, on_host};
pub use picture::{JobPicture, MemberPicture, Picture, Status, TunnelPicture};

use crate::{
    dataplane::desired::{Balancer, LocalHost},
    executor::{Containers, Ends, Executor, ProcessExecutor},
    health::Checks,
    host,
    kernel::linux::{
        LinuxKernel,
        watch::Watch,
        wireguard::{self, Available, Choice},
    },
    keyring::Keyring,
    local::{HostParts, HostService, network, ports::Ports, state::HostState, store::Store},
    reconciler::Reconciler,
    session::Session,
    underlay::{Finding, Underlay},
    volumes::Volumes,
    worker::Worker,
};
use actor::Actor;
use heddle_model::{
    NetworkId, NodeId,
    fence::Fence,
    net::{DualSubnet, Mtu, unique_local},
    node::NodeReport,
    service::Runtime,
    tunnel::Epoch,
};
use heddle_plumbing::tls::Credentials;
use ipnet::IpNet;
use membership::Membership;
use memory::Memory;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::AbortHandle,
};
use tonic::transport::Channel;

pub struct Config {
    /// `agent` below the state directory.
    pub dir: PathBuf,
    /// The program that has `task-shim` as a verb.
    pub shim: PathBuf,
    /// `join` comes next. Until then it is not known what should run, so nothing is touched.
    pub in_cluster: bool,
    pub balancer: Balancer,
    pub wireguard: Choice,
    pub endowment: Endowment,
    /// Where containerd is, and where it is told about registries.
    pub images: heddle_engine::Settings,
}

/// What the operator says that this host is and has.
#[derive(Debug, Clone, Default)]
pub struct Endowment {
    pub labels: BTreeMap<String, String>,
    pub generic: BTreeMap<String, u64>,
}

/// A place in a cluster.
pub struct ClusterConfig {
    pub node: NodeId,
    /// Until there are some, the host goes on with what it was last told.
    pub credentials: watch::Receiver<Option<Credentials>>,
    /// Where to look for the leader first.
    pub managers: Vec<SocketAddr>,
    pub data_path_addr: IpAddr,
    /// Where others reach its manager, on a manager.
    pub manager_addr: Option<IpAddr>,
    /// It is entered now, not taken up again after a restart.
    pub fresh: bool,
}

/// The running agent. What runs here and its kernel objects stay when it is dropped.
pub struct Agent {
    pub status: watch::Receiver<Status>,
    /// The channel to the leader, while there is a session.
    pub leader: watch::Receiver<Option<Channel>>,
    /// Answers `heddle.v1.Host`.
    pub host: HostService,
    store: Arc<Store>,
    ports: Arc<Ports>,
    keys: Arc<Keyring>,
    dir: PathBuf,
    pub balancer: Balancer,
    endowment: Endowment,
    /// Which containerd there is.
    pub images: watch::Receiver<Option<String>>,
    underlay: Underlay,
    commands: mpsc::Sender<Command>,
    task: AbortHandle,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a host has before anybody asked it for anything.
fn first_state() -> HostState {
    let mut state = HostState {
        revision: 0,
        ula: unique_local(rand::random()),
        networks: BTreeMap::new(),
        workloads: BTreeMap::new(),
        endpoints: BTreeMap::new(),
    };
    let id = || NetworkId::from_random(rand::random());
    let builtin = network::builtin(&state, &host::surroundings(), id, now());
    state.networks.extend(builtin.into_iter().map(|n| (n.id.clone(), n)));
    state
}

impl Agent {
    pub async fn start(config: Config) -> io::Result<Self> {
        fs::create_dir_all(&config.dir)?;
        host::keep_router_advertisements()?;
        let backend = wireguard::choose(config.wireguard, Available::find().await?).map_err(io::Error::other)?;
        let keys = Arc::new(Keyring::new(backend));
        let store = Store::open(&config.dir, || Ok(first_state())).map_err(|e| io::Error::other(chain(&e)))?;
        let store = Arc::new(store);
        let dir = std::path::absolute(&config.dir)?;
        let (tasks, volumes) = (dir.join("tasks"), Volumes::open(dir.join("volumes"))?);
        let processes = Arc::new(ProcessExecutor::new(tasks.clone(), config.shim.clone())?);
        let ends = Ends::default();
        let images = heddle_engine::Settings { owner: tasks.display().to_string(), ..config.images };
        let engine = heddle_engine::Engine::new(images).map_err(io::Error::other)?;
        let containers = Containers::new(engine, tasks, config.shim, ends.bell());
        let images = containers.version();
        let executor = Executor { processes, containers };
        let (status_send, status) = watch::channel(Status::default());
        let (picture_send, picture) = watch::channel(Picture::default());
        let (leader_send, leader) = watch::channel(None);
        let (commands, obeyed) = mpsc::channel(8);
        let connected = Arc::new(Notify::new());
        let underlay = Underlay::start(picture.clone(), status_send.clone(), commands.clone());
        let mut actor = Actor {
            executor: executor.clone(),
            volumes: volumes.clone(),
            reconciler: Reconciler::new(LinuxKernel::with_keys(keys.clone())),
            watch: Watch::start()?,
            worker: Worker::default(),
            ends,
            checks: Checks::default(),
            store: store.clone(),
            host: store.watch(),
            member: None,
            gateways: BTreeMap::new(),
            flows: flows::Flows::new(),
            resolvers: BTreeMap::new(),
            zones: BTreeMap::new(),
            ready: BTreeSet::new(),
            retry: Duration::from_millis(200),
            picture: picture_send,
            status: status_send,
            leader: leader_send,
            connected: connected.clone(),
            ring: false,
        };
        if !config.in_cluster {
            actor.begin();
        }
        let ports = Arc::new(Ports::default());
        let host = HostService::new(HostParts {
            store: store.clone(),
            ports: ports.clone(),
            picture,
            leader: leader.clone(),
            executor,
            volumes,
            commands: commands.clone(),
        });
        host.resume(connected);
        let task = tokio::spawn(actor.run(obeyed, config.in_cluster)).abort_handle();
        let Config { dir, balancer, endowment, .. } = config;
        Ok(Self {
            status,
            leader,
            host,
            store,
            ports,
            keys,
            dir,
            balancer,
            endowment,
            images,
            underlay,
            commands,
            task,
        })
    }

    /// The managers as they were last told, in this run or before.
    pub fn managers(&self) -> Vec<SocketAddr> {
        Memory::open(&self.dir.join("cluster")).managers
    }

    /// Looks now at what the data plane needs and has.
    pub async fn diagnose(&self) -> Vec<Finding> {
        self.underlay.diagnose().await
    }

    /// The hosts that this host's end of the tunnel knows.
    pub async fn tunnel_peers(&self) -> Vec<TunnelPicture> {
        let (answer, wait) = oneshot::channel();
        let _ = self.commands.send(Command::TunnelPeers(answer)).await;
        wait.await.unwrap_or_default()
    }

    async fn tell(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) {
        let (done, wait) = oneshot::channel();
        if self.commands.send(command(done)).await.is_ok() {
            let _ = wait.await;
        }
    }

    /// Takes up a place in a cluster.
    pub async fn join(&self, config: ClusterConfig) -> io::Result<()> {
        let dir = self.dir.join("cluster");
        fs::create_dir_all(&dir)?;
        let mut memory = Memory::open(&dir);
        let own: Vec<IpNet> =
            self.store.snapshot().networks.values().flat_map(|n| n.pools.iter().map(|p| p.subnet)).collect();
        let gateway: DualSubnet = host::gateway_subnet(memory.gateway, &own)?;
        memory.gateway = Some(gateway.v4);
        self.keys.open(&dir.join("tunnel"))?;
        if self.keys.end().is_some_and(|end| end.keys.is_empty()) {
            // What the first epoch is on a new cluster: its public key is told with the first word.
            self.keys.hold([Epoch::FIRST])?;
        }
        let managers: BTreeSet<_> = config.managers.iter().chain(&memory.managers).copied().collect();
        let (events, heard) = mpsc::channel(64);
        let (speak, spoken) = watch::channel(None);
        let anew = Arc::new(Notify::new());
        let (told_anew, changed) = (anew.clone(), self.keys.changed.clone());
        let (store, ports, keys) = (self.store.clone(), self.ports.clone(), self.keys.clone());
        let (endowment, images) = (self.endowment.clone(), self.images.clone());
        let describe = move |data_path| {
            let mut description = host::describe(data_path);
            description.labels.clone_from(&endowment.labels);
            description.generic.clone_from(&endowment.generic);
            let own = store.snapshot();
            description.host_subnets.extend(own.networks.values().flat_map(|n| n.pools.iter().map(|p| p.subnet)));
            description.listening.extend(ports.held());
            description.tunnel = keys.end();
            description.executors.extend(images.borrow().is_some().then(|| Runtime::CONTAINERD.to_owned()));
            description.host_subnets.sort();
            description.host_subnets.dedup();
            description.listening.sort();
            description.listening.dedup();
            description
        };
        let session = move |credentials| Session {
            credentials,
            managers: managers.into_iter().collect(),
            data_path_addr: config.data_path_addr,
            describe: Box::new(describe),
            events,
            speak,
            anew: told_anew,
            changed,
            fence: Fence::default(),
            silent_since: tokio::time::Instant::now(),
        };
        let local = LocalHost {
            node: config.node,
            data_path_addr: config.data_path_addr,
            data_path_mtu: host::mtu_of(config.data_path_addr).unwrap_or(Mtu::ETHERNET),
            tunnel: self.keys.end(),
            gateway,
            gateway_mtu: Mtu::ETHERNET,
            balancer: self.balancer,
        };
        let mut credentials = config.credentials;
        let session = async move {
            let known = credentials.wait_for(Option::is_some).await.ok().and_then(|c| c.clone());
            if let Some(credentials) = known {
                session(credentials).run().await;
            }
        };
        let session = tokio::spawn(session).abort_handle();
        let membership = Membership {
            local,
            manager_addr: config.manager_addr,
            keys: self.keys.clone(),
            view: None,
            revision: 0,
            fresh: config.fresh,
            acked: 0,
            reported: BTreeMap::new(),
            complained: NodeReport::default(),
            followers: HashMap::new(),
            memory,
            heard,
            spoken,
            anew,
            session,
        };
        self.tell(|done| Command::Join(Box::new(membership), done)).await;
        Ok(())
    }

    /// Ends every task and takes away everything of the cluster's in the kernel. Networks and workloads of this host stay.
    pub async fn leave(&self) {
        self.tell(Command::Leave).await;
    }
}
