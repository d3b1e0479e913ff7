//! Writes as data. Times, ids and random choices come inside, so that every manager applies the same thing.

use heddle_model::{
    Kind, NetworkId, NodeId, Object, TaskId, Timestamp, Version,
    node::{NodeDescription, NodeStatus},
    task::TaskStatus,
};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// One transaction: all of it is applied, or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// The proposer's clock; becomes created_at and updated_at.
    pub at: Timestamp,
    pub mutations: Vec<Mutation>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mutation {
    /// The id and the name must be free.
    Create(Object),
    /// `meta.version` must be the stored one: nobody wrote in between.
    Update(Object),
    /// With a version, only if it is the stored one.
    Remove { kind: Kind, id: String, version: Option<Version> },
    /// An agent's report. No version check: a report that would move the state back, or is of a task that is gone, is
    /// dropped.
    TaskStatus { id: TaskId, status: TaskStatus },
    /// The dispatcher's view of a node. No version check.
    NodeStatus { id: NodeId, status: NodeStatus },
    /// An agent's description of its host. No version check.
    NodeDescription { id: NodeId, description: NodeDescription },
    /// Where a node says its data path ends. No version check: an address that is another node's is not given twice.
    NodeDataPath { id: NodeId, addr: IpAddr },
}

/// Why a transaction was not applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Conflict {
    #[error("{kind} {id} exists already")]
    Exists { kind: Kind, id: String },
    #[error("{kind} name {name:?} is taken")]
    NameTaken { kind: Kind, name: String },
    #[error("{kind} {id} does not exist")]
    NotFound { kind: Kind, id: String },
    #[error("{kind} {id} was changed meanwhile: version {stored}, not {expected}")]
    Stale { kind: Kind, id: String, expected: Version, stored: Version },
    #[error("address {addr} of network {network} was given away meanwhile")]
    AddressTaken { network: NetworkId, addr: IpAddr },
    #[error("network {id} carries published ports already")]
    SecondIngress { id: NetworkId },
    #[error("{kind} {id} is used by {by}")]
    InUse { kind: Kind, id: String, by: String },
}

impl Conflict {
    /// A new read and a new plan may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Conflict::Stale { .. }
            | Conflict::NotFound { .. }
            | Conflict::AddressTaken { .. }
            | Conflict::SecondIngress { .. }
            | Conflict::InUse { .. } => true,
            Conflict::Exists { .. } | Conflict::NameTaken { .. } => false,
        }
    }
}
