//! The gRPC service that agents call.

use super::{
    Logs, SessionServer,
    connection::{self, AttachError, Wanted},
};
use crate::{
    ambient,
    control::{Forward, removal},
    store::{Store, WriteError, now},
};
use futures::{Stream, StreamExt};
use heddle_model::{NodeId, TaskId, workload::NetworkWish};
use heddle_plumbing::caller;
use heddle_proto::v1::{
    self, dispatcher_client::DispatcherClient, dispatcher_server, manager_message::Message as ToAgent,
};
use std::{pin::Pin, sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex, mpsc},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport::Channel};

/// Messages under way to one agent.
const BUFFER: usize = 64;
/// What was just given up is free again within this time, unless a host does not follow.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct DispatcherService {
    pub store: Store,
    pub sessions: SessionServer,
    pub logs: Arc<Logs>,
    pub forward: Forward,
    /// One at a time: two that plan side by side would choose the same address, and one of them plan again.
    pub attaching: Arc<Mutex<()>>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<v1::ManagerMessage, Status>> + Send>>;

fn workload(id: &str) -> Result<TaskId, Status> {
    id.parse().map_err(|e| Status::invalid_argument(format!("field workload: {e}")))
}

#[tonic::async_trait]
impl dispatcher_server::Dispatcher for DispatcherService {
    type SessionStream = Answers;

    async fn session(&self, request: Request<Streaming<v1::AgentMessage>>) -> Result<Response<Answers>, Status> {
        let node = caller::node(&request)?.node;
        if !self.store.is_leader() {
            let state = self.store.snapshot();
            let leader = self.store.leader().and_then(|id| state.nodes.get(&id).cloned());
            let addr = leader.and_then(|n| n.manager.as_ref().map(|m| m.addr.to_string())).unwrap_or_default();
            let redirect = v1::ManagerMessage { message: Some(ToAgent::Redirect(v1::Redirect { leader: addr })) };
            return Ok(Response::new(Box::pin(futures::stream::iter([Ok(redirect)]))));
        }
        let (send, receive) = mpsc::channel(BUFFER);
        tokio::spawn(self.sessions.clone().serve(node, request.into_inner(), send));
        Ok(Response::new(Box::pin(ReceiverStream::new(receive).map(Ok))))
    }

    async fn publish_logs(
        &self,
        request: Request<Streaming<v1::LogBatch>>,
    ) -> Result<Response<v1::PublishLogsResponse>, Status> {
        let node = caller::node(&request)?.node;
        let mut batches = request.into_inner();
        let mut id = String::new();
        while let Some(Ok(batch)) = batches.next().await {
            id.clone_from(&batch.id);
            if !self.logs.publish(&node, batch).await {
                break;
            }
        }
        self.logs.finish(&id, &node);
        Ok(Response::new(v1::PublishLogsResponse {}))
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Result<Response<v1::AttachResponse>, Status> {
        let node = caller::node(&request)?.node;
        if let Some(mut leader) = self.leader(&node).await? {
            return leader.attach(request.into_inner()).await;
        }
        let request = request.into_inner();
        let wish = request.wish.ok_or_else(|| Status::invalid_argument("field wish is missing"))?;
        let (workload, wish) = (workload(&request.workload)?, NetworkWish::try_from(wish)?);
        let wanted = Wanted { node, workload, name: request.name, wish };
        let until = Instant::now() + SETTLE_LIMIT;
        let mut state = self.store.watch();
        loop {
            state.mark_unchanged();
            match self.place(&wanted).await {
                Ok(given) => return Ok(Response::new(given)),
                Err(e) if e.is_transient() => match tokio::time::timeout_at(until, state.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) | Err(_) => return Err(e.into()),
                },
                Err(e) => return Err(e.into()),
            }
        }
    }

    async fn detach(&self, request: Request<v1::DetachRequest>) -> Result<Response<v1::DetachResponse>, Status> {
        let node = caller::node(&request)?.node;
        if let Some(mut leader) = self.leader(&node).await? {
            return leader.detach(request.into_inner()).await;
        }
        let request = request.into_inner();
        let workload = workload(&request.workload)?;
        self.store
            .update(|state| connection::detach(state, &node, &workload, &request.network))
            .await
            .map_err(Status::from)?;
        Ok(Response::new(v1::DetachResponse {}))
    }

    async fn leave(&self, request: Request<v1::LeaveNodeRequest>) -> Result<Response<v1::LeaveNodeResponse>, Status> {
        let node = caller::node(&request)?.node;
        if let Some(mut leader) = self.leader(&node).await? {
            return leader.leave(request.into_inner()).await;
        }
        let left = self.store.update::<WriteError>(|state| {
            let stored = state.nodes.get(&node);
            Ok(stored.map_or_else(Vec::new, |n| removal::node(state, n, "the node left the cluster", now())))
        });
        left.await.map_err(|e| Status::unavailable(e.to_string()))?;
        tracing::info!(%node, "node left");
        Ok(Response::new(v1::LeaveNodeResponse {}))
    }
}

impl DispatcherService {
    /// The way to the leader; None if this manager leads.
    async fn leader(&self, node: &NodeId) -> Result<Option<DispatcherClient<Channel>>, Status> {
        let Some(channel) = self.forward.leader().await? else { return Ok(None) };
        // The leader sees this manager's certificate, so a follower can only speak for itself.
        if self.forward.credentials.identity().node != *node {
            return Err(Status::unavailable("this manager does not lead: ask the leader"));
        }
        Ok(Some(DispatcherClient::new(channel)))
    }

    async fn place(&self, wanted: &Wanted) -> Result<v1::AttachResponse, AttachError> {
        let _turn = self.attaching.lock().await;
        let mut place = None;
        let state = self
            .store
            .update(|state| {
                let (connection, mutations) = connection::attach(state, wanted, &mut ambient::random::<16>)?;
                place = Some(connection.id);
                Ok::<_, AttachError>(mutations)
            })
            .await?;
        let given = place.and_then(|id| state.connections.get(&id)).filter(|c| !c.released);
        let given = given.ok_or(AttachError::Contended)?;
        let network = state.networks.get(&given.attachment.network).ok_or(AttachError::Contended)?;
        tracing::debug!(node = %given.node, workload = %given.workload, network = %network.id, "workload joins");
        Ok(v1::AttachResponse {
            attachment: Some(given.attachment.clone().into()),
            network_name: network.spec.annotations.name.clone(),
            internal: network.spec.internal,
        })
    }
}
