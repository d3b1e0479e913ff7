//! Finds objects by what an operator types: a full id, a name, or the beginning of an id.

use crate::store::Snapshot;
use heddle_model::{network::Network, node::Node, service::Service};
use std::sync::Arc;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    #[error("no {kind} is called {reference:?}")]
    None { kind: &'static str, reference: String },
    #[error("{reference:?} is the beginning of {count} {kind} ids: give more of it")]
    Many { kind: &'static str, reference: String, count: usize },
}

fn find<'a, T>(
    kind: &'static str,
    reference: &str,
    all: impl Iterator<Item = &'a Arc<T>>,
    id: impl Fn(&T) -> &str,
    name: impl Fn(&T) -> &str,
) -> Result<Arc<T>, FindError>
where
    T: 'a,
{
    let all: Vec<_> = all.collect();
    if let Some(exact) = all.iter().find(|o| id(o) == reference || name(o) == reference) {
        return Ok((*exact).clone());
    }
    let begins: Vec<_> = all.iter().filter(|o| !reference.is_empty() && id(o).starts_with(reference)).collect();
    let reference = reference.to_owned();
    match begins.as_slice() {
        [] => Err(FindError::None { kind, reference }),
        [one] => Ok((**one).clone()),
        many => Err(FindError::Many { kind, reference, count: many.len() }),
    }
}

pub fn node(state: &Snapshot, reference: &str) -> Result<Arc<Node>, FindError> {
    find("node", reference, state.nodes.values(), |n| n.id.as_str(), |n| &n.description.hostname)
}

pub fn network(state: &Snapshot, reference: &str) -> Result<Arc<Network>, FindError> {
    find("network", reference, state.networks.values(), |n| n.id.as_str(), |n| &n.spec.annotations.name)
}

pub fn service(state: &Snapshot, reference: &str) -> Result<Arc<Service>, FindError> {
    find("service", reference, state.services.values(), |s| s.id.as_str(), |s| &s.spec.annotations.name)
}
