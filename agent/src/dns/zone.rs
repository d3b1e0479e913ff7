//! What one workload may ask for: the names on its networks.

use crate::{dataplane::desired::Sandbox, local::network::HostNetwork};
use heddle_model::{
    NetworkId, TaskId,
    assignment::{EndpointView, NodeView},
    endpoint::EndpointMode,
    net::DualAddr,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

/// Names in lower case without the final dot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Zone {
    names: HashMap<String, BTreeSet<IpAddr>>,
    pointers: HashMap<IpAddr, String>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Addresses(Vec<IpAddr>),
    Name(String),
    /// The name exists, but not with this type.
    Nothing,
    NoSuchName,
    /// Not ours: somebody else may know.
    Elsewhere,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    A,
    Aaaa,
    Ptr,
    Other,
}

impl Zone {
    /// `everybody` are the workloads of this host, the one that asks among them.
    pub fn of(
        view: Option<&NodeView>,
        networks: &BTreeMap<NetworkId, HostNetwork>,
        everybody: &BTreeMap<TaskId, Sandbox>,
        asks: &Sandbox,
    ) -> Self {
        let mut zone = Zone::default();
        zone.on_host(networks, everybody, asks);
        if let Some(view) = view {
            zone.on_overlays(view, asks);
        }
        zone
    }

    /// Neighbours on networks of this host: each alone, by its name, its id and its aliases.
    fn on_host(
        &mut self,
        networks: &BTreeMap<NetworkId, HostNetwork>,
        everybody: &BTreeMap<TaskId, Sandbox>,
        asks: &Sandbox,
    ) {
        for network in networks.values().filter(|n| n.resolves() && asks.leg(&n.id).is_some()) {
            for (sandbox, leg) in everybody.values().filter_map(|s| Some((s, s.leg(&network.id)?))) {
                let names = [sandbox.name.as_str(), sandbox.id.short()].into_iter();
                for name in names.chain(leg.aliases.iter().map(String::as_str)) {
                    self.add(name, network.name(), &leg.addrs);
                }
                self.point(&leg.addrs, &format!("{}.{}", sandbox.name, network.name()));
            }
        }
    }

    fn on_overlays(&mut self, view: &NodeView, asks: &Sandbox) {
        let named = |n: &NetworkId| view.networks.get(n).filter(|v| !v.ingress && asks.leg(n).is_some());
        for service in view.services.values() {
            for vip in service.virtual_ips.iter().filter(|_| service.mode == EndpointMode::Vip) {
                if let Some(network) = named(&vip.network) {
                    self.add(&service.name, &network.name, &vip.addr.addrs());
                    self.point(&vip.addr.addrs(), &format!("{}.{}", service.name, network.name));
                }
            }
        }
        for endpoint in view.endpoints.values().filter(|e| e.in_service || e.task == asks.id) {
            let Some(network) = named(&endpoint.network) else { continue };
            let Some(service) = &endpoint.service else {
                self.alone(endpoint, &network.name);
                continue;
            };
            let Some(service) = view.services.get(service) else { continue };
            let vip = service.virtual_ips.iter().find(|v| v.network == endpoint.network).map(|v| v.addr);
            self.endpoint(endpoint, &service.name, service.mode, vip, &network.name);
        }
    }

    /// A standalone workload on an overlay: its name and aliases stand for it alone.
    fn alone(&mut self, endpoint: &EndpointView, network: &str) {
        let names = [endpoint.task_name.as_str(), endpoint.task.short()].into_iter();
        for name in names.chain(endpoint.aliases.iter().map(String::as_str)) {
            self.add(name, network, &endpoint.addr.addrs());
        }
        self.point(&endpoint.addr.addrs(), &format!("{}.{network}", endpoint.task_name));
    }

    fn endpoint(
        &mut self,
        endpoint: &EndpointView,
        service: &str,
        mode: EndpointMode,
        vip: Option<DualAddr>,
        network: &str,
    ) {
        let addrs = endpoint.addr.addrs();
        self.add(&endpoint.task_name, network, &addrs);
        self.add(&format!("{service}.{}", endpoint.slot), network, &addrs);
        self.point(&addrs, &format!("{}.{network}", endpoint.task_name));
        if endpoint.in_service {
            self.add(&format!("tasks.{service}"), network, &addrs);
            // An alias stands for the service, as docker has it.
            let vip = vip.unwrap_or(endpoint.addr).addrs();
            endpoint.aliases.iter().for_each(|alias| self.add(alias, network, &vip));
            if mode == EndpointMode::DnsRr {
                self.add(service, network, &addrs);
            }
        }
    }

    /// As NAME and as NAME.NETWORK.
    pub(crate) fn add(&mut self, name: &str, network: &str, addrs: &[IpAddr]) {
        for name in [name.to_owned(), format!("{name}.{network}")] {
            self.names.entry(name.to_ascii_lowercase()).or_default().extend(addrs);
        }
    }

    pub(crate) fn point(&mut self, addrs: &[IpAddr], name: &str) {
        for addr in addrs {
            self.pointers.insert(*addr, name.to_owned());
        }
    }

    /// `name` in lower case without the final dot.
    pub fn answer(&self, name: &str, question: Question) -> Answer {
        if question == Question::Ptr {
            let known = reverse(name).and_then(|addr| self.pointers.get(&addr));
            return known.map_or(Answer::Elsewhere, |name| Answer::Name(name.clone()));
        }
        match (self.names.get(name), question) {
            (Some(addrs), Question::A | Question::Aaaa) => {
                let of_type = |a: &&IpAddr| a.is_ipv4() == (question == Question::A);
                match addrs.iter().filter(of_type).copied().collect::<Vec<_>>() {
                    none if none.is_empty() => Answer::Nothing,
                    addrs => Answer::Addresses(addrs),
                }
            }
            (Some(_), _) => Answer::Nothing,
            // Single labels, and what stands for tasks, are names of services: nobody else is told of them.
            (None, _) if !name.contains('.') || name.starts_with("tasks.") => Answer::NoSuchName,
            (None, _) => Answer::Elsewhere,
        }
    }
}

/// The address that a name below in-addr.arpa or ip6.arpa stands for.
pub(crate) fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(rest) = name.strip_suffix(".in-addr.arpa") {
        let octet = |p: &str| digits(p, 3).and_then(|p| p.parse().ok());
        let octets: Vec<u8> = rest.split('.').rev().map(octet).collect::<Option<_>>()?;
        return Some(<[u8; 4]>::try_from(octets).ok()?.into());
    }
    let nibbles: Vec<u8> = name
        .strip_suffix(".ip6.arpa")?
        .split('.')
        .rev()
        .map(|p| digits(p, 1).and_then(|p| u8::from_str_radix(p, 16).ok()))
        .collect::<Option<_>>()?;
    let (pairs, rest) = nibbles.as_chunks::<2>();
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    Some(<[u8; 16]>::try_from(bytes).ok().filter(|_| rest.is_empty())?.into())
}

/// A label of at most so many digits, without the sign that the library takes.
fn digits(label: &str, most: usize) -> Option<&str> {
    Some(label).filter(|l| l.len() <= most && l.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: u8) -> DualAddr {
        DualAddr { v4: [10, 0, 1, n].into(), v6: [0xfd00, 0, 0, 1, 0, 0, 0, n.into()].into() }
    }

    #[test]
    fn answers_by_type_and_leaves_the_rest_to_others() {
        let mut zone = Zone::default();
        zone.add("Web", "front", &addr(2).addrs());
        zone.point(&addr(2).addrs(), "web.front");
        assert_eq!(zone.answer("web", Question::A), Answer::Addresses(vec![addr(2).v4.into()]));
        assert_eq!(zone.answer("web.front", Question::Aaaa), Answer::Addresses(vec![addr(2).v6.into()]));
        assert_eq!(zone.answer("web", Question::Other), Answer::Nothing);
        zone.add("four", "front", &[addr(3).v4.into()]);
        assert_eq!(zone.answer("four", Question::Aaaa), Answer::Nothing, "it exists, but not with this type");
        assert_eq!(zone.answer("db", Question::A), Answer::NoSuchName);
        assert_eq!(zone.answer("tasks.db", Question::A), Answer::NoSuchName);
        assert_eq!(zone.answer("example.org", Question::A), Answer::Elsewhere);
    }

    #[test]
    fn pointers_of_both_families() {
        let mut zone = Zone::default();
        zone.point(&addr(2).addrs(), "web.front");
        let v6 = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        for name in ["2.1.0.10.in-addr.arpa", v6] {
            assert_eq!(zone.answer(name, Question::Ptr), Answer::Name("web.front".into()), "{name}");
        }
        for name in [
            "3.1.0.10.in-addr.arpa",
            "x.in-addr.arpa",
            "+2.1.0.10.in-addr.arpa",
            "1.ip6.arpa",
            "example.org",
            &format!("1.{v6}"),
        ] {
            assert_eq!(zone.answer(name, Question::Ptr), Answer::Elsewhere, "{name}");
        }
    }
}
