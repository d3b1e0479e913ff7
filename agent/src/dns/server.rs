//! The resolver of one workload: sockets in its namespace, served from here.

use super::{
    forward::Upstream,
    zone::{Answer, Question, Zone},
};
use crate::{
    dataplane::{names, state::Space},
    kernel::linux::space,
};
use hickory_proto::{
    op::{Message, Metadata, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, PTR},
    },
};
use hickory_server::{
    Server,
    net::{runtime::Time, xfer::Protocol},
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use metrics::counter;
use rand::seq::SliceRandom;
use std::{
    io,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    str::FromStr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const TTL: u32 = 1;
const TCP_LIMIT: Duration = Duration::from_secs(10);
const TCP_BUFFER: usize = 32;

type Shared = Arc<RwLock<Arc<Zone>>>;

/// Ends when dropped.
pub struct Resolver {
    zone: Shared,
    server: Server<Handler>,
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.server.shutdown_token().cancel();
    }
}

impl Resolver {
    pub async fn start(workload: &Space, upstream: Upstream) -> io::Result<Self> {
        let zone = Shared::default();
        let mut server = Server::new(Handler { zone: zone.clone(), upstream });
        let (udp, tcp) = space::inside(workload, || {
            let udp = UdpSocket::bind((ADDRESS, names::DNS_PORT))?;
            let tcp = TcpListener::bind((ADDRESS, names::DNS_PORT))?;
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            Ok((tokio::net::UdpSocket::from_std(udp)?, tokio::net::TcpListener::from_std(tcp)?))
        })
        .await?;
        server.register_socket(udp);
        server.register_listener(tcp, TCP_LIMIT, TCP_BUFFER);
        Ok(Self { zone, server })
    }

    /// What later questions are answered from.
    pub fn set(&self, zone: Zone) {
        *self.zone.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(zone);
    }
}

pub(crate) struct Handler {
    pub(crate) zone: Shared,
    pub(crate) upstream: Upstream,
}

/// Records, or why there are none.
enum Reply {
    Records(Vec<Record>),
    Error(ResponseCode),
    Forwarded(Message),
}

impl Reply {
    /// As metrics name it.
    fn result(&self) -> &'static str {
        match self {
            Reply::Records(records) if records.is_empty() => "empty",
            Reply::Records(_) => "answered",
            Reply::Forwarded(_) => "forwarded",
            Reply::Error(ResponseCode::NXDomain) => "nxdomain",
            Reply::Error(ResponseCode::FormErr) => "formerr",
            Reply::Error(_) => "servfail",
        }
    }
}

impl Handler {
    async fn reply(&self, request: &Request) -> Reply {
        let Ok(info) = request.request_info() else { return Reply::Error(ResponseCode::FormErr) };
        let question = match info.query.query_type() {
            RecordType::A => Question::A,
            RecordType::AAAA => Question::Aaaa,
            RecordType::PTR => Question::Ptr,
            _ => Question::Other,
        };
        let name = info.query.name().to_string();
        let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner).clone();
        let asked = info.query.original().name().clone();
        let record = |data| Record::from_rdata(asked.clone(), TTL, data);
        match zone.answer(name.trim_end_matches('.'), question) {
            Answer::Addresses(mut addrs) => {
                addrs.shuffle(&mut rand::rng());
                let data = addrs.into_iter().map(|addr| match addr {
                    std::net::IpAddr::V4(a) => RData::A(A(a)),
                    std::net::IpAddr::V6(a) => RData::AAAA(AAAA(a)),
                });
                Reply::Records(data.map(record).collect())
            }
            Answer::Name(name) => match Name::from_str(&format!("{name}.")) {
                Ok(name) => Reply::Records(vec![record(RData::PTR(PTR(name)))]),
                Err(_) => Reply::Error(ResponseCode::ServFail),
            },
            Answer::Nothing => Reply::Records(Vec::new()),
            Answer::NoSuchName => Reply::Error(ResponseCode::NXDomain),
            Answer::Elsewhere => self.forward(request).await,
        }
    }

    async fn forward(&self, request: &Request) -> Reply {
        let answer = self.upstream.ask(request.as_slice(), request.protocol() == Protocol::Tcp).await;
        match answer.map_err(|e| e.to_string()).and_then(|a| Message::from_vec(&a).map_err(|e| e.to_string())) {
            Ok(message) => Reply::Forwarded(message),
            Err(error) => {
                tracing::debug!(error, "the host's resolvers do not answer");
                Reply::Error(ResponseCode::ServFail)
            }
        }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut to: R) -> ResponseInfo {
        let builder = MessageResponseBuilder::from_message_request(request);
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        let none: &[Record] = &[];
        let reply = self.reply(request).await;
        counter!("heddle_dns_queries_total", "result" => reply.result()).increment(1);
        let sent = match reply {
            Reply::Records(records) => {
                metadata.authoritative = true;
                to.send_response(builder.build(metadata, &records, none, none, none)).await
            }
            Reply::Error(code) => to.send_response(builder.error_msg(&metadata, code)).await,
            Reply::Forwarded(message) => {
                metadata.response_code = message.metadata.response_code;
                let response =
                    builder.build(metadata, &message.answers, &message.authorities, none, &message.additionals);
                to.send_response(response).await
            }
        };
        sent.unwrap_or_else(|_| {
            metadata.response_code = ResponseCode::ServFail;
            ResponseInfo::from(hickory_proto::op::Header { metadata, counts: Default::default() })
        })
    }
}
