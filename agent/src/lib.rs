//! The agent of one host: runs its tasks and makes its kernel match what the managers want.
//!
//! ```text
//! session ─> agent ─┬─ worker (what to do for each task) ─> executor ─> shim ─> program
//!   leader          ├─ health: the checks of running programs
//!                   ├─ dataplane: desired ─> diff ─> steps ─> kernel   (reconciler)
//!                   ├─ dns: a resolver in each workload's namespace
//!                   ├─ volumes: directories that outlive their tasks
//!                   └─ underlay: what is wrong below all this
//! ```

pub mod agent;
pub mod balancer;
pub mod dataplane;
pub mod dns;
pub mod executor;
#[cfg(test)]
mod fuzz;
pub mod health;
pub mod host;
pub mod kernel;
pub mod keyring;
pub mod local;
mod logs;
pub mod reconciler;
pub mod session;
pub mod underlay;
pub mod volumes;
pub mod worker;
