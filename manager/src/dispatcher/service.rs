//! The gRPC service that agents call.

use super::{
    Logs, Sessions, assignment,
    connection::{self, AttachError, Wanted},
};
use crate::{
    ambient,
    control::{Forward, removal},
    store::{Mutation, Store, WriteError, now},
};
use futures::{Stream, StreamExt};
use heddle_model::{
    NodeId, TaskId, Version,
    assignment::NodeView,
    limits,
    node::{NodeDescription, NodeState, NodeStatus},
    task::TaskStatus,
    workload::NetworkWish,
};
use heddle_plumbing::caller;
use heddle_proto::v1::{
    self, agent_message::Message as FromAgent, dispatcher_client::DispatcherClient, dispatcher_server,
    manager_message::Message as ToAgent,
};
use std::{net::IpAddr, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex, mpsc},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport::Channel};

/// Messages under way to one agent.
const BUFFER: usize = 64;
/// Messages of one agent that wait to be written. Beyond that its session ends, and the next one tells all anew.
const REPORTS: usize = 256;
/// A report is offered to raft again for this long, so often.
const REPORT_LIMIT: Duration = Duration::from_secs(30);
const REPORT_AGAIN: Duration = Duration::from_millis(100);
/// What was just given up is free again within this time, unless a host does not follow.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct DispatcherService {
    pub store: Store,
    pub sessions: Arc<Sessions>,
    pub logs: Arc<Logs>,
    pub forward: Forward,
    /// One at a time: two that plan side by side would choose the same address, and one of them plan again.
    pub attaching: Arc<Mutex<()>>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<v1::ManagerMessage, Status>> + Send>>;

fn workload(id: &str) -> Result<TaskId, Status> {
    id.parse().map_err(|e| Status::invalid_argument(format!("field workload: {e}")))
}

fn message(message: ToAgent) -> v1::ManagerMessage {
    v1::ManagerMessage { message: Some(message) }
}

fn session(state: &crate::store::Snapshot, node: &NodeId, term: u64) -> Option<v1::SessionInfo> {
    let heartbeat = state.cluster.as_ref()?.spec.heartbeat.as_millis();
    let role = v1::Role::from(state.nodes.get(node)?.next_role()).into();
    Some(v1::SessionInfo { managers: managers(state), heartbeat_ms: heartbeat as u32, role, term })
}

/// The managers as agents dial them.
pub fn managers(state: &crate::store::Snapshot) -> Vec<v1::ManagerAddr> {
    let manager = |n: &Arc<heddle_model::node::Node>| {
        n.manager.as_ref().map(|m| v1::ManagerAddr { node: n.id.to_string(), addr: m.addr.to_string() })
    };
    state.nodes.values().filter_map(manager).collect()
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
            let redirect = message(ToAgent::Redirect(v1::Redirect { leader: addr }));
            return Ok(Response::new(Box::pin(futures::stream::iter([Ok(redirect)]))));
        }
        let (send, receive) = mpsc::channel(BUFFER);
        let server = SessionServer { store: self.store.clone(), sessions: self.sessions.clone() };
        tokio::spawn(server.serve(node, request.into_inner(), send));
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

/// The leader's side of agents' sessions.
pub struct SessionServer {
    pub store: Store,
    pub sessions: Arc<Sessions>,
}

impl SessionServer {
    /// Until either side ends it, or this manager does not lead any more.
    pub async fn serve(
        self,
        node: NodeId,
        mut from: impl Stream<Item = Result<v1::AgentMessage, Status>> + Unpin,
        send: mpsc::Sender<v1::ManagerMessage>,
    ) {
        let serial = self.sessions.begin(&node, send.clone());
        let (reports, queue) = mpsc::channel(REPORTS);
        tokio::spawn(write_reports(self.store.clone(), queue));
        let mut state = self.store.watch();
        let mut told =
            Told { node: node.clone(), view: None, sent: Version(0), acked: Version(0), session: None, waits: None };
        loop {
            tokio::select! {
                biased;
                received = from.next() => {
                    let Some(Ok(v1::AgentMessage { message: Some(received) })) = received else { break };
                    if !self.sessions.seen(&node, serial) {
                        break;
                    }
                    let news = match received {
                        FromAgent::Hello(hello) => match self.hello(&node, hello) {
                            Ok(mutations) => mutations,
                            Err(status) => {
                                tracing::warn!(%node, %status, "cannot read a node's greeting");
                                break;
                            }
                        },
                        FromAgent::Heartbeat(_) => {
                            // It was late, and is no stranger for that: its session goes on.
                            let back = self.ready(&node);
                            // Whoever leads no more may hear of no change any more.
                            if back.is_none() && self.store.is_leader() {
                                continue;
                            }
                            back.into_iter().collect()
                        }
                        FromAgent::Report(report) => {
                            self.sessions.reported(&node, serial, report.into());
                            continue;
                        }
                        FromAgent::Ack(ack) => {
                            told.ack(Version(ack.revision));
                            Vec::new()
                        }
                        FromAgent::Status(update) => self.reported(&node, update),
                    };
                    if !news.is_empty() && reports.try_send(news).is_err() {
                        tracing::warn!(%node, "a node says more than can be written: its session ends");
                        break;
                    }
                }
                changed = state.changed() => if changed.is_err() { break },
            }
            if !self.store.is_leader() {
                break;
            }
            let snapshot = state.borrow_and_update().clone();
            for next in told.catch_up(&snapshot, self.store.term()) {
                if send.send(next).await.is_err() {
                    break;
                }
            }
            if told.view.is_none() {
                break;
            }
            self.sessions.acked(&node, serial, told.reached(snapshot.version));
        }
        self.sessions.end(&node, serial);
        tracing::debug!(%node, "session ended");
    }

    fn hello(&self, node: &NodeId, hello: v1::Hello) -> Result<Vec<Mutation>, Status> {
        let description = hello.description.ok_or_else(|| Status::invalid_argument("the description is missing"))?;
        let description = NodeDescription::try_from(description)?;
        limits::description(&description).map_err(|e| Status::invalid_argument(e.to_string()))?;
        tracing::debug!(%node, host = description.hostname, "node reports");
        let addr = hello.data_path_addr.parse();
        let addr = addr.map_err(|_| Status::invalid_argument("field data_path_addr is not an address"))?;
        let mut mutations = vec![Mutation::NodeDescription { id: node.clone(), description }];
        mutations.extend(self.moved(node, addr));
        mutations.extend(self.ready(node));
        Ok(mutations)
    }

    /// None: its data path is there already, or another node's is.
    fn moved(&self, node: &NodeId, addr: IpAddr) -> Option<Mutation> {
        let state = self.store.snapshot();
        let stored = state.nodes.get(node)?.data_path_addr;
        if stored == addr {
            return None;
        }
        if let Some(other) = state.nodes.values().find(|n| n.data_path_addr == addr) {
            tracing::warn!(%node, %addr, of = %other.id, "a node's data path is at another's address: it counts where it was");
            return None;
        }
        tracing::info!(%node, from = %stored, to = %addr, "a node's data path moves");
        Some(Mutation::NodeDataPath { id: node.clone(), addr })
    }

    /// None: it is already.
    fn ready(&self, node: &NodeId) -> Option<Mutation> {
        let stored = self.store.snapshot().nodes.get(node).map(|n| n.status.state)?;
        let status = NodeStatus { state: NodeState::Ready, message: String::new(), since: now() };
        (stored != NodeState::Ready).then(|| Mutation::NodeStatus { id: node.clone(), status })
    }

    fn reported(&self, node: &NodeId, update: v1::TaskStatusUpdate) -> Vec<Mutation> {
        let state = self.store.snapshot();
        let report = |r: v1::TaskReport| {
            let id = r.task.parse().ok()?;
            let status = TaskStatus::try_from(r.status?).ok()?.bounded();
            // A node speaks for its own tasks only.
            let own = state.tasks.get(&id).is_some_and(|t| t.node.as_ref() == Some(node));
            own.then_some(Mutation::TaskStatus { id, status })
        };
        update.tasks.into_iter().filter_map(report).collect()
    }
}

/// What an agent has been told so far.
struct Told {
    node: NodeId,
    view: Option<NodeView>,
    sent: Version,
    acked: Version,
    session: Option<v1::SessionInfo>,
    /// A revision that was sent and when, until it is acknowledged.
    waits: Option<(Version, Instant)>,
}

impl Told {
    /// The messages that bring the agent to this state.
    fn catch_up(&mut self, state: &crate::store::Snapshot, term: u64) -> Vec<v1::ManagerMessage> {
        let mut out = Vec::new();
        let session = session(state, &self.node, term);
        if session.is_some() && session != self.session {
            self.session.clone_from(&session);
            out.extend(session.map(ToAgent::Session));
        }
        let Some(new) = assignment::view(state, &self.node) else {
            self.view = None;
            return Vec::new();
        };
        match &self.view {
            None => out.push(ToAgent::Assignments(v1::Assignments::complete(state.version.0, &new))),
            Some(old) => {
                let changes = old.diff(&new);
                if changes.is_empty() && old.cluster == new.cluster {
                    return out.into_iter().map(message).collect();
                }
                out.push(ToAgent::Assignments(v1::Assignments::incremental(self.sent.0, state.version.0, changes)));
            }
        }
        self.view = Some(new);
        self.sent = state.version;
        self.waits.get_or_insert((self.sent, Instant::now()));
        out.into_iter().map(message).collect()
    }

    fn ack(&mut self, revision: Version) {
        self.acked = revision;
        if let Some((_, sent)) = self.waits.take_if(|(waits, _)| *waits <= revision) {
            metrics::histogram!("heddle_dispatcher_ack_latency_seconds").record(sent.elapsed());
        }
    }

    /// What the agent has reached: when it has all that was sent, and nothing since concerned it, the newest.
    fn reached(&self, newest: Version) -> Version {
        if self.acked >= self.sent && self.sent > Version(0) { newest } else { self.acked }
    }
}

/// Commits reports in order, several at a time. A report that finds no quorum is kept and offered again; the agent sends
/// all of its states anew on its next session.
async fn write_reports(store: Store, mut queue: mpsc::Receiver<Vec<Mutation>>) {
    while let Some(mut batch) = queue.recv().await {
        while let Ok(more) = queue.try_recv() {
            batch.extend(more);
        }
        // Its own earlier reports are in the store by now, so what is no news to it is none at all.
        let state = store.snapshot();
        if !batch.iter().any(|mutation| state.is_news(mutation)) {
            continue;
        }
        let until = Instant::now() + REPORT_LIMIT;
        while let Err(error) = store.write(batch.clone()).await {
            if !store.is_leader() || Instant::now() > until {
                tracing::warn!(%error, "reports of a node are lost until its next session");
                break;
            }
            // A leader that hears of no majority refuses at once.
            tokio::time::sleep(REPORT_AGAIN).await;
        }
    }
}
