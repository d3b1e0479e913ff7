//! What becomes of a host's wish that a workload, or a running task, joins an overlay or leaves it again.

use crate::{
    allocator::{mac, subnets},
    control::{FindError, find},
    store::{Holder, Mutation, Snapshot, WriteError},
};
use heddle_model::{
    ConnectionId, Meta, NodeId, TaskId,
    connection::Connection,
    endpoint::Attachment,
    limits::{self, LimitError},
    meta::{BadName, check_name},
    net::{DualAddr, Mac, Pool, PoolError},
    network::{self, Network},
    workload::NetworkWish,
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};
use tonic::Status;

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(transparent)]
    Name(#[from] BadName),
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error(transparent)]
    Find(#[from] FindError),
    #[error("network {network:?} carries published ports: a program joins it by publishing a port of its service")]
    Ingress { network: String },
    #[error("network {network:?} is for services alone: create it with --attachable to let workloads join")]
    NotAttachable { network: String },
    #[error(
        "network {network:?} is encrypted and this host cannot encrypt: it takes the kernel's wireguard module, or \
         /dev/net/tun"
    )]
    NoTunnel { network: String },
    #[error("task {task} does not run on this host: connect it where it runs")]
    Elsewhere { task: String },
    #[error("task {task} uses the host's own network: it joins no other")]
    OnHost { task: String },
    #[error("{name} is connected to network {network:?} already, with {held}: disconnect it first")]
    Connected { name: String, network: String, held: String },
    #[error("{name} is connected to network {network:?} by host {host}: disconnect it there first")]
    ByOther { name: String, network: String, host: String },
    #[error("MAC address {mac} cannot be an interface's: use one whose first byte is even, such as 02:42:0a:01:00:05")]
    BadMac { mac: Mac },
    #[error("MAC address {mac} is in use by {by} on network {network:?}: use another")]
    MacTaken { mac: Mac, by: String, network: String },
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error("address {addr} is in use by {by} on network {network:?}: use another")]
    Taken { addr: IpAddr, by: String, network: String },
    #[error("network {network:?} has no free address left in {pool}: disconnect a workload or use a larger subnet")]
    Full { network: String, pool: String },
    #[error("network {network:?} has no subnets yet: the address pools of the cluster may be used up")]
    NoSubnets { network: String },
    #[error("{what} of network {network:?} was given up moments ago and some host may still use it: try again")]
    Settling { what: String, network: String },
    #[error("the cluster changes too fast for this request: try again")]
    Contended,
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl AttachError {
    /// Ends by itself soon.
    pub fn is_transient(&self) -> bool {
        matches!(self, AttachError::Settling { .. } | AttachError::NoSubnets { .. } | AttachError::Contended)
    }
}

impl From<AttachError> for Status {
    fn from(e: AttachError) -> Status {
        let text = e.to_string();
        match e {
            AttachError::Find(FindError::None { .. }) => Status::not_found(text),
            AttachError::Connected { .. } | AttachError::ByOther { .. } => Status::already_exists(text),
            AttachError::MacTaken { .. } | AttachError::Taken { .. } | AttachError::Full { .. } => {
                Status::failed_precondition(text)
            }
            AttachError::Write(_) => Status::unavailable(text),
            _ if e.is_transient() => Status::unavailable(text),
            _ => Status::invalid_argument(text),
        }
    }
}

/// What a host asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub node: NodeId,
    pub workload: TaskId,
    pub name: String,
    pub wish: NetworkWish,
}

/// The place that was asked for, and what makes it so: nothing if it is there already.
pub fn attach(
    state: &Snapshot,
    wanted: &Wanted,
    random: &mut dyn FnMut() -> [u8; 16],
) -> Result<(Connection, Vec<Mutation>), AttachError> {
    let wish = &wanted.wish;
    limits::wish(wish)?;
    std::iter::once(&wanted.name).chain(&wish.aliases).try_for_each(|name| check_name(name))?;
    let network = find::network(state, &wish.network)?;
    admit(state, wanted, &network)?;
    let earlier = || state.connections_to(&network.id).filter(|c| c.workload == wanted.workload);
    if let Some(held) = earlier().find(|c| !c.released) {
        return again(state, wanted, &network, held);
    }
    // Given up, but nobody has it yet: what other hosts may still know of it becomes right again.
    if let Some(held) = earlier().find(|c| c.node == wanted.node && fits(&c.attachment, wish)) {
        return again(state, wanted, &network, held);
    }
    let addr = free_addr(state, &network, wish)?;
    let mac = free_mac(state, &network, wish.mac, &addr, random)?;
    let made = Connection {
        id: ConnectionId::from_random(random()),
        meta: Meta::default(),
        node: wanted.node.clone(),
        workload: wanted.workload.clone(),
        name: wanted.name.clone(),
        attachment: Attachment { network: network.id.clone(), addr, mac, aliases: wish.aliases.clone() },
        released: false,
    };
    Ok((made.clone(), vec![Mutation::Create(made.into())]))
}

/// Whether the workload may join at all.
fn admit(state: &Snapshot, wanted: &Wanted, network: &Network) -> Result<(), AttachError> {
    let name = || network.spec.annotations.name.clone();
    if network.spec.ingress {
        return Err(AttachError::Ingress { network: name() });
    }
    if network.spec.encrypted() && state.nodes.get(&wanted.node).is_some_and(|n| n.description.tunnel.is_none()) {
        return Err(AttachError::NoTunnel { network: name() });
    }
    let Some(task) = state.tasks.get(&wanted.workload) else {
        let open = network.spec.attachable;
        return if open { Ok(()) } else { Err(AttachError::NotAttachable { network: name() }) };
    };
    if task.node.as_ref() != Some(&wanted.node) || !task.on_node() {
        return Err(AttachError::Elsewhere { task: task.name() });
    }
    if task.spec.networks.iter().any(|t| t.target == network::HOST) {
        return Err(AttachError::OnHost { task: task.name() });
    }
    match task.attachments.iter().find(|a| a.network == network.id) {
        Some(own) => {
            Err(AttachError::Connected { name: format!("task {}", task.name()), network: name(), held: held(own) })
        }
        None => Ok(()),
    }
}

fn held(attachment: &Attachment) -> String {
    let DualAddr { v4, v6 } = attachment.addr;
    format!("{v4}, {v6} and MAC address {}", attachment.mac)
}

fn fits(attachment: &Attachment, wish: &NetworkWish) -> bool {
    wish.ip.is_none_or(|ip| ip == attachment.addr.v4)
        && wish.ip6.is_none_or(|ip| ip == attachment.addr.v6)
        && wish.mac.is_none_or(|mac| mac == attachment.mac)
}

/// The same place, by the name and the aliases that are wanted now.
fn again(
    state: &Snapshot,
    wanted: &Wanted,
    network: &Network,
    held_now: &Connection,
) -> Result<(Connection, Vec<Mutation>), AttachError> {
    let name = wanted.name.clone();
    if held_now.node != wanted.node {
        let host = hostname(state, &held_now.node);
        return Err(AttachError::ByOther { name, network: network.spec.annotations.name.clone(), host });
    }
    if !fits(&held_now.attachment, &wanted.wish) {
        let (network, held) = (network.spec.annotations.name.clone(), held(&held_now.attachment));
        return Err(AttachError::Connected { name, network, held });
    }
    let attachment = Attachment { aliases: wanted.wish.aliases.clone(), ..held_now.attachment.clone() };
    let next = Connection { name, attachment, released: false, ..held_now.clone() };
    let same = next == *held_now;
    let mutations = if same { Vec::new() } else { vec![Mutation::Update(next.clone().into())] };
    Ok((next, mutations))
}

fn hostname(state: &Snapshot, node: &NodeId) -> String {
    state.nodes.get(node).map_or_else(|| node.to_string(), |n| n.description.hostname.clone())
}

/// A connection as a sentence names it.
pub fn named(state: &Snapshot, connection: &Connection) -> String {
    format!("{} on host {}", connection.name, hostname(state, &connection.node))
}

/// Somebody's place on a network.
struct Place<'a> {
    by: String,
    attachment: &'a Attachment,
    /// Only until every ready node has stopped using it.
    given_up: bool,
}

fn place<'a>(state: &'a Snapshot, network: &Network, holder: &Holder) -> Option<Place<'a>> {
    match holder {
        Holder::Task(id) => {
            let task = state.tasks.get(id)?;
            let attachment = task.attachments.iter().find(|a| a.network == network.id)?;
            Some(Place { by: format!("task {}", task.name()), attachment, given_up: task.status.state.is_terminal() })
        }
        Holder::Connection(id) => {
            let connection = state.connections.get(id)?;
            let (by, attachment) = (named(state, connection), &connection.attachment);
            Some(Place { by, attachment, given_up: connection.released })
        }
    }
}

fn free_mac(
    state: &Snapshot,
    network: &Network,
    wish: Option<Mac>,
    addr: &DualAddr,
    random: &mut dyn FnMut() -> [u8; 16],
) -> Result<Mac, AttachError> {
    let places = || state.held(&network.id).filter_map(|(_, holder)| place(state, network, holder));
    let Some(wish) = wish else {
        let taken: BTreeSet<Mac> = places().map(|p| p.attachment.mac).collect();
        let mut mac = mac(&network.id, addr);
        // Somebody asked for just that one.
        while taken.contains(&mac) {
            let [a, b, c, d, e, f, ..] = random();
            mac = Mac::from_random([a, b, c, d, e, f]);
        }
        return Ok(mac);
    };
    if !wish.is_unicast() {
        return Err(AttachError::BadMac { mac: wish });
    }
    let name = || network.spec.annotations.name.clone();
    match places().find(|p| p.attachment.mac == wish) {
        None => Ok(wish),
        Some(p) if p.given_up => Err(AttachError::Settling { what: format!("MAC address {wish}"), network: name() }),
        Some(p) => Err(AttachError::MacTaken { mac: wish, by: p.by, network: name() }),
    }
}

fn free_addr(state: &Snapshot, network: &Network, wish: &NetworkWish) -> Result<DualAddr, AttachError> {
    let mut addr = DualAddr { v4: Ipv4Addr::UNSPECIFIED, v6: Ipv6Addr::UNSPECIFIED };
    let pools = subnets::pools(network);
    if pools.is_empty() {
        return Err(AttachError::NoSubnets { network: network.spec.annotations.name.clone() });
    }
    // Both families by one number: a MAC that goes with the IPv4 address is then always the IPv6 address's too.
    let mut number = 0;
    for pool in pools {
        let wish = if pool.subnet.addr().is_ipv4() { wish.ip.map(IpAddr::V4) } else { wish.ip6.map(IpAddr::V6) };
        match wish.map_or_else(|| any(state, network, &pool, number), |at| exactly(state, network, &pool, at))? {
            IpAddr::V4(v4) => {
                addr.v4 = v4;
                number = pool.number(v4.into());
            }
            IpAddr::V6(v6) => addr.v6 = v6,
        }
    }
    Ok(addr)
}

fn exactly(state: &Snapshot, network: &Network, pool: &Pool, addr: IpAddr) -> Result<IpAddr, AttachError> {
    pool.admits(addr)?;
    let name = || network.spec.annotations.name.clone();
    match state.holder(&network.id, addr).and_then(|holder| place(state, network, holder)) {
        None => Ok(addr),
        Some(p) if p.given_up => Err(AttachError::Settling { what: format!("address {addr}"), network: name() }),
        Some(p) => Err(AttachError::Taken { addr, by: p.by, network: name() }),
    }
}

/// The first that is free from this number upward.
fn any(state: &Snapshot, network: &Network, pool: &Pool, start: u64) -> Result<IpAddr, AttachError> {
    let used: BTreeSet<IpAddr> = state.held(&network.id).map(|(addr, _)| addr).collect();
    if let Some(addr) = pool.free(&used, start) {
        return Ok(addr);
    }
    let network_name = network.spec.annotations.name.clone();
    let range = pool.range.unwrap_or(pool.subnet);
    let settling = |(addr, holder): (IpAddr, &Holder)| {
        range.contains(&addr) && place(state, network, holder).is_some_and(|p| p.given_up)
    };
    Err(match state.held(&network.id).any(settling) {
        true => AttachError::Settling { what: format!("the last free address in {range}"), network: network_name },
        false => AttachError::Full { network: network_name, pool: range.to_string() },
    })
}

/// Gives up the workload's place on one network, or on all if `reference` is empty. What is not there needs nothing.
pub fn detach(
    state: &Snapshot,
    node: &NodeId,
    workload: &TaskId,
    reference: &str,
) -> Result<Vec<Mutation>, AttachError> {
    let network = match (reference, find::network(state, reference)) {
        ("", _) => None,
        (_, Ok(network)) => Some(network),
        (_, Err(FindError::None { .. })) => return Ok(Vec::new()),
        (_, Err(many)) => return Err(many.into()),
    };
    let meant =
        |c: &&Arc<Connection>| c.workload == *workload && network.as_ref().is_none_or(|n| n.id == c.attachment.network);
    Ok(state.connections_on_node(node).filter(meant).filter_map(|c| release(c)).collect())
}

/// None: that is done already.
pub fn release(connection: &Connection) -> Option<Mutation> {
    (!connection.released).then(|| Mutation::Update(Connection { released: true, ..connection.clone() }.into()))
}
