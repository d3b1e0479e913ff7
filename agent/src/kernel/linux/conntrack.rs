//! Flows that connection tracking knows: looking at them, and forgetting some.

use super::space;
use crate::dataplane::{
    flows::{Flow, Stale, Tuple},
    state::Space,
};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Status, Tuple as Attribute},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use std::{collections::BTreeSet, io, net::IpAddr, sync::Arc};

const BUFFER: usize = 256 << 10;
/// CTA_TUPLE_ZONE (linux/netfilter/nfnetlink_conntrack.h): big-endian, absent for the default zone.
const ZONE: u16 = 3;

/// Forgets every flow of the host's that is concerned; the next packet is looked at anew. How many there were.
pub async fn forget(stale: BTreeSet<Stale>) -> io::Result<usize> {
    space::inside(&Space::Host, move || {
        let own: BTreeSet<IpAddr> = own_addresses();
        forget_those(|flow| stale.iter().any(|s| s.concerns(flow, &own)))
    })
    .await
}

/// Forgets connections of a namespace that are tried in vain: the next packet of theirs is led anew. How many there were.
pub async fn let_go(at: &Space, serving: Arc<BTreeSet<IpAddr>>) -> io::Result<usize> {
    space::inside(at, move || forget_those(|flow| flow.is_in_vain(&serving))).await
}

/// Flows of the namespace that this thread is in.
fn forget_those(which: impl Fn(&Flow) -> bool) -> io::Result<usize> {
    let mut count = 0;
    for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6] {
        let mut socket = open()?;
        for attributes in dump(&mut socket, family)? {
            if flow(&attributes).is_some_and(|flow| which(&flow)) && delete(&mut socket, family, attributes)? {
                count += 1;
            }
        }
    }
    Ok(count)
}

/// Every flow of the namespace that this thread is in.
pub fn flows() -> io::Result<Vec<Flow>> {
    let all = dump(&mut open()?, NetfilterProtoFamily::Unspec)?;
    Ok(all.iter().filter_map(|attributes| flow(attributes)).collect())
}

fn own_addresses() -> BTreeSet<IpAddr> {
    let all = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|i| i.address);
    let ip = |a: nix::sys::socket::SockaddrStorage| {
        let v4 = a.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| a.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    all.filter_map(ip).collect()
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

fn send(socket: &Socket, family: NetfilterProtoFamily, flags: u16, message: ConntrackMessage) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let payload = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message);
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(payload));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    Ok(())
}

/// Every message of an answer, until its end.
fn receive(
    socket: &mut Socket,
    mut each: impl FnMut(NetlinkPayload<NetfilterMessage>) -> io::Result<bool>,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        buffer.clear();
        let size = socket.recv(&mut buffer, 0)?;
        let mut at = 0;
        while at < size {
            let packet =
                NetlinkMessage::<NetfilterMessage>::deserialize(&buffer[at..size]).map_err(io::Error::other)?;
            let length = packet.header.length as usize;
            if each(packet.payload)? {
                return Ok(());
            }
            if length == 0 {
                break;
            }
            // Messages begin at multiples of four bytes.
            at += length.next_multiple_of(4);
        }
    }
}

fn dump(socket: &mut Socket, family: NetfilterProtoFamily) -> io::Result<Vec<Vec<ConntrackAttribute>>> {
    send(socket, family, NLM_F_DUMP, ConntrackMessage::Get(Vec::new()))?;
    let mut found = Vec::new();
    receive(socket, |payload| match payload {
        NetlinkPayload::Done(_) => Ok(true),
        NetlinkPayload::Error(e) => Err(e.to_io()),
        NetlinkPayload::InnerMessage(message) => {
            if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.inner {
                found.push(attributes);
            }
            Ok(false)
        }
        _ => Ok(false),
    })?;
    Ok(found)
}

/// False: it had ended by itself.
fn delete(socket: &mut Socket, family: NetfilterProtoFamily, attributes: Vec<ConntrackAttribute>) -> io::Result<bool> {
    let original = attributes.into_iter().filter(|a| matches!(a, ConntrackAttribute::CtaTupleOrig(_))).collect();
    send(socket, family, NLM_F_ACK, ConntrackMessage::Delete(original))?;
    let mut gone = false;
    receive(socket, |payload| match payload {
        NetlinkPayload::Error(e) => match e.code {
            None => {
                gone = true;
                Ok(true)
            }
            Some(_) if e.to_io().raw_os_error() == Some(nix::libc::ENOENT) => Ok(true),
            Some(_) => Err(e.to_io()),
        },
        _ => Ok(false),
    })?;
    Ok(gone)
}

pub(crate) fn flow(attributes: &[ConntrackAttribute]) -> Option<Flow> {
    let (mut original, mut reply, mut answered) = (None, None, false);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(parts) => original = tuple(parts),
            ConntrackAttribute::CtaTupleReply(parts) => reply = tuple(parts),
            ConntrackAttribute::CtaStatus(status) => answered = status.contains(Status::SeenReply),
            _ => {}
        }
    }
    Some(Flow { original: original?, reply: reply?, answered })
}

fn tuple(parts: &[Attribute]) -> Option<Tuple> {
    let (mut src, mut dst, mut protocol, mut sport, mut dport, mut zone) = (None, None, None, 0, 0, 0);
    for part in parts {
        match part {
            Attribute::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(a) => src = Some(*a),
                        IPTuple::DestinationAddress(a) => dst = Some(*a),
                        _ => {}
                    }
                }
            }
            Attribute::Proto(fields) => {
                for field in fields {
                    match field {
                        ProtoTuple::Protocol(p) => protocol = Some(u8::from(*p)),
                        ProtoTuple::SourcePort(port) => sport = *port,
                        ProtoTuple::DestinationPort(port) => dport = *port,
                        _ => {}
                    }
                }
            }
            Attribute::Other(field) if field.kind() == ZONE => {
                let mut value = [0; 2];
                if field.value_len() == value.len() {
                    field.emit_value(&mut value);
                }
                zone = u16::from_be_bytes(value);
            }
            _ => {}
        }
    }
    Some(Tuple { src: src?, dst: dst?, protocol: protocol?, sport, dport, zone })
}
