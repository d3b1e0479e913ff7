//! A daemon for tests: the services of the local socket over values that a test sets.

use crate::client::Client;
use futures::{Stream, StreamExt, stream};
use heddle_model::network::Network;
use heddle_proto::v1::{self, control_server, host_server};
use serde_json::Value;
use std::{
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::{net::UnixListener, sync::watch};
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tonic::{Request, Response, Status};

#[derive(Debug, Default)]
pub struct Daemon {
    /// Documents of networks and workloads of this host.
    pub networks: Vec<Value>,
    pub workloads: Vec<Value>,
    /// Ids of networks that are not removed.
    pub in_use: Vec<String>,
    /// Networks of the cluster; None: this is no manager.
    pub cluster: Option<Vec<v1::InspectNetworkResponse>>,
    /// What a workload's program writes and how it ends by itself; None: only when it is stopped.
    pub lines: Vec<v1::LogLine>,
    pub ends: Option<v1::WaitWorkloadResponse>,
    /// The process that `exec` enters.
    pub target: Option<v1::ExecTarget>,
    /// What was asked for, in order.
    pub asked: Vec<String>,
    pub spec: Option<v1::WorkloadSpec>,
}

#[derive(Clone)]
pub struct Fake {
    state: Arc<Mutex<Daemon>>,
    stopped: watch::Sender<bool>,
    dir: Arc<tempfile::TempDir>,
}

impl Fake {
    pub fn start(set: impl FnOnce(&mut Daemon)) -> Self {
        let mut daemon = Daemon::default();
        set(&mut daemon);
        let fake = Self {
            state: Arc::new(Mutex::new(daemon)),
            stopped: watch::channel(false).0,
            dir: Arc::new(tempfile::tempdir().expect("a temporary directory can be made")),
        };
        let listener = UnixListener::bind(fake.socket()).expect("the directory is new");
        let server = tonic::transport::Server::builder()
            .add_service(host_server::HostServer::new(fake.clone()))
            .add_service(control_server::ControlServer::new(fake.clone()));
        tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        fake
    }

    pub fn client(&self) -> Client {
        Client::new(&self.socket())
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    pub fn state(&self) -> MutexGuard<'_, Daemon> {
        self.state.lock().expect("no test panics while it holds the state")
    }

    fn cluster<T>(&self, answer: impl FnOnce(&mut Vec<v1::InspectNetworkResponse>) -> T) -> Result<T, Status> {
        let mut state = self.state();
        state.cluster.as_mut().map(answer).ok_or_else(|| Status::failed_precondition("this node is a worker"))
    }
}

fn is(document: &Value, r#ref: &str) -> bool {
    document["Id"] == r#ref || document["Name"] == r#ref
}

fn json(document: Option<&Value>, what: &str, r#ref: &str) -> Result<Response<v1::Document>, Status> {
    let document = document.ok_or_else(|| Status::not_found(format!("no {what} is called {ref:?}")))?;
    Ok(Response::new(v1::Document { json: document.to_string() }))
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl host_server::Host for Fake {
    async fn create_network(&self, _: Request<v1::CreateNetworkRequest>) -> Answer<v1::CreateHostNetworkResponse> {
        Err(Status::unimplemented("create_network"))
    }
    async fn list_networks(&self, _: Request<v1::ListHostNetworksRequest>) -> Answer<v1::Documents> {
        let json = self.state().networks.iter().map(Value::to_string).collect();
        Ok(Response::new(v1::Documents { json }))
    }
    async fn inspect_network(&self, request: Request<v1::RefRequest>) -> Answer<v1::Document> {
        let r#ref = request.into_inner().r#ref;
        json(self.state().networks.iter().find(|d| is(d, &r#ref)), "network", &r#ref)
    }
    async fn remove_network(&self, request: Request<v1::RefRequest>) -> Answer<v1::RemoveResponse> {
        let id = request.into_inner().r#ref;
        let mut state = self.state();
        if state.in_use.contains(&id) {
            return Err(Status::failed_precondition("in use"));
        }
        state.networks.retain(|d| !is(d, &id));
        state.asked.push(format!("host removes {id}"));
        Ok(Response::new(v1::RemoveResponse { id }))
    }
    async fn connect_network(&self, _: Request<v1::ConnectNetworkRequest>) -> Answer<v1::ConnectNetworkResponse> {
        Err(Status::unimplemented("connect_network"))
    }
    async fn disconnect_network(
        &self,
        _: Request<v1::DisconnectNetworkRequest>,
    ) -> Answer<v1::DisconnectNetworkResponse> {
        Err(Status::unimplemented("disconnect_network"))
    }
    async fn get_network_rules(&self, _: Request<v1::GetNetworkRulesRequest>) -> Answer<v1::NetworkRules> {
        Err(Status::unimplemented("get_network_rules"))
    }
    async fn run_workload(&self, request: Request<v1::RunWorkloadRequest>) -> Answer<v1::RunWorkloadResponse> {
        self.state().spec = request.into_inner().spec;
        Ok(Response::new(v1::RunWorkloadResponse { id: "w1".into(), name: "web".into(), warnings: Vec::new() }))
    }
    async fn list_workloads(&self, _: Request<v1::ListWorkloadsRequest>) -> Answer<v1::Documents> {
        let json = self.state().workloads.iter().map(Value::to_string).collect();
        Ok(Response::new(v1::Documents { json }))
    }
    async fn inspect_workload(&self, request: Request<v1::RefRequest>) -> Answer<v1::Document> {
        let r#ref = request.into_inner().r#ref;
        json(self.state().workloads.iter().find(|d| is(d, &r#ref)), "workload", &r#ref)
    }
    async fn start_workload(&self, _: Request<v1::RefRequest>) -> Answer<v1::StartWorkloadResponse> {
        Err(Status::unimplemented("start_workload"))
    }
    async fn stop_workload(&self, request: Request<v1::StopWorkloadRequest>) -> Answer<v1::StopWorkloadResponse> {
        let request = request.into_inner();
        self.state().asked.push(format!("stop {} {:?}", request.r#ref, request.grace_ms));
        self.stopped.send_replace(true);
        Ok(Response::new(v1::StopWorkloadResponse {}))
    }
    async fn remove_workload(&self, request: Request<v1::RemoveWorkloadRequest>) -> Answer<v1::RemoveResponse> {
        let id = request.into_inner().r#ref;
        self.state().asked.push(format!("remove {id}"));
        Ok(Response::new(v1::RemoveResponse { id }))
    }
    async fn wait_workload(&self, _: Request<v1::RefRequest>) -> Answer<v1::WaitWorkloadResponse> {
        let ends = self.state().ends.clone();
        if let Some(end) = ends {
            return Ok(Response::new(end));
        }
        let _ = self.stopped.subscribe().wait_for(|stopped| *stopped).await;
        Ok(Response::new(v1::WaitWorkloadResponse { exit_code: 143, error: String::new() }))
    }
    type WorkloadLogsStream = Pin<Box<dyn Stream<Item = Result<v1::LogLine, Status>> + Send>>;
    /// Ends with the workload.
    async fn workload_logs(&self, _: Request<v1::ServiceLogsRequest>) -> Answer<Self::WorkloadLogsStream> {
        let lines = self.state().lines.clone();
        self.state().asked.push("logs".into());
        let ended = self.state().ends.is_some();
        let stopped = WatchStream::new(self.stopped.subscribe());
        let until = stopped.take_while(move |stopped| std::future::ready(!ended && !stopped));
        let rest = until.filter_map(|_| std::future::ready(None));
        Ok(Response::new(stream::iter(lines.into_iter().map(Ok)).chain(rest).boxed()))
    }
    async fn resolve_image(&self, _: Request<v1::ResolveImageRequest>) -> Answer<v1::ResolveImageResponse> {
        Err(Status::unimplemented("resolve_image"))
    }
    async fn list_images(&self, _: Request<v1::ListImagesRequest>) -> Answer<v1::ListImagesResponse> {
        Err(Status::unimplemented("list_images"))
    }
    async fn inspect_image(&self, _: Request<v1::RefRequest>) -> Answer<v1::Document> {
        Err(Status::unimplemented("inspect_image"))
    }
    type PullImageStream = tokio_stream::Empty<Result<v1::PullImageProgress, Status>>;
    async fn pull_image(&self, _: Request<v1::PullImageRequest>) -> Answer<Self::PullImageStream> {
        Err(Status::unimplemented("pull_image"))
    }
    async fn remove_image(&self, _: Request<v1::RemoveImageRequest>) -> Answer<v1::RemoveImageResponse> {
        Err(Status::unimplemented("remove_image"))
    }
    async fn prune_images(&self, _: Request<v1::PruneImagesRequest>) -> Answer<v1::PruneImagesResponse> {
        Err(Status::unimplemented("prune_images"))
    }
    async fn create_volume(&self, _: Request<v1::CreateVolumeRequest>) -> Answer<v1::CreateVolumeResponse> {
        Err(Status::unimplemented("create_volume"))
    }
    async fn list_volumes(&self, _: Request<v1::ListVolumesRequest>) -> Answer<v1::Documents> {
        Err(Status::unimplemented("list_volumes"))
    }
    async fn inspect_volume(&self, _: Request<v1::RefRequest>) -> Answer<v1::Document> {
        Err(Status::unimplemented("inspect_volume"))
    }
    async fn remove_volume(&self, _: Request<v1::RefRequest>) -> Answer<v1::RemoveVolumeResponse> {
        Err(Status::unimplemented("remove_volume"))
    }
    async fn prune_volumes(&self, _: Request<v1::PruneVolumesRequest>) -> Answer<v1::PruneVolumesResponse> {
        Err(Status::unimplemented("prune_volumes"))
    }
    async fn get_exec_target(&self, _: Request<v1::RefRequest>) -> Answer<v1::ExecTarget> {
        let target = self.state().target.clone();
        target.map(Response::new).ok_or_else(|| Status::failed_precondition("it is not running"))
    }
}

#[tonic::async_trait]
impl control_server::Control for Fake {
    async fn list_nodes(&self, _: Request<v1::ListNodesRequest>) -> Answer<v1::ListNodesResponse> {
        Err(Status::unimplemented("list_nodes"))
    }
    async fn get_node(&self, _: Request<v1::RefRequest>) -> Answer<v1::Node> {
        Err(Status::unimplemented("get_node"))
    }
    async fn update_node(&self, _: Request<v1::UpdateNodeRequest>) -> Answer<v1::Node> {
        Err(Status::unimplemented("update_node"))
    }
    async fn remove_node(&self, _: Request<v1::RemoveNodeRequest>) -> Answer<v1::RemoveResponse> {
        Err(Status::unimplemented("remove_node"))
    }
    async fn create_network(&self, _: Request<v1::CreateNetworkRequest>) -> Answer<v1::Network> {
        Err(Status::unimplemented("create_network"))
    }
    async fn list_networks(&self, _: Request<v1::ListNetworksRequest>) -> Answer<v1::ListNetworksResponse> {
        let networks = self.cluster(|all| all.iter().filter_map(|n| n.network.clone()).collect())?;
        Ok(Response::new(v1::ListNetworksResponse { networks }))
    }
    async fn inspect_network(&self, request: Request<v1::RefRequest>) -> Answer<v1::InspectNetworkResponse> {
        let r#ref = request.into_inner().r#ref;
        let named = |n: &&v1::InspectNetworkResponse| {
            let network = n.network.clone().and_then(|n| Network::try_from(n).ok());
            network.is_some_and(|n| n.id.as_str() == r#ref || n.spec.annotations.name == r#ref)
        };
        let found = self.cluster(|all| all.iter().find(named).cloned())?;
        found.map(Response::new).ok_or_else(|| Status::not_found(format!("no network is called {ref:?}")))
    }
    async fn remove_network(&self, request: Request<v1::RefRequest>) -> Answer<v1::RemoveResponse> {
        let id = request.into_inner().r#ref;
        self.cluster(|all| all.retain(|n| n.network.as_ref().is_some_and(|n| n.id != id)))?;
        self.state().asked.push(format!("cluster removes {id}"));
        Ok(Response::new(v1::RemoveResponse { id }))
    }
    async fn create_service(&self, _: Request<v1::CreateServiceRequest>) -> Answer<v1::Service> {
        Err(Status::unimplemented("create_service"))
    }
    async fn list_services(&self, _: Request<v1::ListServicesRequest>) -> Answer<v1::ListServicesResponse> {
        Err(Status::unimplemented("list_services"))
    }
    async fn get_service(&self, _: Request<v1::RefRequest>) -> Answer<v1::Service> {
        Err(Status::unimplemented("get_service"))
    }
    async fn scale_service(&self, _: Request<v1::ScaleServiceRequest>) -> Answer<v1::Service> {
        Err(Status::unimplemented("scale_service"))
    }
    async fn remove_service(&self, _: Request<v1::RefRequest>) -> Answer<v1::RemoveResponse> {
        Err(Status::unimplemented("remove_service"))
    }
    async fn list_tasks(&self, _: Request<v1::ListTasksRequest>) -> Answer<v1::ListTasksResponse> {
        Err(Status::unimplemented("list_tasks"))
    }
    type WatchServiceStream = Pin<Box<dyn Stream<Item = Result<v1::ServiceProgress, Status>> + Send>>;
    async fn watch_service(&self, _: Request<v1::RefRequest>) -> Answer<Self::WatchServiceStream> {
        Err(Status::unimplemented("watch_service"))
    }
    type ServiceLogsStream = Pin<Box<dyn Stream<Item = Result<v1::LogLine, Status>> + Send>>;
    async fn service_logs(&self, _: Request<v1::ServiceLogsRequest>) -> Answer<Self::ServiceLogsStream> {
        Err(Status::unimplemented("service_logs"))
    }
    async fn get_join_token(&self, _: Request<v1::GetJoinTokenRequest>) -> Answer<v1::JoinToken> {
        Err(Status::unimplemented("get_join_token"))
    }
    async fn update_cluster(&self, _: Request<v1::UpdateClusterRequest>) -> Answer<v1::UpdateClusterResponse> {
        Err(Status::unimplemented("update_cluster"))
    }
    async fn get_unlock_key(&self, _: Request<v1::GetUnlockKeyRequest>) -> Answer<v1::UnlockKey> {
        Err(Status::unimplemented("get_unlock_key"))
    }
    async fn get_cluster(&self, _: Request<v1::GetClusterRequest>) -> Answer<v1::ClusterInfo> {
        Err(Status::unimplemented("get_cluster"))
    }
    async fn rotate_tunnel(&self, _: Request<v1::RotateTunnelRequest>) -> Answer<v1::TunnelEpochs> {
        Err(Status::unimplemented("rotate_tunnel"))
    }
    async fn get_replica(&self, _: Request<v1::GetReplicaRequest>) -> Answer<v1::Replica> {
        Err(Status::unimplemented("get_replica"))
    }
    type BackupStream = Pin<Box<dyn Stream<Item = Result<v1::BackupChunk, Status>> + Send>>;
    async fn backup(&self, _: Request<v1::BackupRequest>) -> Answer<Self::BackupStream> {
        Err(Status::unimplemented("backup"))
    }
    async fn update_service(&self, _: Request<v1::UpdateServiceRequest>) -> Answer<v1::Service> {
        Err(Status::unimplemented("update_service"))
    }
    async fn rebalance_service(&self, _: Request<v1::RebalanceServiceRequest>) -> Answer<v1::Service> {
        Err(Status::unimplemented("rebalance_service"))
    }

    async fn explain_service(&self, _: Request<v1::RefRequest>) -> Answer<v1::ServiceExplanation> {
        Err(Status::unimplemented("explain_service"))
    }

    async fn plan_service(&self, _: Request<v1::UpdateServiceRequest>) -> Answer<v1::ServicePlan> {
        Err(Status::unimplemented("plan_service"))
    }

    async fn rollback_service(&self, _: Request<v1::RefRequest>) -> Answer<v1::Service> {
        Err(Status::unimplemented("rollback_service"))
    }
}
