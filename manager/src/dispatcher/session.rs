//! The leader's side of one agent's session: what it says goes to the store or to `Sessions`, and it is told what concerns it.

use super::{
    Sessions,
    assignment::{self, Concerned},
    feed,
    pace::Pace,
    reports::Reports,
};
use crate::{
    ca,
    store::{Mutation, Snapshot, Store, now},
};
use futures::{
    Stream, StreamExt,
    future::{BoxFuture, OptionFuture},
};
use heddle_model::{
    NodeId, Version, limits,
    node::{Node, NodeDescription, NodeState, NodeStatus},
    task::TaskStatus,
};
use heddle_proto::v1::{self, agent_message::Message as FromAgent, manager_message::Message as ToAgent};
use std::{net::IpAddr, sync::Arc};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Says that this manager is there, unless more than that waits to be sent already.
fn answer(send: &mpsc::Sender<v1::ManagerMessage>) {
    let _ = send.try_send(v1::ManagerMessage { message: Some(ToAgent::Beat(v1::Beat {})) });
}

/// `told`: what another state with the same roots gave.
pub(super) fn session(
    state: &Snapshot,
    node: &NodeId,
    term: u64,
    told: Option<&v1::SessionInfo>,
) -> Option<v1::SessionInfo> {
    let cluster = state.cluster.as_ref()?;
    let (roots_pem, signer) = match told {
        Some(told) => (told.roots_pem.clone(), told.signer.clone()),
        None => (cluster.trusted_pem(), ca::rotation::signer(cluster)),
    };
    Some(v1::SessionInfo {
        managers: managers(state),
        heartbeat_ms: cluster.spec.heartbeat_among(state.nodes.len()).as_millis() as u32,
        role: v1::Role::from(state.nodes.get(node)?.next_role()).into(),
        term,
        roots_pem,
        signer,
    })
}

/// The managers as agents dial them.
pub fn managers(state: &Snapshot) -> Vec<v1::ManagerAddr> {
    let manager = |n: &Arc<Node>| {
        n.manager.as_ref().map(|m| v1::ManagerAddr { node: n.id.to_string(), addr: m.addr.to_string() })
    };
    state.managers().filter_map(manager).collect()
}

/// Serves the sessions of all agents. Cheap to clone.
#[derive(Clone)]
pub struct SessionServer {
    store: Store,
    sessions: Arc<Sessions>,
    reports: Reports,
    /// Of those that are told all there is: more would only keep heartbeats and handshakes waiting.
    beginning: Arc<Semaphore>,
}

type Turn = Option<OwnedSemaphorePermit>;

/// What is next, most often by something that an agent said.
enum Heard {
    /// It is to be told what it does not know yet, when it is its turn.
    Tell(Vec<Mutation>),
    Turn(Turn),
    Write(Vec<Mutation>),
    Nothing,
    End,
}

impl SessionServer {
    /// Until cancelled, sessions hear of what changes.
    pub fn start(store: Store, sessions: Arc<Sessions>, cancel: CancellationToken) -> Self {
        sessions.changed(&Concerned::All, store.snapshot());
        tokio::spawn(feed::run(store.clone(), sessions.clone(), cancel));
        let reports = Reports::start(store.clone());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { store, sessions, reports, beginning: Arc::new(Semaphore::new(cores.div_ceil(2))) }
    }

    /// From then on, and one of few if it is told all.
    fn turn(&self, all: bool, at: Instant) -> BoxFuture<'static, Turn> {
        let beginning = self.beginning.clone();
        Box::pin(async move {
            tokio::time::sleep_until(at).await;
            if all { beginning.acquire_owned().await.ok() } else { None }
        })
    }

    /// Until either side ends it, or this manager does not lead any more.
    pub async fn serve(
        self,
        node: NodeId,
        mut from: impl Stream<Item = Result<v1::AgentMessage, Status>> + Unpin,
        send: mpsc::Sender<v1::ManagerMessage>,
    ) {
        let (serial, bell) = self.sessions.begin(&node, send.clone());
        let reports = self.reports.queue();
        let mut told = Told::new(node.clone());
        let mut pace = Pace::new();
        // Once it is known that there is something to tell.
        let mut turn: Option<BoxFuture<'static, Turn>> = None;
        loop {
            let heard = tokio::select! {
                biased;
                // First, so that a permit is not kept by one that says a lot.
                Some(permit) = OptionFuture::from(turn.as_mut()) => Heard::Turn(permit),
                received = from.next() => match received {
                    Some(Ok(v1::AgentMessage { message: Some(received) })) if self.sessions.seen(&node, serial) => {
                        let beat = matches!(&received, FromAgent::Heartbeat(beat) if beat.answer);
                        let heard = self.hear(&mut told, serial, received);
                        if beat && !matches!(heard, Heard::End) {
                            answer(&send);
                        }
                        heard
                    }
                    _ => Heard::End,
                },
                // Who has not said yet who it is, is told nothing.
                () = bell.notified(), if turn.is_none() => if told.greeted { Heard::Tell(Vec::new()) } else { Heard::Nothing },
                // Some of its reports were lost.
                () = reports.closed() => Heard::End,
            };
            if !matches!(heard, Heard::Nothing) && !self.store.is_leader() {
                break;
            }
            let news = match heard {
                Heard::Tell(news) => {
                    turn.get_or_insert_with(|| self.turn(told.state.is_none(), pace.next()));
                    news
                }
                Heard::Turn(permit) => {
                    turn = None;
                    match self.tell(&mut told, serial, &send, permit).await {
                        Some(true) => pace.told(Instant::now(), self.store.snapshot().nodes.len()),
                        Some(false) => {}
                        None => break,
                    }
                    continue;
                }
                Heard::Write(news) => news,
                Heard::Nothing => continue,
                Heard::End => break,
            };
            if !news.is_empty() && reports.try_send(news).is_err() {
                tracing::warn!(%node, "a node says more than can be written: its session ends");
                break;
            }
        }
        self.sessions.end(&node, serial);
        tracing::debug!(%node, "session ended");
    }

    /// Whether there was anything to tell. None: it hears nothing more.
    async fn tell(
        &self,
        told: &mut Told,
        serial: u64,
        send: &mpsc::Sender<v1::ManagerMessage>,
        turn: Turn,
    ) -> Option<bool> {
        let state = self.sessions.telling(&told.node, serial);
        let version = state.version;
        // It was made a moment ago.
        if !state.nodes.contains_key(&told.node) && self.store.snapshot().nodes.contains_key(&told.node) {
            self.sessions.put_off(&told.node, serial);
            return Some(false);
        }
        let messages = told.catch_up(state, self.store.term())?;
        // Whoever does not read keeps nobody else waiting.
        drop(turn);
        let news = !messages.is_empty();
        for message in messages {
            send.send(v1::ManagerMessage { message: Some(message) }).await.ok()?;
        }
        self.sessions.told(&told.node, serial, version, told.sent);
        Some(news)
    }

    fn hear(&self, told: &mut Told, serial: u64, message: FromAgent) -> Heard {
        let node = &told.node;
        match message {
            FromAgent::Hello(hello) => match self.hello(node, hello) {
                Ok(mutations) => {
                    told.greeted = true;
                    Heard::Tell(mutations)
                }
                Err(status) => {
                    tracing::warn!(%node, %status, "cannot read a node's greeting");
                    Heard::End
                }
            },
            // It was late, and is no stranger for that: its session goes on. Whoever leads no more may hear of no change any
            // more; whoever leads again does so in another term.
            FromAgent::Heartbeat(_) => match self.ready(node) {
                Some(back) => Heard::Write(vec![back]),
                None if !self.store.is_leader() => Heard::End,
                None if told.state.is_some() && told.term() != Some(self.store.term()) => Heard::Tell(Vec::new()),
                None => {
                    told.keep(self.sessions.as_told(node, serial));
                    Heard::Nothing
                }
            },
            FromAgent::Report(report) => {
                self.sessions.reported(node, serial, report.into());
                Heard::Nothing
            }
            FromAgent::Ack(ack) => {
                told.ack(Version(ack.revision));
                self.sessions.acked(&told.node, serial, Version(ack.revision));
                Heard::Nothing
            }
            FromAgent::Status(update) => Heard::Write(self.reported(node, update)),
        }
    }

    fn hello(&self, node: &NodeId, hello: v1::Hello) -> Result<Vec<Mutation>, Status> {
        let description = hello.description.ok_or_else(|| Status::invalid_argument("the description is missing"))?;
        let mut description = NodeDescription::try_from(description)?;
        if limits::shorten(&mut description) {
            tracing::warn!(%node, "a host has more subnets or ports than are kept of one");
        }
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
        if let Some(other) = state.nodes_at(&addr).next() {
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
    /// It has said who it is.
    greeted: bool,
    /// None: nothing yet.
    state: Option<Arc<Snapshot>>,
    /// The last revision that was worth a message.
    sent: Version,
    session: Option<v1::SessionInfo>,
    /// A revision that was sent and when, until it is acknowledged.
    waits: Option<(Version, Instant)>,
}

impl Told {
    fn new(node: NodeId) -> Self {
        Self { node, greeted: false, state: None, sent: Version(0), session: None, waits: None }
    }

    fn term(&self) -> Option<u64> {
        self.session.as_ref().map(|s| s.term)
    }

    /// What brings the agent to this state. None: the cluster has no such node.
    fn catch_up(&mut self, state: Arc<Snapshot>, term: u64) -> Option<Vec<ToAgent>> {
        let mut out = Vec::new();
        let same = |old: &Arc<Snapshot>| {
            old.cluster.as_ref().zip(state.cluster.as_ref()).is_some_and(|(a, b)| Arc::ptr_eq(a, b))
        };
        let told = self.session.as_ref().filter(|_| self.state.as_ref().is_some_and(same));
        let session = session(&state, &self.node, term, told);
        if session.is_some() && session != self.session {
            self.session.clone_from(&session);
            out.extend(session.map(ToAgent::Session));
        }
        let revision = state.version.0;
        let news = match &self.state {
            None => Some(v1::Assignments::complete(revision, assignment::view(&state, &self.node)?)),
            Some(old) => {
                let changes = assignment::changes(old, &state, &self.node)?;
                let same = changes.is_empty() && assignment::same_cluster(old, &state);
                (!same).then(|| v1::Assignments::incremental(self.sent.0, revision, changes))
            }
        };
        if let Some(news) = news {
            out.push(ToAgent::Assignments(news));
            self.sent = state.version;
            self.waits.get_or_insert((self.sent, Instant::now()));
        }
        self.state = Some(state);
        Some(out)
    }

    /// A newer state that is the same to the node: an old one would keep what is gone in memory.
    fn keep(&mut self, same: Option<Arc<Snapshot>>) {
        if self.state.is_some()
            && let Some(same) = same
        {
            self.state = Some(same);
        }
    }

    fn ack(&mut self, revision: Version) {
        if let Some((_, sent)) = self.waits.take_if(|(waits, _)| *waits <= revision) {
            metrics::histogram!("heddle_dispatcher_ack_latency_seconds").record(sent.elapsed());
        }
    }
}
