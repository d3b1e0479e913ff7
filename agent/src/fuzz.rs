//! Every parser of the agent, tried with what nobody should send: DNS, netlink, the output of firewall tools, files of its own.

use crate::{
    dataplane::{
        firewall::{iptables, nft as chains},
        ipvs::{IpvsDestination, IpvsKey, IpvsTimeouts, Scheduler},
    },
    dns::{
        Upstream, Zone,
        server::Handler,
        zone::{Question, reverse},
    },
    executor::{self, record},
    host::links,
    kernel::linux::{conntrack, genl, ipvs::message, nft, watch, wireguard::netlink},
    local::{network::HostNetwork, state::HostState},
    underlay::echo,
};
use heddle_fuzz::{Memory, one_of, run, run_text};
use heddle_model::{
    NetworkId, TaskId, Timestamp,
    net::{DualAddr, Pool, Port, Protocol},
    network::NetworkSpec,
    task::TaskStatus,
    workload::{HostEndpoint, HostPort, NetworkWish, Workload, WorkloadSpec},
};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, TXT},
    },
    serialize::binary::BinEncoder,
};
use hickory_server::{
    net::{NetError, runtime::TokioTime, xfer},
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponse,
};
use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable};
use netlink_packet_generic::GenlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol as IpProtocol, Tuple},
};
use netlink_packet_wireguard::{
    WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardCmd, WireguardMessage, WireguardPeer,
    WireguardPeerAttribute,
};
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVlan, LinkAttribute, LinkInfo, LinkMessage},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    net::{IpAddr, SocketAddr},
    sync::{Arc, RwLock},
    time::Duration,
};

// ---- DNS

/// hickory makes room for as many records as a header claims, of which 16 bits for each of four sections are a bound.
const DNS: Memory = Memory { base: 64 << 20, factor: 4 << 10 };

/// Takes answers as a socket would, and writes them nowhere.
#[derive(Clone)]
struct Nowhere;

#[async_trait::async_trait]
impl ResponseHandler for Nowhere {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut bytes = Vec::new();
        Ok(response.destructive_emit(&mut BinEncoder::new(&mut bytes))?)
    }
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

#[test]
fn questions() {
    let addr = DualAddr { v4: [10, 0, 1, 2].into(), v6: "fd00::2".parse().unwrap() };
    let mut zone = Zone::default();
    zone.add("web", "front", &addr.addrs());
    zone.point(&addr.addrs(), "web.front");
    let upstream = Upstream { servers: Some(Vec::new()), from: None };
    let handler = Handler { zone: Arc::new(RwLock::new(Arc::new(zone))), upstream };
    let asked = [
        question("web.", RecordType::A),
        question("WEB.front.", RecordType::AAAA),
        question("2.1.0.10.in-addr.arpa.", RecordType::PTR),
        question("example.org.", RecordType::ANY),
        question("nobody.", RecordType::SRV),
    ];
    run(DNS, one_of(&asked), |bytes| {
        let from: SocketAddr = ([127, 0, 0, 1], 5353).into();
        let Ok(request) = Request::from_bytes(bytes.to_vec(), from, xfer::Protocol::Udp) else { return };
        futures::executor::block_on(handler.handle_request::<_, TokioTime>(&request, Nowhere));
    });
}

/// As the host's resolvers send them.
#[test]
fn forwarded_answers() {
    let mut answer = Message::from_vec(&question("example.org.", RecordType::A)).unwrap();
    let name = Name::from_ascii("example.org.").unwrap();
    answer.add_answer(Record::from_rdata(name.clone(), 5, RData::A(A([192, 0, 2, 1].into()))));
    answer.add_additional(Record::from_rdata(name, 5, RData::TXT(TXT::new(vec!["text".into()]))));
    run(DNS, one_of(&[answer.to_vec().unwrap()]), |bytes| {
        if let Ok(message) = Message::from_vec(bytes) {
            drop(message.to_vec());
        }
    });
}

#[test]
fn names_of_addresses() {
    let v6 = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
    run_text(&["2.1.0.10.in-addr.arpa", v6], |text| {
        let mut zone = Zone::default();
        let Some(addr) = reverse(text) else { return };
        zone.point(&[addr], "web.front");
        drop(zone.answer(text, Question::Ptr));
        assert_eq!(reverse(&pointer(addr)), Some(addr));
        assert_eq!(text.split('.').count(), pointer(addr).split('.').count(), "{text}");
        assert!(!text.contains('+'), "{text}");
    });
}

/// The name below in-addr.arpa or ip6.arpa.
fn pointer(addr: IpAddr) -> String {
    match addr {
        IpAddr::V4(a) => a.octets().iter().rev().map(|b| format!("{b}.")).collect::<String>() + "in-addr.arpa",
        IpAddr::V6(a) => {
            let nibbles = a.octets().into_iter().rev().map(|b| format!("{:x}.{:x}.", b & 0xf, b >> 4));
            nibbles.collect::<String>() + "ip6.arpa"
        }
    }
}

// ---- netlink

/// A message of generic netlink, as the kernel sends it.
fn generic<F: genl::Family>(message: F) -> Vec<u8> {
    let mut message = GenlMessage::from_payload(message);
    message.set_resolved_family_id(0x20);
    message.finalize();
    serialized(message)
}

/// The same, read.
fn answer<F: genl::Family>(bytes: &[u8]) -> Option<F> {
    match genl::read::<F>(bytes).ok()?.payload {
        NetlinkPayload::InnerMessage(inner) => Some(inner.into_parts().1),
        _ => None,
    }
}

fn serialized<T: NetlinkSerializable + Debug>(payload: T) -> Vec<u8> {
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(payload));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[test]
fn ipvs_answers() {
    let at = |addr: &str| addr.parse::<IpAddr>().unwrap();
    let keys = [
        IpvsKey::Mark { v6: true, mark: 9 },
        IpvsKey::Addr { addr: at("10.0.0.1"), protocol: Protocol::Tcp, port: Port::try_from(80).unwrap() },
    ];
    let services = keys.iter().map(|key| message::set_service(key, Scheduler::Mh { ports: true }, true));
    let to = IpvsDestination::Weight(1);
    let destinations = ["10.9.9.9", "fd00::9"].map(|a| message::set_destination(&keys[0], (at(a), 80), to, true));
    let timeouts = message::set_timeouts(IpvsTimeouts::CONNTRACK);
    let answers: Vec<_> = services.chain(destinations).chain([timeouts]).map(generic).collect();
    run(Memory::USUAL, one_of(&answers), |bytes| {
        let Some(answer) = answer::<message::Message>(bytes) else { return };
        let _ = message::read_timeouts(&answer);
        for v6 in [false, true] {
            let _ = message::read_destination(&answer, v6);
        }
        if let Some((key, scheduler)) = message::read_service(&answer)
            && scheduler != Scheduler::Other
        {
            let again = message::set_service(&key, scheduler, true);
            assert_eq!(message::read_service(&again), Some((key, scheduler)));
        }
    });
}

#[test]
fn wireguard_answers() {
    let net = vec![WireguardAllowedIpAttr::IpAddr([10, 0, 0, 1].into()), WireguardAllowedIpAttr::Cidr(32)];
    let peer = WireguardPeer(vec![
        WireguardPeerAttribute::PublicKey([7; 32]),
        WireguardPeerAttribute::Endpoint(([192, 0, 2, 1], 51820).into()),
        WireguardPeerAttribute::TxBytes(9),
        WireguardPeerAttribute::AllowedIps(vec![WireguardAllowedIp(net)]),
    ]);
    let attributes = vec![
        WireguardAttribute::IfName("wg0".into()),
        WireguardAttribute::PublicKey([9; 32]),
        WireguardAttribute::ListenPort(51820),
        WireguardAttribute::Peers(vec![peer]),
    ];
    let sent = generic(WireguardMessage { cmd: WireguardCmd::GetDevice, attributes });
    // A prefix length that is not there.
    let length = [0x05, 0x00, 0x03, 0x00, 0x20].as_slice();
    let at = sent.windows(length.len()).position(|w| w == length).unwrap();
    let mut short = sent.clone();
    short[at] = 4;
    assert!(answer::<WireguardMessage>(&sent).is_some() && answer::<WireguardMessage>(&short).is_none());
    // A panic that is caught costs more than what it is about.
    run(Memory { base: 64 << 20, ..Memory::USUAL }, one_of(&[sent]), |bytes| {
        let Some(answer) = answer::<WireguardMessage>(bytes) else { return };
        drop(netlink::read(answer.attributes.iter()));
        drop(netlink::traffic_of(&answer.attributes, Duration::from_secs(1)));
    });
}

fn inner<T: NetlinkDeserializable>(bytes: &[u8]) -> Option<T> {
    match NetlinkMessage::<T>::deserialize(bytes).ok()?.payload {
        NetlinkPayload::InnerMessage(inner) => Some(inner),
        _ => None,
    }
}

#[test]
fn conntrack_answers() {
    let tuple = |from: [u8; 4], to: [u8; 4]| {
        let addrs = vec![IPTuple::SourceAddress(from.into()), IPTuple::DestinationAddress(to.into())];
        vec![
            Tuple::Ip(addrs),
            Tuple::Proto(vec![ProtoTuple::Protocol(IpProtocol::Tcp), ProtoTuple::DestinationPort(80)]),
        ]
    };
    let flow = ConntrackMessage::New(vec![
        ConntrackAttribute::CtaTupleOrig(tuple([10, 0, 0, 1], [10, 0, 0, 2])),
        ConntrackAttribute::CtaTupleReply(tuple([10, 0, 0, 2], [10, 0, 0, 1])),
    ]);
    let answer = serialized(NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0), flow));
    run(Memory::USUAL, one_of(&[answer]), |bytes| {
        if let Some(NetfilterMessage { inner: NetfilterMessageInner::Conntrack(found), .. }) = inner(bytes)
            && let ConntrackMessage::New(attributes) = found
        {
            let _ = conntrack::flow(&attributes);
        }
    });
}

#[test]
fn links_of_the_host() {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName("eth0.7".into()),
        LinkAttribute::Mtu(1500),
        LinkAttribute::IfAlias("heddle".into()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(7)])),
        ]),
    ];
    let one = serialized(RouteNetlinkMessage::NewLink(link));
    let datagrams = [one.clone(), [one.clone(), one].concat()];
    run(Memory::USUAL, one_of(&datagrams), |bytes| {
        for (header, message) in watch::messages(bytes) {
            assert!(header.length as usize == message.len() && message.len() <= bytes.len());
            if let Some(RouteNetlinkMessage::NewLink(link)) = inner(message) {
                drop(links::fact(&link, &HashMap::new()));
            }
        }
    });
}

#[test]
fn echoes() {
    let v4 = [&[0x45; 20][..], &[0, 0, 0, 0, 9, 9, 9, 9]].concat();
    run(Memory::USUAL, one_of(&[v4, vec![129, 0, 0, 0, 9, 9, 9, 9]]), |bytes| {
        for v4 in [false, true] {
            assert!(!echo::answers(bytes, v4, [9; 4]) || bytes.len() >= 8);
        }
    });
}

// ---- what firewall tools print

#[test]
fn listings_of_nft() {
    let listings = [
        r#"{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": "ip", "name": "heddle_gateway", "handle": 1}}]}"#,
        r#"{"nftables": [{"chain": {"family": "inet", "table": "heddle_gateway", "name": "digest_ab", "handle": 1}}]}"#,
        r#"{"nftables": [{"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}}, {"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 10, "comment": "heddle", "expr": [{"counter": null}, {"drop": null}]}}]}"#,
    ];
    run_text(&listings, |text| {
        drop(nft::read(text));
        drop(chains::ours(text));
        drop(chains::named(text));
        for base in chains::bases(text).into_iter().flatten() {
            drop((base.iptables(), base.read(text)));
        }
    });
}

#[test]
fn listings_of_iptables() {
    let listing = "-P FORWARD DROP\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -i eth0 -j DROP\n\
                   -A DOCKER-USER -m mark --mark 0x1/0x1 -m comment --comment \"heddle\" -j ACCEPT\n-A DOCKER-USER -j RETURN\n";
    run_text(&[listing], |text| {
        if let (Some((_, cut)), _) = iptables::read(false, true, text) {
            assert!(cut.at > 0 && cut.at as usize <= text.lines().count() + 1);
        }
    });
}

// ---- files of its own

/// What is read is written alike.
fn file<T: Serialize + DeserializeOwned>(valid: &T) {
    run(Memory::USUAL, one_of(&[serde_json::to_vec(valid).unwrap()]), |bytes| {
        if let Ok(value) = serde_json::from_slice::<T>(bytes) {
            let text = serde_json::to_string(&value).unwrap();
            assert_eq!(serde_json::to_string(&serde_json::from_str::<T>(&text).unwrap()).unwrap(), text);
        }
    });
}

#[test]
fn state_of_the_host() {
    let (network, workload) = (NetworkId::from_random([1; 16]), TaskId::from_random([2; 16]));
    let port = Port::try_from(80).unwrap();
    let made = HostNetwork {
        id: network.clone(),
        created_at: Timestamp(1),
        spec: NetworkSpec::default(),
        pools: vec![Pool::new("10.1.0.0/24".parse().unwrap())],
        owns_parent: false,
    };
    let spec = WorkloadSpec { networks: vec![NetworkWish::default()], ..WorkloadSpec::default() };
    let runs = Workload {
        id: workload.clone(),
        created_at: Timestamp(1),
        spec,
        ports: vec![HostPort { host_ip: None, host: port, target: port, protocol: Protocol::Tcp }],
        wanted: true,
        runs: 1,
        stop_grace: None,
        status: TaskStatus::default(),
    };
    let place = HostEndpoint {
        network: network.clone(),
        index: 0,
        addrs: vec![[10, 1, 0, 2].into()],
        mac: "02:42:0a:01:00:02".parse().unwrap(),
        aliases: vec!["web".into()],
        gateway_priority: 0,
    };
    file(&HostState {
        revision: 3,
        ula: "fd00:1::/48".parse().unwrap(),
        networks: BTreeMap::from([(network, made)]),
        workloads: BTreeMap::from([(workload.clone(), runs)]),
        endpoints: BTreeMap::from([(workload, vec![place])]),
    });
}

#[test]
fn files_of_tasks() {
    file(&record::Running { shim: 1, shim_start: 2, init: 3, init_start: 4 });
    file(&record::Exit { code: 1, error: Some("e".into()), at_ms: 7 });
    file(&record::ShimSpec {
        container: Default::default(),
        command: vec!["true".into()],
        env: BTreeMap::from([("A".into(), "b".into())]),
        dir: None,
        hostname: "h".into(),
        netns: record::HOST_NETNS.into(),
        files: BTreeMap::new(),
        secrets: 2,
        resources: heddle_model::placement::Resources::default(),
    });
    file(&executor::Line { at_ms: 1, stream: executor::Stream::Stdout, text: "t".into() });
}
