//! Finds a node for every task that waits for one: filters that say why they refuse, then the node with the fewest tasks.

pub mod constraint;

use crate::{
    plan::{Context, Plan},
    store::{Mutation, Snapshot},
};
use constraint::Constraint;
use heddle_model::{
    NodeId, ServiceId,
    net::{Port, Protocol},
    node::{Availability, Node, NodeState},
    task::{Task, TaskState},
};
use std::{
    collections::{BTreeMap, BTreeSet},
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
}

fn host_ports(task: &Task) -> impl Iterator<Item = (Protocol, Port)> + '_ {
    task.host_ports.iter().map(|p| (p.protocol, p.published.unwrap_or(p.target)))
}

/// A task that waits, and what of the networks it is on matters here.
struct Waiting<'a> {
    task: &'a Task,
    encrypted: bool,
}

type Filter = fn(&Node, &Load, &Waiting<'_>) -> Option<&'static str>;

/// In this order; the first refusal counts.
const FILTERS: &[Filter] = &[
    |node, _, _| (node.status.state != NodeState::Ready).then_some("not ready"),
    |node, _, _| (node.spec.availability != Availability::Active).then_some("not available"),
    |node, _, _| (!node.description.executors.iter().any(|e| e == "process")).then_some("cannot run processes"),
    |node, _, w| (w.encrypted && node.description.tunnel.is_none()).then_some("cannot encrypt"),
    |node, _, w| {
        let constraints = w.task.spec.placement.constraints.iter().filter_map(|c| c.parse::<Constraint>().ok());
        constraints.into_iter().any(|c| !c.admits(node)).then_some("do not match the constraints")
    },
    |_, load, w| {
        let most = w.task.spec.placement.max_replicas_per_node as usize;
        let here = load.of_service.get(&w.task.service).copied().unwrap_or(0);
        (most > 0 && here >= most).then_some("have the most replicas allowed")
    },
    |_, load, w| host_ports(w.task).any(|p| load.host_ports.contains(&p)).then_some("have the port taken"),
];

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
    for task in state.tasks.values().filter(waiting) {
        // Much further off than the delay is only a time by the clock of another host, which is ahead: nobody waits for that.
        let wait = task.not_before.since(context.now);
        if !wait.is_zero() && wait <= task.spec.restart.delay * 2 + CLOCKS_DIFFER {
            plan.wake_at(task.not_before);
            continue;
        }
        let mut next = Task::clone(task);
        match choose(state, &loads, task) {
            Ok(node) => {
                loads.entry(node.clone()).or_default().add(task);
                next.node = Some(node);
                next.status.state = TaskState::Assigned;
                next.status.since = context.now;
                next.status.message = "assigned to a node".into();
            }
            Err(reason) if next.status.message != reason => next.status.message = reason,
            Err(_) => continue,
        }
        plan.push(Mutation::Update(next.into()));
    }
    plan
}

fn choose(state: &Snapshot, loads: &BTreeMap<NodeId, Load>, task: &Task) -> Result<NodeId, String> {
    let mut refused: BTreeMap<&str, usize> = BTreeMap::new();
    let mut best = None;
    let on = task.attachments.iter().filter_map(|a| state.networks.get(&a.network));
    let waiting = Waiting { task, encrypted: on.into_iter().any(|n| n.spec.encrypted()) };
    for (id, load) in loads {
        let Some(node) = state.nodes.get(id) else { continue };
        match FILTERS.iter().find_map(|f| f(node, load, &waiting)) {
            Some(why) => *refused.entry(why).or_default() += 1,
            None => {
                let rank = (load.of_service.get(&task.service).copied().unwrap_or(0), load.all, id);
                best = Some(best.map_or(rank, |b: (usize, usize, &NodeId)| b.min(rank)));
            }
        }
    }
    let reasons = || refused.iter().map(|(why, n)| format!("{n} {why}")).collect::<Vec<_>>().join(", ");
    best.map(|(_, _, id)| id.clone()).ok_or_else(|| format!("no suitable node: {}", reasons()))
}
