//! The leader's side of the session with every agent.
//!
//! ```text
//! Hello ─> Ready ─> COMPLETE ─> INCREMENTAL ...        session     one agent's      assignment  what one node is told
//! a new state ─> whom it may concern ─> their sessions feed        pace        how often one is told
//! Heartbeat, Ack, NodeReport ─> sessions               sessions    who is heard of, what is reached, what goes wrong
//! TaskStatus ─> store                                  reports     of all agents together
//! LogRequest ─> PublishLogs ─> reader                  logs
//! Attach, Detach ─> store                              connection  places on overlays that hosts ask for
//! ```

pub mod assignment;
pub mod connection;
mod feed;
mod logs;
mod pace;
mod reports;
mod service;
mod session;
mod sessions;
#[cfg(test)]
mod tests;

pub use assignment::view;
pub use logs::{Logs, Share};
pub use service::DispatcherService;
#[cfg(test)]
use session::session;
pub use session::{SessionServer, managers};
pub use sessions::Sessions;
