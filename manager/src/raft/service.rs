//! Calls from the other managers, and who is a member.

use super::{
    Peers, Raft, RaftSnapshot, TypeConfig, decode, encode, install::install_snapshot, machine::restore, raft_id,
};
use crate::{
    address,
    control::Forward,
    membership::{admit, dismiss},
};
use futures::StreamExt;
use heddle_model::{cluster::Role, node::Node};
use heddle_plumbing::{
    access::{Access, on_behalf},
    caller,
};
use heddle_proto::v1::{
    RaftJoinRequest, RaftJoinResponse, RaftLeaveRequest, RaftLeaveResponse, RaftMessage, RaftMovedRequest,
    RaftMovedResponse, RaftStandingRequest, RaftStandingResponse, SnapshotChunk, raft_client::RaftClient, raft_server,
};
use openraft::{
    raft::AppendEntriesResponse,
    type_config::alias::{SnapshotMetaOf, VoteOf},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeSet,
    fmt::Display,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tonic::{Request, Response, Status, Streaming};

/// A learner that does not catch up within this time is not let in.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(20);
const DISMISS_LIMIT: Duration = Duration::from_secs(5);
const NO_MAJORITY: &str = "no majority of the managers answers without this one: start the others, or, if they are lost for good, \
                           run `heddle init --force-new-cluster` on one that is whole";

pub struct RaftService {
    pub raft: Raft,
    /// True: what this manager has promised the others is lost, so it promises nothing until they have let it go.
    pub lapsed: Arc<AtomicBool>,
    pub peers: Peers,
    /// Membership is the leader's to change.
    pub forward: Forward,
}

type Answer = Result<Response<RaftMessage>, Status>;

fn garbled(e: io::Error) -> Status {
    Status::invalid_argument(format!("a raft message cannot be read: {e}"))
}

fn failed(e: impl Display) -> Status {
    Status::unavailable(e.to_string())
}

fn raft_id_of(node: &str) -> Option<u64> {
    node.parse().ok().map(|id| raft_id(&id))
}

impl RaftService {
    fn read<T: DeserializeOwned>(&self, request: Request<RaftMessage>) -> Result<T, Status> {
        self.counts()?;
        decode(&request.into_inner().payload).map_err(garbled)
    }

    fn counts(&self) -> Result<(), Status> {
        match self.lapsed.load(Ordering::Acquire) {
            true => Err(Status::unavailable("this manager lost its state and comes back when the others let it go")),
            false => Ok(()),
        }
    }
}

fn answer<T: Serialize>(value: Result<T, impl Display>) -> Answer {
    let payload = encode(&value.map_err(failed)?).map_err(failed)?;
    Ok(Response::new(RaftMessage { payload }))
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    async fn append_entries(&self, request: Request<RaftMessage>) -> Answer {
        let answered = self.raft.append_entries(self.read(request)?).await;
        if matches!(answered, Ok(AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_))) {
            self.forward.store.contact().heard();
        }
        answer(answered)
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Answer {
        answer(self.raft.vote(self.read(request)?).await)
    }

    async fn pre_vote(&self, request: Request<RaftMessage>) -> Answer {
        answer(self.raft.pre_vote(self.read(request)?).await)
    }

    async fn transfer_leader(&self, request: Request<RaftMessage>) -> Answer {
        answer(self.raft.handle_transfer_leader(self.read(request)?).await)
    }

    async fn install_snapshot(&self, request: Request<Streaming<SnapshotChunk>>) -> Answer {
        self.counts()?;
        let mut chunks = request.into_inner();
        let first = chunks.next().await.ok_or_else(|| Status::invalid_argument("an empty snapshot"))??;
        let (vote, meta): (VoteOf<TypeConfig>, SnapshotMetaOf<TypeConfig>) = decode(&first.meta).map_err(garbled)?;
        let mut data: RaftSnapshot = first.data;
        while let Some(chunk) = chunks.next().await {
            data.extend(chunk?.data);
        }
        // Raft stops for good at one that it cannot install.
        restore(&meta, &data).map_err(garbled)?;
        let snapshot = openraft::storage::Snapshot { meta, snapshot: data };
        let answered = install_snapshot(&self.raft, vote, snapshot).await;
        if answered.is_ok() {
            self.forward.store.contact().heard();
        }
        answer(answered)
    }

    async fn join(&self, request: Request<RaftJoinRequest>) -> Result<Response<RaftJoinResponse>, Status> {
        if let Some(leader) = self.forward.leader().await? {
            return RaftClient::new(leader).join(on_behalf(request)).await;
        }
        let join = request.into_inner();
        let known = self.forward.store.snapshot();
        let stays =
            |n: &&Arc<Node>| n.id.as_str() == join.node && n.role == Role::Manager && n.spec.role == Role::Manager;
        if raft_id_of(&join.node) != Some(join.raft_id) || !known.nodes.values().any(|n| stays(&n)) {
            return Err(Status::permission_denied("this node is to be no manager: see `heddle node promote`"));
        }
        match tokio::time::timeout(CATCH_UP_LIMIT, admit(&self.raft, join.raft_id, &join.addr)).await {
            Ok(result) => result.map_err(failed)?,
            Err(_) => {
                return Err(failed(format_args!("the manager at {} cannot be reached from the leader", join.addr)));
            }
        };
        Ok(Response::new(RaftJoinResponse {}))
    }

    async fn leave(&self, request: Request<RaftLeaveRequest>) -> Result<Response<RaftLeaveResponse>, Status> {
        if let Some(leader) = self.forward.leader().await? {
            return RaftClient::new(leader).leave(on_behalf(request)).await;
        }
        let id = request.into_inner().raft_id;
        let voters: BTreeSet<u64> = self.raft.voter_ids().collect();
        if voters.len() == 1 && voters.contains(&id) {
            return Err(Status::failed_precondition("the last manager cannot leave: use --force to end the cluster"));
        }
        match tokio::time::timeout(DISMISS_LIMIT, dismiss(&self.raft, id)).await {
            Ok(dismissed) => dismissed.map_err(failed)?,
            Err(_) => return Err(failed(NO_MAJORITY)),
        }
        Ok(Response::new(RaftLeaveResponse {}))
    }

    async fn standing(&self, request: Request<RaftStandingRequest>) -> Result<Response<RaftStandingResponse>, Status> {
        // The table admits anyone: who asks may be a manager of before, whose certificate counts no more.
        if !Access::Manager.admits(&caller::caller(&request)) {
            return Err(Status::permission_denied("a manager's certificate is needed"));
        }
        let begun = self.forward.store.snapshot().cluster.as_ref().map_or(0, |c| c.begun);
        Ok(Response::new(RaftStandingResponse { begun }))
    }

    async fn moved(&self, request: Request<RaftMovedRequest>) -> Result<Response<RaftMovedResponse>, Status> {
        let caller = caller::node(&request)?;
        let addr = request.into_inner().addr;
        let addr =
            addr.parse().map_err(|_| Status::invalid_argument(format!("field addr: {addr:?} is not an address")))?;
        self.peers.moved(raft_id(&caller.node), addr);
        if self.forward.store.is_leader() {
            address::keep(&self.forward.store, &caller.node, addr).await.map_err(failed)?;
        }
        Ok(Response::new(RaftMovedResponse {}))
    }
}
