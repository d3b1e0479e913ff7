//! What an operator asks of this host, from the check to the kernel: each is refused whole or true when it returns.
//!
//! ```text
//! networks     create, remove                  workloads  run, start, stop, remove
//! connections  connect, disconnect             holding    ports of the host for workloads
//! overlays     places there, from the managers waiting    for what the agent says
//! tidying      what has changed by itself, and what managers know
//! images       what containerd has: find, remove, prune
//! volumes      create, look at, remove
//! ```

mod connections;
mod holding;
mod images;
mod networks;
mod overlays;
mod tidying;
mod volumes;
mod waiting;
mod workloads;

use super::{
    driver::OptionError,
    network::{HostNetwork, NetworkError},
    place::PlaceError,
    ports::Ports,
    publish::PublishError,
    state::HostState,
    store::{Store, StoreError},
};
use crate::{
    agent::{Command, Picture},
    executor::Executor,
    volumes::Volumes,
    worker::Job,
};
use heddle_engine::EngineError;
use heddle_model::{
    TaskId,
    container::BadContainer,
    find::{FindError, find},
    limits::LimitError,
    net::Mac,
    volume::{BadVolumeName, VolumeName},
    workload::Workload,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::Duration,
};
use tokio::sync::{OwnedMutexGuard, mpsc, watch};
use tonic::transport::Channel;

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
    Limit(#[from] LimitError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("image {image:?} is used by {by}: remove that first, or use --force to take only the name away")]
    ImageUsed { image: String, by: String },
    #[error("image {image:?} is being prepared for {by}: try again when that runs")]
    ImageNeeded { image: String, by: String },
    #[error("image {0:?} is being pulled: try again when that is done")]
    ImagePulled(String),
    #[error("image {reference:?} has several names: use one of {names}")]
    ImageNames { reference: String, names: String },
    #[error(transparent)]
    Mount(#[from] BadContainer),
    #[error(transparent)]
    Volume(#[from] BadVolumeName),
    #[error("volume {:?} is in use by {user}", .name.as_str())]
    VolumeInUse { name: VolumeName, user: String },
    #[error("a volume of this host cannot be read or changed")]
    VolumeFiles(#[from] std::io::Error),
    #[error("it is not known yet what runs on this host, and which volumes that uses: try again soon")]
    UsersUnknown,
    #[error("the agent is ending")]
    Ending,
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
    pub executor: Executor,
    pub volumes: Volumes,
    pub commands: mpsc::Sender<Command>,
    /// Workloads whose connections are being made or undone: one at a time, and nobody tidies them meanwhile.
    pub busy: Mutex<BTreeMap<TaskId, Arc<tokio::sync::Mutex<()>>>>,
    /// The managers may count a place that is gone.
    pub owes: AtomicBool,
}

/// A workload's turn, while it lives.
struct Busy<'a> {
    operations: &'a Operations,
    turn: Option<OwnedMutexGuard<()>>,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.turn = None;
        let mut busy = self.operations.busy.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of others, who have theirs or wait for it, stay.
        busy.retain(|_, turn| Arc::strong_count(turn) > 1);
    }
}

pub fn random_mac() -> Mac {
    Mac::from_random(rand::random())
}

impl Operations {
    /// Waits until nobody else changes the connections of a workload.
    async fn busy(&self, id: &TaskId) -> Busy<'_> {
        let turn = self.busy.lock().unwrap_or_else(PoisonError::into_inner).entry(id.clone()).or_default().clone();
        Busy { operations: self, turn: Some(turn.lock_owned().await) }
    }

    /// None: somebody else does.
    fn try_busy(&self, id: &TaskId) -> Option<Busy<'_>> {
        let turn = self.busy.lock().unwrap_or_else(PoisonError::into_inner).entry(id.clone()).or_default().clone();
        let turn = turn.try_lock_owned().ok()?;
        Some(Busy { operations: self, turn: Some(turn) })
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

    /// The workload, or task, that is meant: its id and name.
    pub fn job(&self, reference: &str) -> Result<(TaskId, String, Job)> {
        let picture = self.picture.borrow();
        let all: Vec<_> = picture.jobs.values().map(|p| (p.job.id().clone(), p.job.name(), &p.job)).collect();
        let all = all.iter().map(|(id, name, job)| (id.as_str(), name.as_str(), (id.clone(), name.clone(), *job)));
        let (id, name, job) = find("workload", reference, all)?;
        Ok((id, name, job.clone()))
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
}

pub fn find_network<'a>(state: &'a HostState, reference: &str) -> Result<&'a HostNetwork> {
    let all = state.networks.values().map(|n| (n.id.as_str(), n.name(), n));
    Ok(find("network", reference, all)?)
}
