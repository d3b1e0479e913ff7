//! The objects of a Heddle cluster and the newtypes they are made of.
//!
//! ```text
//! cluster ── node ── service ── task        who wants what, where it runs
//!              workload                     one program that one host runs by itself
//!              update                       how its tasks are replaced by others
//!              health                       how they show that they are well
//!              placement                    where they may run, and what they are given there
//!              container                    as whom they run, and what they see
//!              template                     texts that are another for each task
//!                 └─ network ── endpoint    what it is reachable by
//!                      └─ tunnel            keys of hosts, for networks that are encrypted
//!              login                        what registries of its images are shown
//!              payload                      secrets and configs, which tasks have as files
//!              volume                       directories of hosts, which outlive the tasks that use them
//! limits                                    how large what is asked for may be
//! shared                                    what many objects have in common, once
//! net/                                      units of the data plane: Vni, Mac, Port, Mtu, IfName, subnets
//! ```
//!
//! Names and meanings follow docker's API (Spec, Status, Version, Endpoint.VirtualIPs, Task.DesiredState).
//! This crate holds values only: no clock, no randomness, no I/O, no wire format.

pub mod assignment;
pub mod cluster;
pub mod connection;
pub mod container;
pub mod endpoint;
pub mod fence;
pub mod find;
#[cfg(test)]
mod fuzz;
pub mod health;
pub mod id;
pub mod image;
pub mod limits;
pub mod login;
pub mod meta;
pub mod net;
pub mod network;
pub mod node;
pub mod object;
pub mod payload;
pub mod placement;
pub mod service;
pub mod shared;
pub mod task;
pub mod template;
pub mod tunnel;
pub mod update;
pub mod volume;
pub mod workload;

pub use id::{ClusterId, ConnectionId, NetworkId, NodeId, PayloadId, ServiceId, TaskId};
pub use meta::{Annotations, Meta, Timestamp, Version};
pub use object::{Kind, Object};
