//! The way into a host's machine: one serial port that carries many streams, each to one of two doors.
//!
//! ```text
//! here: sockets exec, daemon ─> mux ═══ the port ═══ mux ─> exec: runs a command        (guest: `heddle vm-agent`)
//!        exec::ask                                      └─> the daemon's socket
//! ```

pub mod exec;
mod frame;
pub mod mux;
