//! Calls between voters of one process.

use openraft::{
    BasicNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2, RaftTypeConfig,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{AppendEntriesRequest, AppendEntriesResponse, Raft, SnapshotResponse, VoteRequest, VoteResponse},
    storage::RaftStateMachine,
    type_config::alias::{SnapshotOf, VoteOf},
};
use std::{
    collections::BTreeMap,
    fmt::Display,
    future::Future,
    sync::{Arc, RwLock},
};

pub type Voters<C, M> = Arc<RwLock<BTreeMap<u64, Raft<C, M>>>>;

pub struct Wire<C: RaftTypeConfig, M: RaftStateMachine<C>> {
    pub voters: Voters<C, M>,
    /// The far end.
    pub to: u64,
}

impl<C: RaftTypeConfig, M: RaftStateMachine<C>> Wire<C, M> {
    fn raft(&self) -> Result<Raft<C, M>, RPCError<C>> {
        self.voters.read().unwrap().get(&self.to).cloned().ok_or_else(|| unreachable("not there yet"))
    }
}

fn unreachable<C: RaftTypeConfig>(e: impl Display) -> RPCError<C> {
    RPCError::Unreachable(Unreachable::from_string(e))
}

impl<C, M> RaftNetworkFactory<C> for Wire<C, M>
where
    C: RaftTypeConfig<NodeId = u64, Node = BasicNode>,
    M: RaftStateMachine<C, SnapshotData = Vec<u8>> + Sync,
{
    type Network = Self;

    async fn new_client(&mut self, to: u64, _: &BasicNode) -> Self {
        Self { voters: self.voters.clone(), to }
    }
}

impl<C, M> RaftNetworkV2<C> for Wire<C, M>
where
    C: RaftTypeConfig<NodeId = u64, Node = BasicNode>,
    M: RaftStateMachine<C, SnapshotData = Vec<u8>> + Sync,
{
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<C>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<C>, RPCError<C>> {
        self.raft()?.append_entries(rpc).await.map_err(unreachable)
    }

    async fn vote(&mut self, rpc: VoteRequest<C>, _: RPCOption) -> Result<VoteResponse<C>, RPCError<C>> {
        self.raft()?.vote(rpc).await.map_err(unreachable)
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<C>, _: RPCOption) -> Result<VoteResponse<C>, RPCError<C>> {
        self.raft()?.pre_vote(rpc).await.map_err(unreachable)
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<C>,
        snapshot: SnapshotOf<C, Vec<u8>>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let raft = self.raft()?;
        Ok(raft.install_full_snapshot(vote, snapshot).await.map_err(unreachable)?)
    }
}
