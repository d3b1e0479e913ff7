//! What an operator asks of this host, from the check to the kernel: each is refused whole or true when it returns.

use super::{
    network::{self, HostNetwork, NetworkError},
    place::{self, Newcomer, PlaceError, place},
    ports::Ports,
    publish::{self, Held, PublishError},
    state::HostState,
    store::{Store, StoreError},
};
use crate::{
    agent::{Command, Picture, now},
    executor::ProcessExecutor,
    host,
    local::driver::{OptionError, bridge},
    worker::{Job, NOT_STARTED},
};
use heddle_model::{
    NetworkId, TaskId,
    endpoint::PublishMode,
    find::{FindError, find},
    net::Mac,
    network::{DEFAULT, Driver, NetworkSpec},
    task::{TaskState, TaskStatus},
    workload::{HostEndpoint, HostPort, NetworkWish, Workload, WorkloadSpec},
};
use heddle_proto::v1::{self, dispatcher_client::DispatcherClient};
use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;

/// How long the kernel may take to follow.
const KERNEL_LIMIT: Duration = Duration::from_secs(30);
const MANAGER_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Option(#[from] OptionError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no command: give the program to run after `--`")]
    NoCommand,
    #[error("name {0:?}: use 1 to 63 of a-z, A-Z, 0-9, '_', '.' and '-', beginning with a letter or digit")]
    Name(String),
    #[error("workload {0:?} exists already: choose another name, or remove it with `heddle rm`")]
    Exists(String),
    #[error("workload {0} is running: stop it first, or use --force")]
    Running(String),
    #[error("workload {0} is not running")]
    NotRunning(String),
    #[error("{0} is a task of a service: the service decides about it")]
    IsTask(String),
    #[error("task {task} is on network {network} by its service: only what `network connect` made can be undone")]
    ByService { task: String, network: String },
    #[error("{workload} is not connected to network {network}")]
    NotConnected { workload: String, network: String },
    #[error("no manager of the cluster can be reached, and network {0} is not one of this host's")]
    NoManager(String),
    #[error("{0}")]
    Manager(String),
    #[error("{name} cannot be run: {reason}")]
    CannotRun { name: String, reason: String },
    #[error("the kernel refuses a part of {name}: {reason}")]
    Kernel { name: String, reason: String },
    #[error("{name}: not done after {limit:?}; last seen: {seen}")]
    TimedOut { name: String, limit: Duration, seen: String },
}

type Result<T> = std::result::Result<T, OperationError>;

/// A network that was meant: of this host, or somewhere in the cluster.
pub enum Target {
    Host(HostNetwork),
    Overlay,
}

pub struct Operations {
    pub store: Arc<Store>,
    pub ports: Arc<Ports>,
    pub picture: watch::Receiver<Picture>,
    pub leader: watch::Receiver<Option<Channel>>,
    pub executor: Arc<ProcessExecutor>,
    pub commands: mpsc::Sender<Command>,
    /// Workloads whose connections are being made or undone: nobody tidies them meanwhile.
    pub busy: Mutex<BTreeSet<TaskId>>,
}

/// Marks a workload as busy while it lives.
struct Busy<'a>(&'a Operations, TaskId);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

pub fn random_mac() -> Mac {
    Mac::from_random(rand::random())
}

impl Operations {
    fn busy(&self, id: &TaskId) -> Busy<'_> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        Busy(self, id.clone())
    }

    // ---- networks

    pub async fn create_network(&self, spec: NetworkSpec) -> Result<HostNetwork> {
        let mut around = host::surroundings();
        if let Some(member) = &self.picture.borrow().member {
            around.taken.extend(member.gateway.nets().map(|net| (net, "the gateway bridge".to_owned())));
            for overlay in member.view.iter().flat_map(|v| v.networks.values()) {
                let nets = [overlay.subnet.nets(), overlay.service_subnet.nets()].concat();
                around.taken.extend(nets.into_iter().map(|net| (net, format!("network {}", overlay.name))));
            }
        }
        let id = NetworkId::from_random(rand::random());
        let made = self.store.update(|state| {
            let made = network::create(state, spec, &around, id, now())?;
            state.networks.insert(made.id.clone(), made.clone());
            Ok::<_, OperationError>(made)
        })?;
        let name = made.name().to_owned();
        if let Err(error) = self.applied(&name, None).await {
            self.store.update(|state| Ok::<_, OperationError>(state.networks.remove(&made.id)))?;
            return Err(error);
        }
        Ok(made)
    }

    pub async fn remove_network(&self, reference: &str) -> Result<NetworkId> {
        let removed = self.store.update(|state| {
            let found = find_network(state, reference)?.clone();
            network::removal(state, &found)?;
            state.networks.remove(&found.id);
            Ok::<_, OperationError>(found)
        })?;
        self.applied(removed.name(), None).await?;
        Ok(removed.id)
    }

    /// The network that a reference means.
    pub fn target(&self, reference: &str) -> Result<Target> {
        let state = self.store.snapshot();
        match find_network(&state, reference) {
            Ok(found) => Ok(Target::Host(found.clone())),
            Err(OperationError::Find(FindError::None { .. })) if self.picture.borrow().member.is_some() => {
                Ok(Target::Overlay)
            }
            Err(e) => Err(e),
        }
    }

    // ---- places on overlays

    fn dispatcher(&self, network: &str) -> Result<DispatcherClient<Channel>> {
        let channel = self.leader.borrow().clone().ok_or_else(|| OperationError::NoManager(network.to_owned()))?;
        Ok(DispatcherClient::new(channel))
    }

    pub async fn attach(&self, id: &TaskId, name: &str, wish: &NetworkWish) -> Result<HostEndpoint> {
        let mut request = tonic::Request::new(v1::AttachRequest {
            workload: id.to_string(),
            name: name.to_owned(),
            wish: Some(wish.clone().into()),
        });
        request.set_timeout(MANAGER_LIMIT);
        let refused = |s: tonic::Status| OperationError::Manager(s.message().to_owned());
        let answer = self.dispatcher(&wish.network)?.attach(request).await.map_err(refused)?.into_inner();
        let attachment = answer.attachment.map(heddle_model::endpoint::Attachment::try_from);
        let attachment = match attachment {
            Some(Ok(attachment)) => attachment,
            Some(Err(e)) => return Err(OperationError::Manager(e.to_string())),
            None => return Err(OperationError::Manager("the manager's answer has no attachment".into())),
        };
        Ok(HostEndpoint {
            network: attachment.network,
            index: 0,
            addrs: attachment.addr.addrs().to_vec(),
            mac: attachment.mac,
            aliases: attachment.aliases,
            gateway_priority: wish.gateway_priority,
        })
    }

    /// Gives a place on an overlay back; empty: all of them.
    pub async fn detach(&self, id: &TaskId, network: &str) -> Result<()> {
        let mut request =
            tonic::Request::new(v1::DetachRequest { workload: id.to_string(), network: network.to_owned() });
        request.set_timeout(MANAGER_LIMIT);
        let refused = |s: tonic::Status| OperationError::Manager(s.message().to_owned());
        self.dispatcher(network)?.detach(request).await.map_err(refused)?;
        Ok(())
    }

    // ---- workloads

    pub async fn run(&self, mut spec: WorkloadSpec) -> Result<(Workload, Vec<String>)> {
        if spec.process.command.first().is_none_or(String::is_empty) {
            return Err(OperationError::NoCommand);
        }
        let id = TaskId::from_random(rand::random());
        if spec.annotations.name.is_empty() {
            spec.annotations.name = petname::petname(2, "-").unwrap_or_else(|| id.short().to_owned());
        }
        let name = spec.annotations.name.clone();
        check_name(&name)?;
        if self.store.snapshot().workloads.values().any(|w| w.spec.annotations.name == name) {
            return Err(OperationError::Exists(name));
        }
        if spec.networks.is_empty() {
            spec.networks.push(NetworkWish { network: DEFAULT.into(), ..NetworkWish::default() });
        }
        let targets = spec.networks.iter().map(|w| self.target(&w.network)).collect::<Result<Vec<_>>>()?;
        let (warnings, binding) = publication(&mut spec, &targets)?;
        let _busy = self.busy(&id);
        let made = self.make(&id, &name, &spec, targets, binding).await;
        let done = match made {
            Ok(workload) => self.running(&workload).await.map(|()| workload),
            Err(e) => Err(e),
        };
        match done {
            Ok(workload) => Ok((workload, warnings)),
            Err(error) => {
                // Nothing half-made stays.
                self.discard(&id).await?;
                Err(error)
            }
        }
    }

    fn hold(&self, id: &TaskId, port: &HostPort) -> std::result::Result<Held, PublishError> {
        if let Some(service) = self.mesh_publisher(port) {
            return Err(PublishError::Mesh { port: port.host, protocol: port.protocol, service });
        }
        self.ports.hold(id, port)
    }

    /// The service that has a port on every host.
    fn mesh_publisher(&self, port: &HostPort) -> Option<String> {
        let picture = self.picture.borrow();
        let view = picture.member.as_ref()?.view.as_ref()?;
        let same = |p: &heddle_model::endpoint::PortConfig| {
            p.mode == PublishMode::Ingress && p.published == Some(port.host) && p.protocol == port.protocol
        };
        view.services.values().find(|s| s.ports.iter().any(same)).map(|s| s.name.clone())
    }

    async fn make(
        &self,
        id: &TaskId,
        name: &str,
        spec: &WorkloadSpec,
        targets: Vec<Target>,
        binding: Option<Ipv4Addr>,
    ) -> Result<Workload> {
        let ports = publish::choose(&spec.ports, binding, |port| self.hold(id, port))?;
        let mut overlays = Vec::new();
        for (target, wish) in targets.iter().zip(&spec.networks) {
            if let Target::Overlay = target {
                overlays.push(self.attach(id, name, wish).await?);
            }
        }
        self.store.update(|state| {
            if state.workloads.values().any(|w| w.spec.annotations.name == name) {
                return Err(OperationError::Exists(name.to_owned()));
            }
            let mut overlays = overlays.into_iter();
            let mut links = BTreeSet::new();
            for (target, wish) in targets.iter().zip(&spec.networks) {
                let endpoint = match target {
                    Target::Host(network) => {
                        let new = Newcomer { id, name, links: &links, mac: random_mac() };
                        // It may have gone since it was found.
                        let network = find_network(state, network.id.as_str())?;
                        place(state, network, wish, &new)?
                    }
                    Target::Overlay => {
                        let Some(endpoint) = overlays.next() else { continue };
                        HostEndpoint { index: place::free_link(&links, name)?, ..endpoint }
                    }
                };
                links.insert(endpoint.index);
                state.endpoints.entry(id.clone()).or_default().push(endpoint);
            }
            let workload = Workload {
                id: id.clone(),
                created_at: now(),
                spec: spec.clone(),
                ports,
                wanted: true,
                runs: 1,
                stop_grace: None,
                status: assigned(),
            };
            state.workloads.insert(id.clone(), workload.clone());
            Ok(workload)
        })
    }

    /// Waits until the program runs, or has run.
    async fn running(&self, workload: &Workload) -> Result<()> {
        let name = workload.spec.annotations.name.clone();
        let judge = |picture: &Picture| {
            if let Some(reason) = picture.failures.get(&workload.id) {
                return Some(Err(OperationError::Kernel { name: name.clone(), reason: reason.clone() }));
            }
            let seen = picture.jobs.get(&workload.id).filter(|j| j.job.runs() == workload.runs)?;
            match seen.status.state {
                _ if seen.status.message == NOT_STARTED => {
                    Some(Err(OperationError::CannotRun { name: name.clone(), reason: seen.status.error.clone() }))
                }
                state if state >= TaskState::Running => Some(Ok(())),
                _ => None,
            }
        };
        let last = |p: &Picture| p.jobs.get(&workload.id).map_or_else(String::new, |j| j.status.message.clone());
        self.wait(&name, KERNEL_LIMIT, judge, last).await
    }

    pub async fn start(&self, reference: &str) -> Result<()> {
        let found = self.workload(reference)?;
        if found.wanted {
            return Ok(());
        }
        if !self.ports.holds(&found.id) {
            for port in &found.ports {
                match self.hold(&found.id, port) {
                    Ok(Held::Yes) => {}
                    Ok(Held::Busy) => {
                        self.ports.release(&found.id);
                        return Err(PublishError::Busy { port: port.host, protocol: port.protocol }.into());
                    }
                    Err(e) => {
                        self.ports.release(&found.id);
                        return Err(e.into());
                    }
                }
            }
        }
        let workload = self.store.update(|state| {
            let gone = || FindError::None { kind: "workload", reference: reference.to_owned() };
            let workload = state.workloads.get_mut(&found.id).ok_or_else(gone)?;
            workload.wanted = true;
            workload.runs += 1;
            workload.stop_grace = None;
            workload.status = assigned();
            Ok::<_, OperationError>(workload.clone())
        })?;
        let running = self.running(&workload).await;
        if running.is_err() {
            self.end(&workload.id, Some(Duration::ZERO)).await?;
        }
        running
    }

    pub async fn stop(&self, reference: &str, grace: Option<Duration>) -> Result<()> {
        let found = self.workload(reference)?;
        self.end(&found.id, grace).await
    }

    /// Ends the program and waits until it has.
    async fn end(&self, id: &TaskId, grace: Option<Duration>) -> Result<()> {
        let stopped = self.store.update(|state| {
            let Some(workload) = state.workloads.get_mut(id) else { return Ok::<_, OperationError>(None) };
            workload.wanted = false;
            workload.stop_grace = grace;
            Ok(Some(workload.clone()))
        })?;
        let Some(workload) = stopped else { return Ok(()) };
        let name = workload.spec.annotations.name.clone();
        let limit = KERNEL_LIMIT + grace.unwrap_or(workload.spec.stop_grace);
        let judge = |p: &Picture| match p.jobs.get(id) {
            Some(seen) if !seen.status.state.is_terminal() => None,
            _ => Some(Ok(())),
        };
        self.wait(&name, limit, judge, |_| "it has not ended".into()).await?;
        self.ports.release(id);
        self.applied(&name, None).await
    }

    pub async fn remove(&self, reference: &str, force: bool) -> Result<TaskId> {
        let found = self.workload(reference)?;
        if found.wanted && !force {
            return Err(OperationError::Running(found.spec.annotations.name));
        }
        let _busy = self.busy(&found.id);
        self.discard(&found.id).await?;
        Ok(found.id)
    }

    /// Takes a workload away with all that it has.
    async fn discard(&self, id: &TaskId) -> Result<()> {
        self.end(id, Some(Duration::ZERO)).await?;
        let state = self.store.snapshot();
        let overlay = |e: &HostEndpoint| !state.networks.contains_key(&e.network);
        let attached = state.endpoints_of(id).iter().any(overlay) || !state.workloads.contains_key(id);
        let name = self.store.update(|state| {
            state.endpoints.remove(id);
            Ok::<_, OperationError>(state.workloads.remove(id).map(|w| w.spec.annotations.name))
        })?;
        self.ports.release(id);
        self.applied(&name.unwrap_or_default(), None).await?;
        self.executor.forget(id);
        if attached && self.leader.borrow().is_some() {
            // Without an answer it is told when the next session begins.
            if let Err(error) = self.detach(id, "").await {
                tracing::warn!(task = %id, %error, "the managers still count a place of a workload that is gone");
            }
        }
        Ok(())
    }

    // ---- while running

    /// The workload, or task, that is meant: its id and name.
    pub fn job(&self, reference: &str) -> Result<(TaskId, String, Job)> {
        let picture = self.picture.borrow();
        let all: Vec<_> = picture.jobs.values().map(|p| (p.job.id().clone(), p.job.name(), &p.job)).collect();
        let all = all.iter().map(|(id, name, job)| (id.as_str(), name.as_str(), (id.clone(), name.clone(), *job)));
        let (id, name, job) = find("workload", reference, all)?;
        Ok((id, name, job.clone()))
    }

    pub async fn connect(&self, reference: &str, wish: NetworkWish) -> Result<()> {
        let (id, name, job) = self.job(reference)?;
        let target = self.target(&wish.network)?;
        if let Target::Host(network) = &target
            && matches!(network.spec.driver, Driver::Host | Driver::Null)
        {
            return Err(PlaceError::Fixed(network.name().to_owned()).into());
        }
        let first = job.task().map_or(0, |t| t.attachments.len() as u8 + 1);
        let on = |network: &NetworkId| job.task().is_some_and(|t| t.attachments.iter().any(|a| a.network == *network));
        if let Some(task) = job.task().filter(|t| crate::agent::on_host(t)) {
            return Err(PlaceError::Alone(format!("host of {}", task.name())).into());
        }
        if job.task().is_some_and(|t| !t.on_node()) {
            return Err(OperationError::NotRunning(name));
        }
        let _busy = self.busy(&id);
        let attached = match &target {
            Target::Host(_) => None,
            Target::Overlay => {
                let state = self.store.snapshot();
                if let Some(fixed) = state.endpoints_of(&id).iter().find(|e| !state.is_joined(e)) {
                    let network = state.networks.get(&fixed.network).map_or("none", |n| n.name());
                    return Err(PlaceError::Alone(network.to_owned()).into());
                }
                let known = self.overlay_named(&wish.network);
                let twice = |n: &NetworkId| state.endpoints_of(&id).iter().any(|e| e.network == *n) || on(n);
                if known.as_ref().is_some_and(|(n, _)| twice(n)) {
                    return Err(PlaceError::Twice { workload: name, network: wish.network }.into());
                }
                Some(self.attach(&id, &name.replace('.', "-"), &wish).await?)
            }
        };
        let made = self.store.update(|state| {
            let mut links: BTreeSet<u8> = (0..first).collect();
            links.extend(state.endpoints_of(&id).iter().map(|e| e.index));
            let endpoint = match &target {
                Target::Host(network) => {
                    let network = find_network(state, network.id.as_str())?;
                    place(state, network, &wish, &Newcomer { id: &id, name: &name, links: &links, mac: random_mac() })?
                }
                Target::Overlay => {
                    let Some(endpoint) = attached else { return Ok(None) };
                    if state.endpoints_of(&id).iter().any(|e| e.network == endpoint.network) {
                        let (workload, network) = (name.clone(), wish.network.clone());
                        return Err(PlaceError::Twice { workload, network }.into());
                    }
                    HostEndpoint { index: place::free_link(&links, &name)?, ..endpoint }
                }
            };
            state.endpoints.entry(id.clone()).or_default().push(endpoint.clone());
            Ok::<_, OperationError>(Some(endpoint))
        })?;
        let Some(endpoint) = made else { return Ok(()) };
        let there = self.applied(&name, Some((&id, &endpoint.network))).await;
        if there.is_err() {
            self.undo(&id, &endpoint.network).await?;
        }
        there
    }

    pub async fn disconnect(&self, reference: &str, network: &str, force: bool) -> Result<()> {
        let (id, name, job) = match self.job(reference) {
            Err(OperationError::Find(FindError::None { .. })) if force => return Ok(()),
            other => other?,
        };
        let state = self.store.snapshot();
        let found = match self.target(network)? {
            Target::Host(found) => Some((found.id.clone(), found.name().to_owned())),
            Target::Overlay => self.overlay_named(network),
        };
        let not_there = || OperationError::NotConnected { workload: name.clone(), network: network.to_owned() };
        let (found, found_name) = found.ok_or_else(not_there)?;
        if job.task().is_some_and(|t| t.attachments.iter().any(|a| a.network == found)) {
            return Err(OperationError::ByService { task: name, network: found_name });
        }
        let Some(endpoint) = state.endpoints_of(&id).iter().find(|e| e.network == found) else {
            return if force { Ok(()) } else { Err(not_there()) };
        };
        if !state.is_joined(endpoint) {
            return Err(PlaceError::Fixed(found_name).into());
        }
        let _busy = self.busy(&id);
        self.undo(&id, &found).await
    }

    async fn undo(&self, id: &TaskId, network: &NetworkId) -> Result<()> {
        let overlay = self.store.update(|state| {
            if let Some(list) = state.endpoints.get_mut(id) {
                list.retain(|e| e.network != *network);
            }
            let empty = state.endpoints.get(id).is_some_and(Vec::is_empty);
            if empty && !state.workloads.contains_key(id) {
                state.endpoints.remove(id);
            }
            Ok::<_, OperationError>(!state.networks.contains_key(network))
        })?;
        self.applied("the workload", None).await?;
        if overlay { self.detach(id, network.as_str()).await } else { Ok(()) }
    }

    /// An overlay that this host knows of.
    fn overlay_named(&self, reference: &str) -> Option<(NetworkId, String)> {
        let picture = self.picture.borrow();
        let view = picture.member.as_ref()?.view.as_ref()?;
        let all = view.networks.values().map(|n| (n.id.as_str(), n.name.as_str(), n));
        find("network", reference, all).ok().map(|n| (n.id.clone(), n.name.clone()))
    }

    pub fn workload(&self, reference: &str) -> Result<Workload> {
        let state = self.store.snapshot();
        let all = state.workloads.values().map(|w| (w.id.as_str(), w.spec.annotations.name.as_str(), w));
        match find("workload", reference, all) {
            Ok(workload) => Ok(workload.clone()),
            Err(e) => match self.job(reference) {
                Ok((_, name, _)) => Err(OperationError::IsTask(name)),
                Err(_) => Err(e.into()),
            },
        }
    }

    // ---- waiting

    /// Waits until the kernel has what the store says now; with a place, until that too is there and whole.
    async fn applied(&self, name: &str, place: Option<(&TaskId, &NetworkId)>) -> Result<()> {
        let state: Arc<HostState> = self.store.snapshot();
        let judge = |picture: &Picture| {
            if picture.host_revision < state.revision {
                return None;
            }
            let Some((id, network)) = place else { return Some(Ok(())) };
            if let Some(reason) = picture.failures.get(id) {
                return Some(Err(OperationError::Kernel { name: name.to_owned(), reason: reason.clone() }));
            }
            // What does not run has no links.
            let Some(sandbox) = picture.sandboxes.get(id) else { return Some(Ok(())) };
            let known = state.networks.contains_key(network)
                || picture
                    .member
                    .as_ref()
                    .and_then(|m| m.view.as_ref())
                    .is_some_and(|v| v.networks.contains_key(network));
            (known && sandbox.leg(network).is_some()).then_some(Ok(()))
        };
        let last = |p: &Picture| format!("revision {} of {}", p.host_revision, state.revision);
        self.wait(name, KERNEL_LIMIT, judge, last).await
    }

    async fn wait(
        &self,
        name: &str,
        limit: Duration,
        judge: impl Fn(&Picture) -> Option<Result<()>>,
        last: impl Fn(&Picture) -> String,
    ) -> Result<()> {
        let mut picture = self.picture.clone();
        let waited = tokio::time::timeout(limit, async {
            loop {
                if let Some(verdict) = judge(&picture.borrow_and_update()) {
                    return verdict;
                }
                if picture.changed().await.is_err() {
                    return Ok(());
                }
            }
        });
        match waited.await {
            Ok(verdict) => verdict,
            Err(_) => {
                let seen = last(&self.picture.borrow());
                Err(OperationError::TimedOut { name: name.to_owned(), limit, seen })
            }
        }
    }

    // ---- tidying

    /// What has changed by itself: ports of what has ended are free, what was to go when it ended goes, places of tasks that
    /// are gone are given back.
    pub async fn tidy(&self) {
        let picture = self.picture.borrow().clone();
        let state = self.store.snapshot();
        for workload in state.workloads.values().filter(|w| w.status.state.is_terminal() && !w.wanted) {
            if self.ports.holds(&workload.id) && !self.is_busy(&workload.id) {
                self.ports.release(&workload.id);
            }
            let linger = Duration::from_secs(2);
            if workload.spec.auto_remove
                && now().since(workload.status.since) > linger
                && let Err(error) = self.remove(workload.id.as_str(), false).await
            {
                tracing::warn!(task = %workload.id, %error, "cannot remove a workload that has ended");
            }
        }
        if picture.member.as_ref().is_none_or(|m| m.view.is_none()) {
            return;
        }
        let gone = |id: &&TaskId| {
            let ended = picture.jobs.get(*id).is_none_or(|j| j.status.state.is_terminal());
            !state.workloads.contains_key(*id) && ended && !self.is_busy(id)
        };
        for id in state.endpoints.keys().filter(gone) {
            let forgotten = self.store.update(|state| Ok::<_, OperationError>(state.endpoints.remove(id).is_some()));
            if forgotten.is_ok()
                && let Err(error) = self.detach(id, "").await
            {
                tracing::debug!(task = %id, %error, "the managers are told later");
            }
        }
    }

    fn is_busy(&self, id: &TaskId) -> bool {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    /// Compares what this host asked for with what the managers know of it: they may have missed the end of something.
    pub async fn agree(&self) {
        let surplus: Vec<(TaskId, NetworkId)> = {
            let picture = self.picture.borrow();
            let Some(member) = &picture.member else { return };
            let Some(view) = &member.view else { return };
            let state = self.store.snapshot();
            let here = view.endpoints.values().filter(|e| e.service.is_none() && e.node == member.node);
            let unknown = |id: &TaskId, network: &NetworkId| {
                !state.endpoints_of(id).iter().any(|e| e.network == *network) && !self.is_busy(id)
            };
            here.filter(|e| unknown(&e.task, &e.network)).map(|e| (e.task.clone(), e.network.clone())).collect()
        };
        for (id, network) in surplus {
            if let Err(error) = self.detach(&id, network.as_str()).await {
                tracing::debug!(task = %id, %network, %error, "the managers still count a place that is gone");
            }
        }
        let state = self.store.snapshot();
        for (id, list) in &state.endpoints {
            for endpoint in list.iter().filter(|e| !state.networks.contains_key(&e.network)) {
                let known = self.picture.borrow().member.as_ref().and_then(|m| m.view.clone());
                if known.is_some_and(|v| v.endpoints.contains_key(&(endpoint.network.clone(), id.clone()))) {
                    continue;
                }
                self.restore(id, endpoint).await;
            }
        }
    }

    /// Asks for a place once more that the managers have forgotten, such as after this host was removed and joined again.
    async fn restore(&self, id: &TaskId, endpoint: &HostEndpoint) {
        let Ok((_, name, _)) = self.job(id.as_str()) else { return };
        let mut wish = NetworkWish { network: endpoint.network.to_string(), ..NetworkWish::default() };
        wish.aliases = endpoint.aliases.clone();
        wish.mac = Some(endpoint.mac);
        for addr in &endpoint.addrs {
            match addr {
                std::net::IpAddr::V4(a) => wish.ip = Some(*a),
                std::net::IpAddr::V6(a) => wish.ip6 = Some(*a),
            }
        }
        if let Err(error) = self.attach(id, &name.replace('.', "-"), &wish).await {
            tracing::warn!(task = %id, %error, "a place on an overlay is lost");
        }
    }

    /// Takes the ports of what ran before the daemon was restarted.
    pub fn hold_again(&self) {
        let state = self.store.snapshot();
        for workload in state.workloads.values().filter(|w| w.wanted) {
            for port in &workload.ports {
                match self.ports.hold(&workload.id, port) {
                    Ok(Held::Yes) => {}
                    Ok(Held::Busy) => {
                        tracing::warn!(port = %port.host, "somebody else has a published port");
                    }
                    Err(error) => tracing::warn!(port = %port.host, %error, "cannot hold a published port"),
                }
            }
        }
    }
}

fn assigned() -> TaskStatus {
    TaskStatus { state: TaskState::Assigned, since: now(), message: "created".into(), ..TaskStatus::default() }
}

fn check_name(name: &str) -> Result<()> {
    let edge = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    match place::check_alias(name) {
        Ok(()) if edge => Ok(()),
        _ => Err(OperationError::Name(name.to_owned())),
    }
}

pub fn find_network<'a>(state: &'a HostState, reference: &str) -> Result<&'a HostNetwork> {
    let all = state.networks.values().map(|n| (n.id.as_str(), n.name(), n));
    Ok(find("network", reference, all)?)
}

/// Where ports are published: on which address by default, and whether they can be at all. Ports that cannot are dropped, with
/// a warning, as docker does.
fn publication(spec: &mut WorkloadSpec, targets: &[Target]) -> Result<(Vec<String>, Option<Ipv4Addr>)> {
    let driver = |t: &Target| match t {
        Target::Host(n) => n.spec.driver,
        Target::Overlay => Driver::Overlay,
    };
    let mut binding = None;
    let mut leads = false;
    for target in targets {
        match target {
            Target::Host(n) if n.spec.driver == Driver::Bridge && !n.spec.internal && !leads => {
                binding = bridge::Options::parse(&n.spec.options)?.binding;
                leads = true;
            }
            Target::Overlay => leads = true,
            Target::Host(_) => {}
        }
    }
    if leads || spec.ports.is_empty() {
        return Ok((Vec::new(), binding));
    }
    spec.ports.clear();
    let why = match targets.iter().map(driver).next() {
        Some(Driver::Host) => "published ports are discarded when using host network mode",
        Some(Driver::Null) => "published ports are discarded: the workload is on no network",
        _ => "published ports are discarded: none of the workload's networks leads through this host",
    };
    Ok((vec![why.to_owned()], None))
}
