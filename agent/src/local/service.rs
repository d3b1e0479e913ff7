//! Answers `heddle.v1.Host` on the daemon's root-only socket.

use super::{
    document, images,
    operations::{OperationError, Operations, Target},
    ports::Ports,
    rules,
    store::Store,
};
use crate::{
    agent::{Command, JobPicture, Picture, now},
    executor::Executor,
    logs::{self, Source},
    volumes::Volumes,
    worker::NOT_STARTED,
};
use heddle_engine::image;
use heddle_model::{
    find::FindError,
    image::{BadImage, ImageName},
    login::Login,
    network,
    task::TaskStatus,
};
use heddle_proto::v1::{self, host_server};
use serde_json::Value;
use std::{
    pin::Pin,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, transport::Channel};

const TIDY_EVERY: Duration = Duration::from_secs(1);
const LOGS_EVERY: Duration = Duration::from_millis(100);

/// What it asks and changes.
pub struct HostParts {
    pub store: Arc<Store>,
    pub ports: Arc<Ports>,
    pub picture: watch::Receiver<Picture>,
    pub leader: watch::Receiver<Option<Channel>>,
    pub executor: Executor,
    pub volumes: Volumes,
    pub commands: mpsc::Sender<Command>,
}

#[derive(Clone)]
pub struct HostService {
    operations: Arc<Operations>,
}

type Answer<T> = Result<Response<T>, Status>;

fn refused(error: OperationError) -> Status {
    let text = crate::agent::chain(&error);
    match error {
        OperationError::Find(FindError::None { .. }) => Status::not_found(text),
        OperationError::Find(_) => Status::invalid_argument(text),
        OperationError::Volume(_) => Status::invalid_argument(text),
        _ => Status::failed_precondition(text),
    }
}

impl HostService {
    pub fn new(parts: HostParts) -> Self {
        let HostParts { store, ports, picture, leader, executor, volumes, commands } = parts;
        let busy = Mutex::default();
        Self {
            operations: Arc::new(Operations {
                store,
                ports,
                picture,
                leader,
                executor,
                volumes,
                commands,
                busy,
                owes: AtomicBool::new(false),
            }),
        }
    }

    /// Takes up what an earlier daemon left, and tidies up from now on.
    pub fn resume(&self, connected: Arc<Notify>) {
        self.operations.hold_again();
        let operations = Arc::downgrade(&self.operations);
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(TIDY_EVERY);
            loop {
                let met = tokio::select! {
                    _ = tick.tick() => false,
                    () = connected.notified() => true,
                };
                let Some(operations) = operations.upgrade() else { return };
                if met {
                    operations.agree().await;
                } else {
                    operations.tidy().await;
                }
            }
        });
    }

    /// Runs to its end, although the caller may hang up.
    async fn whole<T, F>(&self, work: impl FnOnce(Arc<Operations>) -> F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, OperationError>> + Send + 'static,
    {
        let done = tokio::spawn(work(self.operations.clone())).await;
        done.map_err(|e| Status::internal(e.to_string()))?.map_err(refused)
    }

    fn seen(&self, reference: &str) -> Result<JobPicture, Status> {
        let (id, _, _) = self.operations.job(reference).map_err(refused)?;
        let picture = self.operations.picture.borrow();
        picture.jobs.get(&id).cloned().ok_or_else(|| Status::not_found(format!("no workload is called {reference:?}")))
    }

    fn documents(&self) -> Vec<Value> {
        let (state, picture) = (self.operations.store.snapshot(), self.operations.picture.borrow().clone());
        let host = |n: &super::network::HostNetwork| {
            let mut document = document::host_network(n, &picture);
            document::add_unlinked(&mut document, n, &state, &picture);
            document
        };
        let mut out: Vec<Value> = state.networks.values().map(host).collect();
        if let Some(member) = &picture.member {
            out.push(document::gateway(member, &picture));
            for overlay in member.view.iter().flat_map(|v| v.networks.values()) {
                out.push(document::overlay(overlay, member, &picture));
            }
        }
        out
    }

    fn image_name(text: &str) -> Result<ImageName, Status> {
        text.parse().map_err(|e: BadImage| Status::invalid_argument(e.to_string()))
    }

    /// The document of the network that is meant.
    fn network(&self, reference: &str) -> Result<Value, Status> {
        let documents = self.documents();
        let text = |d: &Value, key: &str| d[key].as_str().unwrap_or_default().to_owned();
        let all: Vec<(String, String, &Value)> =
            documents.iter().map(|d| (text(d, "Id"), text(d, "Name"), d)).collect();
        let all = all.iter().map(|(id, name, d)| (id.as_str(), name.as_str(), *d));
        heddle_model::find::find("network", reference, all).cloned().map_err(|e| refused(e.into()))
    }
}

#[tonic::async_trait]
impl host_server::Host for HostService {
    async fn create_network(
        &self,
        request: Request<v1::CreateNetworkRequest>,
    ) -> Answer<v1::CreateHostNetworkResponse> {
        let spec = request.into_inner().spec.ok_or_else(|| Status::invalid_argument("field spec: is missing"))?;
        let spec = spec.try_into()?;
        let made = self.whole(|o| async move { o.create_network(spec).await }).await?;
        Ok(Response::new(v1::CreateHostNetworkResponse { id: made.id.to_string(), warnings: Vec::new() }))
    }

    async fn list_networks(&self, _: Request<v1::ListHostNetworksRequest>) -> Answer<v1::Documents> {
        let json = self.documents().iter().map(Value::to_string).collect();
        Ok(Response::new(v1::Documents { json }))
    }

    async fn inspect_network(&self, request: Request<v1::RefRequest>) -> Answer<v1::Document> {
        let found = self.network(&request.into_inner().r#ref)?;
        Ok(Response::new(v1::Document { json: found.to_string() }))
    }

    async fn remove_network(&self, request: Request<v1::RefRequest>) -> Answer<v1::RemoveResponse> {
        let reference = request.into_inner().r#ref;
        if self.network(&reference).is_ok_and(|found| found["Name"] == network::GATEWAY) {
            return Err(Status::failed_precondition(format!(
                "network {} is used by the cluster: it goes when this host leaves",
                network::GATEWAY
            )));
        }
        if let Ok(Target::Overlay) = self.operations.target(&reference) {
            let error = FindError::None { kind: "network", reference };
            return Err(refused(error.into()));
        }
        let id = self.whole(|o| async move { o.remove_network(&reference).await }).await?;
        Ok(Response::new(v1::RemoveResponse { id: id.to_string() }))
    }

    async fn connect_network(&self, request: Request<v1::ConnectNetworkRequest>) -> Answer<v1::ConnectNetworkResponse> {
        let request = request.into_inner();
        let wish = request.wish.ok_or_else(|| Status::invalid_argument("field wish: is missing"))?.try_into()?;
        self.whole(|o| async move { o.connect(&request.target, wish).await }).await?;
        Ok(Response::new(v1::ConnectNetworkResponse {}))
    }

    async fn disconnect_network(
        &self,
        request: Request<v1::DisconnectNetworkRequest>,
    ) -> Answer<v1::DisconnectNetworkResponse> {
        let r = request.into_inner();
        self.whole(|o| async move { o.disconnect(&r.target, &r.network, r.force).await }).await?;
        Ok(Response::new(v1::DisconnectNetworkResponse {}))
    }

    async fn get_network_rules(&self, _: Request<v1::GetNetworkRulesRequest>) -> Answer<v1::NetworkRules> {
        let (ask, answer) = oneshot::channel();
        let gone = || Status::unavailable("the agent is ending");
        self.operations.commands.send(Command::Drift(ask)).await.map_err(|_| gone())?;
        let drift = answer.await.map_err(|_| gone())?.unwrap_or_else(|error| vec![error]);
        let rules = rules::rules(&self.operations.store.snapshot(), &self.operations.picture.borrow());
        Ok(Response::new(v1::NetworkRules { rules, drift }))
    }

    async fn run_workload(&self, request: Request<v1::RunWorkloadRequest>) -> Answer<v1::RunWorkloadResponse> {
        let spec = request.into_inner().spec.ok_or_else(|| Status::invalid_argument("field spec: is missing"))?;
        let spec = spec.try_into()?;
        let (made, warnings) = self.whole(|o| async move { o.run(spec).await }).await?;
        let name = made.spec.annotations.name;
        Ok(Response::new(v1::RunWorkloadResponse { id: made.id.to_string(), name, warnings }))
    }

    async fn list_workloads(&self, request: Request<v1::ListWorkloadsRequest>) -> Answer<v1::Documents> {
        let all = request.into_inner().all;
        let (state, picture) = (self.operations.store.snapshot(), self.operations.picture.borrow().clone());
        let shown = |p: &&JobPicture| all || !p.status.state.is_terminal();
        let json = picture.jobs.values().filter(shown);
        let json = json.map(|p| document::summary(p, &state, &picture, now()).to_string()).collect();
        Ok(Response::new(v1::Documents { json }))
    }

    async fn inspect_workload(&self, request: Request<v1::RefRequest>) -> Answer<v1::Document> {
        let seen = self.seen(&request.into_inner().r#ref)?;
        let (state, picture) = (self.operations.store.snapshot(), self.operations.picture.borrow().clone());
        Ok(Response::new(v1::Document { json: document::whole(&seen, &state, &picture).to_string() }))
    }

    async fn start_workload(&self, request: Request<v1::RefRequest>) -> Answer<v1::StartWorkloadResponse> {
        let reference = request.into_inner().r#ref;
        self.whole(|o| async move { o.start(&reference).await }).await?;
        Ok(Response::new(v1::StartWorkloadResponse {}))
    }

    async fn stop_workload(&self, request: Request<v1::StopWorkloadRequest>) -> Answer<v1::StopWorkloadResponse> {
        let r = request.into_inner();
        let grace = r.grace_ms.map(Duration::from_millis);
        self.whole(|o| async move { o.stop(&r.r#ref, grace).await }).await?;
        Ok(Response::new(v1::StopWorkloadResponse {}))
    }

    async fn remove_workload(&self, request: Request<v1::RemoveWorkloadRequest>) -> Answer<v1::RemoveResponse> {
        let r = request.into_inner();
        let id = self.whole(|o| async move { o.remove(&r.r#ref, r.force).await }).await?;
        Ok(Response::new(v1::RemoveResponse { id: id.to_string() }))
    }

    async fn wait_workload(&self, request: Request<v1::RefRequest>) -> Answer<v1::WaitWorkloadResponse> {
        let seen = self.seen(&request.into_inner().r#ref)?;
        let id = seen.job.id().clone();
        let mut picture = self.operations.picture.clone();
        let mut last: TaskStatus = seen.status;
        while !last.state.is_terminal() {
            if picture.changed().await.is_err() {
                return Err(Status::unavailable("the agent is ending"));
            }
            match picture.borrow_and_update().jobs.get(&id) {
                Some(seen) => last = seen.status.clone(),
                None => break,
            }
        }
        let exit_code = last.exit_code.unwrap_or(137);
        let error = if last.message == NOT_STARTED { last.error } else { String::new() };
        Ok(Response::new(v1::WaitWorkloadResponse { exit_code, error }))
    }

    type WorkloadLogsStream = Pin<Box<dyn Stream<Item = Result<v1::LogLine, Status>> + Send>>;

    async fn workload_logs(&self, request: Request<v1::ServiceLogsRequest>) -> Answer<Self::WorkloadLogsStream> {
        let request = request.into_inner();
        let seen = self.seen(&request.r#ref)?;
        let (send, lines) = mpsc::channel(256);
        let (task, name) = (seen.job.id().clone(), seen.job.name());
        let (dir, picture) = (self.operations.executor.task_dir(&task), self.operations.picture.clone());
        tokio::spawn(follow(Source { task, name, node: String::new(), dir }, request, picture, send));
        Ok(Response::new(Box::pin(ReceiverStream::new(lines))))
    }

    async fn resolve_image(&self, request: Request<v1::ResolveImageRequest>) -> Answer<v1::ResolveImageResponse> {
        let request = request.into_inner();
        let image = Self::image_name(&request.image)?;
        let engine = self.operations.executor.containers.engine();
        let login = request.login.map(Login::from);
        let resolved = engine.resolve(&image::reference(&image), image::auth(login.as_ref())).await;
        let digest = resolved.map_err(|e| Status::failed_precondition(e.to_string()))?.digest;
        Ok(Response::new(v1::ResolveImageResponse { digest }))
    }

    async fn list_images(&self, _: Request<v1::ListImagesRequest>) -> Answer<v1::ListImagesResponse> {
        let all = self.operations.executor.containers.engine().images().await.map_err(|e| refused(e.into()))?;
        Ok(Response::new(v1::ListImagesResponse { images: all.into_iter().map(images::summary).collect() }))
    }

    async fn inspect_image(&self, request: Request<v1::RefRequest>) -> Answer<v1::Document> {
        let (stored, names) = self.operations.image(&request.into_inner().r#ref).await.map_err(refused)?;
        Ok(Response::new(v1::Document { json: images::document(&stored, &names).to_string() }))
    }

    type PullImageStream = ReceiverStream<Result<v1::PullImageProgress, Status>>;

    async fn pull_image(&self, request: Request<v1::PullImageRequest>) -> Answer<Self::PullImageStream> {
        let request = request.into_inner();
        let wish = images::Wish { image: Self::image_name(&request.image)?, login: request.login.map(Login::from) };
        let (send, progress) = mpsc::channel(16);
        let engine = self.operations.executor.containers.engine().clone();
        tokio::spawn(images::pull(engine, wish, send, |error| refused(error.into())));
        Ok(Response::new(ReceiverStream::new(progress)))
    }

    async fn remove_image(&self, request: Request<v1::RemoveImageRequest>) -> Answer<v1::RemoveImageResponse> {
        let v1::RemoveImageRequest { r#ref, force } = request.into_inner();
        let name = self.whole(|o| async move { o.remove_image(&r#ref, force).await }).await?;
        Ok(Response::new(v1::RemoveImageResponse { name }))
    }

    async fn prune_images(&self, request: Request<v1::PruneImagesRequest>) -> Answer<v1::PruneImagesResponse> {
        let with_tags = request.into_inner().all;
        let (names, freed) = self.whole(|o| async move { o.prune_images(with_tags).await }).await?;
        Ok(Response::new(v1::PruneImagesResponse { names, freed }))
    }

    async fn get_exec_target(&self, request: Request<v1::RefRequest>) -> Answer<v1::ExecTarget> {
        let reference = request.into_inner().r#ref;
        let seen = self.seen(&reference)?;
        let running = seen.status.state == heddle_model::task::TaskState::Running;
        let pid = seen.status.pid.filter(|_| running);
        let pid = pid.ok_or_else(|| refused(OperationError::NotRunning(seen.job.name())))?;
        let id = seen.job.id();
        let started = self.operations.executor.processes.started(id).ok().flatten();
        let (env, container, dir) = started.map(|s| (s.env, s.container, s.dir)).unwrap_or_default();
        let dir = dir.unwrap_or_else(|| "/".into());
        Ok(Response::new(v1::ExecTarget {
            id: id.to_string(),
            pid,
            env: env.into_iter().collect(),
            dir,
            container: Some(container.into()),
            image: seen.job.image().is_some(),
        }))
    }

    async fn create_volume(&self, request: Request<v1::CreateVolumeRequest>) -> Answer<v1::CreateVolumeResponse> {
        let wanted = request.into_inner().annotations.unwrap_or_default().into();
        let name = self.whole(|o| async move { o.create_volume(wanted).await }).await?;
        Ok(Response::new(v1::CreateVolumeResponse { name: name.into() }))
    }

    async fn list_volumes(&self, _: Request<v1::ListVolumesRequest>) -> Answer<v1::Documents> {
        let found = self.whole(|o| async move { o.volumes().await }).await?;
        Ok(Response::new(v1::Documents { json: found.iter().map(Value::to_string).collect() }))
    }

    async fn inspect_volume(&self, request: Request<v1::RefRequest>) -> Answer<v1::Document> {
        let name = request.into_inner().r#ref;
        let found = self.whole(|o| async move { o.volume(&name).await }).await?;
        Ok(Response::new(v1::Document { json: found.to_string() }))
    }

    async fn remove_volume(&self, request: Request<v1::RefRequest>) -> Answer<v1::RemoveVolumeResponse> {
        let name = request.into_inner().r#ref;
        self.whole(|o| async move { o.remove_volume(&name).await }).await?;
        Ok(Response::new(v1::RemoveVolumeResponse {}))
    }

    async fn prune_volumes(&self, _: Request<v1::PruneVolumesRequest>) -> Answer<v1::PruneVolumesResponse> {
        let (names, freed_bytes) = self.whole(|o| async move { o.prune_volumes().await }).await?;
        let names = names.into_iter().map(Into::into).collect();
        Ok(Response::new(v1::PruneVolumesResponse { names, freed_bytes }))
    }
}

type Sender = mpsc::Sender<Result<v1::LogLine, Status>>;

/// Sends what was printed; following, until the workload has ended and all is sent, or nobody reads.
async fn follow(source: Source, request: v1::ServiceLogsRequest, picture: watch::Receiver<Picture>, send: Sender) {
    let id = source.task.clone();
    let mut all = logs::Lines::of(vec![source], request.since_ms, request.tail);
    loop {
        // Looked at before the log is read: what ended has printed all it will.
        let ended = picture.borrow().jobs.get(&id).is_none_or(|p| p.status.state.is_terminal());
        let mut lines = all.more();
        while !lines.is_empty() {
            for line in lines {
                if send.send(Ok(line)).await.is_err() {
                    return;
                }
            }
            lines = all.more();
        }
        if !request.follow || ended {
            return;
        }
        tokio::time::sleep(LOGS_EVERY).await;
    }
}
