//! The gRPC service for those who look on.

use super::{
    change::{Change, What},
    history::{Batch, Expired, History},
    status::{self, Members, REACH},
};
use crate::{
    control::{Forward, stale},
    dispatcher::Sessions,
    store::Store,
};
use futures::{Stream, StreamExt};
use heddle_model::Version;
use heddle_plumbing::access::on_behalf;
use heddle_proto::v1::{self, observe_client::ObserveClient, observe_server};
use openraft::{Instant as _, async_runtime::WatchReceiver};
use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Who asks how the cluster is wants to know before an election is over, too.
const LEADER_LIMIT: Duration = Duration::from_secs(2);
const CONNECT_LIMIT: Duration = Duration::from_millis(500);
/// Transactions under way to one reader.
const BUFFER: usize = 64;
const KINDS: [&str; 6] = ["cluster", "node", "network", "service", "task", "connection"];

#[derive(Clone)]
pub struct ObserveService {
    pub forward: Forward,
    pub sessions: Arc<Sessions>,
    pub history: Arc<History>,
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl From<Expired> for Status {
    fn from(e: Expired) -> Status {
        Status::out_of_range(e.to_string())
    }
}

impl ObserveService {
    fn store(&self) -> &Store {
        &self.forward.store
    }

    /// What the leader says; None: there is none that answers in time.
    async fn leaders(&self, request: Request<v1::GetStatusRequest>) -> Option<v1::ClusterStatus> {
        if self.store().is_leader() {
            return self.confirmed().await.then(|| self.by_itself(leading(self.store())));
        }
        let channel = self.forward.leader().await.ok().flatten()?;
        Some(ObserveClient::new(channel).get_status(on_behalf(request)).await.ok()?.into_inner())
    }

    async fn confirmed(&self) -> bool {
        self.forward.confirm().await.is_ok()
    }

    fn by_itself(&self, members: Members) -> v1::ClusterStatus {
        let state = self.store().snapshot();
        let behind = if members.leader.is_some() { self.sessions.behind(&state) } else { BTreeMap::new() };
        status::status(&state, &members, &behind)
    }
}

/// What this manager knows of raft, without who can be reached.
fn members(store: &Store) -> Members {
    let raft = store.raft().metrics().borrow_watched().clone();
    Members {
        own: raft.id,
        leader: None,
        term: raft.current_term,
        log_index: raft.last_log_index.unwrap_or(0),
        voters: raft.membership_config.voter_ids().collect(),
        all: raft.membership_config.nodes().map(|(id, node)| (*id, node.addr.clone())).collect(),
        ..Members::default()
    }
}

/// As the leader, which hears from the others ten times a second.
fn leading(store: &Store) -> Members {
    let raft = store.raft().metrics().borrow_watched().clone();
    let mut members = members(store);
    let beats = raft.heartbeat.unwrap_or_default();
    members.silent = beats.into_iter().filter_map(|(id, at)| Some((id, at?.elapsed()))).collect();
    members.matched =
        raft.replication.unwrap_or_default().into_iter().filter_map(|(id, at)| Some((id, at?.index))).collect();
    members.reachable = members.silent.iter().filter(|(_, silent)| **silent < REACH).map(|(id, _)| *id).collect();
    members.reachable.insert(members.own);
    members.leader = Some(members.own);
    members
}

/// As one that knows of no leader, and tries who can be reached.
async fn alone(store: &Store) -> Members {
    let mut members = members(store);
    let tries = members.all.iter().map(|(id, addr)| async move {
        let reached = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(addr)).await;
        reached.is_ok_and(|r| r.is_ok()).then_some(*id)
    });
    members.reachable = futures::future::join_all(tries).await.into_iter().flatten().collect();
    members.reachable.insert(members.own);
    members
}

fn told(batch: &Batch, kinds: &BTreeSet<String>) -> Option<v1::Events> {
    let wanted = |c: &&Change| kinds.is_empty() || kinds.contains(&c.kind.to_string());
    let event = |c: &Change| v1::Event {
        kind: c.kind.to_string(),
        id: c.id.clone(),
        name: c.name.clone(),
        action: match c.what {
            What::Created => v1::EventAction::Created,
            What::Updated => v1::EventAction::Updated,
            What::Removed => v1::EventAction::Removed,
        }
        .into(),
        detail: c.detail.clone(),
    };
    let events: Vec<_> = batch.changes.iter().filter(wanted).map(event).collect();
    (!events.is_empty()).then_some(v1::Events { revision: batch.revision.0, at_ms: batch.at.0, events })
}

/// Sends what comes after a revision until the reader hangs up, or the last that it wants is there.
async fn follow(
    history: Arc<History>,
    mut since: Version,
    until: Version,
    kinds: BTreeSet<String>,
    send: mpsc::Sender<Result<v1::Events, Status>>,
) {
    let mut newest = history.watch();
    loop {
        let reached = *newest.borrow_and_update();
        let batches = match history.between(since, until.min(reached)) {
            Ok(batches) => batches,
            Err(expired) => return drop(send.send(Err(expired.into())).await),
        };
        for events in batches.iter().filter_map(|b| told(b, &kinds)) {
            if send.send(Ok(events)).await.is_err() {
                return;
            }
        }
        since = since.max(reached.min(until));
        if reached >= until {
            return;
        }
        tokio::select! {
            changed = newest.changed() => if changed.is_err() { return },
            () = send.closed() => return,
        }
    }
}

#[tonic::async_trait]
impl observe_server::Observe for ObserveService {
    type WatchEventsStream = Streamed<v1::Events>;

    async fn get_status(&self, request: Request<v1::GetStatusRequest>) -> Result<Response<v1::ClusterStatus>, Status> {
        if stale::asked(&request) {
            return Ok(Response::new(self.by_itself(alone(self.store()).await)));
        }
        let leaders = tokio::time::timeout(LEADER_LIMIT, self.leaders(request)).await;
        match leaders.ok().flatten() {
            Some(status) => Ok(Response::new(status)),
            None => Ok(Response::new(self.by_itself(alone(self.store()).await))),
        }
    }

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let request = request.into_inner();
        if let Some(kind) = request.kinds.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
            let known = KINDS.join(", ");
            return Err(Status::invalid_argument(format!("kind {kind:?} is unknown: use {known}")));
        }
        let newest = *self.history.watch().borrow();
        let since = request.since.map_or(newest, Version);
        let until = request.until.map_or(Version(u64::MAX), Version);
        // Refused at once, not in the middle of the stream.
        self.history.between(since, since)?;
        let (send, receive) = mpsc::channel(BUFFER);
        tokio::spawn(follow(self.history.clone(), since, until, request.kinds.into_iter().collect(), send));
        Ok(Response::new(ReceiverStream::new(receive).boxed()))
    }
}
