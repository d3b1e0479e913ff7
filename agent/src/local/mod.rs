//! What this host has by itself, in a cluster or out of one: networks of its own, and standalone workloads.
//!
//! ```text
//! service (heddle.v1.Host) ─> operations ─┬─ pure: network, subnets, place, publish, driver/ ─> store ─> snapshots ─> agent
//!                                         ├─ ports of the host, held          places on overlays, from the managers
//!                                         └─ waits for what the agent says: there, running, or why not
//! document, images, rules   the answers: docker's documents, and the kernel's rules in words
//! ```

mod document;
pub mod driver;
mod images;
pub mod network;
mod operations;
pub mod place;
pub mod ports;
pub mod publish;
mod rules;
mod service;
pub mod state;
pub mod store;
pub mod subnets;

pub use service::{HostParts, HostService};
