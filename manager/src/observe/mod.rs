//! How the cluster is and what becomes of it, for those who look on.
//!
//! ```text
//! raft's apply ── before, after ─> change ─> history ─┐
//! raft, sessions, store ─────────> status ────────────┼─> service ─> heddle cluster status, heddle events
//!                       └────────> metrics ─> /metrics
//! ```

mod change;
mod history;
pub(crate) mod metrics;
mod service;
mod status;

pub use change::{Change, What, changes};
pub use history::{Batch, Expired, History};
pub use service::ObserveService;
