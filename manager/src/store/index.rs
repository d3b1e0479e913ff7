//! What objects are found by beside their ids, and what of many of them together readers ask for often.

use heddle_model::{
    ConnectionId, Kind, NetworkId, NodeId, ServiceId, TaskId,
    connection::Connection,
    endpoint::Attachment,
    net::{DualAddr, Mtu},
    network::Network,
    node::Node,
    task::Task,
};
use imbl::{OrdMap, OrdSet};
use std::{net::IpAddr, sync::Arc};

/// Who has an address of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    Task(TaskId),
    Connection(ConnectionId),
}

/// Objects of one kind by another they belong to.
pub type Lists<K, Id, T> = OrdMap<K, OrdMap<Id, Arc<T>>>;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Index {
    pub tasks_of: Lists<ServiceId, TaskId, Task>,
    pub tasks_on: Lists<NodeId, TaskId, Task>,
    pub tasks_in: Lists<NetworkId, TaskId, Task>,
    pub connections_on: Lists<NodeId, ConnectionId, Connection>,
    pub connections_in: Lists<NetworkId, ConnectionId, Connection>,
    pub holders: OrdMap<(NetworkId, IpAddr), Holder>,
    pub names: OrdMap<(Kind, String), String>,
    pub ingress: OrdSet<NetworkId>,
    pub managers: OrdSet<NodeId>,
    /// Nodes by the address of their data path.
    pub nodes_at: OrdMap<IpAddr, OrdSet<NodeId>>,
    /// By the MTU that a node's data path leaves inside a VXLAN, and inside one in a tunnel.
    pub inside: OrdSet<(Mtu, NodeId)>,
    pub inside_tunnel: OrdSet<(Mtu, NodeId)>,
}

impl Index {
    pub fn list_task(&mut self, task: &Arc<Task>) {
        self.relist_task(task);
        for attachment in &task.attachments {
            self.hold(attachment, &Holder::Task(task.id.clone()));
        }
    }

    /// In place of one that is found by the same.
    pub fn relist_task(&mut self, task: &Arc<Task>) {
        list(&mut self.tasks_of, &task.service, &task.id, task);
        if let Some(node) = &task.node {
            list(&mut self.tasks_on, node, &task.id, task);
        }
        for attachment in &task.attachments {
            list(&mut self.tasks_in, &attachment.network, &task.id, task);
        }
    }

    pub fn unlist_task(&mut self, task: &Task) {
        unlist(&mut self.tasks_of, &task.service, &task.id);
        if let Some(node) = &task.node {
            unlist(&mut self.tasks_on, node, &task.id);
        }
        for attachment in &task.attachments {
            unlist(&mut self.tasks_in, &attachment.network, &task.id);
            self.let_go(attachment);
        }
    }

    pub fn list_connection(&mut self, connection: &Arc<Connection>) {
        list(&mut self.connections_on, &connection.node, &connection.id, connection);
        list(&mut self.connections_in, &connection.attachment.network, &connection.id, connection);
        self.hold(&connection.attachment, &Holder::Connection(connection.id.clone()));
    }

    pub fn unlist_connection(&mut self, connection: &Connection) {
        unlist(&mut self.connections_on, &connection.node, &connection.id);
        unlist(&mut self.connections_in, &connection.attachment.network, &connection.id);
        self.let_go(&connection.attachment);
    }

    pub fn list_node(&mut self, node: &Node) {
        self.nodes_at.entry(node.data_path_addr).or_default().insert(node.id.clone());
        if node.manager.is_some() {
            self.managers.insert(node.id.clone());
        }
        let (inside, inside_tunnel) = inside(node);
        self.inside.insert((inside, node.id.clone()));
        self.inside_tunnel.insert((inside_tunnel, node.id.clone()));
    }

    pub fn unlist_node(&mut self, node: &Node) {
        if let Some(mut there) = self.nodes_at.remove(&node.data_path_addr) {
            there.remove(&node.id);
            if !there.is_empty() {
                self.nodes_at.insert(node.data_path_addr, there);
            }
        }
        self.managers.remove(&node.id);
        let (inside, inside_tunnel) = inside(node);
        self.inside.remove(&(inside, node.id.clone()));
        self.inside_tunnel.remove(&(inside_tunnel, node.id.clone()));
    }

    pub fn list_network(&mut self, network: &Network) {
        if network.spec.ingress {
            self.ingress.insert(network.id.clone());
        }
    }

    pub fn unlist_network(&mut self, network: &Network) {
        self.ingress.remove(&network.id);
    }

    fn hold(&mut self, attachment: &Attachment, holder: &Holder) {
        for addr in attachment.addr.addrs() {
            self.holders.insert((attachment.network.clone(), addr), holder.clone());
        }
    }

    fn let_go(&mut self, attachment: &Attachment) {
        for addr in attachment.addr.addrs() {
            self.holders.remove(&(attachment.network.clone(), addr));
        }
    }
}

/// Whether both are found by the same.
pub fn same_places(old: &Task, new: &Task) -> bool {
    fn addrs(task: &Task) -> impl Iterator<Item = (&NetworkId, DualAddr)> {
        task.attachments.iter().map(|a| (&a.network, a.addr))
    }
    old.service == new.service && old.node == new.node && addrs(old).eq(addrs(new))
}

/// Whether both are found by the same.
pub fn same_place(old: &Node, new: &Node) -> bool {
    let is_manager = |node: &Node| node.manager.is_some();
    old.data_path_addr == new.data_path_addr && is_manager(old) == is_manager(new) && inside(old) == inside(new)
}

fn inside(node: &Node) -> (Mtu, Mtu) {
    let (link, addr) = (node.description.data_path_mtu.unwrap_or(Mtu::ETHERNET), &node.data_path_addr);
    (link.inside_vxlan(addr), link.inside_wireguard(addr).inside_vxlan(addr))
}

fn list<K: Ord + Clone, Id: Ord + Clone, T: Clone>(lists: &mut Lists<K, Id, T>, key: &K, id: &Id, object: &Arc<T>) {
    lists.entry(key.clone()).or_default().insert(id.clone(), object.clone());
}

fn unlist<K: Ord + Clone, Id: Ord + Clone, T: Clone>(lists: &mut Lists<K, Id, T>, key: &K, id: &Id) {
    let Some(list) = lists.get_mut(key) else { return };
    list.remove(id);
    if list.is_empty() {
        lists.remove(key);
    }
}
