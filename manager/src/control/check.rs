//! Whether a spec can be accepted. Everything that is wrong is said before anything is written.

use super::find::{self, FindError};
use crate::{
    allocator::{self, subnets},
    scheduler::constraint::{BadConstraint, Constraint},
    store::Snapshot,
};
use heddle_model::{
    ServiceId,
    endpoint::PublishMode,
    meta::{BadName, check_name},
    net::{Mtu, Port, Protocol},
    network::{self, Network, NetworkSpec},
    service::{Mode, Runtime, Service, ServiceSpec},
};
use ipnet::IpNet;
use std::collections::BTreeSet;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error(transparent)]
    Name(#[from] BadName),
    #[error("{kind} {name:?} exists already: choose another name")]
    Exists { kind: &'static str, name: String },
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Constraint(#[from] BadConstraint),
    #[error("subnet {subnet} overlaps with {with}: choose one that is free")]
    Overlap { subnet: IpNet, with: String },
    #[error("more than one {family} subnet: a network has one of each family")]
    Family { family: &'static str },
    #[error("subnet {subnet} has no room for tasks: use at most /29, or /125 for IPv6")]
    TooSmall { subnet: IpNet },
    #[error("MTU {0} is out of range: use {min} to 65535", min = Mtu::MIN_V6)]
    Mtu(Mtu),
    #[error("the network of published ports is made at `init`: `--ingress` cannot be used")]
    Ingress,
    #[error("network \"ingress\" carries published ports: a service joins it by publishing a port")]
    JoinsIngress,
    #[error("network {0:?} is named twice")]
    NetworkTwice(String),
    #[error("replicas {0}: use 1 to {max}", max = Mode::MAX_REPLICAS)]
    Replicas(u64),
    #[error(
        "network {network}: {subnet} has {room} addresses for tasks, {used} are spoken for and {wanted} are wanted"
    )]
    Full { network: String, subnet: String, room: u64, used: u64, wanted: u64 },
    #[error("port {port}/{protocol} is published by service {by:?} already")]
    PortTaken { port: Port, protocol: Protocol, by: String },
    #[error("port {port}/{protocol} is named twice")]
    PortTwice { port: Port, protocol: Protocol },
    #[error("port {port}/{protocol} is in use by a process of host {host}: stop it or publish another port")]
    PortInUse { port: Port, protocol: Protocol, host: String },
    #[error("no command: give the program to run after `--`")]
    NoCommand,
    #[error("network {name} is used by service {by}: remove the service first")]
    InUse { name: String, by: String },
    #[error("network \"ingress\" belongs to the cluster: it cannot be removed")]
    RemovesIngress,
}

pub fn network(state: &Snapshot, spec: &NetworkSpec) -> Result<(), SpecError> {
    check_name(&spec.annotations.name)?;
    if spec.ingress {
        return Err(SpecError::Ingress);
    }
    if state.network_named(&spec.annotations.name).is_some() {
        return Err(SpecError::Exists { kind: "network", name: spec.annotations.name.clone() });
    }
    subnets(state, &spec.pools.iter().map(|p| p.subnet).collect::<Vec<_>>())?;
    match spec.mtu {
        Some(mtu) if mtu < Mtu::MIN_V6 => Err(SpecError::Mtu(mtu)),
        _ => Ok(()),
    }
}

fn subnets(state: &Snapshot, wanted: &[IpNet]) -> Result<(), SpecError> {
    for (family, v4) in [("IPv4", true), ("IPv6", false)] {
        if wanted.iter().filter(|n| matches!(n, IpNet::V4(_)) == v4).count() > 1 {
            return Err(SpecError::Family { family });
        }
    }
    for subnet in wanted {
        if subnet.max_prefix_len() - subnet.prefix_len() < 3 {
            return Err(SpecError::TooSmall { subnet: *subnet });
        }
        if let Some(with) = subnets::taken_by(state, subnet, None) {
            return Err(SpecError::Overlap { subnet: *subnet, with });
        }
    }
    Ok(())
}

pub fn network_removal(state: &Snapshot, network: &Network) -> Result<(), SpecError> {
    let name = network.spec.annotations.name.clone();
    if network.spec.ingress {
        return Err(SpecError::RemovesIngress);
    }
    let joins = |s: &&std::sync::Arc<Service>| s.spec.task.networks.iter().any(|t| t.target == network.id.as_str());
    let by = state.services.values().find(joins).map(|s| s.spec.annotations.name.clone());
    let task = || {
        let attached = state.tasks.values().find(|t| t.attachments.iter().any(|a| a.network == network.id));
        attached.map(|t| format!("{} (still stopping)", t.service_name))
    };
    by.or_else(task).map_or(Ok(()), |by| Err(SpecError::InUse { name, by }))
}

/// The spec with its networks named by id, or what is wrong with it.
pub fn service(state: &Snapshot, mut spec: ServiceSpec) -> Result<ServiceSpec, SpecError> {
    check_name(&spec.annotations.name)?;
    if state.service_named(&spec.annotations.name).is_some() {
        return Err(SpecError::Exists { kind: "service", name: spec.annotations.name });
    }
    let Runtime::Process(process) = &spec.task.runtime;
    if process.command.first().is_none_or(String::is_empty) {
        return Err(SpecError::NoCommand);
    }
    for constraint in &spec.task.placement.constraints {
        constraint.parse::<Constraint>()?;
    }
    let mut seen = BTreeSet::new();
    for target in &mut spec.task.networks {
        let network = find::network(state, &target.target)?;
        if network.spec.annotations.name == network::INGRESS {
            return Err(SpecError::JoinsIngress);
        }
        if !seen.insert(network.id.clone()) {
            return Err(SpecError::NetworkTwice(target.target.clone()));
        }
        for alias in &target.aliases {
            check_name(alias)?;
        }
        target.target = network.id.to_string();
    }
    ports(state, &spec)?;
    let Mode::Replicated { replicas } = spec.mode;
    room(state, None, &spec, replicas)?;
    Ok(spec)
}

fn ports(state: &Snapshot, spec: &ServiceSpec) -> Result<(), SpecError> {
    let mut seen = BTreeSet::new();
    for config in &spec.endpoint.ports {
        let (protocol, Some(port)) = (config.protocol, config.published) else { continue };
        if !seen.insert((protocol, port)) {
            return Err(SpecError::PortTwice { port, protocol });
        }
        let taken = allocator::published(state).find(|(p, n, _)| (*p, *n) == (protocol, port));
        if let Some((_, _, by)) = taken {
            return Err(SpecError::PortTaken { port, protocol, by: by.to_owned() });
        }
        let busy = state.nodes.values().find(|n| n.description.listening.contains(&(protocol, port)));
        if let Some(node) = busy {
            return Err(SpecError::PortInUse { port, protocol, host: node.description.hostname.clone() });
        }
    }
    Ok(())
}

/// Whether so many replicas can have an address in each of the service's networks.
pub fn room(state: &Snapshot, id: Option<&ServiceId>, spec: &ServiceSpec, replicas: u64) -> Result<(), SpecError> {
    if replicas > Mode::MAX_REPLICAS || replicas == 0 {
        return Err(SpecError::Replicas(replicas));
    }
    let joins = |spec: &ServiceSpec, network: &Network| {
        let published = spec.endpoint.ports.iter().any(|p| p.mode == PublishMode::Ingress);
        (network.spec.ingress && published) || spec.task.networks.iter().any(|t| t.target == network.id.as_str())
    };
    for network in state.networks.values().filter(|n| joins(spec, n)) {
        let Some(given) = &network.allocation else { continue };
        let others = state.services.values().filter(|s| Some(&s.id) != id && joins(&s.spec, network));
        let used: u64 = others
            .map(|s| {
                let Mode::Replicated { replicas } = s.spec.mode;
                replicas
            })
            .sum();
        let room = subnets::capacity(&given.subnet);
        if used + replicas > room {
            return Err(SpecError::Full {
                network: network.spec.annotations.name.clone(),
                subnet: given.subnet.v4.to_string(),
                room,
                used,
                wanted: replicas,
            });
        }
    }
    Ok(())
}
