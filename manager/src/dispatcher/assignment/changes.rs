//! What is different for one node between two states. First which things may be different, by what changed in what they are
//! made of; then whether they are, by making them of both.

use super::item;
use crate::store::{Lists, Snapshot};
use heddle_model::{
    ConnectionId, NetworkId, NodeId, PayloadId, ServiceId, TaskId,
    assignment::{Changes, EndpointView, Item, Key},
    task::Task,
};
use imbl::{OrdMap, ordmap::DiffItem};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What turns what the node was told of `old` into what it is to be told of `new`. None: one of them has no such node, or no
/// cluster.
pub fn changes(old: &Snapshot, new: &Snapshot, node: &NodeId) -> Option<Changes> {
    old.nodes.get(node).and(new.nodes.get(node))?;
    let (before, cluster) = (item::cluster(old)?, item::cluster(new)?);
    let rekeyed = before.epochs != cluster.epochs;
    let mut out = Changes { cluster, update: Vec::new(), remove: Vec::new() };
    let (was_on, on) = (item::networks(old, node), item::networks(new, node));
    let view = |state: &Snapshot, on: &BTreeSet<NetworkId>, id: &NetworkId| {
        if on.contains(id) { item::network(state, id) } else { None }
    };
    let (was, is) = (|id: &_| view(old, &was_on, id), |id: &_| view(new, &on, id));
    compare(was_on.union(&on), was, is, Item::Network, Key::Network, &mut out);
    let nodes = changed(&old.nodes, &new.nodes);
    let peers = if rekeyed { either(&old.nodes, &new.nodes) } else { neighbours(old, new, &nodes) };
    compare(&peers, |id| item::peer(old, id), |id| item::peer(new, id), Item::Peer, Key::Peer, &mut out);
    let services = changed(&old.services, &new.services);
    let near = if was_on == on { &services } else { &either(&old.services, &new.services) };
    let (was, is) = (|id: &_| item::service(old, id, &was_on), |id: &_| item::service(new, id, &on));
    compare(near, was, is, Item::Service, Key::Service, &mut out);
    for network in was_on.union(&on) {
        let pair = Pair { old: was_on.contains(network).then_some(old), new: on.contains(network).then_some(new) };
        pair.endpoints(network, &services, &nodes, &mut out);
    }
    let (had, has) = (item::payloads(old, node), item::payloads(new, node));
    let told = |state: &Snapshot, of: &BTreeSet<PayloadId>, id: &PayloadId| {
        let content = of.contains(id).then(|| item::payload(state, id))?;
        content.map(|content| (id.clone(), content))
    };
    let (was, is) = (|id: &_| told(old, &had, id), |id: &_| told(new, &has, id));
    // They never change: most of them are not even looked at.
    let other =
        |id: &&PayloadId| had.contains(*id) != has.contains(*id) || old.payloads.get(*id) != new.payloads.get(*id);
    compare(had.union(&has).filter(other), was, is, |(id, content)| Item::Payload(id, content), Key::Payload, &mut out);
    let (had, has) = (item::services_with_logins(old, node), item::services_with_logins(new, node));
    let told = |state: &Snapshot, of: &BTreeSet<ServiceId>, id: &ServiceId| {
        let logins = of.contains(id).then(|| item::logins(state, id))?;
        logins.map(|logins| (id.clone(), logins))
    };
    let (was, is) = (|id: &_| told(old, &had, id), |id: &_| told(new, &has, id));
    compare(had.union(&has), was, is, |(id, logins)| Item::Logins(id, logins), Key::Logins, &mut out);
    let here = |state: &Snapshot, id: &TaskId| {
        let task = state.tasks.get(id).filter(|t| item::here(t) && t.node.as_ref() == Some(node));
        task.map(|t| Box::new(Task::clone(t)))
    };
    let tasks = changed_in(&old.index().tasks_on, &new.index().tasks_on, node);
    compare(&tasks, |id| here(old, id), |id| here(new, id), Item::Task, Key::Task, &mut out);
    Some(out)
}

fn compare<'a, K: Clone + 'a, V: PartialEq>(
    keys: impl IntoIterator<Item = &'a K>,
    old: impl Fn(&K) -> Option<V>,
    new: impl Fn(&K) -> Option<V>,
    item: impl Fn(V) -> Item,
    key: impl Fn(K) -> Key,
    out: &mut Changes,
) {
    for id in keys {
        match (old(id), new(id)) {
            (Some(_), None) => out.remove.push(key(id.clone())),
            (old, Some(new)) if old.as_ref() != Some(&new) => out.update.push(item(new)),
            _ => {}
        }
    }
}

/// The keys whose values differ.
pub(super) fn changed<K: Ord + Clone, V: PartialEq>(old: &OrdMap<K, V>, new: &OrdMap<K, V>) -> BTreeSet<K> {
    let key = |item| match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => key,
    };
    old.diff(new).map(|item| Clone::clone(key(item))).collect()
}

/// The same of the list that belongs to one key.
fn changed_in<K: Ord, Id: Ord + Clone, T: PartialEq>(
    old: &Lists<K, Id, T>,
    new: &Lists<K, Id, T>,
    key: &K,
) -> BTreeSet<Id> {
    match (old.get(key), new.get(key)) {
        (Some(old), Some(new)) => changed(old, new),
        (Some(list), None) | (None, Some(list)) => list.keys().cloned().collect(),
        (None, None) => BTreeSet::new(),
    }
}

fn either<K: Ord + Clone, V>(old: &OrdMap<K, V>, new: &OrdMap<K, V>) -> BTreeSet<K> {
    old.keys().chain(new.keys()).cloned().collect()
}

/// Nodes that changed, and those that are where these are or were: of two at one address only one is a peer.
fn neighbours(old: &Snapshot, new: &Snapshot, changed: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let states = [old, new];
    let nodes = states.iter().flat_map(|state| changed.iter().filter_map(|id| state.nodes.get(id)));
    let addrs: BTreeSet<_> = nodes.map(|n| n.data_path_addr).collect();
    let there = states.iter().flat_map(|state| addrs.iter().flat_map(|addr| state.nodes_at(addr)));
    there.map(|n| n.id.clone()).chain(changed.iter().cloned()).collect()
}

/// Both states, as far as the node is on the network in them.
struct Pair<'a> {
    old: Option<&'a Snapshot>,
    new: Option<&'a Snapshot>,
}

impl<'a> Pair<'a> {
    fn states(&self) -> impl Iterator<Item = &'a Snapshot> {
        self.old.into_iter().chain(self.new)
    }

    fn endpoints(
        &self,
        network: &NetworkId,
        services: &BTreeSet<ServiceId>,
        nodes: &BTreeSet<NodeId>,
        out: &mut Changes,
    ) {
        let mut was: BTreeMap<TaskId, EndpointView> = BTreeMap::new();
        let mut is: BTreeMap<TaskId, EndpointView> = BTreeMap::new();
        let mut note = |old: Option<EndpointView>, new: Option<EndpointView>| {
            was.extend(old.map(|e| (e.task.clone(), e)));
            is.extend(new.map(|e| (e.task.clone(), e)));
        };
        for id in self.tasks(network, services) {
            let task = |state: &Snapshot| state.tasks.get(&id).and_then(|t| item::task(state, t, network));
            note(self.old.and_then(task), self.new.and_then(task));
        }
        for id in self.connections(network, nodes) {
            let connection = |state: &Snapshot| state.connections.get(&id).and_then(|c| item::connection(state, c));
            note(self.old.and_then(connection), self.new.and_then(connection));
        }
        let gone = was.keys().filter(|task| !is.contains_key(*task));
        out.remove.extend(gone.map(|task| Key::Endpoint(network.clone(), task.clone())));
        let news = is.into_iter().filter(|(task, endpoint)| was.get(task) != Some(endpoint));
        out.update.extend(news.map(|(_, endpoint)| Item::Endpoint(endpoint)));
    }

    /// Those that changed, and those whose service came or went.
    fn tasks(&self, network: &NetworkId, services: &BTreeSet<ServiceId>) -> BTreeSet<TaskId> {
        let (Some(old), Some(new)) = (self.old, self.new) else {
            return self.states().flat_map(|s| s.tasks_in_network(network)).map(|t| t.id.clone()).collect();
        };
        let mut tasks = changed_in(&old.index().tasks_in, &new.index().tasks_in, network);
        for service in services.iter().filter(|id| old.services.contains_key(*id) != new.services.contains_key(*id)) {
            let of = self.states().flat_map(|s| s.tasks_of_service(service));
            tasks.extend(of.map(|t: &Arc<Task>| t.id.clone()));
        }
        tasks
    }

    /// Those that changed, and those whose node came up or went down.
    fn connections(&self, network: &NetworkId, nodes: &BTreeSet<NodeId>) -> BTreeSet<ConnectionId> {
        let (Some(old), Some(new)) = (self.old, self.new) else {
            return self.states().flat_map(|s| s.connections_to(network)).map(|c| c.id.clone()).collect();
        };
        let mut connections = changed_in(&old.index().connections_in, &new.index().connections_in, network);
        for node in nodes.iter().filter(|id| item::is_up(old, id) != item::is_up(new, id)) {
            let on = self.states().flat_map(|s| s.connections_on_node(node));
            connections.extend(on.filter(|c| c.attachment.network == *network).map(|c| c.id.clone()));
        }
        connections
    }
}
