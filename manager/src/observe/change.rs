//! What a transaction changed, from the states before and after it. The same on every manager.

use crate::store::{Mutation, Snapshot};
use heddle_model::{
    ConnectionId, Kind, Meta, NetworkId, NodeId, PayloadId, ServiceId, TaskId,
    cluster::Cluster,
    connection::Connection,
    network::Network,
    node::{Node, NodeState},
    payload::Payload,
    service::{Service, ServiceSpec},
    task::Task,
};
use std::{collections::BTreeSet, sync::Arc};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Created,
    Updated,
    Removed,
}

/// One object that is different now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub kind: Kind,
    pub id: String,
    pub name: String,
    pub what: What,
    /// In words; empty where the rest says all.
    pub detail: String,
}

/// The changes in order of the transaction's mutations, one for each object.
pub fn changes(before: &Snapshot, after: &Snapshot, mutations: &[Mutation]) -> Vec<Change> {
    let mut seen = BTreeSet::new();
    let touched = mutations.iter().map(touched).filter(|object| seen.insert(object.clone()));
    touched.filter_map(|(kind, id)| change(kind, id, before, after)).collect()
}

fn touched(mutation: &Mutation) -> (Kind, String) {
    match mutation {
        Mutation::Create(object) | Mutation::Update(object) => (object.kind(), object.id().to_owned()),
        Mutation::Remove { kind, id, .. } => (*kind, id.clone()),
        Mutation::TaskStatus { id, .. } => (Kind::Task, id.to_string()),
        Mutation::NodeStatus { id, .. } | Mutation::NodeDescription { id, .. } | Mutation::NodeDataPath { id, .. } => {
            (Kind::Node, id.to_string())
        }
    }
}

fn change(kind: Kind, id: String, before: &Snapshot, after: &Snapshot) -> Option<Change> {
    let both = [before, after];
    let (name, what, detail) = match kind {
        Kind::Cluster => of(both.map(|s| s.cluster.as_ref().filter(|c| c.id.as_str() == id))),
        Kind::Node => id.parse().ok().and_then(|id: NodeId| of(both.map(|s| s.nodes.get(&id)))),
        Kind::Network => id.parse().ok().and_then(|id: NetworkId| of(both.map(|s| s.networks.get(&id)))),
        Kind::Service => id.parse().ok().and_then(|id: ServiceId| of(both.map(|s| s.services.get(&id)))),
        Kind::Task => id.parse().ok().and_then(|id: TaskId| of(both.map(|s| s.tasks.get(&id)))),
        Kind::Connection => id.parse().ok().and_then(|id: ConnectionId| of(both.map(|s| s.connections.get(&id)))),
        Kind::Secret | Kind::Config => id.parse().ok().and_then(|id: PayloadId| of(both.map(|s| s.payloads.get(&id)))),
    }?;
    Some(Change { kind, id, name, what, detail })
}

fn of<T: Told>([before, after]: [Option<&Arc<T>>; 2]) -> Option<(String, What, String)> {
    match (before, after) {
        (None, None) => None,
        (Some(a), Some(b)) if a.meta().version == b.meta().version => None,
        (Some(a), Some(b)) => Some((b.name(), What::Updated, a.difference(b))),
        (None, Some(b)) => Some((b.name(), What::Created, String::new())),
        (Some(a), None) => Some((a.name(), What::Removed, String::new())),
    }
}

/// How an object is told of.
trait Told {
    fn meta(&self) -> &Meta;
    fn name(&self) -> String;
    /// What is different in the next version, in words.
    fn difference(&self, next: &Self) -> String;
}

/// Joins what is said of each part that differs.
fn words(parts: impl IntoIterator<Item = Option<String>>) -> String {
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn node_state(state: NodeState) -> &'static str {
    match state {
        NodeState::Unknown => "unknown",
        NodeState::Ready => "ready",
        NodeState::Down => "down",
    }
}

impl Told for Cluster {
    fn meta(&self) -> &Meta {
        &self.meta
    }
    fn name(&self) -> String {
        self.spec.name.clone()
    }
    fn difference(&self, next: &Self) -> String {
        let said = |differs: bool, text: &str| differs.then(|| text.to_owned());
        words([
            said(self.spec != next.spec, "settings"),
            said(self.join_tokens.worker != next.join_tokens.worker, "join token of workers"),
            said(self.join_tokens.manager != next.join_tokens.manager, "join token of managers"),
            said(self.root_ca != next.root_ca, "root certificate"),
            said(self.rotation.is_none() && next.rotation.is_some(), "a root certificate that is to follow"),
            said(self.epochs != next.epochs, "keys of the tunnel"),
            said(self.users != next.users, "users"),
            said(self.removed != next.removed, "certificates that count no more"),
        ])
    }
}

impl Told for Payload {
    fn meta(&self) -> &Meta {
        &self.meta
    }
    fn name(&self) -> String {
        self.annotations.name.clone()
    }
    fn difference(&self, _: &Self) -> String {
        String::new()
    }
}

impl Told for Node {
    fn meta(&self) -> &Meta {
        &self.meta
    }
    fn name(&self) -> String {
        self.description.hostname.clone()
    }
    fn difference(&self, next: &Self) -> String {
        let message = Some(&next.status.message).filter(|m| !m.is_empty());
        words([
            (self.status.state != next.status.state).then(|| {
                let why = message.map_or_else(String::new, |m| format!(" ({m})"));
                format!("{} -> {}{why}", node_state(self.status.state), node_state(next.status.state))
            }),
            (self.status.state == next.status.state && self.status != next.status)
                .then(|| message.map_or_else(|| "heard again".to_owned(), String::clone)),
            (self.role != next.role).then(|| format!("{} -> {}", self.role, next.role)),
            (self.spec.role != next.spec.role).then(|| format!("wanted as {}", next.spec.role)),
            (self.spec.availability != next.spec.availability)
                .then(|| format!("availability {:?}", next.spec.availability).to_lowercase()),
            (self.spec.annotations != next.spec.annotations).then(|| "labels".to_owned()),
            (self.data_path_addr != next.data_path_addr)
                .then(|| format!("data path {} -> {}", self.data_path_addr, next.data_path_addr)),
            (self.description != next.description).then(|| "description".to_owned()),
            (self.manager != next.manager).then(|| "address as a manager".to_owned()),
            (self.ingress != next.ingress).then(|| "ingress".to_owned()),
        ])
    }
}

impl Told for Network {
    fn meta(&self) -> &Meta {
        &self.meta
    }
    fn name(&self) -> String {
        self.spec.annotations.name.clone()
    }
    fn difference(&self, next: &Self) -> String {
        words([
            (self.spec != next.spec).then(|| "spec".to_owned()),
            (self.allocation != next.allocation).then(|| "subnets".to_owned()),
        ])
    }
}

impl Told for Service {
    fn meta(&self) -> &Meta {
        &self.meta
    }
    fn name(&self) -> String {
        self.spec.annotations.name.clone()
    }
    fn difference(&self, next: &Self) -> String {
        let count = |s: &Service| s.spec.mode.count().unwrap_or_default();
        let rest = ServiceSpec { mode: self.spec.mode.clone(), ..next.spec.clone() };
        words([
            (count(self) != count(next)).then(|| format!("replicas {} -> {}", count(self), count(next))),
            (self.spec.mode.at_once() != next.spec.mode.at_once()).then(|| "concurrent tasks".to_owned()),
            (self.spec != rest).then(|| "spec".to_owned()),
            (self.endpoint != next.endpoint).then(|| "ports and virtual addresses".to_owned()),
        ])
    }
}

impl Told for Task {
    fn meta(&self) -> &Meta {
        &self.meta
    }
    fn name(&self) -> String {
        format!("{}.{}", self.service_name, self.slot)
    }
    fn difference(&self, next: &Self) -> String {
        let error = Some(&next.status.error).filter(|e| !e.is_empty());
        words([
            (self.status.state != next.status.state).then(|| {
                let why = error.map_or_else(String::new, |e| format!(" ({e})"));
                format!("{} -> {}{why}", self.status.state, next.status.state)
            }),
            (self.status.state == next.status.state && !self.status.unhealthy && next.status.unhealthy)
                .then(|| next.status.error.clone()),
            (self.desired != next.desired).then(|| format!("wanted {}", next.desired)),
            (self.node != next.node).then(|| next.node.as_ref().map_or("on no node".into(), |n| format!("on {n}"))),
            (self.attachments != next.attachments).then(|| "addresses".to_owned()),
        ])
    }
}

impl Told for Connection {
    fn meta(&self) -> &Meta {
        &self.meta
    }
    fn name(&self) -> String {
        self.name.clone()
    }
    fn difference(&self, next: &Self) -> String {
        words([(self.released != next.released)
            .then(|| if next.released { "given up" } else { "taken up again" }.to_owned())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{store::Action, world::World};
    use heddle_model::{
        Timestamp, Version,
        node::NodeStatus,
        service::Mode,
        task::{TaskState, TaskStatus},
    };

    fn said(before: &Snapshot, mutations: Vec<Mutation>) -> Vec<String> {
        let action = Action { at: Timestamp(1), mutations };
        let after = before.apply(Version(before.version.0 + 1), &action).unwrap();
        let line = |c: Change| format!("{} {} {:?} {}", c.kind, c.name, c.what, c.detail).trim_end().to_owned();
        changes(before, &after, &action.mutations).into_iter().map(line).collect()
    }

    #[test]
    fn what_is_different_is_told_once_for_each_object_and_nothing_else() {
        let mut world = World::new();
        let nodes = world.ready_nodes(2);
        let network = world.network("front", false);
        let service = world.service("web", 2, &network.id);
        let made = vec![Mutation::Create(network.into()), Mutation::Create(service.clone().into())];
        assert_eq!(said(&world.state, made.clone()), ["network front Created", "service web Created"]);
        world.write(made);
        world.settle();

        let down = NodeStatus { state: NodeState::Down, message: "no heartbeat".into(), since: Timestamp(2) };
        let down = Mutation::NodeStatus { id: nodes[0].clone(), status: down };
        assert_eq!(said(&world.state, vec![down.clone(), down]), ["node h1 Updated ready -> down (no heartbeat)"]);

        let task = world.state.tasks.values().find(|t| t.slot == 1).unwrap().clone();
        let status = TaskStatus { state: TaskState::Failed, error: "exit 3".into(), ..TaskStatus::default() };
        let failed = Mutation::TaskStatus { id: task.id.clone(), status: status.clone() };
        assert_eq!(
            said(&world.state, vec![failed.clone()]),
            [format!("task web.1 Updated {} -> failed (exit 3)", task.status.state)]
        );
        world.write(vec![failed.clone()]);
        assert_eq!(said(&world.state, vec![failed]), Vec::<String>::new(), "the same again changes nothing");

        let mut larger = Service::clone(world.state.service_named("web").unwrap());
        larger.spec.mode = Mode::Replicated { replicas: 5 };
        assert_eq!(said(&world.state, vec![Mutation::Update(larger.into())]), ["service web Updated replicas 2 -> 5"]);

        let mut cluster = Cluster::clone(world.state.cluster.as_ref().unwrap());
        cluster.join_tokens.worker.0 = "a new secret".into();
        let told = said(&world.state, vec![Mutation::Update(cluster.into())]);
        assert_eq!(told, ["cluster test Updated join token of workers"], "and not what it is");
    }

    #[test]
    fn what_is_removed_is_told_by_the_name_it_had() {
        let mut world = World::new();
        let id = world.ready_nodes(1).remove(0).to_string();
        let gone = Mutation::Remove { kind: Kind::Node, id, version: None };
        assert_eq!(said(&world.state, vec![gone]), ["node h1 Removed"]);
    }
}
