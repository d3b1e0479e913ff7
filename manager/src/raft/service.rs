//! Calls from the other managers, and who is a member.

use super::{Raft, RaftSnapshot, TypeConfig, decode, encode, raft_id};
use crate::{
    control::Forward,
    membership::{admit, dismiss},
};
use futures::StreamExt;
use heddle_model::{cluster::Role, node::Node};
use heddle_plumbing::access::on_behalf;
use heddle_proto::v1::{
    RaftJoinRequest, RaftJoinResponse, RaftLeaveRequest, RaftLeaveResponse, RaftMessage, SnapshotChunk,
    raft_client::RaftClient, raft_server,
};
use openraft::type_config::alias::{SnapshotMetaOf, VoteOf};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::BTreeSet, fmt::Display, io, sync::Arc, time::Duration};
use tonic::{Request, Response, Status, Streaming};

/// A learner that does not catch up within this time is not let in.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(20);

pub struct RaftService {
    pub raft: Raft,
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

fn read<T: DeserializeOwned>(request: Request<RaftMessage>) -> Result<T, Status> {
    decode(&request.into_inner().payload).map_err(garbled)
}

fn answer<T: Serialize>(value: Result<T, impl Display>) -> Answer {
    let payload = encode(&value.map_err(failed)?).map_err(failed)?;
    Ok(Response::new(RaftMessage { payload }))
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    async fn append_entries(&self, request: Request<RaftMessage>) -> Answer {
        answer(self.raft.append_entries(read(request)?).await)
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Answer {
        answer(self.raft.vote(read(request)?).await)
    }

    async fn pre_vote(&self, request: Request<RaftMessage>) -> Answer {
        answer(self.raft.pre_vote(read(request)?).await)
    }

    async fn transfer_leader(&self, request: Request<RaftMessage>) -> Answer {
        answer(self.raft.handle_transfer_leader(read(request)?).await)
    }

    async fn install_snapshot(&self, request: Request<Streaming<SnapshotChunk>>) -> Answer {
        let mut chunks = request.into_inner();
        let first = chunks.next().await.ok_or_else(|| Status::invalid_argument("an empty snapshot"))??;
        let (vote, meta): (VoteOf<TypeConfig>, SnapshotMetaOf<TypeConfig>) = decode(&first.meta).map_err(garbled)?;
        let mut data: RaftSnapshot = first.data;
        while let Some(chunk) = chunks.next().await {
            data.extend(chunk?.data);
        }
        let snapshot = openraft::storage::Snapshot { meta, snapshot: data };
        answer(self.raft.install_full_snapshot(vote, snapshot).await)
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
        dismiss(&self.raft, id).await.map_err(failed)?;
        Ok(Response::new(RaftLeaveResponse {}))
    }
}
