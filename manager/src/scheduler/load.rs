//! What nodes carry.

use crate::store::Snapshot;
use heddle_model::{
    NodeId, ServiceId, Timestamp, Version,
    net::{Port, Protocol},
    placement::Amounts,
    task::{Task, TaskState},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Failures of a service's tasks on one node count for so long, and from so many on: a program may be broken there alone.
const OF_LATE: Duration = Duration::from_secs(300);
const MANY: u32 = 3;

/// Tasks on a node, kept up to date while a plan grows.
#[derive(Default)]
pub struct Load {
    pub all: u32,
    of_service: BTreeMap<ServiceId, u32>,
    failed: BTreeMap<(ServiceId, Version), u32>,
    host_ports: BTreeSet<(Protocol, Port)>,
    pub reserved: Amounts,
}

impl Load {
    pub fn add(&mut self, task: &Task) {
        self.all += 1;
        *self.of_service.entry(task.service.clone()).or_default() += 1;
        self.host_ports.extend(host_ports(task));
        self.reserved.add(&task.spec.resources.reserved);
    }

    pub fn of(&self, service: &ServiceId) -> u32 {
        self.of_service.get(service).copied().unwrap_or(0)
    }

    /// How many tasks like this one have failed; none if they are few.
    pub fn failures(&self, like: &Task) -> u32 {
        let count = self.failed.get(&(like.service.clone(), like.spec_version)).copied();
        count.filter(|n| *n >= MANY).unwrap_or(0)
    }

    pub fn port_taken(&self, task: &Task) -> Option<(Protocol, Port)> {
        host_ports(task).find(|p| self.host_ports.contains(p))
    }
}

fn host_ports(task: &Task) -> impl Iterator<Item = (Protocol, Port)> + '_ {
    task.host_ports.iter().map(|p| (p.protocol, p.published.unwrap_or(p.target)))
}

/// Of every node.
pub fn loads(state: &Snapshot, now: Timestamp) -> BTreeMap<NodeId, Load> {
    let mut loads: BTreeMap<NodeId, Load> = state.nodes.keys().map(|id| (id.clone(), Load::default())).collect();
    for task in state.tasks.values() {
        let Some(load) = task.node.as_ref().and_then(|n| loads.get_mut(n)) else { continue };
        if task.on_node() {
            load.add(task);
        }
        let failed = matches!(task.status.state, TaskState::Failed | TaskState::Rejected);
        if failed && now.since(task.status.since) < OF_LATE {
            *load.failed.entry((task.service.clone(), task.spec_version)).or_default() += 1;
        }
    }
    loads
}
