//! What this host's kernel does to packets, in words: the same inputs that the tables are made of.

use super::{
    driver::bridge::{GatewayMode, Options},
    state::HostState,
};
use crate::{
    agent::{MemberPicture, Picture},
    dataplane::desired::{Balancer, link_of, publishing},
};
use heddle_model::{
    assignment::{NodeView, PeerView},
    endpoint::{EndpointMode, PublishMode},
    network::{self, Driver},
    workload::HostPort,
};
use heddle_proto::v1::NetworkRule;
use std::net::IpAddr;

const PUBLISHED: &str = "published";
const TRANSLATED: &str = "translated";
const VIRTUAL: &str = "virtual";
const FILTER: &str = "filter";
const ENCAPSULATED: &str = "encapsulated";

fn rule(section: &str, network: &str, r#match: String, action: String) -> NetworkRule {
    NetworkRule { section: section.into(), network: network.into(), r#match, action }
}

fn list(addrs: impl IntoIterator<Item = String>) -> String {
    addrs.into_iter().collect::<Vec<_>>().join(", ")
}

fn host_port(port: &HostPort) -> String {
    match port.host_ip {
        Some(IpAddr::V6(a)) => format!("{} [{a}]:{}", port.protocol, port.host),
        Some(IpAddr::V4(a)) => format!("{} {a}:{}", port.protocol, port.host),
        None => format!("{} *:{}", port.protocol, port.host),
    }
}

/// In the order in which a packet meets them.
pub fn rules(state: &HostState, picture: &Picture) -> Vec<NetworkRule> {
    let mut out = Vec::new();
    let member = picture.member.as_ref();
    let view = member.and_then(|m| m.view.as_deref());
    published(state, picture, &mut out);
    if let (Some(member), Some(view)) = (member, view) {
        mesh(view, member.balancer, &mut out);
        let nets = list(member.gateway.nets().map(|n| n.to_string()));
        out.push(rule(
            TRANSLATED,
            network::GATEWAY,
            format!("from {nets} to the world"),
            "source becomes this host's".into(),
        ));
    }
    bridges(state, picture, &mut out);
    if let (Some(member), Some(view)) = (member, view) {
        virtual_addresses(view, member.balancer, picture, &mut out);
        let nets = network::GATEWAY;
        out.push(rule(FILTER, nets, "new, from outside or between members".into(), "dropped, unless published".into()));
        tunnels(member, view, &mut out);
    }
    out
}

fn published(state: &HostState, picture: &Picture, out: &mut Vec<NetworkRule>) {
    for sandbox in picture.sandboxes.values() {
        let leg = publishing(&state.networks, sandbox);
        let on = leg.and_then(|l| state.networks.get(&l.network));
        let addrs = match (leg, &sandbox.gateway) {
            (Some(leg), _) => leg.addrs.clone(),
            (None, Some((_, addr))) => addr.addrs().to_vec(),
            (None, None) => continue,
        };
        let name = on.map_or(network::GATEWAY, |n| n.name());
        for port in &sandbox.ports {
            let to = list(addrs.iter().map(|a| std::net::SocketAddr::new(*a, port.target.get()).to_string()));
            out.push(rule(PUBLISHED, name, host_port(port), format!("to {} at {to}", sandbox.name)));
        }
    }
}

fn mesh(view: &NodeView, by: Balancer, out: &mut Vec<NetworkRule>) {
    for service in view.services.values() {
        for port in service.ports.iter().filter(|p| p.mode == PublishMode::Ingress) {
            let Some(outer) = port.published else { continue };
            let on = |e: &&heddle_model::assignment::EndpointView| {
                e.service.as_ref() == Some(&service.id)
                    && e.in_service
                    && view.networks.get(&e.network).is_some_and(|n| n.ingress)
            };
            let backends: Vec<String> =
                view.endpoints.values().filter(on).map(|e| format!("{}:{}", e.addr.v4, port.target)).collect();
            let hash = match by {
                by if by.marks(port.protocol) => "IPVS's hash",
                _ => "hash",
            };
            let action = match backends.as_slice() {
                [] => format!("to service {}: refused, no task runs", service.name),
                some => format!(
                    "to service {} on {}, by {hash} of client address and port, the client's address kept",
                    service.name,
                    list(some.to_vec())
                ),
            };
            out.push(rule(PUBLISHED, network::INGRESS, format!("{} *:{outer}", port.protocol), action));
        }
    }
}

fn bridges(state: &HostState, picture: &Picture, out: &mut Vec<NetworkRule>) {
    let used = |n: &&super::network::HostNetwork| {
        n.spec.driver == Driver::Bridge
            && (!n.is_builtin() || picture.sandboxes.values().any(|s| s.leg(&n.id).is_some()))
    };
    for network in state.networks.values().filter(used) {
        let (Ok(options), Some(link)) = (Options::parse(&network.spec.options), link_of(network)) else { continue };
        for pool in &network.pools {
            let v4 = pool.gateway().is_ipv4();
            let action = match (network.spec.internal, options.mode(v4), options.masquerade) {
                (true, _, _) => continue,
                (_, GatewayMode::Routed, _) | (_, _, false) => "keeps its source".to_owned(),
                _ => options
                    .source(v4)
                    .map_or_else(|| "source becomes this host's".into(), |a| format!("source becomes {a}")),
            };
            out.push(rule(TRANSLATED, network.name(), format!("from {} to the world", pool.subnet), action));
        }
        let between = if options.icc { "pass" } else { "dropped by the bridge" };
        out.push(rule(FILTER, network.name(), format!("between members on {link}"), between.into()));
        let outside = match (network.spec.internal, options.mode_v4) {
            (true, _) => "dropped, in both directions",
            (_, GatewayMode::Nat) => "dropped, unless published",
            (_, GatewayMode::NatUnprotected) => "pass",
            (_, GatewayMode::Routed) => "dropped, but for published ports at members' own addresses",
        };
        out.push(rule(FILTER, network.name(), format!("new, from outside to {link}"), outside.into()));
    }
}

fn virtual_addresses(view: &NodeView, by: Balancer, picture: &Picture, out: &mut Vec<NetworkRule>) {
    for service in view.services.values().filter(|s| s.mode == EndpointMode::Vip) {
        for vip in &service.virtual_ips {
            let Some(network) = view.networks.get(&vip.network) else { continue };
            let users: Vec<&str> =
                picture.sandboxes.values().filter(|s| s.leg(&vip.network).is_some()).map(|s| s.name.as_str()).collect();
            if users.is_empty() {
                continue;
            }
            let on = |e: &&heddle_model::assignment::EndpointView| {
                e.network == vip.network && e.service.as_ref() == Some(&service.id) && e.in_service
            };
            let backends: Vec<String> = view.endpoints.values().filter(on).map(|e| e.addr.v4.to_string()).collect();
            let action = match backends.as_slice() {
                [] => "refused, no task runs".to_owned(),
                some => match by {
                    Balancer::Nftables => format!("to {}, at random", list(some.to_vec())),
                    Balancer::Ipvs => format!("to {}, by IPVS in turn", list(some.to_vec())),
                },
            };
            let addrs = list(vip.addr.addrs().map(|a| a.to_string()));
            out.push(rule(
                VIRTUAL,
                &network.name,
                format!("{} ({addrs}), in {}", service.name, users.join(", ")),
                action,
            ));
        }
    }
}

fn tunnels(member: &MemberPicture, view: &NodeView, out: &mut Vec<NetworkRule>) {
    let peers: Vec<String> =
        view.peers.values().filter(|p| p.node != member.node).map(|p| p.data_path_addr.to_string()).collect();
    let port = view.cluster.data_path_port;
    let from = if peers.is_empty() { "nobody".to_owned() } else { list(peers) };
    out.push(rule(FILTER, "", format!("udp {port} (VXLAN)"), format!("accepted from {from}, and from no workload")));
    for network in view.networks.values() {
        let by = if network.encrypted { " in the tunnel" } else { "" };
        let action = format!("VXLAN {}{by} to the peer that has the address, MTU {}", network.vni, network.mtu);
        out.push(rule(ENCAPSULATED, &network.name, list(network.subnet.nets().map(|n| n.to_string())), action));
    }
    if view.networks.values().any(|n| n.encrypted) {
        tunnel(member, view, out);
    }
}

/// Who is sent to by the keys of which epoch; to whom there is no key nothing is sent.
fn tunnel(member: &MemberPicture, view: &NodeView, out: &mut Vec<NetworkRule>) {
    let cluster = &view.cluster;
    for epoch in cluster.epochs.all() {
        let others = || view.peers.values().filter(|p| p.node != member.node);
        let (with, without): (Vec<_>, Vec<_>) = others().partition(|p| p.keys.contains_key(&epoch));
        let names = |peers: Vec<&PeerView>| list(peers.iter().map(|p| p.data_path_addr.to_string()));
        let used = if epoch == cluster.epochs.current { "sent to and taken from" } else { "taken from" };
        let with = if with.is_empty() { "nobody".to_owned() } else { names(with) };
        let mut action = format!("WireGuard by keys of epoch {epoch}: {used} {with}");
        if !without.is_empty() {
            action.push_str(&format!("; not {}, which has told no key", names(without)));
        }
        out.push(rule(ENCAPSULATED, "", format!("udp {} (the tunnel)", epoch.port(cluster.tunnel_port)), action));
    }
}
