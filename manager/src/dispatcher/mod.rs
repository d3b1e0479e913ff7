//! The leader's side of the session with every agent.
//!
//! ```text
//! Hello ─> Ready ─> COMPLETE ─> INCREMENTAL ...        assignment  what one node is told
//! Heartbeat, Ack, TaskStatus ─> sessions, store        sessions    who is heard of, what is reached, what goes wrong
//! NodeReport ─> sessions
//! LogRequest ─> PublishLogs ─> reader                  logs
//! Attach, Detach ─> store                              connection  places on overlays that hosts ask for
//! ```

pub mod assignment;
pub mod connection;
mod logs;
mod service;
mod sessions;
#[cfg(test)]
mod tests;

pub use assignment::view;
pub use logs::{Logs, Share};
pub use service::{DispatcherService, SessionServer, managers};
pub use sessions::Sessions;
