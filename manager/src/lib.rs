//! The control plane: what the cluster should look like, agreed on through raft.

pub mod raft;
pub mod store;
