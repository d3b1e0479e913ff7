//! Agreement between managers: openraft over our log, our state machine and gRPC between managers.
//!
//! ```text
//! log      votes, entries, snapshots in redb behind one ordered writer: durable before they count
//! machine  applies committed actions to the Snapshot and publishes it
//! network  calls to the other managers          service  calls from them; joining, leaving and moving
//! peers    where they are, as they say          contact  when a majority was last heard of
//! frame    encryption of what is stored         damage   what is made of a disk that has lost something
//! plain    what was stored before that          recover  what one manager alone goes on with
//! install  a snapshot that another sends        trim     how large the log becomes
//! packed   the whole state in few bytes
//! ```

pub mod contact;
pub mod damage;
pub(crate) mod frame;
mod install;
mod log;
mod machine;
mod network;
pub(crate) mod packed;
mod peers;
mod plain;
pub mod recover;
mod runtime;
mod service;
pub(crate) mod trim;

pub use install::install_snapshot;
pub use log::{LogStore, Writer};
pub use machine::{Machine, RaftSnapshot};
pub use network::{MAX_MESSAGE, Network};
pub use peers::Peers;
pub use runtime::Runtime;
pub use service::RaftService;

use crate::store::{Action, Conflict};
use heddle_model::{NodeId, Version};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, io, sync::Arc};

openraft::declare_raft_types!(
    /// What raft is made of here. A member is known by the number in its node's `ManagerStatus` and dialled at the
    /// address in its `BasicNode`.
    pub TypeConfig:
        D = Arc<Action>,
        R = Applied,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = Runtime,
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

/// A node's number in raft, from its id: the same whoever computes it.
pub fn raft_id(node: &NodeId) -> u64 {
    let digest = <sha2::Sha256 as sha2::Digest>::digest(node.as_str().as_bytes());
    digest[..8].iter().fold(0, |n, b| n << 8 | u64::from(*b))
}
