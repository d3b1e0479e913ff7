//! Which of the cluster's objects an operator means.

use crate::store::Snapshot;
pub use heddle_model::find::FindError;
use heddle_model::{
    find::find,
    network::Network,
    node::Node,
    payload::{Payload, PayloadKind},
    service::Service,
};
use std::sync::Arc;

pub fn node(state: &Snapshot, reference: &str) -> Result<Arc<Node>, FindError> {
    let all = state.nodes.values().map(|n| (n.id.as_str(), n.description.hostname.as_str(), n));
    find("node", reference, all).cloned()
}

pub fn network(state: &Snapshot, reference: &str) -> Result<Arc<Network>, FindError> {
    let all = state.networks.values().map(|n| (n.id.as_str(), n.spec.annotations.name.as_str(), n));
    find("network", reference, all).cloned()
}

pub fn service(state: &Snapshot, reference: &str) -> Result<Arc<Service>, FindError> {
    let all = state.services.values().map(|s| (s.id.as_str(), s.spec.annotations.name.as_str(), s));
    find("service", reference, all).cloned()
}

pub fn payload(state: &Snapshot, kind: PayloadKind, reference: &str) -> Result<Arc<Payload>, FindError> {
    let all = state.payloads_of(kind).map(|p| (p.id.as_str(), p.annotations.name.as_str(), p));
    find(kind.as_str(), reference, all).cloned()
}
