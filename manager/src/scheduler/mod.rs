//! Finds a node for every task that waits for one: filters that say why they refuse, then the node with the fewest tasks.

pub mod constraint;

use crate::{
    plan::{Context, Plan},
    store::{Mutation, Snapshot},
};
use constraint::Constraint;
use heddle_model::{
    NodeId, ServiceId, Version,
    net::{Port, Protocol},
    node::{Availability, Node, NodeState},
    task::{Task, TaskState},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    sync::Arc,
    time::Duration,
};

/// Tasks on a node, kept up to date while a plan grows.
#[derive(Default)]
struct Load {
    all: usize,
    of_service: BTreeMap<ServiceId, usize>,
    host_ports: BTreeSet<(Protocol, Port)>,
}

impl Load {
    fn add(&mut self, task: &Task) {
        self.all += 1;
        *self.of_service.entry(task.service.clone()).or_default() += 1;
        self.host_ports.extend(host_ports(task));
    }

    fn of(&self, service: &ServiceId) -> usize {
        self.of_service.get(service).copied().unwrap_or(0)
    }

    /// The least is the best.
    fn rank(&self, service: &ServiceId, node: &NodeId) -> (usize, usize, NodeId) {
        (self.of(service), self.all, node.clone())
    }
}

fn host_ports(task: &Task) -> impl Iterator<Item = (Protocol, Port)> + '_ {
    task.host_ports.iter().map(|p| (p.protocol, p.published.unwrap_or(p.target)))
}

/// Tasks that ask the same of a node.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Alike<'a> {
    service: &'a ServiceId,
    version: Version,
    encrypted: bool,
    bound: Option<&'a NodeId>,
}

/// What tasks ask of a node that are of one service and one version of it.
struct Wanted<'a> {
    like: &'a Task,
    encrypted: bool,
    constraints: Vec<Constraint>,
}

type Filter = fn(&Node, &Load, &Wanted<'_>) -> Option<&'static str>;

/// In this order; the first refusal counts.
const FILTERS: &[Filter] = &[
    |node, _, _| (node.status.state != NodeState::Ready).then_some("not ready"),
    |node, _, _| (node.spec.availability != Availability::Active).then_some("not available"),
    |node, _, _| (!node.description.executors.iter().any(|e| e == "process")).then_some("cannot run processes"),
    |node, _, w| (w.encrypted && node.description.tunnel.is_none()).then_some("cannot encrypt"),
    |node, _, w| w.constraints.iter().any(|c| !c.admits(node)).then_some("do not match the constraints"),
    |_, load, w| {
        let most = w.like.spec.placement.max_replicas_per_node as usize;
        (most > 0 && load.of(&w.like.service) >= most).then_some("have the most replicas allowed")
    },
    |_, load, w| host_ports(w.like).any(|p| load.host_ports.contains(&p)).then_some("have the port taken"),
];

/// Nodes for such tasks, the one with the fewest of the service first, then the one with the fewest of all. What is placed only
/// makes a node fuller: one that refuses once is not asked again.
struct Candidates<'a> {
    wanted: Wanted<'a>,
    order: BinaryHeap<Reverse<(usize, usize, NodeId)>>,
    refused: BTreeMap<&'static str, usize>,
}

impl<'a> Candidates<'a> {
    fn new(loads: &BTreeMap<NodeId, Load>, wanted: Wanted<'a>) -> Self {
        let rank = |(id, load): (&NodeId, &Load)| Reverse(load.rank(&wanted.like.service, id));
        let order = match &wanted.like.bound {
            Some(id) => loads.get_key_value(id).map(rank).into_iter().collect(),
            None => loads.iter().map(rank).collect(),
        };
        Self { wanted, order, refused: BTreeMap::new() }
    }

    /// Puts one task somewhere, or says why it fits nowhere.
    fn place(&mut self, state: &Snapshot, loads: &mut BTreeMap<NodeId, Load>) -> Result<NodeId, String> {
        while let Some(Reverse((_, _, id))) = self.order.pop() {
            let Some((node, load)) = state.nodes.get(&id).zip(loads.get_mut(&id)) else { continue };
            match FILTERS.iter().find_map(|f| f(node, load, &self.wanted)) {
                Some(why) => *self.refused.entry(why).or_default() += 1,
                None => {
                    load.add(self.wanted.like);
                    self.order.push(Reverse(load.rank(&self.wanted.like.service, &id)));
                    return Ok(id);
                }
            }
        }
        let reasons: Vec<_> = self.refused.iter().map(|(why, n)| format!("{n} {why}")).collect();
        Err(format!("no suitable node: {}", reasons.join(", ")))
    }
}

/// So far two hosts' clocks may be apart with nothing wrong.
const CLOCKS_DIFFER: Duration = Duration::from_secs(5);

pub fn plan(state: &Snapshot, context: &mut Context<'_>) -> Plan {
    let mut plan = Plan::default();
    let waiting =
        |t: &&Arc<Task>| t.status.state == TaskState::Pending && t.node.is_none() && t.desired == TaskState::Running;
    if !state.tasks.values().any(|t| waiting(&t)) {
        return plan;
    }
    let mut loads: BTreeMap<NodeId, Load> = state.nodes.keys().map(|id| (id.clone(), Load::default())).collect();
    for task in state.tasks.values().filter(|t| t.on_node()) {
        if let Some(load) = task.node.as_ref().and_then(|n| loads.get_mut(n)) {
            load.add(task);
        }
    }
    let encrypted = |task: &Task| {
        let mut on = task.attachments.iter().filter_map(|a| state.networks.get(&a.network));
        on.any(|n| n.spec.encrypted())
    };
    let mut groups: BTreeMap<Alike<'_>, Vec<&Arc<Task>>> = BTreeMap::new();
    for task in state.tasks.values().filter(waiting) {
        // Much further off than the delay is only a time by the clock of another host, which is ahead: nobody waits for that.
        let wait = task.not_before.since(context.now);
        if !wait.is_zero() && wait <= task.spec.restart.delay * 2 + CLOCKS_DIFFER {
            plan.wake_at(task.not_before);
        } else {
            let (service, version, bound) = (&task.service, task.spec_version, task.bound.as_ref());
            groups.entry(Alike { service, version, encrypted: encrypted(task), bound }).or_default().push(task);
        }
    }
    let mut placed = Vec::new();
    for (Alike { encrypted, .. }, tasks) in groups {
        let like = tasks[0];
        let constraints = like.spec.placement.constraints.iter().filter_map(|c| c.parse().ok()).collect();
        let mut candidates = Candidates::new(&loads, Wanted { like, encrypted, constraints });
        for task in tasks {
            let mut next = Task::clone(task);
            match candidates.place(state, &mut loads) {
                Ok(node) => {
                    next.node = Some(node);
                    next.status.state = TaskState::Assigned;
                    next.status.since = context.now;
                    next.status.message = "assigned to a node".into();
                }
                Err(reason) if next.status.message != reason => next.status.message = reason,
                Err(_) => continue,
            }
            placed.push(next);
        }
    }
    // What is written together goes to few nodes then: each hears of its tasks at once, and not of one after the other.
    // Those that fit nowhere can wait.
    placed.sort_by_cached_key(|task| (task.node.is_none(), task.node.clone()));
    plan.mutations.extend(placed.into_iter().map(|task| Mutation::Update(task.into())));
    plan
}
