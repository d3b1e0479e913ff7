//! What an operator may change of nodes.

use super::{find, removal};
use crate::store::{Mutation, Snapshot, now};
use heddle_model::{
    NodeId,
    cluster::Role,
    find::FindError,
    limits::{self, LimitError},
    node::{Availability, Node, NodeState},
};
use heddle_proto::{convert::ConvertError, v1};
use std::{collections::BTreeMap, sync::Arc};

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error("node {name} is the only manager: promote another one first")]
    OnlyManager { name: String },
    #[error(
        "without node {name} only {ready} of {left} managers can be reached, and nothing could be written any more: start \
         the others, or demote those that are gone first"
    )]
    Quorum { name: String, ready: usize, left: usize },
    #[error("node {name} is a manager: demote it first")]
    IsManager { name: String },
    #[error("node {name} is not down: run `heddle leave` there, or use --force to cast it out")]
    NotDown { name: String },
    #[error("label {0:?}: use a key, '=' and a value; the key is not empty")]
    Label(String),
    #[error("label {key:?} is both added and removed")]
    Both { key: String },
    #[error("node {name} has no label {key:?}")]
    NoLabel { name: String, key: String },
}

/// What is wanted of a node; None stays.
#[derive(Debug, Clone, Default)]
pub struct Change {
    pub role: Option<Role>,
    pub availability: Option<Availability>,
    pub labels_add: BTreeMap<String, String>,
    pub labels_remove: Vec<String>,
}

impl TryFrom<v1::UpdateNodeRequest> for Change {
    type Error = ConvertError;
    fn try_from(r: v1::UpdateNodeRequest) -> Result<Self, ConvertError> {
        let role = r.role.is_some().then(|| r.role().try_into()).transpose()?;
        let availability = r.availability.is_some().then(|| r.availability().try_into()).transpose()?;
        Ok(Change {
            role,
            availability,
            labels_add: r.labels_add.into_iter().collect(),
            labels_remove: r.labels_remove,
        })
    }
}

fn name(node: &Node) -> String {
    node.description.hostname.clone()
}

/// The node, and what makes it as wanted: nothing if it is.
pub fn update(state: &Snapshot, reference: &str, change: &Change) -> Result<(NodeId, Vec<Mutation>), NodeError> {
    let node = find::node(state, reference)?;
    let mut spec = node.spec.clone();
    if change.role == Some(Role::Worker) && node.spec.role == Role::Manager {
        may_be_demoted(state, &node)?;
    }
    spec.role = change.role.unwrap_or(spec.role);
    spec.availability = change.availability.unwrap_or(spec.availability);
    for key in &change.labels_remove {
        if change.labels_add.contains_key(key) {
            return Err(NodeError::Both { key: key.clone() });
        }
        if spec.annotations.labels.remove(key).is_none() {
            return Err(NodeError::NoLabel { name: name(&node), key: key.clone() });
        }
    }
    if let Some((_, value)) = change.labels_add.iter().find(|(key, _)| key.is_empty()) {
        return Err(NodeError::Label(format!("={value}")));
    }
    spec.annotations.labels.extend(change.labels_add.clone());
    limits::labels(&spec.annotations.labels)?;
    let id = node.id.clone();
    let same = spec == node.spec;
    let mutations = if same { Vec::new() } else { vec![Mutation::Update(Node { spec, ..Node::clone(&node) }.into())] };
    Ok((id, mutations))
}

/// Managers that there are and that are to stay.
fn managers(state: &Snapshot) -> impl Iterator<Item = &Arc<Node>> {
    state.nodes.values().filter(|n| n.role == Role::Manager && n.spec.role == Role::Manager)
}

fn may_be_demoted(state: &Snapshot, node: &Node) -> Result<(), NodeError> {
    let others: Vec<_> = managers(state).filter(|n| n.id != node.id).collect();
    let ready = others.iter().filter(|n| n.status.state == NodeState::Ready).count();
    // One that was promoted and is no manager yet is none to lose.
    if others.is_empty() && node.role == Role::Manager {
        return Err(NodeError::OnlyManager { name: name(node) });
    }
    if ready < others.len() / 2 + 1 && node.role == Role::Manager {
        return Err(NodeError::Quorum { name: name(node), ready, left: others.len() });
    }
    Ok(())
}

/// What forgets the node, and its id.
pub fn remove(state: &Snapshot, reference: &str, force: bool) -> Result<(NodeId, Vec<Mutation>), NodeError> {
    let node = find::node(state, reference)?;
    if node.next_role() == Role::Manager {
        if !force || node.status.state == NodeState::Ready {
            return Err(NodeError::IsManager { name: name(&node) });
        }
        may_be_demoted(state, &node)?;
    }
    if node.status.state == NodeState::Ready && !force {
        return Err(NodeError::NotDown { name: name(&node) });
    }
    Ok((node.id.clone(), removal::node(state, &node, "the node was removed from the cluster", now())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use heddle_model::node::NodeStatus;

    /// Three managers and a worker, h1 to h4; those of these numbers are down.
    fn world(down: &[u8]) -> World {
        let mut world = World::new();
        for n in 1..=4 {
            let mut node = world.node(n);
            if n < 4 {
                (node.role, node.spec.role) = (Role::Manager, Role::Manager);
            }
            if down.contains(&n) {
                node.status = NodeStatus { state: NodeState::Down, ..NodeStatus::default() };
            }
            world.write(vec![Mutation::Create(node.into())]);
        }
        world
    }

    fn role(role: Role) -> Change {
        Change { role: Some(role), ..Change::default() }
    }

    #[test]
    fn a_demotion_keeps_a_majority() {
        let demote = |world: &World, name: &str| update(&world.state, name, &role(Role::Worker)).map(|(_, m)| m);
        assert_eq!(demote(&world(&[]), "h1").unwrap().len(), 1);
        assert_eq!(demote(&world(&[]), "h4").unwrap(), [], "a worker is one already");
        // The one that is gone may go; of the two that are left neither may.
        assert_eq!(demote(&world(&[3]), "h3").unwrap().len(), 1);
        let said = demote(&world(&[3]), "h2").unwrap_err().to_string();
        assert!(said.starts_with("without node h2 only 1 of 2 managers can be reached"), "{said}");

        let mut world = world(&[3]);
        for name in ["h3", "h2"] {
            let mutations = demote(&world, name).unwrap();
            world.write(mutations);
            let node = find::node(&world.state, name).unwrap();
            world.write(vec![Mutation::Update(Node { role: Role::Worker, ..Node::clone(&node) }.into())]);
        }
        let said = demote(&world, "h1").unwrap_err().to_string();
        assert_eq!(said, "node h1 is the only manager: promote another one first");
    }

    #[test]
    fn who_is_there_or_a_manager_is_not_removed() {
        let mut world = world(&[3]);
        let said = |name: &str, force| remove(&world.state, name, force).unwrap_err().to_string();
        assert_eq!(said("h2", true), "node h2 is a manager: demote it first");
        assert_eq!(said("h3", false), "node h3 is a manager: demote it first");
        assert!(remove(&world.state, "h3", true).is_ok(), "it will not be back");
        assert_eq!(said("h4", false), "node h4 is not down: run `heddle leave` there, or use --force to cast it out");
        assert!(said("h9", true).contains("h9"));
        let (id, mutations) = remove(&world.state, "h4", true).unwrap();
        world.write(mutations);
        assert!(!world.state.nodes.contains_key(&id));
        assert!(world.state.cluster.as_ref().unwrap().removed.contains_key(&id), "its certificate counts no more");
    }

    #[test]
    fn labels_are_added_and_removed() {
        let mut world = world(&[]);
        let labels = |add: &[&str], remove: &[&str]| Change {
            labels_add: add.iter().map(|k| ((*k).to_owned(), "1".to_owned())).collect(),
            labels_remove: remove.iter().map(|k| (*k).to_owned()).collect(),
            ..Change::default()
        };
        let (_, mutations) = update(&world.state, "h4", &labels(&["zone", "disk"], &[])).unwrap();
        world.write(mutations);
        assert_eq!(update(&world.state, "h4", &labels(&["zone"], &[])).unwrap().1, []);
        let (id, mutations) = update(&world.state, "h4", &labels(&[], &["disk"])).unwrap();
        world.write(mutations);
        assert_eq!(world.state.nodes[&id].spec.annotations.labels.keys().collect::<Vec<_>>(), ["zone"]);
        for (change, said) in [
            (labels(&["a"], &["a"]), "label \"a\" is both added and removed"),
            (labels(&[], &["disk"]), "node h4 has no label \"disk\""),
            (labels(&[""], &[]), "label \"=1\": use a key, '=' and a value; the key is not empty"),
        ] {
            assert_eq!(update(&world.state, "h4", &change).unwrap_err().to_string(), said);
        }
    }
}
