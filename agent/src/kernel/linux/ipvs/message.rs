//! What is said to IPVS and what it answers, in bytes (linux/ip_vs.h). Forwarding is always NAT, which keeps the client's
//! address.

use crate::dataplane::ipvs::{IpvsDestination, IpvsKey, IpvsTimeouts, Scheduler};
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
const SET_CONFIG: u8 = 12;
const GET_CONFIG: u8 = 13;

const CMD_SERVICE: u16 = 1;
const CMD_DEST: u16 = 2;
const TIMEOUT_TCP: u16 = 4;
const TIMEOUT_TCP_FIN: u16 = 5;
const TIMEOUT_UDP: u16 = 6;

const SVC_AF: u16 = 1;
const SVC_PROTOCOL: u16 = 2;
const SVC_ADDR: u16 = 3;
const SVC_PORT: u16 = 4;
const SVC_FWMARK: u16 = 5;
const SVC_SCHED: u16 = 6;
const SVC_FLAGS: u16 = 7;
const SVC_TIMEOUT: u16 = 8;
const SVC_NETMASK: u16 = 9;
const SVC_PE_NAME: u16 = 11;

const DEST_ADDR: u16 = 1;
const DEST_PORT: u16 = 2;
const DEST_FORWARD: u16 = 3;
const DEST_WEIGHT: u16 = 4;
const DEST_UPPER: u16 = 5;
const DEST_LOWER: u16 = 6;
const DEST_ACTIVE: u16 = 7;
const DEST_AF: u16 = 11;

const NESTED: u16 = 1 << 15;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// IP_VS_CONN_F_MASQ, and the bits that say how a destination is forwarded to.
const NAT: u32 = 0;
const FORWARD_MASK: u32 = 7;
/// IP_VS_SVC_F_HASHED: set by the kernel.
const HASHED: u32 = 2;
/// IP_VS_SVC_F_SCHED_MH_FALLBACK: a destination that drains keeps its share of the table; without this, whoever is hashed
/// to it is refused.
const MH_FALLBACK: u32 = 0x8;
/// IP_VS_SVC_F_SCHED_MH_PORT.
const MH_PORT: u32 = 0x10;

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

const fn flags(scheduler: Scheduler) -> u32 {
    match scheduler {
        Scheduler::Mh { ports: true } => MH_FALLBACK | MH_PORT,
        Scheduler::Mh { ports: false } => MH_FALLBACK,
        _ => 0,
    }
}

/// ipvsadm's default: the whole address counts where the service is persistent, which ours never is.
const fn netmask(v6: bool) -> [u8; 4] {
    if v6 { 128u32.to_ne_bytes() } else { u32::MAX.to_ne_bytes() }
}

/// Makes a service, or changes one that is there. Not persistent, one flow at a time.
pub fn set_service(service: &IpvsKey, scheduler: Scheduler, new: bool) -> Message {
    let (v6, mut attributes) = key(service);
    let name = scheduler.name().unwrap_or_default().as_bytes();
    attributes.extend([
        DefaultNla::new(SVC_SCHED, [name, &[0]].concat()),
        DefaultNla::new(SVC_FLAGS, [flags(scheduler).to_ne_bytes(), u32::MAX.to_ne_bytes()].concat()),
        DefaultNla::new(SVC_TIMEOUT, 0u32.to_ne_bytes().to_vec()),
        DefaultNla::new(SVC_NETMASK, netmask(v6).to_vec()),
    ]);
    let command = if new { NEW_SERVICE } else { SET_SERVICE };
    Message { command, attributes: vec![nested(CMD_SERVICE, attributes)] }
}

pub fn delete_service(service: &IpvsKey) -> Message {
    Message { command: DEL_SERVICE, attributes: vec![nested(CMD_SERVICE, key(service).1)] }
}

/// Makes a destination of a service, or changes its weight.
pub fn set_destination(service: &IpvsKey, at: (IpAddr, u16), to: IpvsDestination, new: bool) -> Message {
    let weight = if let IpvsDestination::Weight(weight) = to { weight } else { 0 };
    let destination = vec![
        DefaultNla::new(DEST_ADDR, addr_bytes(at.0)),
        DefaultNla::new(DEST_PORT, at.1.to_be_bytes().to_vec()),
        DefaultNla::new(DEST_FORWARD, NAT.to_ne_bytes().to_vec()),
        DefaultNla::new(DEST_WEIGHT, weight.to_ne_bytes().to_vec()),
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

/// Of the namespace that it is sent in.
pub fn set_timeouts(timeouts: IpvsTimeouts) -> Message {
    let values = [(TIMEOUT_TCP, timeouts.tcp), (TIMEOUT_TCP_FIN, timeouts.tcp_fin), (TIMEOUT_UDP, timeouts.udp)];
    let attributes = values.map(|(kind, seconds)| DefaultNla::new(kind, seconds.to_ne_bytes().to_vec())).to_vec();
    Message { command: SET_CONFIG, attributes }
}

pub fn get_timeouts() -> Message {
    Message { command: GET_CONFIG, attributes: Vec::new() }
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
pub fn read_service(message: &Message) -> Option<(IpvsKey, Scheduler)> {
    let attributes = inside(message, CMD_SERVICE)?;
    let v6 = number(&attributes, SVC_AF).map(u16::from_ne_bytes)? == AF_INET6;
    let mark = number(&attributes, SVC_FWMARK).map_or(0, u32::from_ne_bytes);
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
    Some((key, read_scheduler(&attributes, v6)?))
}

fn read_scheduler(attributes: &Attributes, v6: bool) -> Option<Scheduler> {
    let found = number(attributes, SVC_FLAGS).map(u32::from_ne_bytes)? & !HASHED;
    let scheduler = match attributes.get(&SVC_SCHED)?.split(|b| *b == 0).next()? {
        b"rr" => Scheduler::Rr,
        b"wrr" => Scheduler::Wrr,
        b"lc" => Scheduler::Lc,
        b"mh" => Scheduler::Mh { ports: found & MH_PORT != 0 },
        _ => return Some(Scheduler::Other),
    };
    let plain = found == flags(scheduler)
        && number(attributes, SVC_TIMEOUT) == Some(0u32.to_ne_bytes())
        && number(attributes, SVC_NETMASK) == Some(netmask(v6))
        && !attributes.contains_key(&SVC_PE_NAME);
    Some(if plain { scheduler } else { Scheduler::Other })
}

/// A destination of an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Destination {
    pub at: (IpAddr, u16),
    pub to: IpvsDestination,
    /// Established ones.
    pub connections: u32,
}

/// A destination of an answer about a service of this family.
pub fn read_destination(message: &Message, service_v6: bool) -> Option<Destination> {
    let attributes = inside(message, CMD_DEST)?;
    let v6 = number(&attributes, DEST_AF).map_or(service_v6, |n| u16::from_ne_bytes(n) == AF_INET6);
    let port = number(&attributes, DEST_PORT).map(u16::from_be_bytes)?;
    let value = |kind| number(&attributes, kind).map(u32::from_ne_bytes);
    let plain = value(DEST_FORWARD)? & FORWARD_MASK == NAT && value(DEST_UPPER)? == 0 && value(DEST_LOWER)? == 0;
    let to = if plain { IpvsDestination::Weight(value(DEST_WEIGHT)?) } else { IpvsDestination::Other };
    let connections = value(DEST_ACTIVE).unwrap_or(0);
    Some(Destination { at: (addr_of(&attributes, DEST_ADDR, v6)?, port), to, connections })
}

/// None: they are the kernel's own.
pub fn read_timeouts(message: &Message) -> Option<IpvsTimeouts> {
    let seconds = |kind: u16| {
        let found = message.attributes.iter().find(|a| a.kind() & !NESTED == kind)?;
        let mut value = vec![0; found.value_len()];
        found.emit_value(&mut value);
        Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
    };
    let (tcp, tcp_fin, udp) = (seconds(TIMEOUT_TCP)?, seconds(TIMEOUT_TCP_FIN)?, seconds(TIMEOUT_UDP)?);
    Some(IpvsTimeouts { tcp, tcp_fin, udp }).filter(|t| *t != IpvsTimeouts::KERNEL)
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
        let message = set_service(&tcp("10.0.0.1"), Scheduler::Rr, true);
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
        let message = set_destination(&service, at, IpvsDestination::Weight(1), true);
        assert_eq!(message.command, NEW_DEST);
        assert_eq!(bytes(&message), want);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let header = |message: &Message| GenlHeader { cmd: message.command, version: 1 };
        let again = |message: &Message| Message::parse_with_param(&bytes(message), header(message)).unwrap();
        let mh = [Scheduler::Mh { ports: false }, Scheduler::Mh { ports: true }];
        for service in [tcp("10.0.0.1"), tcp("fd00::1"), IpvsKey::Mark { v6: false, mark: 9 }] {
            for scheduler in [Scheduler::Rr, Scheduler::Wrr, Scheduler::Lc].into_iter().chain(mh) {
                let message = again(&set_service(&service, scheduler, true));
                assert_eq!(read_service(&message), Some((service.clone(), scheduler)));
            }
            for addr in ["10.9.9.9", "fd00::9"] {
                let (at, to) = ((addr.parse().unwrap(), 81), IpvsDestination::Weight(0));
                let message = again(&set_destination(&service, at, to, false));
                assert_eq!(read_destination(&message, false), Some(Destination { at, to, connections: 0 }));
            }
        }
        let timeouts = IpvsTimeouts::CONNTRACK;
        assert_eq!(read_timeouts(&again(&set_timeouts(timeouts))), Some(timeouts));
        assert_eq!(read_timeouts(&set_timeouts(IpvsTimeouts::KERNEL)), None);
    }

    /// As `ipvsadm -E ... -p 300`, `-s sh`, `-e ... -g` and `-e ... -x 5` would leave it.
    #[test]
    fn what_is_not_as_ours_is_told_apart() {
        let changed = |kind: u16, of: &mut Message, at: usize, value: &[u8]| {
            let bytes = of.attributes[at].clone();
            let mut inner = vec![0; bytes.value_len()];
            bytes.emit_value(&mut inner);
            let all = NlasIterator::new(inner.as_slice()).map(Result::unwrap);
            let all = all.map(|n| {
                let new = if n.kind() == kind { value } else { n.value() };
                DefaultNla::new(n.kind(), new.to_vec())
            });
            of.attributes[at] = nested(at as u16 + 1, all.collect());
        };
        let service = tcp("10.0.0.1");
        for (kind, value) in [
            (SVC_SCHED, &b"sh\0"[..]),
            (SVC_FLAGS, &[1u32.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat()),
            (SVC_TIMEOUT, &300u32.to_ne_bytes()),
            (SVC_NETMASK, &[255, 255, 255, 0]),
        ] {
            let mut message = set_service(&service, Scheduler::Rr, true);
            changed(kind, &mut message, 0, value);
            assert_eq!(read_service(&message), Some((service.clone(), Scheduler::Other)), "{kind}");
        }
        let at = ("10.9.9.9".parse().unwrap(), 81);
        for (kind, value) in [(DEST_FORWARD, 3u32), (DEST_UPPER, 5), (DEST_LOWER, 1)] {
            let mut message = set_destination(&service, at, IpvsDestination::Weight(1), true);
            changed(kind, &mut message, 1, &value.to_ne_bytes());
            let found = read_destination(&message, false).map(|d| d.to);
            assert_eq!(found, Some(IpvsDestination::Other), "{kind}");
        }
    }
}
