//! Gives what must be unique: VNIs, subnets, addresses, MACs, published ports, the nodes' ingress legs. What is given stays
//! until its object is gone, so two plans never give the same thing twice.

pub mod subnets;

use crate::{
    plan::{Context, Plan},
    store::{Mutation, Snapshot},
};
use heddle_model::{
    NetworkId,
    endpoint::{Attachment, Endpoint, EndpointMode, PortConfig, PublishMode, VirtualIp},
    net::{DualAddr, Mac, Pool, Port, Protocol, Vni},
    network::{Network, NetworkAllocation},
    node::{IngressLeg, Node},
    service::{NetworkTarget, Service, TaskSpec},
    task::{Task, TaskState},
};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use subnets::Used;

pub fn plan(state: &Snapshot, context: &mut Context<'_>) -> Plan {
    let mut plan = Plan::default();
    networks(state, &mut plan);
    if !plan.mutations.is_empty() {
        return plan;
    }
    nodes(state, &mut plan);
    services(state, &mut plan);
    tasks(state, context, &mut plan);
    plan
}

fn networks(state: &Snapshot, plan: &mut Plan) {
    let Some(cluster) = &state.cluster else { return };
    let mut vnis: BTreeSet<u32> =
        state.networks.values().filter_map(|n| n.allocation.as_ref().map(|a| a.vni.get())).collect();
    let mut chosen = Vec::new();
    for network in state.networks.values().filter(|n| n.allocation.is_none()) {
        let vni = (Vni::FIRST.get()..=Vni::MAX).find(|n| !vnis.contains(n)).and_then(|n| Vni::try_from(n).ok());
        let pools = &cluster.spec.pools;
        let Some((vni, (subnet, service_subnet))) = vni.zip(subnets::choose(state, pools, network, &chosen)) else {
            continue;
        };
        vnis.insert(vni.get());
        chosen.extend([subnet.nets(), service_subnet.nets()].concat());
        let allocation = Some(NetworkAllocation { vni, subnet, service_subnet });
        plan.push(Mutation::Update(Network { allocation, ..Network::clone(network) }.into()));
    }
}

/// Where to look first for an object's address: spread by its random id, so that an address just given back is not the
/// next one given.
fn spread(id: &str) -> u64 {
    id.bytes().fold(0u32, |n, b| n.wrapping_mul(31).wrapping_add(b.into())).into()
}

/// The MAC of an address: whoever has it next has the same one, so that neighbours who knew the one before reach it at once.
pub fn mac(network: &NetworkId, addr: &DualAddr) -> Mac {
    let digest = Sha256::new().chain_update(network.as_str()).chain_update(addr.v4.octets()).finalize();
    let mut bytes = [0; 6];
    bytes.copy_from_slice(&digest[..6]);
    Mac::from_random(bytes)
}

fn nodes(state: &Snapshot, plan: &mut Plan) {
    let Some((network, given)) = state.ingress_network().and_then(|n| Some((n, n.allocation.as_ref()?))) else {
        return;
    };
    let mut used = Used::default();
    let mut indices = BTreeSet::new();
    let pools = subnets::service_pools(given);
    // A leg may be left of an ingress network that was removed while it was given.
    let fits = |l: &&IngressLeg| l.addr.addrs().into_iter().all(|a| given.service_subnet.contains(a));
    for leg in state.nodes.values().filter_map(|n| n.ingress.as_ref()).filter(fits) {
        used.of(&network.id).extend(leg.addr.addrs());
        indices.insert(leg.index);
    }
    let mut free = (1..=u16::MAX).filter(|i| !indices.contains(i));
    for node in state.nodes.values().filter(|n| n.ingress.as_ref().filter(fits).is_none()) {
        let addr = used.give_from(&network.id, &pools, spread(node.id.as_str()));
        // None is left: the others find none either.
        let Some((index, addr)) = free.next().zip(addr) else { return };
        let leg = IngressLeg { index, addr, mac: mac(&network.id, &addr) };
        plan.push(Mutation::Update(Node { ingress: Some(leg), ..Node::clone(node) }.into()));
    }
}

/// The published ports of all services, each with the service's name.
pub fn published(state: &Snapshot) -> impl Iterator<Item = (Protocol, Port, &str)> {
    let of = |s| published_by(s).map(move |(protocol, port)| (protocol, port, s.spec.annotations.name.as_str()));
    state.services.values().flat_map(move |s| of(s))
}

/// Those that a service has, or is to have.
pub fn published_by(service: &Service) -> impl Iterator<Item = (Protocol, Port)> + '_ {
    let ports = service.endpoint.as_ref().map_or(&service.spec.endpoint.ports, |e| &e.ports);
    ports.iter().filter_map(|p| Some((p.protocol, p.published?)))
}

/// The ids of a spec's networks; a target that is no id of a network is left out.
pub fn targets<'a>(state: &'a Snapshot, spec: &'a TaskSpec) -> impl Iterator<Item = (&'a NetworkTarget, &'a Network)> {
    spec.networks.iter().filter_map(|t| Some((t, &**state.networks.get(&t.target.parse::<NetworkId>().ok()?)?)))
}

fn services(state: &Snapshot, plan: &mut Plan) {
    let waiting: Vec<_> = state.services.values().filter(|s| !fits(state, s)).collect();
    if waiting.is_empty() {
        return;
    }
    let mut used = Used::default();
    for vip in state.services.values().filter_map(|s| s.endpoint.as_ref()).flat_map(|e| &e.virtual_ips) {
        used.of(&vip.network).extend(vip.addr.addrs());
    }
    let listening = state.nodes.values().flat_map(|n| &n.description.listening).copied();
    let mut ports: BTreeSet<(Protocol, Port)> = published(state).map(|(p, n, _)| (p, n)).chain(listening).collect();
    for service in waiting {
        if let Some(endpoint) = endpoint(state, service, &mut used, &mut ports) {
            plan.push(Mutation::Update(Service { endpoint: Some(endpoint), ..Service::clone(service) }.into()));
        }
    }
}

/// Whether the service has what its spec asks for, and nothing else.
fn fits(state: &Snapshot, service: &Service) -> bool {
    let Some(given) = &service.endpoint else { return false };
    let wanted = &service.spec.endpoint;
    let chosen = |w: &PortConfig, g: &PortConfig| match (w.published, w.mode) {
        (None, PublishMode::Ingress) => g.published.is_some() && PortConfig { published: None, ..g.clone() } == *w,
        _ => g == w,
    };
    let ports = wanted.ports.len() == given.ports.len();
    let ports = ports && wanted.ports.iter().zip(&given.ports).all(|(w, g)| chosen(w, g));
    let networks = targets(state, &service.spec.task).filter(|_| wanted.mode == EndpointMode::Vip);
    ports && networks.map(|(_, n)| &n.id).eq(given.virtual_ips.iter().map(|v| &v.network))
}

/// What the service has and still wants stays as it is.
fn endpoint(
    state: &Snapshot,
    service: &Service,
    used: &mut Used,
    taken: &mut BTreeSet<(Protocol, Port)>,
) -> Option<Endpoint> {
    let old = service.endpoint.clone().unwrap_or_default();
    let mut ports = Vec::new();
    for port in &service.spec.endpoint.ports {
        let same = |p: &&PortConfig| PortConfig { published: None, ..(*p).clone() } == *port;
        let before = old.ports.iter().find(same).and_then(|p| p.published).filter(|n| !holds(&ports, port, *n));
        let dynamic =
            || Port::DYNAMIC.filter_map(|n| Port::try_from(n).ok()).find(|n| !taken.contains(&(port.protocol, *n)));
        let published = match (port.published, port.mode) {
            (None, PublishMode::Ingress) => Some(before.or_else(dynamic)?),
            (given, _) => given,
        };
        taken.extend(published.map(|n| (port.protocol, n)));
        ports.push(PortConfig { published, ..port.clone() });
    }
    let mut virtual_ips = Vec::new();
    if service.spec.endpoint.mode == EndpointMode::Vip {
        for (_, network) in targets(state, &service.spec.task) {
            let pools = subnets::service_pools(network.allocation.as_ref()?);
            let before = old.virtual_ips.iter().find(|v| v.network == network.id).map(|v| v.addr);
            let give = || used.give_from(&network.id, &pools, spread(service.id.as_str()));
            let addr = before.or_else(give)?;
            virtual_ips.push(VirtualIp { network: network.id.clone(), addr });
        }
    }
    Some(Endpoint { ports, virtual_ips })
}

fn holds(ports: &[PortConfig], like: &PortConfig, published: Port) -> bool {
    ports.iter().any(|p| p.protocol == like.protocol && p.published == Some(published))
}

/// The networks that a service's tasks join, ingress first.
pub fn joined<'a>(state: &'a Snapshot, service: &'a Service) -> Vec<(&'a Network, Vec<String>)> {
    let ingress = service.spec.endpoint.ports.iter().any(|p| p.mode == PublishMode::Ingress);
    let ingress = state.ingress_network().filter(|_| ingress).map(|n| (&**n, Vec::new()));
    ingress.into_iter().chain(targets(state, &service.spec.task).map(|(t, n)| (n, t.aliases.clone()))).collect()
}

fn tasks(state: &Snapshot, context: &mut Context<'_>, plan: &mut Plan) {
    let new = |t: &&std::sync::Arc<Task>| t.status.state == TaskState::New && t.desired == TaskState::Running;
    if !state.tasks.values().any(|t| new(&t)) {
        return;
    }
    let mut used = Used::default();
    for network in state.networks.keys() {
        used.of(network).extend(state.held(network).map(|(addr, _)| addr));
    }
    for task in state.tasks.values().filter(new) {
        let Some(service) = state.services.get(&task.service) else { continue };
        let mut next = Task::clone(task);
        let mut attachments = Vec::new();
        let mut full = None;
        for (network, aliases) in joined(state, service) {
            let pools = subnets::pools(network);
            match used.give(&network.id, &pools) {
                Some(addr) => {
                    let mac = mac(&network.id, &addr);
                    attachments.push(Attachment { network: network.id.clone(), addr, mac, aliases });
                }
                None => full = Some(no_address(network, &pools)),
            }
        }
        match full {
            None => {
                next.attachments = attachments;
                next.status.state = TaskState::Pending;
                next.status.since = context.now;
                next.status.message = "waits for a node".into();
            }
            Some(message) if next.status.message != message => next.status.message = message,
            Some(_) => continue,
        }
        plan.push(Mutation::Update(next.into()));
    }
}

fn no_address(network: &Network, pools: &[Pool]) -> String {
    let nets: Vec<_> = pools.iter().map(|p| p.range.unwrap_or(p.subnet).to_string()).collect();
    let name = &network.spec.annotations.name;
    if nets.is_empty() {
        return format!("network {name}: waits for its subnets");
    }
    format!("network {name}: no free address in {}", nets.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_mac_on_a_network_and_no_other() {
        let network = |n: u8| NetworkId::from_random([n; 16]);
        let addr = |v4: &str| DualAddr { v4: v4.parse().unwrap(), v6: "fd00::5".parse().unwrap() };
        let one = mac(&network(1), &addr("10.1.0.5"));
        assert_eq!(one, mac(&network(1), &addr("10.1.0.5")));
        assert!(one.is_unicast());
        assert_ne!(one, mac(&network(1), &addr("10.1.0.6")));
        assert_ne!(one, mac(&network(2), &addr("10.1.0.5")));
    }
}
