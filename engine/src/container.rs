//! Containers and their programs, from first to last.

use crate::{
    Engine, EngineError,
    api::{containers, process, snapshots, tasks},
    fill::fill,
    image::Image,
    lease::Lease,
    link::LARGEST,
    pull::SNAPSHOTTER,
    rootfs,
    spec::{Ids, Run, spec},
};
use containers::containers_client::ContainersClient;
use prost::Message;
use prost_types::Any;
use snapshots::snapshots_client::SnapshotsClient;
use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    time::{Duration, SystemTime},
};
use tasks::tasks_client::TasksClient;
use tonic::{Code, Status};

/// containerd's shim for runc, and for what is called like it.
const RUNTIME: &str = "io.containerd.runc.v2";
/// Label of a container: whose it is.
const OWNER: &str = "heddle.owner";
/// What that shim is told (`runc.v1.Options`).
const OPTIONS: &str = "containerd.runc.v1.Options";
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// Tries to take away what is on its way out.
const TRIES: u32 = 300;
const BETWEEN: Duration = Duration::from_millis(50);
const EXEC_TRIES: u32 = 10;
/// After a program has gone, in which whoever waits for it hears of that.
const HEARD: Duration = Duration::from_secs(1);

/// Of containerd's `runc.v1.Options` what is used here.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Options {
    #[prost(string, tag = "6")]
    binary_name: String,
}

/// How a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing is known of it.
    Absent,
    /// Made, and not started.
    Created,
    Running {
        /// As the host sees it.
        pid: u32,
    },
    Ended(End),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub code: u32,
    /// Since the epoch; zero: nobody saw it.
    pub at: Duration,
}

/// As what a program began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begins {
    pub env: BTreeMap<String, String>,
    pub ids: Ids,
}

/// Returns some time after a process has gone. Some versions of containerd's shim forget the end of a program that was started beside
/// another and has ended very soon, and whoever waits for it waits for ever.
async fn gone(pid: u32) {
    let there = PathBuf::from(format!("/proc/{pid}"));
    while there.exists() {
        tokio::time::sleep(BETWEEN).await;
    }
    tokio::time::sleep(HEARD).await;
}

fn end(code: u32, at: Option<prost_types::Timestamp>) -> End {
    let at =
        at.and_then(|at| SystemTime::try_from(at).ok()).and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    End { code, at: at.unwrap_or_default() }
}

/// Whether a task is not deleted because its program runs. Shims of containerd 1.6 say so without a code of its own.
fn is_running(status: &Status) -> bool {
    match status.code() {
        Code::FailedPrecondition => true,
        Code::Unknown => status.message().contains("cannot delete a running process"),
        _ => false,
    }
}

impl Engine {
    fn tasks(&self) -> TasksClient<crate::link::Link> {
        TasksClient::new(self.link()).max_decoding_message_size(LARGEST)
    }

    pub(crate) fn containers(&self) -> ContainersClient<crate::link::Link> {
        ContainersClient::new(self.link()).max_decoding_message_size(LARGEST)
    }

    /// Makes a container and starts its program: its pid, as the host sees it. What it prints goes to a URI as containerd's shim has
    /// them: `file://` or `binary://`. What an earlier try left under the same id is taken away before. `begins` hears as what the
    /// program begins, before it does.
    ///
    /// # Errors
    /// Whatever is wrong with it; nothing of it is left then.
    pub async fn start(
        &self,
        id: &str,
        image: &Image,
        run: &Run,
        output: &str,
        begins: impl FnOnce(&Begins) -> io::Result<()>,
    ) -> Result<u32, EngineError> {
        // Before anything is made.
        run.command(&image.config.config)?;
        self.remove(id).await?;
        // It holds the file system until its container does.
        let lease = Lease::take(self).await?;
        let started = self.try_start(id, image, run, (output, &lease), begins).await;
        lease.give_back(false).await;
        if started.is_err()
            && let Err(error) = self.remove(id).await
        {
            tracing::warn!(container = id, %error, "what was made of a container is left");
        }
        started
    }

    fn runtime(&self) -> containers::container::Runtime {
        let options = self.settings.runtime.as_ref().map(|program| {
            let options = Options { binary_name: program.display().to_string() };
            Any { type_url: OPTIONS.into(), value: options.encode_to_vec() }
        });
        containers::container::Runtime { name: RUNTIME.into(), options }
    }

    async fn try_start(
        &self,
        id: &str,
        image: &Image,
        run: &Run,
        (output, lease): (&str, &Lease),
        begins: impl FnOnce(&Begins) -> io::Result<()>,
    ) -> Result<u32, EngineError> {
        let prepare = snapshots::PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: id.into(),
            parent: image.top.clone(),
            ..snapshots::PrepareSnapshotRequest::default()
        };
        let prepared = SnapshotsClient::new(self.under(lease.id.parse().ok())).prepare(prepare).await;
        let rootfs = prepared.map_err(self.failed("prepare a container's file system"))?.into_inner().mounts;
        let program = &image.config.config;
        let ids = rootfs::ids(rootfs.clone(), run.user(program), run.container.groups.clone()).await?;
        fill(rootfs.clone(), run.volumes.clone()).await?;
        begins(&Begins { env: run.variables(program, &ids), ids: ids.clone() })?;
        let spec = serde_json::to_vec(&spec(run, &image.config, &ids)?).map_err(io::Error::other)?;
        let own = run.container.labels.iter().map(|(name, value)| (name.clone(), value.clone()));
        let container = containers::Container {
            id: id.into(),
            labels: own.chain([(OWNER.to_owned(), self.settings.owner.clone())]).collect(),
            image: image.name.clone(),
            runtime: Some(self.runtime()),
            spec: Some(Any { type_url: SPEC.into(), value: spec }),
            snapshotter: SNAPSHOTTER.into(),
            snapshot_key: id.into(),
        };
        let create = containers::CreateContainerRequest { container: Some(container) };
        self.containers().create(create).await.map_err(self.failed("make a container"))?;
        let create = tasks::CreateTaskRequest {
            container_id: id.into(),
            rootfs,
            stdout: output.into(),
            stderr: output.into(),
            ..tasks::CreateTaskRequest::default()
        };
        let created = self.tasks().create(create).await.map_err(self.failed("set a container up"))?;
        let start = tasks::StartRequest { container_id: id.into(), ..tasks::StartRequest::default() };
        self.tasks().start(start).await.map_err(self.failed("start a container"))?;
        Ok(created.into_inner().pid)
    }

    /// # Errors
    /// What containerd says.
    pub async fn state(&self, id: &str) -> Result<State, EngineError> {
        let get = tasks::GetRequest { container_id: id.into(), ..tasks::GetRequest::default() };
        let found = match self.tasks().get(get).await {
            Err(status) if status.code() == Code::NotFound => return Ok(State::Absent),
            other => other.map_err(self.failed("look at a container"))?.into_inner().process,
        };
        let Some(found) = found else { return Ok(State::Absent) };
        Ok(match found.status() {
            process::Status::Created => State::Created,
            process::Status::Stopped => State::Ended(end(found.exit_status, found.exited_at)),
            process::Status::Unknown => {
                let why = "its shim does not answer".into();
                return Err(EngineError::Refused { what: "look at a container", why });
            }
            _ => State::Running { pid: found.pid },
        })
    }

    /// Waits until the program ends.
    ///
    /// # Errors
    /// What containerd says; that it has stopped itself, too.
    pub async fn wait(&self, id: &str) -> Result<End, EngineError> {
        let wait = tasks::WaitRequest { container_id: id.into(), ..tasks::WaitRequest::default() };
        let ended = self.tasks().wait(wait).await.map_err(self.failed("wait for a container"))?.into_inner();
        Ok(end(ended.exit_status, ended.exited_at))
    }

    /// Signals the program; with `all`, whatever runs in its container. One that has ended is left alone.
    ///
    /// # Errors
    /// What containerd says.
    pub async fn signal(&self, id: &str, signal: i32, all: bool) -> Result<(), EngineError> {
        let kill = tasks::KillRequest {
            container_id: id.into(),
            signal: signal.unsigned_abs(),
            all,
            ..tasks::KillRequest::default()
        };
        match self.tasks().kill(kill).await {
            Err(status) if matches!(status.code(), Code::NotFound | Code::FailedPrecondition) => Ok(()),
            other => other.map(drop).map_err(self.failed("signal a container")),
        }
    }

    /// Takes a container away, whatever it does. That there is none is no error.
    ///
    /// # Errors
    /// What containerd says.
    pub async fn remove(&self, id: &str) -> Result<(), EngineError> {
        for attempt in 0.. {
            let delete = tasks::DeleteTaskRequest { container_id: id.into() };
            match self.tasks().delete(delete).await {
                Err(status) if status.code() == Code::NotFound => break,
                Err(status) if is_running(&status) && attempt < TRIES => {
                    self.signal(id, nix::libc::SIGKILL, true).await?;
                    tokio::time::sleep(BETWEEN).await;
                }
                other => {
                    other.map_err(self.failed("end a container"))?;
                    break;
                }
            }
        }
        let delete = containers::DeleteContainerRequest { id: id.into() };
        match self.containers().delete(delete).await {
            Err(status) if status.code() == Code::NotFound => {}
            other => drop(other.map_err(self.failed("take a container away"))?),
        }
        let remove = snapshots::RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: id.into() };
        match SnapshotsClient::new(self.link()).remove(remove).await {
            Err(status) if status.code() == Code::NotFound => Ok(()),
            other => other.map(drop).map_err(self.failed("take a container's file system away")),
        }
    }

    /// The ids of all containers of this owner's.
    ///
    /// # Errors
    /// What containerd says.
    pub async fn list(&self) -> Result<Vec<String>, EngineError> {
        let answer = self.containers().list(containers::ListContainersRequest {}).await;
        let all = answer.map_err(self.failed("list containers"))?.into_inner().containers;
        let own = |container: &containers::Container| container.labels.get(OWNER) == Some(&self.settings.owner);
        Ok(all.into_iter().filter(own).map(|container| container.id).collect())
    }

    /// Runs a program beside the first one, as that one is, until it has ended or its time is over: its exit code; None: it was killed.
    ///
    /// # Errors
    /// It cannot be run there; [`EngineError::Lost`] if it has run.
    pub async fn exec(
        &self,
        id: &str,
        exec: &str,
        args: &[String],
        output: &str,
        limit: Duration,
    ) -> Result<Option<u32>, EngineError> {
        let get = containers::GetContainerRequest { id: id.into() };
        let found = self.containers().get(get).await.map_err(self.failed("look at a container"))?.into_inner();
        let spec = found.container.and_then(|c| c.spec).map(|spec| spec.value).unwrap_or_default();
        let mut spec: serde_json::Value = serde_json::from_slice(&spec).map_err(io::Error::other)?;
        let mut process = spec["process"].take();
        process["args"] = args.into();
        let begin = tasks::ExecProcessRequest {
            container_id: id.into(),
            exec_id: exec.into(),
            stdout: output.into(),
            stderr: output.into(),
            spec: Some(Any {
                type_url: PROCESS.into(),
                value: serde_json::to_vec(&process).map_err(io::Error::other)?,
            }),
            ..tasks::ExecProcessRequest::default()
        };
        self.tasks().exec(begin).await.map_err(self.failed("run a program in a container"))?;
        let (container_id, exec_id) = (id.to_owned(), exec.to_owned());
        let ended = tokio::time::timeout(limit, async {
            let start = tasks::StartRequest { container_id: container_id.clone(), exec_id: exec_id.clone() };
            let pid = self.tasks().start(start).await?.into_inner().pid;
            let mut tasks = self.tasks();
            tokio::select! {
                ended = tasks.wait(tasks::WaitRequest { container_id, exec_id }) => Ok(Some(ended?.into_inner().exit_status)),
                () = gone(pid) => Ok(None),
            }
        });
        let ended = ended.await;
        self.end_exec(id, exec).await;
        match ended {
            Err(_) => Ok(None),
            Ok(Ok(None)) => Err(EngineError::Lost),
            Ok(done) => done.map_err(self.failed("run a program in a container")),
        }
    }

    async fn end_exec(&self, id: &str, exec: &str) {
        let (container_id, exec_id) = (id.to_owned(), exec.to_owned());
        // One whose end was lost stays, until its container goes.
        for _ in 0..EXEC_TRIES {
            let delete = tasks::DeleteProcessRequest { container_id: container_id.clone(), exec_id: exec_id.clone() };
            match self.tasks().delete_process(delete).await {
                Err(status) if is_running(&status) => {
                    let kill = tasks::KillRequest {
                        container_id: container_id.clone(),
                        exec_id: exec_id.clone(),
                        signal: nix::libc::SIGKILL.unsigned_abs(),
                        all: false,
                    };
                    // It may have ended meanwhile.
                    let _ = self.tasks().kill(kill).await;
                    tokio::time::sleep(BETWEEN).await;
                }
                _ => return,
            }
        }
    }
}
