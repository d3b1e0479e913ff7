//! The verbs, one file per noun.

pub mod cluster;
pub mod network;
pub mod node;
pub mod service;
