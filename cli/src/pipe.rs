//! A reader that goes away, as in `heddle service ls | head -n 1`, ends a command quietly.
#![allow(unsafe_code)]

use nix::sys::signal::{SigHandler, Signal, signal};

/// Rust's runtime ignores SIGPIPE, so that printing would panic instead. Not for the daemon: a log that nobody reads must not
/// end it.
pub fn end_quietly() {
    // SAFETY: installs the default action, before any thread exists.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
}
