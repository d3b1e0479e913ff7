//! Established flows that lead where nobody is any more, or not to who is there now. The kernel keeps a translation for as
//! long as packets come: a client that goes on sending datagrams would never reach a workload that was started meanwhile.
//!
//! What leads to a port of this host is forgotten. What a balancer has led to a backend that leaves is not: its answer may be
//! on the way, and would come from an address that the client does not know. Such a flow gets another zone of connection
//! tracking for what the client sends, so the next datagram is a new flow and led to somebody else, while answers, which have
//! no zone, find the flow that they belong to.

use super::{desired::Sandbox, names, nft, state::TableBody};
use heddle_model::{
    TaskId,
    net::{Port, Protocol},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// Number in the IP header.
    pub protocol: u8,
    pub sport: u16,
    pub dport: u16,
    /// Of connection tracking, for this direction; 0 is that of all.
    pub zone: u16,
}

/// As connection tracking has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    pub original: Tuple,
    pub reply: Tuple,
    /// Whether anything came back.
    pub answered: bool,
}

/// Which flows are out of date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stale {
    /// Its workload has gone, or left the network.
    Address(IpAddr),
    /// A port of this host that leads to somebody new. Only datagrams: a connection that was accepted by another is his.
    Port(Port),
}

fn addresses(sandboxes: &BTreeMap<TaskId, Sandbox>) -> BTreeSet<IpAddr> {
    let legs = sandboxes.values().flat_map(|s| s.legs.iter().flat_map(|l| l.addrs.iter().copied()));
    let gateways = sandboxes.values().filter_map(|s| s.gateway.as_ref()).flat_map(|(_, a)| a.addrs());
    legs.chain(gateways).collect()
}

fn datagram_ports(sandboxes: &BTreeMap<TaskId, Sandbox>) -> BTreeSet<(Port, &TaskId)> {
    let ports = sandboxes.values().flat_map(|s| s.ports.iter().map(move |p| (p, &s.id)));
    ports.filter(|(p, _)| p.protocol == Protocol::Udp).map(|(p, id)| (p.host, id)).collect()
}

/// What is out of date after one set of workloads has become another.
pub fn stale(before: &BTreeMap<TaskId, Sandbox>, after: &BTreeMap<TaskId, Sandbox>) -> BTreeSet<Stale> {
    let gone = addresses(before).difference(&addresses(after)).copied().map(Stale::Address).collect::<Vec<_>>();
    let (old, new) = (datagram_ports(before), datagram_ports(after));
    let ports = new.difference(&old).map(|(port, _)| Stale::Port(*port));
    gone.into_iter().chain(ports).collect()
}

/// A client's datagrams to a balanced address, as the client sends them: source and destination, with ports.
pub type Datagrams = (SocketAddr, SocketAddr);

impl Flow {
    fn is_balanced(&self) -> bool {
        self.reply.src != self.original.dst && !self.reply.src.is_loopback()
    }

    /// A connection that its client tries to make to a backend which is none of `serving`, and does not answer. It would try for two
    /// minutes, and so would the next one from its port.
    pub fn is_in_vain(&self, serving: &BTreeSet<IpAddr>) -> bool {
        let connects = self.original.protocol == Protocol::Tcp.number() && !self.answered;
        connects && self.is_balanced() && !serving.contains(&self.reply.src)
    }

    fn datagrams(&self) -> Option<Datagrams> {
        let Tuple { src, dst, sport, dport, protocol, .. } = self.original;
        let is = protocol == Protocol::Udp.number() && self.is_balanced();
        is.then(|| (SocketAddr::new(src, sport), SocketAddr::new(dst, dport)))
    }
}

/// Datagrams that a balancer leads to a backend that is not in `serving`. Those that were led anew have flows in other zones
/// than `zones` says, until they expire: the next datagram is not of those.
pub fn misled(
    flows: impl IntoIterator<Item = Flow>,
    zones: &BTreeMap<Datagrams, u16>,
    serving: &BTreeSet<IpAddr>,
) -> BTreeSet<Datagrams> {
    let goes_on = |flow: &Flow, datagrams: &Datagrams| flow.original.zone == zones.get(datagrams).copied().unwrap_or(0);
    let flows = flows.into_iter().filter(|flow| !serving.contains(&flow.reply.src));
    flows.filter_map(|flow| flow.datagrams().filter(|datagrams| goes_on(&flow, datagrams))).collect()
}

/// What datagrams have zones of their own, looked at before they are tracked in this hook.
pub fn table(hook: &str) -> TableBody {
    let mut table = TableBody::default();
    let mut rules = Vec::new();
    for (family, map) in FAMILIES {
        let key = format!("{family} saddr . {family} daddr . udp sport . udp dport");
        table.map(map, &format!("typeof {key} : ct zone;"), []);
        rules.push(format!("ct original zone set {key} map @{map}"));
    }
    table.chain("zone", Some(&format!("type filter hook {hook} priority raw; policy accept;")), rules);
    table
}

/// Of the table: one for each family.
pub const FAMILIES: [(&str, &str); 2] = [("ip", "zones4"), ("ip6", "zones6")];

/// Datagrams that need no zone any more: nothing of theirs is tracked, in it or in those that they had before, where old flows
/// would mislead them again.
pub fn unused(flows: impl IntoIterator<Item = Flow>, zones: &BTreeMap<Datagrams, u16>) -> BTreeSet<&Datagrams> {
    let tracked: BTreeSet<Datagrams> = flows.into_iter().filter_map(|flow| flow.datagrams()).collect();
    zones.keys().filter(|datagrams| !tracked.contains(datagrams)).collect()
}

fn key((src, dst): &Datagrams) -> String {
    format!("{} . {} . {} . {}", src.ip(), dst.ip(), src.port(), dst.port())
}

/// Adds elements to the maps, or deletes them. `end` is what follows a key.
fn statements<'a>(verb: &str, datagrams: impl Iterator<Item = &'a Datagrams> + Clone, end: &str) -> String {
    let id = names::flows_table();
    let mut script = String::new();
    for (v6, (_, map)) in [false, true].into_iter().zip(FAMILIES) {
        let of = datagrams.clone().filter(|(src, _)| src.is_ipv6() == v6);
        let keys: Vec<String> = of.map(|d| key(d) + end).collect();
        if !keys.is_empty() {
            let (family, name, keys) = (nft::family(id.family), &id.name, keys.join(", "));
            script.push_str(&format!("{verb} element {family} {name} {map} {{ {keys} }}\n"));
        }
    }
    script
}

/// The transaction that gives datagrams that zone, instead of the one they have in `zones`.
pub fn lead_anew(datagrams: &BTreeSet<Datagrams>, zones: &BTreeMap<Datagrams, u16>, zone: u16) -> String {
    let zoned = datagrams.iter().filter(|d| zones.contains_key(d));
    statements("delete", zoned, "") + &statements("add", datagrams.iter(), &format!(" : {zone}"))
}

/// The one that takes it from them.
pub fn forget(datagrams: &BTreeSet<&Datagrams>) -> String {
    statements("delete", datagrams.iter().copied(), "")
}

impl Stale {
    /// `own` are the addresses of this host.
    pub fn concerns(&self, flow: &Flow, own: &BTreeSet<IpAddr>) -> bool {
        match self {
            Stale::Address(addr) => flow.original.src == *addr || flow.reply.src == *addr,
            Stale::Port(port) => {
                let to = &flow.original;
                to.protocol == Protocol::Udp.number() && to.dport == port.get() && own.contains(&to.dst)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::desired::Leg;
    use heddle_model::{NetworkId, net::Mac, workload::HostPort};

    fn sandbox(n: u8, protocol: Protocol) -> (TaskId, Sandbox) {
        let id = TaskId::from_random([n; 16]);
        let leg = Leg {
            network: NetworkId::from_random([1; 16]),
            dev: "eth0".parse().unwrap(),
            addrs: vec![[172, 17, 0, n].into()],
            mac: Mac([2, 0, 0, 0, 0, n]),
            aliases: vec![],
            gateway_priority: 0,
        };
        let port = |p: u16| Port::try_from(p).unwrap();
        let published = HostPort { host_ip: None, host: port(5300 + u16::from(n)), target: port(53), protocol };
        let sandbox =
            Sandbox { id: id.clone(), name: format!("w{n}"), legs: vec![leg], gateway: None, ports: vec![published] };
        (id, sandbox)
    }

    fn tuple(src: [u8; 4], dst: [u8; 4], protocol: u8, dport: u16) -> Tuple {
        Tuple { src: src.into(), dst: dst.into(), protocol, sport: 1234, dport, zone: 0 }
    }

    #[test]
    fn what_went_and_what_came_is_told() {
        let (two, three) = (sandbox(2, Protocol::Udp), sandbox(3, Protocol::Tcp));
        let before = BTreeMap::from([three.clone()]);
        let after = BTreeMap::from([two.clone()]);
        let port = Port::try_from(5302).unwrap();
        let want = BTreeSet::from([Stale::Address([172, 17, 0, 3].into()), Stale::Port(port)]);
        assert_eq!(stale(&before, &after), want);
        assert_eq!(stale(&after, &after), BTreeSet::new());
    }

    #[test]
    fn datagrams_are_misled_by_the_flow_of_their_zone() {
        let serving = BTreeSet::from([IpAddr::from([10, 0, 0, 3])]);
        let to = |backend, protocol, sport, zone| {
            let original = Tuple { sport, zone, ..tuple([192, 0, 2, 9], [172, 18, 0, 3], protocol, 53) };
            Flow { original, reply: tuple(backend, [192, 0, 2, 9], protocol, sport), answered: true }
        };
        let (gone, there) = ([10, 0, 0, 2], [10, 0, 0, 3]);
        let flows = [
            to(gone, 17, 1, 0),
            to(gone, 17, 2, 0),
            to(there, 17, 2, 8),
            // Its address was given to somebody new, to whom an old flow led.
            to(there, 17, 3, 0),
            to(gone, 17, 3, 8),
            to(there, 17, 4, 0),
            to(gone, 6, 5, 0),
            to([172, 18, 0, 3], 17, 6, 0),
            to([127, 0, 0, 11], 17, 7, 0),
        ];
        let from = |port| (SocketAddr::from(([192, 0, 2, 9], port)), SocketAddr::from(([172, 18, 0, 3], 53)));
        let zones = BTreeMap::from([(from(2), 8), (from(3), 8)]);
        assert_eq!(misled(flows, &zones, &serving), [from(1), from(3)].into());
    }

    #[test]
    fn a_connection_is_in_vain_where_nobody_serves_or_answers() {
        let serving = BTreeSet::from([IpAddr::from([10, 0, 0, 3])]);
        let to = |backend: [u8; 4], protocol, answered| Flow {
            original: tuple([192, 0, 2, 9], [172, 18, 0, 3], protocol, 80),
            reply: tuple(backend, [192, 0, 2, 9], protocol, 1234),
            answered,
        };
        let (gone, there, itself) = ([10, 0, 0, 2], [10, 0, 0, 3], [172, 18, 0, 3]);
        assert!(to(gone, 6, false).is_in_vain(&serving));
        for flow in [to(gone, 6, true), to(there, 6, false), to(gone, 17, false), to(itself, 6, false)] {
            assert!(!flow.is_in_vain(&serving), "{flow:?}");
        }
    }

    #[test]
    fn a_zone_is_needed_while_anything_is_tracked() {
        let to = |sport, zone| {
            let original = Tuple { sport, zone, ..tuple([192, 0, 2, 9], [172, 18, 0, 3], 17, 53) };
            Flow { original, reply: tuple([10, 0, 0, 2], [192, 0, 2, 9], 17, sport), answered: true }
        };
        let from = |port| (SocketAddr::from(([192, 0, 2, 9], port)), SocketAddr::from(([172, 18, 0, 3], 53)));
        let zones = BTreeMap::from([(from(1), 7), (from(2), 7), (from(3), 8)]);
        let gone = unused([to(1, 7), to(2, 0), to(4, 8)], &zones);
        assert_eq!(gone, [&from(3)].into());
        let want = "delete element inet heddle_flows zones4 { 192.0.2.9 . 172.18.0.3 . 3 . 53 }\n";
        assert_eq!(forget(&gone), want);
    }

    #[test]
    fn datagrams_get_a_zone_whatever_they_had() {
        let of = |src: &str, dst: &str| (src.parse::<SocketAddr>().unwrap(), dst.parse::<SocketAddr>().unwrap());
        let (v4, v6) = (of("192.0.2.9:1", "172.18.0.3:53"), of("[fd00::9]:1", "[fd00::3]:53"));
        let script = lead_anew(&[v4, v6].into(), &[(v6, 3)].into(), 7);
        let want = "delete element inet heddle_flows zones6 { fd00::9 . fd00::3 . 1 . 53 }\n\
                    add element inet heddle_flows zones4 { 192.0.2.9 . 172.18.0.3 . 1 . 53 : 7 }\n\
                    add element inet heddle_flows zones6 { fd00::9 . fd00::3 . 1 . 53 : 7 }\n";
        assert_eq!(script, want);
    }

    #[test]
    fn only_flows_of_this_host_are_concerned() {
        let own = BTreeSet::from([IpAddr::from([192, 0, 2, 1])]);
        let port = Stale::Port(Port::try_from(53).unwrap());
        let to = |dst, protocol| Flow {
            original: tuple([192, 0, 2, 9], dst, protocol, 53),
            reply: tuple(dst, [192, 0, 2, 9], protocol, 40000),
            answered: true,
        };
        assert!(port.concerns(&to([192, 0, 2, 1], 17), &own));
        assert!(!port.concerns(&to([192, 0, 2, 1], 6), &own), "a connection");
        assert!(!port.concerns(&to([198, 51, 100, 1], 17), &own), "somebody else's port");
        let translated = Flow {
            original: tuple([192, 0, 2, 9], [192, 0, 2, 1], 6, 8080),
            reply: tuple([172, 17, 0, 3], [192, 0, 2, 9], 6, 40000),
            answered: true,
        };
        assert!(Stale::Address([172, 17, 0, 3].into()).concerns(&translated, &own));
        assert!(!Stale::Address([172, 17, 0, 4].into()).concerns(&translated, &own));
    }
}
