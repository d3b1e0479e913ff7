//! The agent's side of the session with the leader: finds it, keeps the stream, hands on what comes.

use futures::{Stream, StreamExt};
use heddle_model::{cluster::Role, fence::Fence, node::NodeDescription};
use heddle_plumbing::tls::{self, Credentials};
use heddle_proto::v1::{
    self, agent_message::Message as FromAgent, dispatcher_client::DispatcherClient, manager_message::Message as ToAgent,
};
use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    sync::{
        Notify,
        mpsc::{self, error::TrySendError},
        watch,
    },
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};

#[cfg(test)]
mod tests;

const OPEN_LIMIT: Duration = Duration::from_secs(2);
/// The pause between two tries, at first and at most: it grows by half with each, and a host waits for between half of it and all.
const RETRY: Duration = Duration::from_millis(150);
const RETRY_MOST: Duration = Duration::from_secs(1);
/// The operator has to do something first.
const REMOVED_RETRY: Duration = Duration::from_secs(10);
const DESCRIBE_EVERY: Duration = Duration::from_secs(1);
const MAX_MESSAGE: usize = 64 << 20;
/// A leader that says nothing for this long, and for so many periods, is looked for elsewhere. After half of that it is asked for
/// an answer: of thousands of nodes' heartbeats, a leader need not answer each.
const SILENCE: Duration = Duration::from_secs(4);
const SILENT_BEATS: u32 = 3;

/// What the agent hears.
#[derive(Debug)]
pub enum Event {
    /// A session began. The channel reaches the leader.
    Connected(Channel),
    Disconnected,
    Managers(Vec<v1::ManagerAddr>),
    Wish(Wish),
    Assignments(Box<v1::Assignments>),
    Logs(v1::LogRequest),
    CancelLogs(String),
    /// The cluster does not know this node any more.
    Removed,
}

/// What the managers want this node's certificate to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub role: Role,
    /// All that the node is to trust, PEM; empty: a manager of an older version does not say.
    pub roots_pem: String,
    /// Digest of the root that it should be by.
    pub signer: String,
}

/// What the agent says. Dropped while there is no session: a new session starts with everything anew.
pub type Sender = mpsc::Sender<FromAgent>;

/// Says what this host is now, given its tunnel end point, but for what it trusts.
pub type Describe = Box<dyn Fn(std::net::IpAddr) -> NodeDescription + Send + Sync>;

pub struct Session {
    pub credentials: Credentials,
    pub managers: Vec<SocketAddr>,
    pub data_path_addr: std::net::IpAddr,
    pub describe: Describe,
    pub events: mpsc::Sender<Event>,
    /// The way to say something in the session that is open.
    pub speak: watch::Sender<Option<Sender>>,
    /// Ends the session, so that the next one starts with everything anew.
    pub anew: Arc<Notify>,
    /// What `describe` says may have changed: that is told at once.
    pub changed: Arc<Notify>,
    pub fence: Fence,
    /// When the last session ended.
    pub silent_since: Instant,
}

impl Session {
    /// Runs until nobody listens to the events.
    pub async fn run(mut self) {
        let mut next: Option<SocketAddr> = None;
        let mut at = 0;
        let mut pause = RETRY;
        while !self.events.is_closed() {
            let addr = next.take().or_else(|| self.managers.get(at % self.managers.len().max(1)).copied());
            at += 1;
            if let Some(addr) = addr {
                next = self.once(addr).await;
            }
            let was_open = self.speak.send_replace(None).is_some();
            if was_open {
                self.silent_since = Instant::now();
                pause = RETRY;
                let _ = self.events.send(Event::Disconnected).await;
            }
            if next.is_none() {
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                pause = (pause * 3 / 2).min(RETRY_MOST);
            }
        }
    }

    /// One try at one manager, for as long as it lasts. Where to go next, if that is known.
    async fn once(&mut self, addr: SocketAddr) -> Option<SocketAddr> {
        let channel = tls::dial_session(addr, &self.credentials);
        let mut client = DispatcherClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let (speak, spoken) = mpsc::channel(256);
        let description = self.description();
        speak.send(self.hello(&description)).await.ok()?;
        let outbound = ReceiverStream::new(spoken).map(|message| v1::AgentMessage { message: Some(message) });
        let inbound = match tokio::time::timeout(OPEN_LIMIT, client.session(outbound)).await {
            Ok(Ok(stream)) => stream.into_inner(),
            Ok(Err(status)) if status.code() == tonic::Code::NotFound => {
                tracing::error!(%addr, "{}", status.message());
                let _ = self.events.send(Event::Removed).await;
                tokio::time::sleep(REMOVED_RETRY).await;
                return None;
            }
            Ok(Err(status)) => {
                tracing::debug!(%addr, %status, "no session");
                return None;
            }
            Err(_) => return None,
        };
        self.keep(addr, channel, description, speak, inbound).await
    }

    /// The session with the manager at this address, once it has heard what this host is.
    async fn keep(
        &mut self,
        addr: SocketAddr,
        channel: Channel,
        mut description: NodeDescription,
        speak: Sender,
        mut inbound: impl Stream<Item = Result<v1::ManagerMessage, Status>> + Unpin,
    ) -> Option<SocketAddr> {
        let mut beat = tokio::time::interval(Duration::from_millis(300));
        let mut look = tokio::time::interval(DESCRIBE_EVERY);
        let mut open = false;
        let mut wish = None;
        let mut patience = SILENCE;
        // The last sign of life, and the first heartbeat since then that asks for one. A manager of an older version answers
        // none, and is not expected to.
        let (mut heard, mut asked, mut answers) = (Instant::now(), None::<Instant>, false);
        loop {
            let given_up = async {
                match asked.filter(|_| answers) {
                    Some(since) => tokio::time::sleep_until(since + patience / 2).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // However much comes, this node says that it is there; and what has come counts before what is missed.
                biased;
                _ = beat.tick() => {
                    if heard.elapsed() >= patience / 2 {
                        asked.get_or_insert_with(Instant::now);
                    }
                    let beat = FromAgent::Heartbeat(v1::Heartbeat { answer: asked.is_some() });
                    // Where more waits to be said, that is a sign of life, too.
                    if let Err(TrySendError::Closed(_)) = speak.try_send(beat) {
                        return None;
                    }
                }
                message = inbound.next() => {
                    let Some(Ok(v1::ManagerMessage { message })) = message else { return None };
                    (heard, asked) = (Instant::now(), None);
                    // Of a kind that a newer manager knows: no more than a sign of life.
                    let Some(message) = message else { continue };
                    let event = match message {
                        ToAgent::Beat(_) => {
                            answers = true;
                            continue;
                        }
                        ToAgent::Redirect(redirect) => return redirect.leader.parse().ok(),
                        ToAgent::Session(info) => {
                            let silence = if open { Duration::ZERO } else { self.silent_since.elapsed() };
                            if !self.fence.admits(info.term, silence) {
                                tracing::debug!(%addr, term = info.term, "a leader of an older term is not believed");
                                return None;
                            }
                            let period = Duration::from_millis(u64::from(info.heartbeat_ms.max(50)));
                            beat = tokio::time::interval(period);
                            patience = SILENCE.max(period * SILENT_BEATS);
                            answers = !info.signer.is_empty();
                            let known: BTreeSet<_> = info.managers.iter().filter_map(|m| m.addr.parse().ok()).collect();
                            self.managers = known.into_iter().collect();
                            let role = Role::try_from(info.role()).ok();
                            let (roots_pem, signer) = (info.roots_pem, info.signer);
                            wish = role.map(|role| Wish { role, roots_pem, signer });
                            Event::Managers(info.managers)
                        }
                        ToAgent::Assignments(assignments) => Event::Assignments(Box::new(assignments)),
                        ToAgent::Logs(request) => Event::Logs(request),
                        ToAgent::CancelLogs(cancel) => Event::CancelLogs(cancel.id),
                    };
                    if !open {
                        open = true;
                        self.speak.send_replace(Some(speak.clone()));
                        self.events.send(Event::Connected(channel.clone())).await.ok()?;
                    }
                    self.events.send(event).await.ok()?;
                    if let Some(wish) = wish.take() {
                        self.events.send(Event::Wish(wish)).await.ok()?;
                    }
                    // That may have taken a while.
                    heard = Instant::now();
                }
                () = given_up => {
                    tracing::warn!(%addr, "the leader is silent");
                    return None;
                }
                () = self.anew.notified() => return Some(addr),
                () = self.changed.notified() => look.reset_immediately(),
                _ = look.tick() => {
                    let now = self.description();
                    if now != description {
                        description = now;
                        speak.send(self.hello(&description)).await.ok()?;
                    }
                }
            }
        }
    }

    fn description(&self) -> NodeDescription {
        NodeDescription { trust: self.credentials.trust(), ..(self.describe)(self.data_path_addr) }
    }

    fn hello(&self, description: &NodeDescription) -> FromAgent {
        FromAgent::Hello(v1::Hello {
            description: Some(description.clone().into()),
            data_path_addr: self.data_path_addr.to_string(),
            tasks: Vec::new(),
        })
    }
}
