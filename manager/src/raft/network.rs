//! Calls to the other managers.

use super::{Peers, RaftSnapshot, TypeConfig, decode, encode};
use futures::future::Either;
use heddle_plumbing::tls::{self, Credentials};
use heddle_proto::v1::{RaftMessage, SnapshotChunk, raft_client::RaftClient};
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
use serde::{Serialize, de::DeserializeOwned};
use std::{future::Future, time::Duration};
use tonic::{Request, transport::Channel};

/// The largest message between managers; a batch of log entries stays far below it.
pub const MAX_MESSAGE: usize = 64 << 20;
const CHUNK: usize = 1 << 20;
/// A snapshot of tens of megabytes over a slow link.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(60);

pub struct Network {
    pub credentials: Credentials,
    pub peers: Peers,
}

/// A link to one manager. The channel connects when it is used and again when it broke.
pub struct Peer {
    id: u64,
    addr: String,
    credentials: Credentials,
    peers: Peers,
    client: Result<RaftClient<Channel>, String>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, id: u64, node: &BasicNode) -> Peer {
        let addr = self.peers.addr(id).map_or_else(|| node.addr.clone(), |a| a.to_string());
        let (credentials, peers) = (self.credentials.clone(), self.peers.clone());
        Peer { id, client: dial(&addr, &credentials), addr, credentials, peers }
    }
}

fn dial(addr: &str, credentials: &Credentials) -> Result<RaftClient<Channel>, String> {
    let parsed = addr.parse().map_err(|_| format!("{addr:?} is not an address"))?;
    let channel = tls::dial(parsed, credentials).map_err(|e| e.to_string())?;
    Ok(RaftClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
}

type Outcome<T> = Result<T, RPCError<TypeConfig>>;

fn unreachable(e: impl ToString) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(e))
}

fn pack(message: &impl Serialize, limit: Duration) -> Outcome<Request<RaftMessage>> {
    let mut request = Request::new(RaftMessage { payload: encode(message).map_err(unreachable)? });
    request.set_timeout(limit);
    Ok(request)
}

fn unpack<T: DeserializeOwned>(answer: Result<tonic::Response<RaftMessage>, tonic::Status>) -> Outcome<T> {
    decode(&answer.map_err(|s| unreachable(s.message()))?.into_inner().payload).map_err(unreachable)
}

impl Peer {
    fn client(&mut self) -> Outcome<&mut RaftClient<Channel>> {
        if let Some(addr) = self.peers.addr(self.id).map(|a| a.to_string()).filter(|a| *a != self.addr) {
            self.client = dial(&addr, &self.credentials);
            self.addr = addr;
        }
        self.client.as_mut().map_err(unreachable)
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = RaftSnapshot;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Outcome<AppendEntriesResponse<TypeConfig>> {
        let request = pack(&rpc, option.hard_ttl())?;
        unpack(self.client()?.append_entries(request).await)
    }

    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Outcome<VoteResponse<TypeConfig>> {
        let request = pack(&rpc, option.hard_ttl())?;
        unpack(self.client()?.vote(request).await)
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Outcome<VoteResponse<TypeConfig>> {
        let request = pack(&rpc, option.hard_ttl())?;
        unpack(self.client()?.pre_vote(request).await)
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Outcome<TransferLeaderResponse<TypeConfig>> {
        let request = pack(&rpc, option.hard_ttl())?;
        unpack(self.client()?.transfer_leader(request).await)
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, RaftSnapshot>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let meta = encode(&(vote, snapshot.meta)).map_err(unreachable)?;
        let mut chunks = vec![SnapshotChunk { meta, data: Vec::new() }];
        chunks.extend(snapshot.snapshot.chunks(CHUNK).map(|c| SnapshotChunk { meta: Vec::new(), data: c.to_vec() }));
        let mut request = Request::new(futures::stream::iter(chunks));
        request.set_timeout(SNAPSHOT_LIMIT);
        let send = self.client()?.install_snapshot(request);
        match futures::future::select(Box::pin(send), Box::pin(cancel)).await {
            Either::Left((answer, _)) => Ok(unpack(answer)?),
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }
}
