//! Whether a spec can be accepted. Everything that is wrong is said before anything is written.

use super::find::{self, FindError};
use crate::{
    allocator::{self, subnets},
    dispatcher::connection,
    scheduler::{
        Attribute, UnknownAttribute,
        constraint::{BadConstraint, Constraint},
    },
    store::Snapshot,
};
use heddle_model::{
    ServiceId,
    cluster::BadAutopilot,
    connection::Connection,
    container::BadContainer,
    endpoint::PublishMode,
    health::BadHealthCheck,
    limits::{self, LimitError},
    login::{BadLogin, Logins},
    meta::{BadName, check_name},
    net::{Mtu, Pool, PoolError, Port, Protocol},
    network::{self, Driver, ENCRYPTED, Network, NetworkSpec},
    payload::FilePath,
    placement::BadResources,
    service::{Mode, Rebalance, RestartCondition, Runtime, Service, ServiceSpec},
    template::{self, BadTemplate},
    update::{FailureAction, Order, UpdateConfig},
};
use ipnet::IpNet;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// docker's name of the option.
const MTU_OPTION: &str = "com.docker.network.driver.mtu";
/// Networks that every host has for itself.
const OF_HOSTS: [&str; 4] = [network::DEFAULT, network::HOST, network::NONE, network::GATEWAY];

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error(transparent)]
    Name(#[from] BadName),
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error(transparent)]
    Health(#[from] BadHealthCheck),
    #[error(transparent)]
    Autopilot(#[from] BadAutopilot),
    #[error(transparent)]
    Login(#[from] BadLogin),
    #[error("login for registry {registry:?}: the service runs {found}, give one for the registry of its image")]
    OtherRegistry { registry: String, found: String },
    #[error("{kind} {name:?} exists already: choose another name")]
    Exists { kind: &'static str, name: String },
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Constraint(#[from] BadConstraint),
    #[error("spread preference: {0}")]
    Spread(#[from] UnknownAttribute),
    #[error(transparent)]
    Resources(#[from] BadResources),
    #[error(transparent)]
    Container(#[from] BadContainer),
    #[error("variable {name}: {error}")]
    Variable { name: String, error: BadTemplate },
    #[error("host name: {0}")]
    Hostname(BadTemplate),
    #[error("subnet {subnet} overlaps with {with}: choose one that is free")]
    Overlap { subnet: IpNet, with: String },
    #[error("more than one {family} subnet: a network has one of each family")]
    Family { family: &'static str },
    #[error("subnet {subnet} has no room for tasks: use at most /29, or /125 for IPv6")]
    TooSmall { subnet: IpNet },
    #[error("MTU {0} is out of range: use {min} to 65535", min = Mtu::MIN_V6)]
    Mtu(Mtu),
    #[error("MTU {value:?}: {MTU_OPTION} takes a number from {min} to 65535", min = Mtu::MIN_V6)]
    MtuOption { value: String },
    #[error("the MTU is given twice, and not alike: leave out {MTU_OPTION}")]
    MtuTwice,
    #[error("driver {0} makes a network of one host: the cluster makes overlays, so ask that host's own daemon")]
    Driver(Driver),
    #[error("network name {0:?} stands for a network that every host has: choose another name")]
    OfHosts(String),
    #[error("an overlay has both IPv4 and IPv6: neither can be turned off")]
    BothFamilies,
    #[error(
        "no host can encrypt: it takes the kernel's wireguard module, or /dev/net/tun; load one on the hosts, or leave \
         the option {ENCRYPTED:?} out"
    )]
    NoTunnel,
    #[error("option {ENCRYPTED}={value:?}: use true or false, or no value")]
    Encrypted { value: String },
    #[error("option {key:?} is unknown: an overlay takes {ENCRYPTED} and {MTU_OPTION}")]
    Option { key: String },
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error("IP range {range} has no address to give out: use a larger one")]
    NoRoom { range: IpNet },
    #[error("network {name:?} carries published ports already: there is one ingress network, remove it first")]
    SecondIngress { name: String },
    #[error("the network of published ports cannot be made with {flag}: leave it out")]
    IngressFlag { flag: &'static str },
    #[error("network {name:?} carries published ports: a service joins it by publishing a port")]
    JoinsIngress { name: String },
    #[error(
        "port {port}/{protocol} cannot be published: there is no ingress network, make one with \
         `heddle network create --driver overlay --ingress NAME` or publish in host mode"
    )]
    NoIngress { port: Port, protocol: Protocol },
    #[error(
        "network {0:?} is every host's own: only networks of the cluster (overlay) or \"host\" can be used by services"
    )]
    NotOfCluster(String),
    #[error(
        "no network is called {0:?} in the cluster: only networks of the cluster (overlay) or \"host\" can be used by \
         services"
    )]
    UnknownTarget(String),
    #[error("network \"host\" cannot be used with others: a service is on the hosts' network or on overlays")]
    HostAmongOthers,
    #[error("aliases cannot be used on network \"host\": a service on it has the names of its hosts")]
    HostAliases,
    #[error("network {0:?} is named twice")]
    NetworkTwice(String),
    #[error("replicas {0}: use 0 to {max}", max = Mode::MAX_REPLICAS)]
    Replicas(u64),
    #[error("replicas {0} of a job: use 1 to {max}", max = Mode::MAX_REPLICAS)]
    Completions(u64),
    #[error("concurrent tasks {0} of a job: use 1 to {max}, or 0 for all", max = Mode::MAX_REPLICAS)]
    Concurrent(u64),
    #[error("service {name:?} is {mode}: it has one task on each node, and no number that could be changed")]
    Scale { name: String, mode: &'static str },
    #[error("service {name:?} is {mode}: only tasks of replicated ones can be moved")]
    Move { name: String, mode: &'static str },
    #[error("service {0:?} is being updated: wait until that is over, or roll it back")]
    MoveInUpdate(String),
    #[error("a service keeps its mode: it is {old} and cannot become {new}, make another one instead")]
    Mode { old: &'static str, new: &'static str },
    #[error("most replicas on a node cannot be given to a {0} service: it has one task on each")]
    PerNode(&'static str),
    #[error("restart condition any cannot be used with a job, whose tasks end: use on-failure or none")]
    JobRestart,
    #[error("tasks of a {0} service cannot be moved: leave out how often it is rebalanced, or use 0s")]
    RebalanceMode(&'static str),
    #[error("a service cannot be rebalanced every {0:?}: use at least {least:?}, or 0s for never", least = Rebalance::LEAST)]
    RebalanceEvery(Duration),
    #[error("tasks to move at most: use 1 to {max}, not {0}", max = Mode::MAX_REPLICAS)]
    RebalanceMost(u64),
    #[error("a job is not updated task by task: leave out how updates and rollbacks go")]
    JobUpdate,
    #[error("service {0:?} is a job: it has no rollback, update it to what it should be")]
    JobRollback(String),
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
    #[error("a service keeps its name: it is {old:?} and cannot become {new:?}, make another one instead")]
    Renamed { old: String, new: String },
    #[error("a rollback that fails cannot be rolled back: use pause or continue")]
    RollbackOfRollback,
    #[error(
        "order start-first cannot be used with port {port} in host mode: two tasks cannot have it on one host, use \
         stop-first"
    )]
    StartFirst { port: Port },
    #[error("service {0:?} has no spec before the one it has: it was never updated")]
    NoPrevious(String),
    #[error("{path} is the place of two secrets or configs: give one of them another")]
    PathTwice { path: FilePath },
    #[error("{path} is a secret or config, and {inside} would lie in it: give one of them another place")]
    PathInside { path: FilePath, inside: FilePath },
    #[error("no command: give the program to run after `--`")]
    NoCommand,
    #[error("network {name} is used by service {by}: remove the service first")]
    InUse { name: String, by: String },
    #[error("network {name} carries the published ports of service {by}: it cannot be removed before that service")]
    Publishes { name: String, by: String },
    #[error("network {name} is used by {by}: disconnect it first")]
    Connected { name: String, by: String },
}

/// The spec as it is stored, or what is wrong with it.
pub fn network(state: &Snapshot, mut spec: NetworkSpec) -> Result<NetworkSpec, SpecError> {
    let name = &spec.annotations.name;
    check_name(name)?;
    limits::network(&spec)?;
    if spec.driver != Driver::Overlay {
        return Err(SpecError::Driver(spec.driver));
    }
    if OF_HOSTS.contains(&name.as_str()) {
        return Err(SpecError::OfHosts(name.clone()));
    }
    if state.network_named(name).is_some() {
        return Err(SpecError::Exists { kind: "network", name: name.clone() });
    }
    if spec.ipv4 == Some(false) || spec.ipv6 == Some(false) {
        return Err(SpecError::BothFamilies);
    }
    if spec.ingress {
        ingress(state, &spec)?;
    }
    options(&mut spec)?;
    if spec.encrypted() && !state.nodes.values().any(|n| n.description.tunnel.is_some()) {
        return Err(SpecError::NoTunnel);
    }
    pools(state, &spec.pools)?;
    match spec.mtu {
        Some(mtu) if mtu < Mtu::MIN_V6 => Err(SpecError::Mtu(mtu)),
        _ => Ok(spec),
    }
}

fn ingress(state: &Snapshot, spec: &NetworkSpec) -> Result<(), SpecError> {
    if let Some(other) = state.ingress_network() {
        return Err(SpecError::SecondIngress { name: other.spec.annotations.name.clone() });
    }
    for (flag, set) in [("--attachable", spec.attachable), ("--internal", spec.internal)] {
        if set {
            return Err(SpecError::IngressFlag { flag });
        }
    }
    Ok(())
}

/// Takes over what the driver's options say.
fn options(spec: &mut NetworkSpec) -> Result<(), SpecError> {
    for (key, value) in &spec.options {
        match key.as_str() {
            MTU_OPTION => {
                let mtu = value.parse().map(Mtu).map_err(|_| SpecError::MtuOption { value: value.clone() })?;
                if spec.mtu.is_some_and(|other| other != mtu) {
                    return Err(SpecError::MtuTwice);
                }
                spec.mtu = Some(mtu);
            }
            ENCRYPTED if ["", "true", "false"].contains(&value.as_str()) => {}
            ENCRYPTED => return Err(SpecError::Encrypted { value: value.clone() }),
            _ => return Err(SpecError::Option { key: key.clone() }),
        }
    }
    Ok(())
}

fn pools(state: &Snapshot, wanted: &[Pool]) -> Result<(), SpecError> {
    for (family, v4) in [("IPv4", true), ("IPv6", false)] {
        if wanted.iter().filter(|p| p.subnet.addr().is_ipv4() == v4).count() > 1 {
            return Err(SpecError::Family { family });
        }
    }
    for pool in wanted {
        let subnet = pool.subnet;
        pool.check()?;
        if subnet.max_prefix_len() - subnet.prefix_len() < 3 {
            return Err(SpecError::TooSmall { subnet });
        }
        if pool.room() == 0 {
            return Err(SpecError::NoRoom { range: pool.range.unwrap_or(subnet) });
        }
        if let Some(with) = subnets::taken_by(state, &subnet, None) {
            return Err(SpecError::Overlap { subnet, with });
        }
    }
    Ok(())
}

pub fn network_removal(state: &Snapshot, network: &Network) -> Result<(), SpecError> {
    let name = network.spec.annotations.name.clone();
    let uses = |s: &&Arc<Service>| joins(&s.spec, network);
    if let Some(by) = state.services.values().find(uses).map(|s| s.spec.annotations.name.clone()) {
        return Err(if network.spec.ingress {
            SpecError::Publishes { name, by }
        } else {
            SpecError::InUse { name, by }
        });
    }
    let attached = state.tasks.values().find(|t| t.attachments.iter().any(|a| a.network == network.id));
    if let Some(task) = attached {
        return Err(SpecError::InUse { name, by: format!("{} (still stopping)", task.service_name) });
    }
    match state.connections_to(&network.id).find(|c| !c.released) {
        Some(connection) => Err(SpecError::Connected { name, by: connection::named(state, connection) }),
        None => Ok(()),
    }
}

/// Whether the service's tasks have a place on the network.
fn joins(spec: &ServiceSpec, network: &Network) -> bool {
    let published = || spec.endpoint.ports.iter().any(|p| p.mode == PublishMode::Ingress);
    (network.spec.ingress && published()) || spec.task.networks.iter().any(|t| t.target == network.id.as_str())
}

/// The spec with its networks named by id, or what is wrong with it.
pub fn service(state: &Snapshot, mut spec: ServiceSpec) -> Result<ServiceSpec, SpecError> {
    check_name(&spec.annotations.name)?;
    if state.service_named(&spec.annotations.name).is_some() {
        return Err(SpecError::Exists { kind: "service", name: spec.annotations.name });
    }
    possible(state, None, &mut spec)?;
    Ok(spec)
}

/// The same for a service that there is.
pub fn change(state: &Snapshot, service: &Service, mut spec: ServiceSpec) -> Result<ServiceSpec, SpecError> {
    let (old, new) = (&service.spec.annotations.name, &spec.annotations.name);
    if old != new {
        return Err(SpecError::Renamed { old: old.clone(), new: new.clone() });
    }
    let (old, new) = (service.spec.mode.as_str(), spec.mode.as_str());
    if old != new {
        return Err(SpecError::Mode { old, new });
    }
    possible(state, Some(service), &mut spec)?;
    Ok(spec)
}

fn possible(state: &Snapshot, old: Option<&Service>, spec: &mut ServiceSpec) -> Result<(), SpecError> {
    limits::service(spec)?;
    let process = spec.task.runtime.program();
    match &spec.task.runtime {
        Runtime::Process(_) if process.command.first().is_none_or(String::is_empty) => {
            return Err(SpecError::NoCommand);
        }
        Runtime::Process(_) | Runtime::Image(_) => {}
    }
    for constraint in &spec.task.placement.constraints {
        constraint.parse::<Constraint>()?;
    }
    for preference in &spec.task.placement.spread {
        preference.parse::<Attribute>()?;
    }
    spec.task.resources.check()?;
    spec.task.container.check()?;
    for (name, value) in &process.env {
        template::check(value).map_err(|error| SpecError::Variable { name: name.clone(), error })?;
    }
    process.hostname.as_deref().map_or(Ok(()), template::check).map_err(SpecError::Hostname)?;
    if let Some(health) = &spec.task.health {
        health.check()?;
    }
    networks(state, spec)?;
    files(state, spec)?;
    ports(state, old, spec)?;
    mode(spec)?;
    rebalance(spec)?;
    updates(spec)?;
    room(state, old.map(|s| &s.id), spec)
}

/// Whether all that is said goes with the mode.
fn mode(spec: &ServiceSpec) -> Result<(), SpecError> {
    let name = spec.mode.as_str();
    match spec.mode {
        Mode::Global | Mode::GlobalJob if spec.task.placement.max_replicas_per_node > 0 => {
            return Err(SpecError::PerNode(name));
        }
        Mode::ReplicatedJob { concurrent, .. } if concurrent > Mode::MAX_REPLICAS => {
            return Err(SpecError::Concurrent(concurrent));
        }
        _ => {}
    }
    if spec.mode.is_job() {
        if spec.task.restart.condition == RestartCondition::Any {
            return Err(SpecError::JobRestart);
        }
        if [&spec.update, &spec.rollback].iter().any(|c| **c != UpdateConfig::default()) {
            return Err(SpecError::JobUpdate);
        }
    }
    Ok(())
}

/// Whether the rule of moves can be followed.
fn rebalance(spec: &ServiceSpec) -> Result<(), SpecError> {
    let Rebalance { every, most } = spec.rebalance;
    if !(1..=Mode::MAX_REPLICAS).contains(&most) {
        return Err(SpecError::RebalanceMost(most));
    }
    match spec.mode {
        _ if every.is_zero() => Ok(()),
        Mode::Replicated { .. } if every < Rebalance::LEAST => Err(SpecError::RebalanceEvery(every)),
        Mode::Replicated { .. } => Ok(()),
        _ => Err(SpecError::RebalanceMode(spec.mode.as_str())),
    }
}

/// Whether the rules of updates and rollbacks can be followed.
fn updates(spec: &ServiceSpec) -> Result<(), SpecError> {
    if spec.rollback.failure_action == FailureAction::Rollback {
        return Err(SpecError::RollbackOfRollback);
    }
    let of_host = spec.endpoint.ports.iter().find(|p| p.mode == PublishMode::Host);
    match of_host.filter(|_| [&spec.update, &spec.rollback].iter().any(|c| c.order == Order::StartFirst)) {
        Some(port) => Err(SpecError::StartFirst { port: port.published.unwrap_or(port.target) }),
        None => Ok(()),
    }
}

/// Names the networks by id. On the hosts' own network there is nothing to publish: every port is a port of the host.
fn networks(state: &Snapshot, spec: &mut ServiceSpec) -> Result<(), SpecError> {
    if let Some(host) = spec.task.networks.iter().find(|t| t.target == network::HOST) {
        if spec.task.networks.len() > 1 {
            return Err(SpecError::HostAmongOthers);
        }
        if !host.aliases.is_empty() {
            return Err(SpecError::HostAliases);
        }
        spec.endpoint.ports.clear();
        return Ok(());
    }
    let mut seen = BTreeSet::new();
    for target in &mut spec.task.networks {
        if OF_HOSTS.contains(&target.target.as_str()) {
            return Err(SpecError::NotOfCluster(target.target.clone()));
        }
        let network = match find::network(state, &target.target) {
            Err(FindError::None { .. }) => return Err(SpecError::UnknownTarget(target.target.clone())),
            found => found?,
        };
        if network.spec.ingress {
            return Err(SpecError::JoinsIngress { name: network.spec.annotations.name.clone() });
        }
        if !seen.insert(network.id.clone()) {
            return Err(SpecError::NetworkTwice(target.target.clone()));
        }
        for alias in &target.aliases {
            check_name(alias)?;
        }
        target.target = network.id.to_string();
    }
    Ok(())
}

/// Whether each login is for the registry that the service's image is from.
pub fn logins(spec: &ServiceSpec, logins: &Logins) -> Result<(), SpecError> {
    let image = spec.task.runtime.image().map(|i| &i.image);
    for (registry, login) in &logins.0 {
        match image {
            Some(image) if image.parts().registry == registry => login.check(registry)?,
            image => {
                let found = image.map_or_else(|| "a program of the hosts".to_owned(), |image| format!("image {image}"));
                return Err(SpecError::OtherRegistry { registry: registry.clone(), found });
            }
        }
    }
    Ok(())
}

/// Names the secrets and configs by id.
fn files(state: &Snapshot, spec: &mut ServiceSpec) -> Result<(), SpecError> {
    let mut paths: Vec<FilePath> = Vec::new();
    for file in &mut spec.task.files {
        file.source = find::payload(state, file.kind, &file.source)?.id.to_string();
        for path in &paths {
            let (path, inside) = if path < &file.path { (path, &file.path) } else { (&file.path, path) };
            if path == inside {
                return Err(SpecError::PathTwice { path: path.clone() });
            }
            if inside.as_path().starts_with(path.as_path()) {
                return Err(SpecError::PathInside { path: path.clone(), inside: inside.clone() });
            }
        }
        paths.push(file.path.clone());
    }
    Ok(())
}

fn ports(state: &Snapshot, old: Option<&Service>, spec: &ServiceSpec) -> Result<(), SpecError> {
    let own: Vec<_> = old.iter().flat_map(|s| allocator::published_by(s)).collect();
    let mut seen = BTreeSet::new();
    if state.ingress_network().is_none()
        && let Some(config) = spec.endpoint.ports.iter().find(|p| p.mode == PublishMode::Ingress)
    {
        return Err(SpecError::NoIngress {
            port: config.published.unwrap_or(config.target),
            protocol: config.protocol,
        });
    }
    for config in &spec.endpoint.ports {
        let (protocol, Some(port)) = (config.protocol, config.published) else { continue };
        if !seen.insert((protocol, port)) {
            return Err(SpecError::PortTwice { port, protocol });
        }
        if own.contains(&(protocol, port)) {
            continue;
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

/// Whether the tasks are not too many, and can have an address in each of the service's networks.
pub fn room(state: &Snapshot, id: Option<&ServiceId>, spec: &ServiceSpec) -> Result<(), SpecError> {
    match spec.mode {
        Mode::Replicated { replicas: count } if count > Mode::MAX_REPLICAS => return Err(SpecError::Replicas(count)),
        Mode::ReplicatedJob { completions: count, .. } if !(1..=Mode::MAX_REPLICAS).contains(&count) => {
            return Err(SpecError::Completions(count));
        }
        _ => {}
    }
    let on_nodes = |spec: &ServiceSpec| {
        let constraints = Constraint::all(&spec.task);
        state.nodes.values().filter(|n| constraints.iter().all(|c| c.admits(n))).count() as u64
    };
    // What runs has addresses, and what has run is kept.
    let kept = |spec: &ServiceSpec| spec.mode.count().unwrap_or_else(|| on_nodes(spec));
    let run = |spec: &ServiceSpec| spec.mode.at_once().map_or(kept(spec), |most| most.min(kept(spec)));
    limits::tasks(spec, kept(spec))?;
    // Nodes may have come since it was made: what finds no address says so, and is no reason to leave it as it is.
    if spec.mode.count().is_none() && id.is_some() {
        return Ok(());
    }
    let replicas = run(spec);
    for network in state.networks.values().filter(|n| joins(spec, n)) {
        let others = state.services.values().filter(|s| Some(&s.id) != id && joins(&s.spec, network));
        let tasks: u64 = others.map(|s| run(&s.spec)).sum();
        for pool in subnets::pools(network) {
            let range = pool.range.unwrap_or(pool.subnet);
            let within =
                |c: &&Arc<Connection>| !c.released && c.attachment.addr.addrs().iter().any(|a| range.contains(a));
            let used = tasks + state.connections_to(&network.id).filter(within).count() as u64;
            let room = pool.room();
            if used + replicas > room {
                let (network, subnet) = (network.spec.annotations.name.clone(), range.to_string());
                return Err(SpecError::Full { network, subnet, room, used, wanted: replicas });
            }
        }
    }
    Ok(())
}
