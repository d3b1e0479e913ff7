//! The verbs, one file per noun.
//!
//! ```text
//! run, ps, logs, exec, start, stop, wait, rm, inspect   workloads of this host
//! network   image   service   node   cluster   user   tunnel   what the rest is about
//! payload                                               secrets and configs
//! registry                                              logins for private images
//! volume                                                volumes of this host
//! status, events                                        how the cluster is and what becomes of it
//! backup                                                the cluster as a file, and back
//! autolock                                              managers that start locked
//! ca                                                    the root certificate
//! pair, filter, moment, mount, each, show, confirm      how flags are read, several objects served, progress shown
//! ```

pub mod autolock;
pub mod backup;
pub mod ca;
pub mod cluster;
mod confirm;
mod each;
pub mod events;
pub mod exec;
#[cfg(test)]
mod fake;
mod filter;
pub mod image;
pub mod inspect;
pub mod logs;
pub mod moment;
mod mount;
pub mod network;
pub mod node;
pub(crate) mod pair;
pub mod payload;
pub mod ps;
pub mod registry;
pub mod rm;
pub mod run;
pub mod service;
mod show;
pub mod start;
pub mod status;
pub mod stop;
pub mod tunnel;
pub mod user;
pub mod volume;
pub mod wait;
