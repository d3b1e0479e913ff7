//! What this host has by itself, in a cluster or out of one: networks of its own, and standalone workloads.

pub mod driver;
pub mod network;
