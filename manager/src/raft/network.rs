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
    type_config::alias::{LogIdOf, SnapshotOf, VoteOf},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{future::Future, io, time::Duration};
use tonic::{Request, transport::Channel};

/// The largest message between managers; a batch of log entries stays far below it.
pub const MAX_MESSAGE: usize = 64 << 20;
/// Bytes of the entries in one call, unless one entry alone has more.
const BATCH: usize = 8 << 20;
const CHUNK: usize = 1 << 20;
/// Bytes a second that a way to another manager takes at least, with what writing them there takes.
const SLOWEST: usize = 1 << 20;
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
    let client = RaftClient::new(tls::dial(parsed, credentials));
    Ok(client.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
}

type Outcome<T> = Result<T, RPCError<TypeConfig>>;

fn unreachable(e: impl ToString) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(e))
}

fn pack(message: &impl Serialize, limit: Duration) -> Outcome<Request<RaftMessage>> {
    Ok(packed(encode(message).map_err(unreachable)?, limit))
}

fn packed(payload: Vec<u8>, limit: Duration) -> Request<RaftMessage> {
    let mut request = Request::new(RaftMessage { payload });
    request.set_timeout(limit);
    request
}

/// As many of the first entries as these bytes hold, encoded, and the last of them where there are more: of a few large
/// changes together, a manager that was away would else take none.
fn first_entries(
    mut rpc: AppendEntriesRequest<TypeConfig>,
    most: usize,
) -> io::Result<(Vec<u8>, Option<LogIdOf<TypeConfig>>)> {
    let mut last = None;
    loop {
        let payload = encode(&rpc)?;
        if payload.len() <= most || rpc.entries.len() <= 1 {
            return Ok((payload, last));
        }
        rpc.entries.truncate(rpc.entries.len() / 2);
        last = rpc.entries.last().map(|entry| entry.log_id);
    }
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
        let (payload, last) = first_entries(rpc, BATCH).map_err(unreachable)?;
        let limit = option.hard_ttl() + Duration::from_millis((payload.len() * 1000 / SLOWEST) as u64);
        let request = packed(payload, limit);
        match (unpack(self.client()?.append_entries(request).await)?, last) {
            (AppendEntriesResponse::Success, Some(_)) => Ok(AppendEntriesResponse::PartialSuccess(last)),
            (answer, _) => Ok(answer),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Action, Mutation};
    use heddle_model::{Kind, Timestamp};
    use openraft::{Entry, EntryPayload, vote::RaftLeaderId};

    #[test]
    fn what_is_too_much_for_one_call_goes_in_several() {
        let vote = VoteOf::<TypeConfig>::new(3, 1);
        let entry = |index| {
            let gone = Mutation::Remove { kind: Kind::Task, id: "x".repeat(1000), version: None };
            let payload = EntryPayload::Normal(Action { at: Timestamp(0), mutations: vec![gone] }.into());
            Entry { log_id: LogIdOf::<TypeConfig>::new(vote.leader_id().to_committed(), index), payload }
        };
        let rpc = |count| AppendEntriesRequest::<TypeConfig> {
            vote,
            prev_log_id: None,
            entries: (1..=count).map(entry).collect(),
            leader_commit: None,
        };
        for (count, most, sent) in [(10, 20_000, 10), (10, 6_000, 5), (10, 3_000, 2), (10, 1, 1), (1, 1, 1), (0, 1, 0)]
        {
            let (payload, last) = first_entries(rpc(count), most).unwrap();
            let read: AppendEntriesRequest<TypeConfig> = decode(&payload).unwrap();
            assert_eq!(read.entries.len() as u64, sent, "{count} {most}");
            assert_eq!(last.map(|l| l.index), (sent < count).then_some(sent), "{count} {most}");
        }
    }
}
