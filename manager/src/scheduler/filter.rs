//! What a node may have against a task.

use super::{attribute::Attribute, constraint::Constraint, load::Load};
use crate::store::Snapshot;
use bytesize::ByteSize;
use heddle_model::{
    NodeId,
    net::{Port, Protocol},
    node::{Availability, Node, NodeState},
    placement::{Amounts, NanoCpus},
    service::Runtime,
    task::Task,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// What tasks ask of a node that are of one service and one version of it.
pub struct Wanted<'a> {
    pub like: &'a Task,
    pub encrypted: bool,
    pub constraints: Vec<Constraint>,
    pub spread: Vec<Attribute>,
    /// Tasks of the service that make room: those that end, and those that have the slots of these. Nothing is spread by them.
    leaving: BTreeMap<NodeId, u32>,
}

impl<'a> Wanted<'a> {
    /// By tasks that ask the same, of which there is one.
    pub fn by_all(state: &Snapshot, tasks: &[&'a Task]) -> Self {
        let mut wanted = Self::by(state, tasks[0]);
        // Where there is one node, there is nothing to choose.
        if wanted.like.bound.is_none() {
            let slots: BTreeSet<u64> = tasks.iter().map(|task| task.slot).collect();
            let all = state.tasks_of_service(&wanted.like.service);
            let leaving = all.filter(|task| task.on_node() && (task.has_to_go() || slots.contains(&task.slot)));
            for node in leaving.filter_map(|task| task.node.clone()) {
                *wanted.leaving.entry(node).or_default() += 1;
            }
        }
        wanted
    }

    pub fn by(state: &Snapshot, like: &'a Task) -> Self {
        let placement = &like.spec.placement;
        Self {
            like,
            encrypted: is_encrypted(state, like),
            constraints: Constraint::all(&like.spec),
            spread: placement.spread.iter().filter_map(|s| s.parse().ok()).collect(),
            leaving: BTreeMap::new(),
        }
    }

    /// Tasks of the service that stay on a node.
    pub fn beside(&self, node: &NodeId, load: &Load) -> u32 {
        load.of(&self.like.service).saturating_sub(self.leaving.get(node).copied().unwrap_or(0))
    }
}

/// Whether the task is on a network that only nodes with a tunnel take part in.
pub fn is_encrypted(state: &Snapshot, task: &Task) -> bool {
    let mut on = task.attachments.iter().filter_map(|a| state.networks.get(&a.network));
    on.any(|n| n.spec.encrypted())
}

/// Why a node does not take a task.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    NotReady,
    Paused,
    Drained,
    /// Without it the node cannot run the task.
    NoExecutor(&'static str),
    NoTunnel,
    Constraint {
        wanted: Constraint,
        actual: Option<String>,
    },
    MostReplicas(u32),
    PortTaken(Protocol, Port),
    Cpu {
        wanted: NanoCpus,
        free: NanoCpus,
        of: NanoCpus,
    },
    Memory {
        wanted: u64,
        free: u64,
        of: u64,
    },
    Generic {
        name: String,
        wanted: u64,
        free: u64,
        of: u64,
    },
}

type Filter = fn(&Node, &Load, &Wanted<'_>) -> Option<Refusal>;

const FILTERS: &[Filter] = &[
    |node, _, _| (node.status.state != NodeState::Ready).then_some(Refusal::NotReady),
    |node, _, _| match node.spec.availability {
        Availability::Active => None,
        Availability::Pause => Some(Refusal::Paused),
        Availability::Drain => Some(Refusal::Drained),
    },
    |node, _, w| {
        let wanted = w.like.spec.runtime.executor();
        (!node.description.executors.iter().any(|e| e == wanted)).then_some(Refusal::NoExecutor(wanted))
    },
    |node, _, w| (w.encrypted && node.description.tunnel.is_none()).then_some(Refusal::NoTunnel),
    |node, _, w| {
        let wanted = w.constraints.iter().find(|c| !c.admits(node))?.clone();
        let actual = wanted.attribute().of(node).map(Into::into);
        Some(Refusal::Constraint { wanted, actual })
    },
    |_, load, w| {
        let most = w.like.spec.placement.max_replicas_per_node;
        (most > 0 && load.of(&w.like.service) >= most).then_some(Refusal::MostReplicas(most))
    },
    |_, load, w| load.port_taken(w.like).map(|(protocol, port)| Refusal::PortTaken(protocol, port)),
    |node, load, w| scarce(&w.like.spec.resources.reserved, node, load),
];

/// What the node has too little of.
fn scarce(wanted: &Amounts, node: &Node, load: &Load) -> Option<Refusal> {
    if wanted.is_none() {
        return None;
    }
    let (has, taken) = (node.description.capacity(), &load.reserved);
    let free = NanoCpus(has.cpu.0.saturating_sub(taken.cpu.0));
    if wanted.cpu > free {
        return Some(Refusal::Cpu { wanted: wanted.cpu, free, of: has.cpu });
    }
    let free = has.memory.saturating_sub(taken.memory);
    if wanted.memory > free {
        return Some(Refusal::Memory { wanted: wanted.memory, free, of: has.memory });
    }
    wanted.generic.iter().find_map(|(name, &wanted)| {
        let of = has.generic.get(name).copied().unwrap_or(0);
        let free = of.saturating_sub(taken.generic.get(name).copied().unwrap_or(0));
        (wanted > free).then(|| Refusal::Generic { name: name.clone(), wanted, free, of })
    })
}

/// What the node has against the task, the gravest first. Nothing: it takes it.
pub fn refusals(node: &Node, load: &Load, wanted: &Wanted<'_>) -> impl Iterator<Item = Refusal> {
    FILTERS.iter().filter_map(move |filter| filter(node, load, wanted))
}

impl Refusal {
    /// After a number of nodes.
    pub fn of_many(&self) -> &'static str {
        match self {
            Refusal::NotReady => "not ready",
            Refusal::Paused | Refusal::Drained => "not available",
            Refusal::NoExecutor(Runtime::CONTAINERD) => "cannot run images",
            Refusal::NoExecutor(_) => "cannot run processes",
            Refusal::NoTunnel => "cannot encrypt",
            Refusal::Constraint { .. } => "do not match the constraints",
            Refusal::MostReplicas(_) => "have the most replicas allowed",
            Refusal::PortTaken(..) => "have the port taken",
            Refusal::Cpu { .. } => "have too few processors free",
            Refusal::Memory { .. } => "have too little memory free",
            Refusal::Generic { .. } => "have too few of a resource free",
        }
    }

    /// What would make the task fit, by what an operator can do.
    pub fn remedy(&self, host: &str, service: &str) -> String {
        let update = |flags: &str| format!("`heddle service update {flags} {service}`");
        match self {
            Refusal::NotReady => format!("start the daemon of {host}, or look at what it says there"),
            Refusal::Paused | Refusal::Drained => format!("`heddle node update --availability active {host}`"),
            Refusal::NoExecutor(Runtime::CONTAINERD) => format!("install and start containerd on {host}"),
            Refusal::NoExecutor(_) => format!("run a daemon on {host} that can run processes"),
            Refusal::NoTunnel => format!("load the kernel's wireguard module on {host}, or give it /dev/net/tun"),
            Refusal::Constraint { wanted, .. } => match (wanted.attribute(), wanted.only()) {
                (Attribute::NodeLabel(name), Some(value)) => {
                    format!("`heddle node update --label-add {name}={value} {host}`")
                }
                _ => update(&format!("--constraint-rm '{wanted}'")),
            },
            Refusal::MostReplicas(most) => update(&format!("--replicas-max-per-node {}", most + 1)),
            Refusal::PortTaken(protocol, port) => {
                format!("stop what has port {port}/{protocol} on {host}, or publish another")
            }
            Refusal::Cpu { free, .. } if free.0 > 0 => update(&format!("--reserve-cpu {free}")),
            Refusal::Memory { free, .. } if *free > 0 => update(&format!("--reserve-memory {free}")),
            Refusal::Cpu { .. } | Refusal::Memory { .. } => {
                format!("reserve nothing, or move other tasks away from {host}")
            }
            Refusal::Generic { name, .. } => {
                format!("move other tasks with {name} away from {host}, or ask for less of it")
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NotReady => f.write_str("it is not ready"),
            Refusal::Paused => f.write_str("it is paused"),
            Refusal::Drained => f.write_str("it is drained"),
            Refusal::NoExecutor(Runtime::CONTAINERD) => {
                f.write_str("it cannot run images: no containerd answers there")
            }
            Refusal::NoExecutor(_) => f.write_str("it cannot run processes"),
            Refusal::NoTunnel => f.write_str("it cannot encrypt, and the service is on an encrypted network"),
            Refusal::Constraint { wanted, actual: Some(actual) } => write!(f, "{wanted}: it is {actual:?}"),
            Refusal::Constraint { wanted, actual: None } => write!(f, "{wanted}: it has no such label"),
            Refusal::MostReplicas(most) => write!(f, "it has the most replicas allowed: {most}"),
            Refusal::PortTaken(protocol, port) => write!(f, "another task has port {port}/{protocol} there"),
            Refusal::Cpu { wanted, free, of } => {
                write!(f, "{wanted} processors are wanted, {free} of {of} are free")
            }
            Refusal::Memory { wanted, free, of } => {
                let [wanted, free, of] = [*wanted, *free, *of].map(ByteSize::b);
                write!(f, "{wanted} of memory are wanted, {free} of {of} are free")
            }
            Refusal::Generic { name, wanted, free, of } => {
                write!(f, "{wanted} of {name} are wanted, {free} of {of} are free")
            }
        }
    }
}
