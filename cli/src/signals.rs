//! What signals do to us, and to what we run for somebody.
#![allow(unsafe_code)]

use nix::{
    sys::signal::{SigHandler, Signal, signal},
    unistd::setsid,
};
use std::{os::unix::process::CommandExt, process::Command};

/// What a shell says of a command that SIGPIPE ended.
const BROKEN_PIPE: i32 = 128 + Signal::SIGPIPE as i32;

/// A reader that goes away, as in `heddle service ls | head -n 1`, ends a command quietly, where printing would panic. SIGPIPE stays
/// ignored: it would come of connections, too, and what the other end of one refuses is to be told. Not for the daemon: a log that
/// nobody reads must not end it.
pub fn end_quietly() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload().downcast_ref::<String>().is_some_and(|text| is_output_closed(text)) {
            std::process::exit(BROKEN_PIPE);
        }
        usual(panic);
    }));
}

/// What `println!` and its like panic with.
fn is_output_closed(panic: &str) -> bool {
    panic.starts_with("failed printing to std") && panic.contains("Broken pipe")
}

/// Of a command that failed for nothing but that nobody reads its output any more.
pub fn exit_code_if_unread(error: &anyhow::Error) -> Option<i32> {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe).then_some(BROKEN_PIPE)
}

/// Ctrl-C and the like do what they do after a login, whatever whoever started us ignores, as `nohup` does, or a shell for what
/// it runs in the background.
pub fn as_after_a_login() {
    default(&[Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGTERM, Signal::SIGTSTP]);
}

/// Has a program begin a session on the terminal that is its input. Nothing of ours is run in its stead: it may see other files
/// than the host.
pub fn begin_session(command: &mut Command) {
    let begin = || {
        as_after_a_login();
        setsid()?;
        Ok(rustix::process::ioctl_tiocsctty(std::io::stdin())?)
    };
    // SAFETY: runs between fork and exec in a process whose parent has one thread, so nobody holds a lock that it could wait for;
    // it makes system calls alone.
    unsafe { command.pre_exec(begin) };
}

fn default(signals: &[Signal]) {
    for which in signals {
        // SAFETY: installs the default action, which runs no code of ours.
        let _ = unsafe { signal(*which, SigHandler::SigDfl) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_output_that_nobody_reads_ends_quietly() {
        assert!(is_output_closed("failed printing to stdout: Broken pipe (os error 32)"));
        for other in ["failed printing to stdout: No space left on device (os error 28)", "Broken pipe", ""] {
            assert!(!is_output_closed(other), "{other}");
        }
        let broken = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(exit_code_if_unread(&broken().into()), Some(BROKEN_PIPE));
        assert_eq!(exit_code_if_unread(&anyhow::anyhow!("transport error: Broken pipe")), None);
    }
}
