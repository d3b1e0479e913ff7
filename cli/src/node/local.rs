//! The daemon's own service on the root-only socket.

use super::member::{Daemon, Slot};
use heddle_agent::{agent::TunnelPicture, underlay::Finding};
use heddle_proto::v1::{self, local_server};
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

pub struct LocalService {
    pub daemon: Arc<Daemon>,
}

fn refused(e: anyhow::Error) -> Status {
    Status::failed_precondition(format!("{e:#}"))
}

#[tonic::async_trait]
impl local_server::Local for LocalService {
    async fn init(&self, request: Request<v1::InitRequest>) -> Result<Response<v1::InitResponse>, Status> {
        let request = request.into_inner();
        // In a task of its own: a client that hangs up leaves nothing half-made.
        let daemon = self.daemon.clone();
        run(async move {
            let made = daemon.init(request).await?;
            daemon.greeted().await;
            Ok(made)
        })
        .await
    }

    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        let request = request.into_inner();
        let daemon = self.daemon.clone();
        run(async move {
            let joined = daemon.join(request).await?;
            daemon.greeted().await;
            Ok(joined)
        })
        .await
    }

    async fn leave(&self, request: Request<v1::LeaveRequest>) -> Result<Response<v1::LeaveResponse>, Status> {
        let force = request.into_inner().force;
        let daemon = self.daemon.clone();
        run(async move { daemon.leave(force).await.map(|()| v1::LeaveResponse {}) }).await
    }

    async fn info(&self, _: Request<v1::InfoRequest>) -> Result<Response<v1::InfoResponse>, Status> {
        let hostname = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let slot = self.daemon.member.lock().await;
        let status = self.daemon.agent.status.borrow().clone();
        let host = v1::InfoResponse {
            hostname,
            version,
            warnings: status.below.warnings(),
            data_plane_errors: status.errors,
            load_balancer: self.daemon.agent.balancer.as_str().to_owned(),
            tasks_running: status.running,
            ..v1::InfoResponse::default()
        };
        let (identity, state) = match &*slot {
            Slot::Outside => return Ok(Response::new(host)),
            Slot::Locked(waiting) => (waiting.identity.clone(), &waiting.state),
            Slot::Inside(member) => (member.credentials.identity(), &member.state),
        };
        Ok(Response::new(v1::InfoResponse {
            in_cluster: true,
            node: identity.node.to_string(),
            cluster: identity.cluster.to_string(),
            role: v1::Role::from(identity.role).into(),
            advertise_addr: state.advertise.to_string(),
            data_path_addr: state.data_path.to_string(),
            managers: status.managers,
            connected: status.connected,
            assigned_revision: status.assigned_revision,
            applied_revision: status.applied_revision,
            certificate_ends_ms: slot.as_ref().map_or(0, |member| member.credentials.life().ends.0),
            locked: matches!(*slot, Slot::Locked(_)),
            ..host
        }))
    }

    async fn force_new_cluster(
        &self,
        _: Request<v1::ForceNewClusterRequest>,
    ) -> Result<Response<v1::ForceNewClusterResponse>, Status> {
        let daemon = self.daemon.clone();
        run(async move { daemon.force_new_cluster().await }).await
    }

    async fn restore(
        &self,
        request: Request<Streaming<v1::RestoreChunk>>,
    ) -> Result<Response<v1::RestoreResponse>, Status> {
        let mut chunks = request.into_inner();
        let (mut wish, mut file) = (v1::RestoreRequest::default(), Vec::new());
        while let Some(chunk) = chunks.message().await? {
            wish = chunk.request.unwrap_or(wish);
            file.extend(chunk.data);
        }
        let daemon = self.daemon.clone();
        run(async move {
            let restored = daemon.restore(wish, &file).await?;
            daemon.greeted().await;
            Ok(restored)
        })
        .await
    }

    async fn unlock(&self, request: Request<v1::UnlockRequest>) -> Result<Response<v1::UnlockResponse>, Status> {
        let key = request.into_inner().key;
        let daemon = self.daemon.clone();
        run(async move { daemon.unlock(&key).await }).await
    }

    async fn diagnose(&self, _: Request<v1::DiagnoseRequest>) -> Result<Response<v1::DiagnoseResponse>, Status> {
        let finding = |f: Finding| v1::Finding {
            what: f.what.to_owned(),
            ok: f.result.is_ok(),
            text: f.result.unwrap_or_else(|wrong| wrong),
        };
        let findings = self.daemon.agent.diagnose().await.into_iter().map(finding).collect();
        Ok(Response::new(v1::DiagnoseResponse { findings }))
    }

    async fn list_tunnel_peers(
        &self,
        _: Request<v1::ListTunnelPeersRequest>,
    ) -> Result<Response<v1::ListTunnelPeersResponse>, Status> {
        let peer = |p: TunnelPicture| v1::TunnelPeer {
            hostname: p.hostname.unwrap_or_default(),
            endpoint: p.endpoint.map_or_else(String::new, |e| e.to_string()),
            epoch: p.epoch.0,
            public_key: p.key.to_string(),
            handshake_ms_ago: p.last_handshake.map(|ago| ago.as_millis() as u64),
            sent: p.sent,
            received: p.received,
        };
        let peers = self.daemon.agent.tunnel_peers().await.into_iter().map(peer).collect();
        Ok(Response::new(v1::ListTunnelPeersResponse { peers }))
    }
}

async fn run<T: Send + 'static>(
    work: impl Future<Output = anyhow::Result<T>> + Send + 'static,
) -> Result<Response<T>, Status> {
    let done = tokio::spawn(work).await.map_err(|e| Status::internal(e.to_string()))?;
    done.map(Response::new).map_err(refused)
}
