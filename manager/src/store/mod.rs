//! The cluster's state on a manager.
//!
//! ```text
//! loops, control ── Action ──> raft ──> Snapshot::apply (the only writer) ──> watch<Arc<Snapshot>> ──> loops, dispatcher
//! ```

mod action;
mod handle;
mod index;
mod snapshot;

pub use crate::ambient::now;
pub use action::{Action, Conflict, Mutation};
pub use handle::{Store, WriteError};
pub use index::{Holder, Lists};
pub use snapshot::Snapshot;
