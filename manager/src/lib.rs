//! The control plane: what the cluster should look like, agreed on through raft.
//!
//! ```text
//! control    what operators ask            ─┐
//! allocator, orchestrator, scheduler, tunnel ├─ mutations ─> store ── raft ─> store on every manager
//! dispatcher what agents report            ─┘                 │
//! dispatcher what each node should do  <──────────────────────┘
//! leader     runs the deciding stages and watches the nodes, on the leader only
//! membership who votes, as the wanted roles of nodes say
//! ca         root, tokens, certificates
//! ambient    the time of day and random numbers
//! observe    how it is and what becomes of it, for those who look on
//! autopilot  dead managers go by themselves
//! address    a manager that is elsewhere than it was
//! quorum     what is said without one       recovery, backup   a cluster that begins anew from what is left
//! vault      the key that encrypts what a manager keeps
//! ```

pub mod address;
pub mod allocator;
pub mod ambient;
mod autopilot;
pub mod backup;
pub mod ca;
pub mod control;
pub mod dispatcher;
#[cfg(test)]
mod fuzz;
pub mod leader;
pub mod manager;
pub mod membership;
pub mod observe;
pub mod orchestrator;
pub mod plan;
pub mod quorum;
pub mod raft;
mod recovery;
mod rehearsal;
pub mod scheduler;
mod standing;
pub mod store;
pub mod tunnel;
pub mod vault;
#[cfg(test)]
mod world;
