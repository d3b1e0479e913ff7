//! A manager put together: raft, the store on top of it, the leader's loop and the gRPC services.

use crate::{
    address, ambient, ca,
    control::{CaService, ControlService, Forward, PayloadsService, RootsService, UsersService},
    dispatcher::{DispatcherService, Logs, SessionServer, Sessions},
    leader, membership,
    observe::{self, History, ObserveService},
    raft::{
        LogStore, MAX_MESSAGE, Machine, Network, Peers, Raft, RaftService,
        damage::{self, OpenError},
        raft_id,
        recover::{self, RecoverError},
        trim,
    },
    standing,
    store::{Mutation, Store, WriteError},
    vault::{self, Vault},
};
use heddle_model::{Annotations, Meta, NetworkId, Version, cluster::Cluster, net::Pool, network, node::Node};
use heddle_plumbing::{
    access::{self, Guard},
    tls::{self, Credentials, CredentialsError},
};
use heddle_proto::v1::{
    self, control_server::ControlServer, dispatcher_server::DispatcherServer, node_ca_server::NodeCaServer,
    observe_server::ObserveServer, payloads_server::PayloadsServer, raft_client::RaftClient, raft_server::RaftServer,
    roots_server::RootsServer, users_server::UsersServer,
};
use ipnet::IpNet;
use openraft::{BasicNode, Config, async_runtime::WatchReceiver};
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::server::Router};
use tower::layer::util::{Identity, Stack};

const HEARTBEAT_MS: u64 = 100;
const ELECTION_MS: std::ops::Range<u64> = 500..1000;
/// Log entries between two snapshots.
const SNAPSHOT_EVERY: u64 = 5000;
/// Whoever asks whether a manager is of use does not wait for an election.
const QUORUM_LIMIT: Duration = Duration::from_secs(1);
const FIRST_LEADER: Duration = Duration::from_secs(10);
const CALL_LIMIT: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    #[error("cannot open the manager's state in {dir}")]
    State {
        dir: String,
        #[source]
        source: io::Error,
    },
    #[error("raft cannot start: {0}")]
    Raft(String),
    #[error("the first write failed")]
    Write(#[from] WriteError),
    #[error("credentials are refused")]
    Credentials(#[from] CredentialsError),
    #[error("the certificate cannot be made")]
    Certificate(#[from] ca::CaError),
    #[error("no manager of the cluster lets this one in: {0}")]
    Refused(String),
    /// It has to have another certificate first.
    #[error("no manager of the cluster lets this one in: {0}")]
    Outdated(String),
    #[error("the cluster began anew without this manager: it becomes a worker as soon as it reaches the others")]
    Outvoted,
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Recover(#[from] RecoverError),
}

/// How managers agree: an election is over within a second or so.
pub fn raft_config(cluster: &str) -> Config {
    Config {
        cluster_name: cluster.to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MS.start,
        election_timeout_max: ELECTION_MS.end,
        snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        enable_pre_vote: Some(true),
        // A leader sends entries before its own disk has them. After a crash it may lack what the others have committed:
        // leading on in the same term, it would write other entries in their place.
        enable_leader_restore: Some(false),
        ..Config::default()
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Manager {
    pub store: Store,
    credentials: Credentials,
    sessions: Arc<Sessions>,
    session_server: SessionServer,
    logs: Arc<Logs>,
    history: Arc<History>,
    attaching: Arc<tokio::sync::Mutex<()>>,
    peers: Peers,
    vault: Vault,
    /// True: the others have to let this one go before it counts for anything.
    lapsed: Arc<AtomicBool>,
    /// Cancelled when the cluster has begun anew without this manager, which takes no part any more.
    pub outvoted: CancellationToken,
    cancel: CancellationToken,
}

fn not_let_in(addr: SocketAddr, status: &tonic::Status) -> ManagerError {
    let said = format!("{addr}: {}", status.message());
    match status.code() {
        tonic::Code::PermissionDenied => ManagerError::Outdated(said),
        _ => ManagerError::Refused(said),
    }
}

impl Manager {
    /// Opens the state in `dir`, and takes part in raft as it did before. `others`: another manager is known, from which
    /// what is lost can be got.
    pub async fn start(
        dir: &Path,
        vault: &Vault,
        credentials: &Credentials,
        others: bool,
    ) -> Result<Self, ManagerError> {
        let state_error = |source| ManagerError::State { dir: dir.display().to_string(), source };
        let (log, lapsed) = damage::open(dir, vault.key(), others).await?;
        if !lapsed && let Ok((state, _)) = recover::newest(&log.stored().map_err(state_error)?) {
            // Before anybody can give it a vote.
            if let Err(outvoted) = standing::check(&state, credentials).await {
                damage::aside(dir, "former").map_err(state_error)?;
                return Err(outvoted);
            }
        }
        Self::run(dir, log, vault, credentials, lapsed).await
    }

    /// Begins with nothing, to become the first of a cluster.
    pub async fn first(dir: &Path, vault: &Vault, credentials: &Credentials) -> Result<Self, ManagerError> {
        let state_error = |source| ManagerError::State { dir: dir.display().to_string(), source };
        let log = damage::open_empty(dir, vault.key()).await.map_err(state_error)?;
        Self::run(dir, log, vault, credentials, false).await
    }

    pub(crate) async fn run(
        dir: &Path,
        log: LogStore,
        vault: &Vault,
        credentials: &Credentials,
        lapsed: bool,
    ) -> Result<Self, ManagerError> {
        let state_error = |source| ManagerError::State { dir: dir.display().to_string(), source };
        let (machine, state) = Machine::open(log.clone()).map_err(state_error)?;
        let trimmed = log.clone();
        let config = raft_config(&credentials.identity().cluster.to_string());
        let config = Arc::new(config.validate().map_err(|e| ManagerError::Raft(e.to_string()))?);
        let peers = Peers::default();
        let network = Network { credentials: credentials.clone(), peers: peers.clone() };
        let history = machine.history();
        let id = raft_id(&credentials.identity().node);
        let raft = Raft::new(id, config, network, log, machine).await.map_err(|e| ManagerError::Raft(e.to_string()))?;
        let store = Store::new(raft, state);
        let sessions = Arc::new(Sessions::default());
        let cancel = CancellationToken::new();
        tokio::spawn(trim::run(store.raft().clone(), trimmed, cancel.clone()));
        tokio::spawn(leader::run(store.clone(), sessions.clone(), cancel.clone()));
        tokio::spawn(address::follow(store.watch(), peers.clone(), cancel.clone()));
        tokio::spawn(vault::follow(vault.clone(), store.clone(), credentials.clone(), cancel.clone()));
        let session_server = SessionServer::start(store.clone(), sessions.clone(), cancel.clone());
        let outvoted = CancellationToken::new();
        tokio::spawn(standing::watch(store.clone(), credentials.clone(), cancel.clone(), outvoted.clone()));
        Ok(Self {
            store,
            credentials: credentials.clone(),
            sessions,
            session_server,
            logs: Arc::default(),
            history,
            attaching: Arc::default(),
            peers,
            vault: vault.clone(),
            lapsed: Arc::new(lapsed.into()),
            outvoted,
            cancel,
        })
    }

    /// Makes this manager the first of a new cluster.
    pub async fn bootstrap(
        &self,
        cluster: Cluster,
        node: Node,
        ingress_subnets: Vec<IpNet>,
    ) -> Result<(), ManagerError> {
        let raft = self.store.raft();
        let own = raft_id(&node.id);
        let addr = node.manager.as_ref().map(|m| m.addr.to_string()).unwrap_or_default();
        let members = BTreeMap::from([(own, BasicNode::new(addr))]);
        raft.initialize(members).await.map_err(|e| ManagerError::Raft(e.to_string()))?;
        self.leads().await?;
        let ingress = network::Network {
            id: NetworkId::from_random(ambient::random()),
            meta: Meta::default(),
            spec: network::NetworkSpec {
                annotations: Annotations { name: network::INGRESS.into(), labels: BTreeMap::new() },
                ingress: true,
                pools: ingress_subnets.into_iter().map(Pool::new).collect(),
                ..network::NetworkSpec::default()
            },
            allocation: None,
        };
        let objects = [cluster.into(), node.into(), ingress.into()];
        self.store.write(objects.into_iter().map(Mutation::Create).collect()).await?;
        Ok(())
    }

    /// Waits until it leads, as the only voter soon does.
    pub(crate) async fn leads(&self) -> Result<(), ManagerError> {
        let led = async {
            while !self.store.is_leader() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        let late = |_| ManagerError::Raft("the only manager does not lead".into());
        tokio::time::timeout(FIRST_LEADER, led).await.map_err(late)
    }

    /// Tells the others where this manager is, if they do not know.
    pub fn announce(&self, addr: SocketAddr) {
        let (store, credentials) = (self.store.clone(), self.credentials.clone());
        tokio::spawn(address::announce(store, credentials, addr, self.cancel.clone()));
    }

    /// Asks the managers at `addrs`, one of which leads, to let this one in.
    pub async fn join(&self, own_addr: SocketAddr, addrs: &[SocketAddr]) -> Result<(), ManagerError> {
        let node = self.credentials.identity().node;
        if self.lapsed.load(Ordering::Acquire) {
            self.let_go(addrs).await?;
            self.lapsed.store(false, Ordering::Release);
        }
        let request =
            v1::RaftJoinRequest { node: node.to_string(), raft_id: raft_id(&node), addr: own_addr.to_string() };
        let mut refusal = ManagerError::Refused("no address was given".into());
        for addr in addrs {
            let mut client = RaftClient::new(tls::dial(*addr, &self.credentials));
            match client.join(request.clone()).await {
                Ok(_) => return Ok(()),
                Err(status) => refusal = not_let_in(*addr, &status),
            }
        }
        Err(refusal)
    }

    /// Whoever had this number in raft before, and made promises that this one does not know of, counts no more.
    async fn let_go(&self, addrs: &[SocketAddr]) -> Result<(), ManagerError> {
        let raft_id = raft_id(&self.credentials.identity().node);
        let mut refusal = ManagerError::Refused("no address was given".into());
        for addr in addrs {
            let mut request = tonic::Request::new(v1::RaftLeaveRequest { raft_id });
            request.set_timeout(CALL_LIMIT);
            match RaftClient::new(tls::dial(*addr, &self.credentials)).leave(request).await {
                Ok(_) => return Ok(()),
                Err(status) => refusal = not_let_in(*addr, &status),
            }
        }
        Err(refusal)
    }

    /// Whether it is a member of raft, as far as it knows itself.
    pub fn is_member(&self) -> bool {
        let metrics = self.store.raft().metrics().borrow_watched().clone();
        metrics.membership_config.nodes().any(|(id, _)| *id == metrics.id)
    }

    /// Takes this manager out of raft. The others go on without it.
    pub async fn leave(&self) -> Result<(), ManagerError> {
        let id = raft_id(&self.credentials.identity().node);
        let state = self.store.snapshot();
        let own = self.credentials.identity().node;
        let request = v1::RaftLeaveRequest { raft_id: id };
        let mut last = "this is the last manager: use --force to end the cluster".to_owned();
        if self.store.is_leader() {
            // Somebody else leads before this one goes, so that writes go on.
            membership::hand_over(&self.store).await.map_err(ManagerError::Refused)?;
        }
        for manager in state.nodes.values().filter(|n| n.id != own).filter_map(|n| n.manager.as_ref()) {
            let mut client = RaftClient::new(tls::dial(manager.addr, &self.credentials));
            match client.leave(request).await {
                Ok(_) => return Ok(()),
                Err(status) => last = format!("{}: {}", manager.addr, status.message()),
            }
        }
        Err(ManagerError::Refused(last))
    }

    /// A certificate for this manager's own node, by the root key that it has itself: when all managers' certificates have
    /// expired, nobody else can be asked. The certificate and the roots, PEM.
    pub fn certify(&self, csr_pem: &str) -> Result<(String, String), ManagerError> {
        let state = self.store.snapshot();
        let own = self.credentials.identity();
        let cluster = state.cluster.as_ref().ok_or_else(|| ManagerError::Refused("its store is empty".into()))?;
        let node = state.nodes.get(&own.node);
        let node = node.ok_or_else(|| ManagerError::Refused("this node was removed from the cluster".into()))?;
        Ok((ca::certificate(cluster, &own.node, node.role, csr_pem)?, cluster.trusted_pem()))
    }

    /// What keeps this manager's key and its node's credentials.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    pub(crate) fn forward(&self) -> Forward {
        Forward { store: self.store.clone(), credentials: self.credentials.clone() }
    }

    /// What the local socket serves too.
    pub fn control(&self) -> ControlServer<ControlService> {
        ControlServer::new(ControlService {
            forward: self.forward(),
            sessions: self.sessions.clone(),
            logs: self.logs.clone(),
        })
    }

    /// What the local socket serves too.
    pub fn observer(&self) -> ObserveServer<ObserveService> {
        ObserveServer::new(ObserveService {
            forward: self.forward(),
            sessions: self.sessions.clone(),
            history: self.history.clone(),
        })
    }

    /// What the local socket serves too.
    pub fn payloads(&self) -> PayloadsServer<PayloadsService> {
        PayloadsServer::new(PayloadsService { forward: self.forward() })
    }

    /// What the local socket serves too.
    pub fn roots(&self) -> RootsServer<RootsService> {
        RootsServer::new(RootsService { forward: self.forward() })
    }

    /// What the local socket serves too.
    pub fn users(&self) -> UsersServer<UsersService> {
        UsersServer::new(UsersService { forward: self.forward() })
    }

    /// What the cluster's port serves, to those whom the table admits and whose certificates count.
    pub fn server(&self) -> Router<Stack<Guard, Identity>> {
        access::server(self.forward().standing()).add_routes(self.routes())
    }

    fn routes(&self) -> Routes {
        let raft = RaftService {
            raft: self.store.raft().clone(),
            lapsed: self.lapsed.clone(),
            peers: self.peers.clone(),
            forward: self.forward(),
        };
        let raft = RaftServer::new(raft).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
        let dispatcher = DispatcherServer::new(DispatcherService {
            store: self.store.clone(),
            sessions: self.session_server.clone(),
            logs: self.logs.clone(),
            forward: self.forward(),
            attaching: self.attaching.clone(),
        });
        Routes::new(self.control())
            .add_service(self.observer())
            .add_service(self.payloads())
            .add_service(self.users())
            .add_service(self.roots())
            .add_service(raft)
            .add_service(dispatcher)
            .add_service(NodeCaServer::new(CaService { forward: self.forward() }))
    }

    /// The revision that the data plane of every ready node has reached, as this manager knows it while it leads.
    pub fn reached(&self) -> Version {
        self.sessions.min_ready(&self.store.snapshot())
    }

    /// Sets this manager's numbers to what they are now.
    pub fn observe(&self) {
        observe::metrics::observe(&self.store, &self.sessions);
    }

    /// Whether a request would be answered now: there is a leader, and it has a quorum.
    pub async fn reaches_quorum(&self) -> Result<(), String> {
        let asked = tokio::time::timeout(QUORUM_LIMIT, self.forward().confirm()).await;
        asked.map_err(|_| "no leader answers".to_owned())?.map_err(|status| status.message().to_owned())
    }

    /// Why raft has stopped, if it has.
    pub fn failure(&self) -> Option<String> {
        self.store.raft().metrics().borrow_watched().running_state.as_ref().err().map(ToString::to_string)
    }

    /// Waits until raft stops, as it does when its disk takes no more.
    pub async fn failed(&self) {
        let mut metrics = self.store.raft().metrics();
        while self.failure().is_none() && metrics.changed().await.is_ok() {}
    }

    pub async fn shutdown(&self) {
        self.cancel.cancel();
        let _ = self.store.raft().shutdown().await;
    }
}
