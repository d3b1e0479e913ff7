//! Raft's calls to other managers over the simulated network.

use crate::{
    host::Guest,
    net::{At, Net},
    world,
};
use heddle_manager::raft::{Raft, RaftSnapshot, TypeConfig, install_snapshot};
use openraft::{
    BasicNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
        VoteRequest, VoteResponse,
    },
    type_config::alias::{SnapshotOf, VoteOf},
};
use std::{fmt::Display, future::Future, sync::Arc, time::Duration};

pub struct Peers {
    pub at: At,
    pub net: Net,
}

pub struct Peer {
    ends: (At, At),
    net: Net,
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, _: u64, node: &BasicNode) -> Peer {
        Peer { ends: (self.at, world::host_at(&node.addr).unwrap_or(At::MAX)), net: self.net.clone() }
    }
}

type Outcome<T> = Result<T, RPCError<TypeConfig>>;

fn unreachable(e: impl Display) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(e))
}

impl Peer {
    async fn call<T, E, F>(&self, ttl: Duration, ask: impl FnOnce(Raft) -> F + Send + 'static) -> Outcome<T>
    where
        T: Send + 'static,
        E: Display,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let job = |guest: Arc<Guest>| async move { ask(guest.raft.clone()).await.map_err(|e| e.to_string()) };
        match self.net.call(self.ends, ttl, job).await {
            Ok(answer) => answer.map_err(unreachable),
            Err(_) => Err(unreachable("lost")),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = RaftSnapshot;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Outcome<AppendEntriesResponse<TypeConfig>> {
        self.call(option.hard_ttl(), |raft| async move { raft.append_entries(rpc).await }).await
    }

    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Outcome<VoteResponse<TypeConfig>> {
        self.call(option.hard_ttl(), |raft| async move { raft.vote(rpc).await }).await
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Outcome<VoteResponse<TypeConfig>> {
        self.call(option.hard_ttl(), |raft| async move { raft.pre_vote(rpc).await }).await
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Outcome<TransferLeaderResponse<TypeConfig>> {
        self.call(option.hard_ttl(), |raft| async move { raft.handle_transfer_leader(rpc).await }).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, RaftSnapshot>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let send =
            self.call(option.hard_ttl(), move |raft| async move { install_snapshot(&raft, vote, snapshot).await });
        tokio::select! {
            biased;
            answer = send => Ok(answer?),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }
}
