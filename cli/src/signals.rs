//! What signals do to us, and to what we run for somebody.
#![allow(unsafe_code)]

use nix::sys::signal::{SigHandler, Signal, signal};

/// A reader that goes away, as in `heddle service ls | head -n 1`, ends a command quietly. Rust's runtime ignores SIGPIPE, so that
/// printing would panic instead. Not for the daemon: a log that nobody reads must not end it.
pub fn end_quietly() {
    default(&[Signal::SIGPIPE]);
}

/// Ctrl-C and the like do what they do after a login, whatever whoever started us ignores, as `nohup` does, or a shell for what
/// it runs in the background.
pub fn as_after_a_login() {
    default(&[Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGTERM, Signal::SIGTSTP]);
}

fn default(signals: &[Signal]) {
    for which in signals {
        // SAFETY: installs the default action, which runs no code of ours.
        let _ = unsafe { signal(*which, SigHandler::SigDfl) };
    }
}
