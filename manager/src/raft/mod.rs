//! Agreement between managers: openraft over our log, our state machine and gRPC between managers.
//!
//! ```text
//! log      votes, entries, snapshots in redb behind one ordered writer: durable before they count
//! machine  applies committed actions to the Snapshot and publishes it
//! ```

mod log;
mod machine;

pub use log::LogStore;
pub use machine::{Machine, RaftSnapshot};

use crate::store::{Action, Conflict};
use heddle_model::Version;
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, io};

openraft::declare_raft_types!(
    /// What raft is made of here. A member is known by the number in its node's `ManagerStatus` and dialled at the
    /// address in its `BasicNode`.
    pub TypeConfig:
        D = Action,
        R = Applied,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
);

/// What became of a proposal: the version it made, or why it changed nothing.
pub type Applied = Result<Version, Conflict>;
pub type Raft = openraft::Raft<TypeConfig, Machine>;

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} mutations", self.mutations.len())
    }
}

/// MessagePack with field names, so that a field may be added later.
pub fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    rmp_serde::to_vec_named(value).map_err(io::Error::other)
}

pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    rmp_serde::from_slice(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}
