//! Established flows that lead where nobody is any more, or not to who is there now. The kernel keeps a translation for as
//! long as packets come: a client that goes on sending datagrams would never reach a workload that was started meanwhile.

use super::desired::Sandbox;
use heddle_model::{
    TaskId,
    net::{Port, Protocol},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// Number in the IP header.
    pub protocol: u8,
    pub dport: u16,
}

/// As connection tracking has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    pub original: Tuple,
    pub reply: Tuple,
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
        Tuple { src: src.into(), dst: dst.into(), protocol, dport }
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
    fn only_flows_of_this_host_are_concerned() {
        let own = BTreeSet::from([IpAddr::from([192, 0, 2, 1])]);
        let port = Stale::Port(Port::try_from(53).unwrap());
        let to = |dst, protocol| Flow {
            original: tuple([192, 0, 2, 9], dst, protocol, 53),
            reply: tuple(dst, [192, 0, 2, 9], protocol, 40000),
        };
        assert!(port.concerns(&to([192, 0, 2, 1], 17), &own));
        assert!(!port.concerns(&to([192, 0, 2, 1], 6), &own), "a connection");
        assert!(!port.concerns(&to([198, 51, 100, 1], 17), &own), "somebody else's port");
        let translated = Flow {
            original: tuple([192, 0, 2, 9], [192, 0, 2, 1], 6, 8080),
            reply: tuple([172, 17, 0, 3], [192, 0, 2, 9], 6, 40000),
        };
        assert!(Stale::Address([172, 17, 0, 3].into()).concerns(&translated, &own));
        assert!(!Stale::Address([172, 17, 0, 4].into()).concerns(&translated, &own));
    }
}
