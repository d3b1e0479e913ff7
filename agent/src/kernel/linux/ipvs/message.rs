//! What is said to IPVS and what it answers, in bytes (linux/ip_vs.h). Forwarding is always NAT, which keeps the client's
//! address.

use crate::dataplane::state::{IpvsDestination, IpvsKey, IpvsService};
use heddle_model::net::{Port, Protocol};
use netlink_packet_core::{DecodeError, DefaultNla, Emitable, Nla, NlasIterator, ParseableParametrized};
use netlink_packet_generic::{GenlFamily, GenlHeader};
use std::{collections::BTreeMap, net::IpAddr};

const NEW_SERVICE: u8 = 1;
const SET_SERVICE: u8 = 2;
const DEL_SERVICE: u8 = 3;
const GET_SERVICE: u8 = 4;
const NEW_DEST: u8 = 5;
const SET_DEST: u8 = 6;
const DEL_DEST: u8 = 7;
const GET_DEST: u8 = 8;

const CMD_SERVICE: u16 = 1;
const CMD_DEST: u16 = 2;

const SVC_AF: u16 = 1;
const SVC_PROTOCOL: u16 = 2;
const SVC_ADDR: u16 = 3;
const SVC_PORT: u16 = 4;
const SVC_FWMARK: u16 = 5;
const SVC_SCHED: u16 = 6;
const SVC_FLAGS: u16 = 7;
const SVC_TIMEOUT: u16 = 8;
const SVC_NETMASK: u16 = 9;

const DEST_ADDR: u16 = 1;
const DEST_PORT: u16 = 2;
const DEST_FORWARD: u16 = 3;
const DEST_WEIGHT: u16 = 4;
const DEST_UPPER: u16 = 5;
const DEST_LOWER: u16 = 6;
const DEST_AF: u16 = 11;

const NESTED: u16 = 1 << 15;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// IP_VS_CONN_F_MASQ.
const NAT: u32 = 0;

/// One request or answer of the family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    command: u8,
    attributes: Vec<DefaultNla>,
}

impl GenlFamily for Message {
    fn family_name() -> &'static str {
        "IPVS"
    }
    fn command(&self) -> u8 {
        self.command
    }
    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Message {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }
    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Message {
    fn parse_with_param(buffer: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        let attributes =
            NlasIterator::new(buffer).map(|nla| nla.map(|n| DefaultNla::new(n.kind(), n.value().to_vec())));
        Ok(Message { command: header.cmd, attributes: attributes.collect::<Result<_, _>>()? })
    }
}

fn nested(kind: u16, inside: Vec<DefaultNla>) -> DefaultNla {
    let mut bytes = vec![0; inside.as_slice().buffer_len()];
    inside.as_slice().emit(&mut bytes);
    DefaultNla::new(kind | NESTED, bytes)
}

/// `union nf_inet_addr`: 16 bytes, an IPv4 address in the first four.
fn addr_bytes(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(a) => [&a.octets()[..], &[0; 12]].concat(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn family(v6: bool) -> u16 {
    if v6 { AF_INET6 } else { AF_INET }
}

/// What names a service in every request about it.
fn key(key: &IpvsKey) -> (bool, Vec<DefaultNla>) {
    match key {
        IpvsKey::Mark { v6, mark } => (
            *v6,
            vec![
                DefaultNla::new(SVC_AF, family(*v6).to_ne_bytes().to_vec()),
                DefaultNla::new(SVC_FWMARK, mark.to_ne_bytes().to_vec()),
            ],
        ),
        IpvsKey::Addr { addr, protocol, port } => (
            addr.is_ipv6(),
            vec![
                DefaultNla::new(SVC_AF, family(addr.is_ipv6()).to_ne_bytes().to_vec()),
                DefaultNla::new(SVC_PROTOCOL, u16::from(protocol.number()).to_ne_bytes().to_vec()),
                DefaultNla::new(SVC_ADDR, addr_bytes(*addr)),
                DefaultNla::new(SVC_PORT, port.get().to_be_bytes().to_vec()),
            ],
        ),
    }
}

/// Makes a service, or changes one that is there.
pub fn set_service(service: &IpvsKey, scheduler: &str, new: bool) -> Message {
    let (v6, mut attributes) = key(service);
    // ipvsadm's defaults: the whole address counts, one flow at a time, no persistence.
    let netmask = if v6 { 128u32.to_ne_bytes() } else { u32::MAX.to_ne_bytes() };
    attributes.extend([
        DefaultNla::new(SVC_SCHED, [scheduler.as_bytes(), &[0]].concat()),
        DefaultNla::new(SVC_FLAGS, [0u32.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat()),
        DefaultNla::new(SVC_TIMEOUT, 0u32.to_ne_bytes().to_vec()),
        DefaultNla::new(SVC_NETMASK, netmask.to_vec()),
    ]);
    let command = if new { NEW_SERVICE } else { SET_SERVICE };
    Message { command, attributes: vec![nested(CMD_SERVICE, attributes)] }
}

pub fn delete_service(service: &IpvsKey) -> Message {
    Message { command: DEL_SERVICE, attributes: vec![nested(CMD_SERVICE, key(service).1)] }
}

/// Makes a destination of a service, or changes its weight.
pub fn set_destination(service: &IpvsKey, at: (IpAddr, u16), to: IpvsDestination, new: bool) -> Message {
    let destination = vec![
        DefaultNla::new(DEST_ADDR, addr_bytes(at.0)),
        DefaultNla::new(DEST_PORT, at.1.to_be_bytes().to_vec()),
        DefaultNla::new(DEST_FORWARD, NAT.to_ne_bytes().to_vec()),
        DefaultNla::new(DEST_WEIGHT, to.weight.to_ne_bytes().to_vec()),
        DefaultNla::new(DEST_UPPER, 0u32.to_ne_bytes().to_vec()),
        DefaultNla::new(DEST_LOWER, 0u32.to_ne_bytes().to_vec()),
        DefaultNla::new(DEST_AF, family(at.0.is_ipv6()).to_ne_bytes().to_vec()),
    ];
    let command = if new { NEW_DEST } else { SET_DEST };
    Message { command, attributes: vec![nested(CMD_SERVICE, key(service).1), nested(CMD_DEST, destination)] }
}

pub fn delete_destination(service: &IpvsKey, at: (IpAddr, u16)) -> Message {
    let destination = vec![
        DefaultNla::new(DEST_ADDR, addr_bytes(at.0)),
        DefaultNla::new(DEST_PORT, at.1.to_be_bytes().to_vec()),
        DefaultNla::new(DEST_AF, family(at.0.is_ipv6()).to_ne_bytes().to_vec()),
    ];
    Message { command: DEL_DEST, attributes: vec![nested(CMD_SERVICE, key(service).1), nested(CMD_DEST, destination)] }
}

/// All services, or, with a key, the destinations of one.
pub fn list(service: Option<&IpvsKey>) -> Message {
    match service {
        None => Message { command: GET_SERVICE, attributes: Vec::new() },
        Some(service) => Message { command: GET_DEST, attributes: vec![nested(CMD_SERVICE, key(service).1)] },
    }
}

/// The requests that turn one service into another. What is new comes first; what is too much goes last.
pub fn changes(service: &IpvsKey, want: &IpvsService, have: Option<&IpvsService>) -> Vec<Message> {
    let mut out = Vec::new();
    if have.is_none_or(|h| h.scheduler != want.scheduler) {
        out.push(set_service(service, &want.scheduler, have.is_none()));
    }
    let empty = BTreeMap::new();
    let old = have.map_or(&empty, |h| &h.destinations);
    for (at, to) in want.destinations.iter().filter(|(at, to)| old.get(at) != Some(to)) {
        out.push(set_destination(service, *at, *to, !old.contains_key(at)));
    }
    let surplus = old.keys().filter(|at| !want.destinations.contains_key(at));
    out.extend(surplus.map(|at| delete_destination(service, *at)));
    out
}

type Attributes = BTreeMap<u16, Vec<u8>>;

fn inside(message: &Message, kind: u16) -> Option<Attributes> {
    let bytes = message.attributes.iter().find(|a| a.kind() & !NESTED == kind)?;
    let mut value = vec![0; bytes.value_len()];
    bytes.emit_value(&mut value);
    let all = NlasIterator::new(value.as_slice()).filter_map(Result::ok);
    Some(all.map(|n| (n.kind() & !NESTED, n.value().to_vec())).collect())
}

fn number<const N: usize>(attributes: &Attributes, kind: u16) -> Option<[u8; N]> {
    attributes.get(&kind)?.get(..N)?.try_into().ok()
}

fn addr_of(attributes: &Attributes, kind: u16, v6: bool) -> Option<IpAddr> {
    if v6 { number::<16>(attributes, kind).map(IpAddr::from) } else { number::<4>(attributes, kind).map(IpAddr::from) }
}

/// A service of an answer, with its scheduler.
pub fn read_service(message: &Message) -> Option<(IpvsKey, String)> {
    let attributes = inside(message, CMD_SERVICE)?;
    let v6 = number(&attributes, SVC_AF).map(u16::from_ne_bytes)? == AF_INET6;
    let mark = number(&attributes, SVC_FWMARK).map_or(0, u32::from_ne_bytes);
    let name = attributes.get(&SVC_SCHED)?.split(|b| *b == 0).next()?;
    let key = if mark != 0 {
        IpvsKey::Mark { v6, mark }
    } else {
        let protocol = match number(&attributes, SVC_PROTOCOL).map(u16::from_ne_bytes)? {
            17 => Protocol::Udp,
            6 => Protocol::Tcp,
            _ => return None,
        };
        let port = Port::try_from(number(&attributes, SVC_PORT).map(u16::from_be_bytes)?).ok()?;
        IpvsKey::Addr { addr: addr_of(&attributes, SVC_ADDR, v6)?, protocol, port }
    };
    Some((key, String::from_utf8_lossy(name).into_owned()))
}

/// A destination of an answer about a service of this family.
pub fn read_destination(message: &Message, service_v6: bool) -> Option<((IpAddr, u16), IpvsDestination)> {
    let attributes = inside(message, CMD_DEST)?;
    let v6 = number(&attributes, DEST_AF).map_or(service_v6, |n| u16::from_ne_bytes(n) == AF_INET6);
    let port = number(&attributes, DEST_PORT).map(u16::from_be_bytes)?;
    let weight = number(&attributes, DEST_WEIGHT).map(u32::from_ne_bytes)?;
    Some(((addr_of(&attributes, DEST_ADDR, v6)?, port), IpvsDestination { weight }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(message: &Message) -> Vec<u8> {
        let mut out = vec![0; message.buffer_len()];
        message.emit(&mut out);
        out
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    fn tcp(addr: &str) -> IpvsKey {
        IpvsKey::Addr { addr: addr.parse().unwrap(), protocol: Protocol::Tcp, port: Port::try_from(80).unwrap() }
    }

    /// As include/uapi/linux/ip_vs.h has it, on a little-endian machine.
    #[test]
    #[cfg(target_endian = "little")]
    fn a_service_in_bytes() {
        let want = hex("54000180             # IPVS_CMD_ATTR_SERVICE, nested, 84 bytes
             0600 0100 0200 0000  # AF_INET
             0600 0200 0600 0000  # TCP
             1400 0300 0a000001 00000000 00000000 00000000
             0600 0400 0050 0000  # port 80, big-endian
             0700 0600 727200 00  # rr
             0c00 0700 00000000 ffffffff
             0800 0800 00000000
             0800 0900 ffffffff"
            .lines()
            .map(|l| l.split('#').next().unwrap_or_default())
            .collect::<String>()
            .as_str());
        let message = set_service(&tcp("10.0.0.1"), "rr", true);
        assert_eq!(message.command, NEW_SERVICE);
        assert_eq!(bytes(&message), want);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_destination_of_a_mark_in_bytes() {
        let want = hex("14000180             # IPVS_CMD_ATTR_SERVICE, nested
             0600 0100 0a00 0000  # AF_INET6
             0800 0500 07000010   # mark 0x10000007
             48000280             # IPVS_CMD_ATTR_DEST, nested, 72 bytes
             1400 0100 fd000000 00000000 00000000 00000002
             0600 0200 1f90 0000  # port 8080
             0800 0300 00000000   # NAT
             0800 0400 01000000
             0800 0500 00000000
             0800 0600 00000000
             0600 0b00 0a00 0000  # AF_INET6"
            .lines()
            .map(|l| l.split('#').next().unwrap_or_default())
            .collect::<String>()
            .as_str());
        let service = IpvsKey::Mark { v6: true, mark: 0x1000_0007 };
        let at = ("fd00::2".parse().unwrap(), 8080);
        let message = set_destination(&service, at, IpvsDestination { weight: 1 }, true);
        assert_eq!(message.command, NEW_DEST);
        assert_eq!(bytes(&message), want);
    }

    #[test]
    fn what_is_written_is_read_back() {
        for service in [tcp("10.0.0.1"), tcp("fd00::1"), IpvsKey::Mark { v6: false, mark: 9 }] {
            let message = set_service(&service, "mh", true);
            let header = GenlHeader { cmd: message.command, version: 1 };
            let parsed = Message::parse_with_param(&bytes(&message), header).unwrap();
            assert_eq!(read_service(&parsed), Some((service.clone(), "mh".into())));
            for addr in ["10.9.9.9", "fd00::9"] {
                let (at, to) = ((addr.parse().unwrap(), 81), IpvsDestination { weight: 0 });
                let message = set_destination(&service, at, to, false);
                assert_eq!(read_destination(&message, false), Some((at, to)));
            }
        }
    }

    #[test]
    fn changes_add_first_and_delete_last() {
        let service = tcp("10.0.0.1");
        let at = |n: u8| (IpAddr::from([10, 1, 0, n]), 80);
        let with = |scheduler: &str, list: &[(u8, u32)]| IpvsService {
            scheduler: scheduler.into(),
            destinations: list.iter().map(|(n, weight)| (at(*n), IpvsDestination { weight: *weight })).collect(),
        };
        let old = with("rr", &[(1, 1), (2, 1)]);
        let commands =
            |want: &IpvsService, have| changes(&service, want, have).iter().map(|m| m.command).collect::<Vec<_>>();
        assert_eq!(commands(&old, None), [NEW_SERVICE, NEW_DEST, NEW_DEST]);
        assert_eq!(commands(&with("rr", &[(1, 0), (3, 1)]), Some(&old)), [SET_DEST, NEW_DEST, DEL_DEST]);
        assert_eq!(commands(&with("mh", &[(1, 1), (2, 1)]), Some(&old)), [SET_SERVICE]);
        assert_eq!(commands(&old, Some(&old)), [0; 0]);
    }
}
