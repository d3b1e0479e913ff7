//! Runs tasks of images, by containerd.
//!
//! ```text
//! daemon ── asks ─> containerd ─> its shim (outlives both) ── parent of ─> the program (in its container)
//!    │                              └── task-log (outlives both) writes what the program prints
//!    └── follows each container; leaves the same files in the task's directory as a shim of our own does
//! ```

mod begin;
mod check;
mod life;

pub use check::ContainerCheck;

use super::{
    Exit, MemoryFile, TaskProcess,
    log::now_ms,
    record::{self, EXIT, SPEC, ShimSpec, TASK},
};
use begin::Begun;
use heddle_engine::{
    Engine, image,
    spec::{Run, Volume},
};
use heddle_model::{TaskId, container::StopSignal, health::HealthCheck, login::Login, service::ImageSpec};
use life::remove_groups;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::timeout,
};

/// Written before anything is asked of containerd.
const CONTAINER: &str = "container.json";
/// Where its secrets and configs are until it has them.
const MEMORY: &str = "memory";
/// While containerd is away.
const AGAIN: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// For all that is on its way out when a host leaves.
const CLEAR_LIMIT: Duration = Duration::from_secs(10);
/// How often the same signal is sent.
const SIGNAL_EVERY: Duration = Duration::from_secs(1);
/// Containers that are nobody's are looked for so often.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// In which containerd says its version.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How often it is asked whether containerd is there.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// The image of a task, and where what it is given comes from.
#[derive(Debug, Clone)]
pub struct FromImage {
    pub spec: ImageSpec,
    /// Whether its registry is asked even if there is one of that name.
    pub newest: bool,
    /// What its registry is shown.
    pub login: Option<Login>,
    pub volumes: Vec<Volume>,
}

/// What is to run of an image.
#[derive(Debug, Clone)]
pub struct ContainerTask {
    pub image: FromImage,
    pub run: Run,
    /// As a process of the host would have it: its files, and what commands that are run beside the program are like.
    pub beside: ShimSpec,
    /// Its secrets and configs.
    pub secret: Vec<MemoryFile>,
}

/// What a daemon after this one should know of a container.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// What the image's program is asked to end by.
    stop_signal: Option<StopSignal>,
    /// The image's.
    #[serde(default)]
    health: Option<HealthCheck>,
}

enum Phase {
    /// What is done before it runs.
    Preparing(String),
    Running {
        pid: u32,
        health: Option<HealthCheck>,
    },
    /// Not known, and why.
    Unknown(String),
    /// Of the container something is left yet.
    Ended,
}

struct Held {
    phase: Phase,
    /// As containerd calls it. None: its container says it.
    image: Option<String>,
    /// Ends what is done before it runs. Whoever follows it hears it, and is the only one who says how it ended.
    cancel: watch::Sender<Option<Signal>>,
    signalled: Option<(Signal, Instant)>,
    sending: Option<AbortHandle>,
}

struct Shared {
    engine: Engine,
    /// Holds a directory per task.
    dir: PathBuf,
    /// The program that has `task-log` as a verb.
    shim: PathBuf,
    held: Mutex<BTreeMap<TaskId, Held>>,
    bell: Arc<Notify>,
    /// Which containerd it is; None: there is none.
    version: watch::Sender<Option<String>>,
    swept: Mutex<Option<Instant>>,
}

#[derive(Clone)]
pub struct Containers(Arc<Shared>);

impl Containers {
    /// `bell` rings when something has become of a container.
    pub fn new(engine: Engine, dir: PathBuf, shim: PathBuf, bell: Arc<Notify>) -> Self {
        let (version, _) = watch::channel(None);
        let (held, swept) = (Mutex::default(), Mutex::default());
        let containers = Self(Arc::new(Shared { engine, dir, shim, held, bell, version, swept }));
        let shared = Arc::downgrade(&containers.0);
        tokio::spawn(async move {
            while let Some(shared) = shared.upgrade() {
                // One that hears and says nothing is as none.
                let version = timeout(ANSWER_LIMIT, shared.engine.version()).await.ok().and_then(Result::ok);
                shared.version.send_if_modified(|known| std::mem::replace(known, version.clone()) != version);
                drop(shared);
                tokio::time::sleep(ASK_EVERY).await;
            }
        });
        containers
    }

    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// Which containerd there is, as it was when it was last asked.
    pub fn version(&self) -> watch::Receiver<Option<String>> {
        self.0.version.subscribe()
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<TaskId, Held>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn task_dir(&self, task: &TaskId) -> PathBuf {
        self.0.dir.join(task.as_str())
    }

    /// Whether it runs, or may.
    pub fn holds(&self, task: &TaskId) -> bool {
        let dir = self.task_dir(task);
        self.held().contains_key(task) || (dir.join(CONTAINER).exists() && !dir.join(EXIT).exists())
    }

    /// Whether this is how the task runs, or ran.
    pub fn begun(&self, task: &TaskId) -> bool {
        self.held().contains_key(task) || self.task_dir(task).join(CONTAINER).exists()
    }

    /// # Errors
    /// Its directory cannot be read.
    pub fn state(&self, task: &TaskId) -> io::Result<TaskProcess> {
        let dir = self.task_dir(task);
        if let Some(exit) = record::read::<Exit>(&dir.join(EXIT))? {
            return Ok(TaskProcess::Ended(exit));
        }
        match self.held().get(task).map(|held| &held.phase) {
            Some(Phase::Preparing(said)) => return Ok(TaskProcess::Preparing(said.clone())),
            Some(Phase::Running { pid, health }) => {
                return Ok(TaskProcess::Running { pid: *pid, health: health.clone() });
            }
            Some(Phase::Unknown(_)) => return Ok(TaskProcess::Unknown),
            // It is to run once more.
            Some(Phase::Ended) => return Ok(TaskProcess::Preparing("taking its last container away".into())),
            None if !dir.join(CONTAINER).exists() => return Ok(TaskProcess::Absent),
            None => {}
        }
        // A daemon before this one has begun with it.
        self.hold(task, None, Phase::Unknown("containerd is asked for it".into()), |this, task, _| async move {
            let begun = this.task_dir(&task).join(TASK).exists();
            this.follow(&task, begun).await;
        });
        self.state(task)
    }

    fn hold<F: Future<Output = ()> + Send + 'static>(
        &self,
        task: &TaskId,
        image: Option<String>,
        phase: Phase,
        follow: impl FnOnce(Self, TaskId, watch::Receiver<Option<Signal>>) -> F,
    ) {
        let (cancel, cancelled) = watch::channel(None);
        self.held().insert(task.clone(), Held { phase, image, cancel, signalled: None, sending: None });
        tokio::spawn(follow(self.clone(), task.clone(), cancelled));
    }

    fn reach(&self, task: &TaskId, phase: Phase) {
        if let Some(held) = self.held().get_mut(task) {
            held.phase = phase;
        }
        self.0.bell.notify_one();
    }

    /// Begins: what becomes of it is seen in its state.
    ///
    /// # Errors
    /// Its directory cannot be written to.
    pub fn start(&self, task: &TaskId, what: ContainerTask) -> io::Result<()> {
        let dir = self.task_dir(task);
        fs::create_dir_all(&dir)?;
        for stale in [EXIT, TASK] {
            let _ = fs::remove_file(dir.join(stale));
        }
        record::write(&dir.join(SPEC), &what.beside)?;
        record::write(&dir.join(CONTAINER), &Kept::default())?;
        let image = Some(image::reference(&what.image.spec.image).whole());
        self.hold(task, image, Phase::Preparing("preparing its image".into()), |this, task, cancelled| async move {
            match this.begin(&task, what, cancelled).await {
                Ok(Begun::Runs(pid)) => {
                    this.runs(&task, pid);
                    this.follow(&task, true).await;
                }
                Ok(Begun::Unclear) => this.follow(&task, false).await,
                Ok(Begun::Cancelled(signal)) => {
                    let exit = Exit { code: 128 + signal as i32, error: None, at_ms: now_ms() };
                    this.finish(&task, exit).await;
                }
                Err(error) => {
                    let exit = Exit { code: 127, error: Some(error.to_string()), at_ms: now_ms() };
                    this.finish(&task, exit).await;
                }
            }
        });
        Ok(())
    }

    /// Those that may not have a container yet, each with what containerd calls its image.
    pub fn preparing(&self) -> Vec<(TaskId, String)> {
        let held = self.held();
        let begins = held.iter().filter(|(_, held)| matches!(held.phase, Phase::Preparing(_)));
        begins.filter_map(|(id, held)| Some((id.clone(), held.image.clone()?))).collect()
    }

    /// Signals its program. One whose container is not being made yet never begins; else it is signalled when it runs.
    pub fn signal(&self, task: &TaskId, signal: Signal) {
        let mut all = self.held();
        let Some(held) = all.get_mut(task).filter(|held| !matches!(held.phase, Phase::Ended)) else { return };
        if held.signalled.is_some_and(|(last, at)| last == signal && at.elapsed() < SIGNAL_EVERY) {
            return;
        }
        held.signalled = Some((signal, Instant::now()));
        if let Phase::Preparing(_) = held.phase {
            held.cancel.send_replace(Some(signal));
            return;
        }
        drop(all);
        self.send(task, signal);
    }

    /// What was to be sent before and has not been gives way.
    fn send(&self, task: &TaskId, signal: Signal) {
        let signal = match self.kept(task).stop_signal.and_then(|own| own.as_str().parse().ok()) {
            Some(own) if signal == Signal::SIGTERM => own,
            _ => signal,
        };
        let (this, id) = (self.clone(), task.clone());
        let sending = tokio::spawn(async move {
            let task = id;
            // A containerd that is being replaced is waited for, while there is somebody to signal.
            while let Err(error) = this.0.engine.signal(task.as_str(), signal as i32, false).await {
                if !error.is_silent() || !this.held().contains_key(&task) {
                    return tracing::warn!(%task, %error, "a container cannot be signalled");
                }
                tokio::time::sleep(AGAIN).await;
            }
        });
        let before = self.held().get_mut(task).and_then(|held| held.sending.replace(sending.abort_handle()));
        before.inspect(AbortHandle::abort);
    }

    /// Takes those away that are nobody's, now and then.
    pub fn sweep(&self, wanted: impl Fn(&TaskId) -> bool) {
        let mut swept = self.0.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.version.borrow().is_none() || swept.is_some_and(|at| at.elapsed() < SWEEP_EVERY) {
            return;
        }
        *swept = Some(Instant::now());
        let names =
            fs::read_dir(&self.0.dir).into_iter().flatten().filter_map(|e| e.ok()?.file_name().into_string().ok());
        let (keep, nobodys): (Vec<TaskId>, Vec<TaskId>) =
            names.filter_map(|name| name.parse().ok()).partition(|id| wanted(id));
        // What a daemon before this one began with, and nobody asks for any more.
        for id in nobodys.iter().filter(|id| self.holds(id) && !self.held().contains_key(id)) {
            self.hold(id, None, Phase::Unknown("it is nobody's".into()), |this, task, _| async move {
                this.finish(&task, Exit::lost()).await;
            });
        }
        let this = self.clone();
        tokio::spawn(async move {
            let all = this.0.engine.list().await.unwrap_or_default();
            for id in all.iter().filter_map(|id| id.parse::<TaskId>().ok()) {
                if !keep.contains(&id) && !this.held().contains_key(&id) {
                    tracing::info!(task = %id, "a container that is nobody's is taken away");
                    this.discard(&id).await;
                }
            }
        });
    }

    /// Ends all but those to be kept. Nothing of them is left when this returns, if containerd answers in time.
    pub async fn clear(&self, kept: impl Fn(&TaskId) -> bool) {
        let held: Vec<TaskId> = self.held().keys().filter(|id| !kept(id)).cloned().collect();
        for (_, held) in self.held().iter().filter(|(id, _)| !kept(id)) {
            held.cancel.send_replace(Some(Signal::SIGKILL));
        }
        let removed = timeout(CLEAR_LIMIT, async {
            let listed = self.0.engine.list().await.unwrap_or_default();
            let listed = listed.iter().filter_map(|id| id.parse::<TaskId>().ok()).filter(|id| !kept(id));
            for id in held.into_iter().chain(listed) {
                // Whoever follows it sees that it has ended.
                if let Err(error) = self.0.engine.remove(id.as_str()).await {
                    tracing::warn!(task = %id, %error, "a container is left");
                }
                remove_groups(&id).await;
            }
        });
        if removed.await.is_err() {
            return tracing::warn!("containerd does not answer: containers may be left");
        }
        let end = Instant::now() + CLEAR_LIMIT;
        while self.held().keys().any(|id| !kept(id)) && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A program of a health check, run as the container's own is.
    pub fn check(&self, task: &TaskId, args: Vec<String>) -> ContainerCheck {
        ContainerCheck { engine: self.0.engine.clone(), task: task.clone(), dir: self.task_dir(task), args }
    }
}
