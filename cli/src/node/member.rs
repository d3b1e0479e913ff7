//! The running halves of a daemon whose host is in a cluster, and how it comes into one and out of it.

use super::{
    Config, addr, first,
    locked::{self, Waiting},
    place, remote,
    renewal::Renewal,
    serving::{Serving, serve},
    state::{NodeState, Paths},
};
use anyhow::{Context, Result, anyhow, bail};
use heddle_agent::{
    agent::{Agent, ClusterConfig, Config as AgentConfig},
    balancer::choose,
};
use heddle_manager::{
    ca,
    manager::{Manager, ManagerError},
    vault::{Found, UnlockKey, Vault},
};
use heddle_model::{ClusterId, NodeId, cluster::Role};
use heddle_plumbing::tls::{self, Credentials};
use heddle_proto::v1;
use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex, Notify, watch},
    task::AbortHandle,
};

const RETRY: Duration = Duration::from_secs(1);
/// What a leader takes at most that is well.
const GREETING: Duration = Duration::from_secs(5);

/// A place in a cluster, running.
pub struct Member {
    pub state: NodeState,
    pub credentials: Credentials,
    pub manager: Option<Manager>,
    /// On a node that is a manager, or was one until it was outvoted.
    vault: Option<Vault>,
    /// Serves the cluster's port, on a manager.
    pub port: Option<Serving>,
    pub renewal: AbortHandle,
    /// Why there is no manager although there should be one.
    pub trouble: Option<String>,
}

impl Member {
    /// Of one that should have a manager, and has none.
    pub fn does_not_run(&self) -> String {
        format!("this manager does not run now: {}", self.trouble.as_deref().unwrap_or("it starts in a moment"))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// This host's place in a cluster.
pub enum Slot {
    Outside,
    /// Its manager has to be unlocked first.
    Locked(Waiting),
    Inside(Member),
}

impl Slot {
    pub fn as_ref(&self) -> Option<&Member> {
        match self {
            Slot::Inside(member) => Some(member),
            Slot::Outside | Slot::Locked(_) => None,
        }
    }

    pub fn as_mut(&mut self) -> Option<&mut Member> {
        match self {
            Slot::Inside(member) => Some(member),
            Slot::Outside | Slot::Locked(_) => None,
        }
    }

    pub fn refuse_locked(&self) -> Result<()> {
        match self {
            Slot::Locked(_) => bail!(locked::REFUSAL),
            Slot::Outside | Slot::Inside(_) => Ok(()),
        }
    }
}

pub struct Daemon {
    pub paths: Paths,
    /// Where others reach this host unless `init` or `join` says so; empty: the only address there is.
    pub advertise_addr: String,
    /// Where the data path is unless `init` or `join` says so; empty: where others reach this host.
    pub data_path_addr: String,
    /// There in a cluster and out of one.
    pub agent: Agent,
    /// Held while the host enters or leaves.
    pub member: Mutex<Slot>,
    /// Rung when the certificate says another role than before.
    pub roles: Arc<Notify>,
    pub outdated: Arc<Notify>,
}

impl Daemon {
    pub async fn open(config: &Config) -> Result<Self> {
        let Config {
            state_dir: root, lb_backend, wireguard, advertise_addr, data_path_addr, endowment, images, ..
        } = config.clone();
        std::fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        let paths = Paths { root };
        let shim = std::env::current_exe().context("cannot find this program")?;
        let state = paths.load()?;
        // Before anything is touched.
        let balancer = choose(lb_backend.into()).await.with_context(|| format!("--lb-backend {lb_backend}"))?;
        tracing::info!(load_balancer = balancer.as_str(), "load balancer chosen");
        let (dir, in_cluster) = (paths.agent(), state.is_some());
        let agent = AgentConfig { dir, shim, in_cluster, balancer, wireguard, endowment, images };
        let agent = Agent::start(agent).await.context("the agent cannot start")?;
        let (roles, outdated) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let outside = Mutex::new(Slot::Outside);
        let mut daemon = Self { paths, advertise_addr, data_path_addr, agent, member: outside, roles, outdated };
        if let Some(state) = state {
            daemon.member = Mutex::new(daemon.take_up(state).await?);
        }
        Ok(daemon)
    }

    /// The place that this host had before.
    async fn take_up(&self, state: NodeState) -> Result<Slot> {
        let dir = self.paths.certificates();
        let identity = Credentials::stored_identity(&dir)?;
        let moved = place::moved(&state, identity.role, &self.advertise_addr, &self.data_path_addr)?;
        if moved != state {
            tracing::info!(advertise = %moved.advertise, data_path = %moved.data_path, "this host moves");
            self.paths.save(&moved)?;
        }
        let vault = match (identity.role, Vault::find(&dir)?) {
            (Role::Worker, _) => {
                self.paths.forget_raft()?;
                None
            }
            (Role::Manager, Found::Locked(locked)) => {
                return Ok(Slot::Locked(self.wait(moved, identity, locked).await?));
            }
            (Role::Manager, Found::Open(vault)) => Some(vault),
            // A program of before encrypted nothing.
            (Role::Manager, Found::Nothing) => Some(Vault::make(&dir, None)?),
        };
        let credentials = Credentials::load(&dir, vault.as_ref().map(Vault::key))?;
        let manager = match &vault {
            Some(vault) => self.resume(&moved, vault, &credentials).await?,
            None => None,
        };
        let member = self.start(moved, credentials, manager, vault, false).await?;
        Ok(Slot::Inside(member))
    }

    /// The manager of a node that was one before; None if it is none any more, as its certificate says soon.
    pub async fn resume(&self, state: &NodeState, vault: &Vault, credentials: &Credentials) -> Result<Option<Manager>> {
        let others = !others(&self.agent, state).is_empty();
        match Manager::start(&self.paths.raft(), vault, credentials, others).await {
            Ok(manager) => Ok(Some(manager)),
            Err(ManagerError::Outvoted) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes this node what its certificate says, whenever that changes.
    pub async fn follow_roles(self: Arc<Self>) {
        loop {
            while let Err(error) = self.follow_role().await {
                tracing::warn!("this node is not what its certificate says yet: {error:#}");
                if let Some(ManagerError::Outdated(_)) = error.downcast_ref() {
                    self.outdated.notify_one();
                }
                if let Some(member) = self.member.lock().await.as_mut() {
                    member.trouble = Some(format!("{error:#}"));
                }
                tokio::time::sleep(RETRY).await;
            }
            let manager = self.member.lock().await.as_ref().and_then(|m| m.manager.clone());
            let ended = async {
                match manager {
                    Some(manager) => tokio::select! {
                        () = manager.outvoted.cancelled() => {}
                        // Not at once again and again.
                        () = manager.failed() => tokio::time::sleep(RETRY).await,
                    },
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.roles.notified() => {}
                () = ended => {}
            }
        }
    }

    async fn follow_role(&self) -> Result<()> {
        let mut slot = self.member.lock().await;
        let Some(member) = slot.as_mut() else { return Ok(()) };
        let role = member.credentials.identity().role;
        if let Some(manager) = member.manager.take_if(|m| m.outvoted.is_cancelled() || m.failure().is_some()) {
            if let Some(why) = manager.failure().filter(|_| !manager.outvoted.is_cancelled()) {
                tracing::error!(why, "this manager stops, and tries to start anew");
            }
            member.port = None;
            manager.shutdown().await;
        }
        match (role, member.manager.take()) {
            (Role::Manager, None) => {
                let vault = match member.vault.clone() {
                    Some(vault) => vault,
                    None => Vault::open_or_make(&self.paths.certificates())?,
                };
                member.vault = Some(vault.clone());
                let Some(manager) = self.resume(&member.state, &vault, &member.credentials).await? else {
                    member.trouble = Some(ManagerError::Outvoted.to_string());
                    return Ok(());
                };
                manager.announce(member.state.advertise);
                match serve(&member.state, &member.credentials, &manager).await {
                    Ok(port) => member.port = Some(port),
                    Err(e) => {
                        manager.shutdown().await;
                        return Err(e);
                    }
                }
                (member.manager, member.trouble) = (Some(manager), None);
            }
            (Role::Worker, Some(manager)) => {
                member.port = None;
                manager.shutdown().await;
                member.vault = None;
                self.paths.forget_raft()?;
            }
            (Role::Worker, None) => {
                member.vault = None;
                return self.paths.forget_raft();
            }
            (Role::Manager, same) => {
                member.manager = same;
                return self.admitted(member).await;
            }
        }
        tracing::info!(%role, "this node is what its certificate says");
        member.renewal.abort();
        let manager = member.manager.clone();
        member.renewal = self.renew(&member.state, &member.credentials, manager);
        self.admitted(member).await
    }

    /// A manager that is no member of raft yet becomes one.
    async fn admitted(&self, member: &Member) -> Result<()> {
        let Some(manager) = member.manager.as_ref().filter(|m| !m.is_member()) else { return Ok(()) };
        let others: Vec<_> = others(&self.agent, &member.state).into_iter().collect();
        Ok(manager.join(member.state.advertise, &others).await?)
    }

    pub async fn stop(&self) {
        let slot = std::mem::replace(&mut *self.member.lock().await, Slot::Outside);
        if let Some(manager) = slot.as_ref().and_then(|m| m.manager.as_ref()) {
            manager.shutdown().await;
        }
    }

    /// The manager of this node, or why there is none here.
    pub async fn manager(&self) -> Result<Manager, tonic::Status> {
        let refuse = |text: &str| Err(tonic::Status::failed_precondition(text));
        match &*self.member.lock().await {
            Slot::Outside => refuse("this host is in no cluster: run `heddle init`, or `heddle join`"),
            Slot::Locked(_) => refuse(locked::REFUSAL),
            Slot::Inside(member) => match &member.manager {
                Some(manager) => Ok(manager.clone()),
                None if member.credentials.identity().role == Role::Manager => {
                    Err(tonic::Status::unavailable(member.does_not_run()))
                }
                None => refuse("this node is a worker: run the command on a manager"),
            },
        }
    }

    /// This host's addresses, as it is asked for them or as the daemon was started.
    pub fn place(&self, advertise: &str, listen: &str, data_path: &str) -> Result<NodeState> {
        let or = |asked: &str, otherwise: &str| if asked.is_empty() { otherwise.to_owned() } else { asked.to_owned() };
        let advertise = addr::advertise(&or(advertise, &self.advertise_addr))?;
        Ok(NodeState {
            advertise,
            listen: addr::listen(listen, advertise)?,
            data_path: addr::data_path(&or(data_path, &self.data_path_addr), advertise)?,
            managers: vec![advertise],
        })
    }

    pub async fn init(&self, request: v1::InitRequest) -> Result<v1::InitResponse> {
        let mut member = self.member.lock().await;
        not_in_cluster(&member)?;
        let state = self.place(&request.advertise_addr, &request.listen_addr, &request.data_path_addr)?;
        let advertise = state.advertise;
        let (id, node) = (ClusterId::from_random(rand::random()), NodeId::from_random(rand::random()));
        let root = ca::new_root(&id)?;
        let unlock_key = request.autolock.then(|| UnlockKey::new(rand::random()));
        let (cluster, ingress) = first::cluster(id, root, &request, unlock_key.as_ref().map(UnlockKey::text))?;
        let (key, csr) = tls::new_key_and_csr()?;
        let cert = ca::certificate(&cluster, &node, Role::Manager, &csr)?;
        let credentials = Credentials::new(key, cert, cluster.trusted_pem())?;
        let object = first::manager_node(&node, &state);
        let token = ca::token_text(&cluster, Role::Worker);
        let answer = v1::InitResponse {
            node: node.to_string(),
            cluster: cluster.id.to_string(),
            worker_token: token,
            manager_addr: advertise.to_string(),
            unlock_key: unlock_key.as_ref().map(|key| key.text().0).unwrap_or_default(),
        };
        let made = async {
            let vault = Vault::make(&self.paths.certificates(), unlock_key)?;
            vault.save(&credentials)?;
            let manager = Manager::first(&self.paths.raft(), &vault, &credentials).await?;
            manager.bootstrap(cluster, object, ingress).await?;
            let started = self.start(state.clone(), credentials, Some(manager), Some(vault), true).await?;
            self.paths.save(&state)?;
            anyhow::Ok(started)
        };
        self.take(&mut member, made.await).await?;
        tracing::info!(node = answer.node, cluster = answer.cluster, "cluster made");
        Ok(answer)
    }

    /// Takes the place that was made, or clears away what there is of it.
    pub async fn take(&self, slot: &mut Slot, made: Result<Member>) -> Result<()> {
        match made {
            Ok(member) => {
                *slot = Slot::Inside(member);
                self.roles.notify_one();
                Ok(())
            }
            Err(e) => {
                self.agent.leave().await;
                self.paths.clear()?;
                Err(e)
            }
        }
    }

    /// Waits until the leader has heard of this host: what is made next is spread over it, too. The place stays taken if none
    /// does.
    pub async fn greeted(&self) {
        let mut status = self.agent.status.clone();
        if tokio::time::timeout(GREETING, status.wait_for(|s| s.connected)).await.is_err() {
            tracing::warn!("no leader has heard of this host yet");
        }
    }

    pub async fn join(&self, request: v1::JoinRequest) -> Result<v1::JoinResponse> {
        let mut member = self.member.lock().await;
        not_in_cluster(&member)?;
        let token: ca::Token = request.token.trim().parse()?;
        let managers: Vec<SocketAddr> = request
            .managers
            .iter()
            .map(|m| addr::remote(m).ok_or_else(|| anyhow!("manager {m:?} is not an address: use IP or IP:PORT")))
            .collect::<Result<_>>()?;
        let mut state = self.place(&request.advertise_addr, &request.listen_addr, &request.data_path_addr)?;
        let advertise = state.advertise;
        let (credentials, issued) = remote::issue(&managers, &token, request.token.trim(), &state).await?;
        state.managers = issued.managers.iter().filter_map(|m| m.addr.parse().ok()).collect();
        let role = credentials.identity().role;
        let made = async {
            credentials.save(&self.paths.certificates())?;
            let (manager, vault) = match role {
                Role::Manager => {
                    let vault = Vault::make(&self.paths.certificates(), None)?;
                    (Some(Manager::start(&self.paths.raft(), &vault, &credentials, true).await?), Some(vault))
                }
                Role::Worker => (None, None),
            };
            let started = self.start(state.clone(), credentials.clone(), manager, vault, true).await?;
            if let Some(manager) = &started.manager {
                let others: Vec<_> = state.managers.iter().filter(|m| **m != advertise).copied().collect();
                manager.join(advertise, &others).await?;
            }
            self.paths.save(&state)?;
            anyhow::Ok(started)
        };
        let made = made.await;
        if made.is_err() {
            let _ = remote::leave_cluster(&state.managers, &credentials).await;
        }
        self.take(&mut member, made).await?;
        tracing::info!(node = issued.node, %role, "joined");
        Ok(v1::JoinResponse { node: issued.node, role: v1::Role::from(role).into() })
    }

    pub async fn leave(&self, force: bool) -> Result<()> {
        let mut slot = self.member.lock().await;
        let told = match &*slot {
            Slot::Outside => bail!("this host is in no cluster"),
            Slot::Locked(_) => slot.refuse_locked(),
            Slot::Inside(member) => self.say_goodbye(member).await,
        };
        if !force {
            told?;
        }
        // Nothing is left of us in the kernel before the host counts as out.
        self.agent.leave().await;
        if let Some(manager) = slot.as_ref().and_then(|m| m.manager.as_ref()) {
            manager.shutdown().await;
        }
        *slot = Slot::Outside;
        self.paths.clear()?;
        tracing::info!("left the cluster");
        Ok(())
    }

    async fn say_goodbye(&self, member: &Member) -> Result<()> {
        if self.agent.status.borrow().removed {
            return Ok(());
        }
        let own = member.state.advertise;
        let mut managers: Vec<SocketAddr> = Vec::new();
        if let Some(manager) = &member.manager {
            let state = manager.store.snapshot();
            managers.extend(state.nodes.values().filter_map(|n| n.manager.as_ref().map(|m| m.addr)));
            managers.retain(|m| *m != own);
            if managers.is_empty() {
                bail!("this is the last manager: with --force the cluster ends here");
            }
            manager.leave().await?;
        } else {
            managers.extend(self.agent.status.borrow().managers.iter().filter_map(|m| m.parse::<SocketAddr>().ok()));
            managers.extend(&member.state.managers);
        }
        remote::leave_cluster(&managers, &member.credentials).await
    }
}

/// Managers that are known beside this node's own.
fn others(agent: &Agent, state: &NodeState) -> BTreeSet<SocketAddr> {
    let told = agent.managers();
    let known = if told.is_empty() { &state.managers } else { &told };
    known.iter().copied().filter(|m| *m != state.advertise).collect()
}

pub fn not_in_cluster(slot: &Slot) -> Result<()> {
    let cluster = match slot {
        Slot::Outside => return Ok(()),
        Slot::Locked(waiting) => waiting.identity.cluster.clone(),
        Slot::Inside(member) => member.credentials.identity().cluster,
    };
    bail!("this host is in cluster {cluster} already: run `heddle leave` first")
}

impl Daemon {
    /// Opens the port and starts the halves.
    pub async fn start(
        &self,
        state: NodeState,
        credentials: Credentials,
        manager: Option<Manager>,
        vault: Option<Vault>,
        fresh: bool,
    ) -> Result<Member> {
        let member = self.start_manager(state, credentials, manager, vault).await?;
        let node = member.credentials.identity().node;
        let (_, known) = watch::channel(Some(member.credentials.clone()));
        self.attach(&member.state, node, known, member.manager.is_some(), fresh).await?;
        Ok(member)
    }

    /// All but the agent's half.
    pub async fn start_manager(
        &self,
        state: NodeState,
        credentials: Credentials,
        manager: Option<Manager>,
        vault: Option<Vault>,
    ) -> Result<Member> {
        let port = match &manager {
            Some(manager) => Some(serve(&state, &credentials, manager).await?),
            None => None,
        };
        manager.iter().for_each(|m| m.announce(state.advertise));
        let renewal = self.renew(&state, &credentials, manager.clone());
        Ok(Member { state, credentials, manager, vault, port, renewal, trouble: None })
    }

    /// Takes the agent into the cluster, where it finds a leader as soon as it has credentials.
    pub async fn attach(
        &self,
        state: &NodeState,
        node: NodeId,
        credentials: watch::Receiver<Option<Credentials>>,
        manager: bool,
        fresh: bool,
    ) -> Result<()> {
        let own = manager.then_some(state.advertise);
        let config = ClusterConfig {
            node,
            credentials,
            managers: state.managers.iter().copied().chain(own).collect(),
            data_path_addr: state.data_path,
            manager_addr: own.map(|own| own.ip()),
            fresh,
        };
        Ok(self.agent.join(config).await?)
    }

    /// Keeps a member's certificate young, in the background.
    pub fn renew(&self, state: &NodeState, credentials: &Credentials, manager: Option<Manager>) -> AbortHandle {
        let renewal = Renewal {
            credentials: credentials.clone(),
            dir: self.paths.certificates(),
            agent: self.agent.status.clone(),
            managers: state.managers.clone(),
            manager,
            control_addr: state.advertise,
            outdated: self.outdated.clone(),
            roles: self.roles.clone(),
        };
        tokio::spawn(renewal.run()).abort_handle()
    }
}
