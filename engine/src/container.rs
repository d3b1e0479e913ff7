//! Containers and their programs, from first to last.

use crate::{
    Engine, EngineError,
    api::{containers, process, snapshots, tasks},
    image::Image,
    link::LARGEST,
    pull::SNAPSHOTTER,
    rootfs,
    spec::{Ids, Run, spec},
};
use containers::containers_client::ContainersClient;
use prost_types::Any;
use snapshots::snapshots_client::SnapshotsClient;
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};
use tasks::tasks_client::TasksClient;
use tonic::Code;

/// containerd's shim for runc, and for what is called like it.
const RUNTIME: &str = "io.containerd.runc.v2";
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// Tries to take away what is on its way out.
const TRIES: u32 = 50;
const BETWEEN: Duration = Duration::from_millis(20);

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

fn end(code: u32, at: Option<prost_types::Timestamp>) -> End {
    let at =
        at.and_then(|at| SystemTime::try_from(at).ok()).and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    End { code, at: at.unwrap_or_default() }
}

impl Engine {
    fn tasks(&self) -> TasksClient<crate::link::Link> {
        TasksClient::new(self.link()).max_decoding_message_size(LARGEST)
    }

    fn containers(&self) -> ContainersClient<crate::link::Link> {
        ContainersClient::new(self.link()).max_decoding_message_size(LARGEST)
    }

    /// Makes a container and starts its program: its pid, as the host sees it, and as what it began. What it prints goes to a URI as containerd's shim has them: `file://` or
    /// `binary://`. What an earlier try left under the same id is taken away before.
    ///
    /// # Errors
    /// Whatever is wrong with it; nothing of it is left then.
    pub async fn start(&self, id: &str, image: &Image, run: &Run, output: &str) -> Result<(u32, Begins), EngineError> {
        self.remove(id).await?;
        let started = self.try_start(id, image, run, output).await;
        if started.is_err()
            && let Err(error) = self.remove(id).await
        {
            tracing::warn!(container = id, %error, "what was made of a container is left");
        }
        started
    }

    async fn try_start(&self, id: &str, image: &Image, run: &Run, output: &str) -> Result<(u32, Begins), EngineError> {
        // Before anything is made.
        run.command(&image.config.config)?;
        let labels = run.container.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let runtime = containers::container::Runtime { name: RUNTIME.into(), options: None };
        let container = |spec| containers::Container {
            id: id.into(),
            labels,
            image: image.name.clone(),
            runtime: Some(runtime),
            spec: Some(Any { type_url: SPEC.into(), value: spec }),
            snapshotter: SNAPSHOTTER.into(),
            snapshot_key: id.into(),
        };
        // Nobody collects it before the container holds it: that looks for what is held by nothing for some seconds.
        let prepare = snapshots::PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: id.into(),
            parent: image.top.clone(),
            labels: [("containerd.io/gc.root".to_owned(), "heddle".to_owned())].into(),
        };
        let prepared = SnapshotsClient::new(self.link()).prepare(prepare).await;
        let rootfs = prepared.map_err(self.failed("prepare a container's file system"))?.into_inner().mounts;
        let ids = rootfs::ids(rootfs.clone(), run.user(&image.config.config), run.container.groups.clone()).await?;
        let begins = Begins { env: run.variables(&image.config.config, &ids), ids: ids.clone() };
        let spec = serde_json::to_vec(&spec(run, &image.config, &ids)?).map_err(std::io::Error::other)?;
        let create = containers::CreateContainerRequest { container: Some(container(spec)) };
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
        Ok((created.into_inner().pid, begins))
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
                // It runs.
                Err(status) if status.code() == Code::FailedPrecondition && attempt < TRIES => {
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

    /// The ids of all containers of ours.
    ///
    /// # Errors
    /// What containerd says.
    pub async fn list(&self) -> Result<Vec<String>, EngineError> {
        let answer = self.containers().list(containers::ListContainersRequest {}).await;
        let all = answer.map_err(self.failed("list containers"))?.into_inner().containers;
        Ok(all.into_iter().map(|container| container.id).collect())
    }
}
