//! A program with our own input and output.

use super::{ExecArgs, furnish, program};
use heddle_agent::executor::Identity;
use heddle_proto::v1;
use nix::{
    sys::signal::{SigSet, Signal, kill},
    unistd::Pid,
};
use std::{
    io,
    os::unix::process::ExitStatusExt,
    process::{Child, ExitStatus, Stdio},
};

/// 128 + N for signal N.
pub fn code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|s| 128 + s)).unwrap_or(1);
    u8::try_from(code).unwrap_or(u8::MAX)
}

pub fn run(target: &v1::ExecTarget, args: &ExecArgs, identity: Identity) -> io::Result<u8> {
    let Some((name, rest)) = args.command.split_first() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let mut command = program(name);
    furnish(&mut command, target, args);
    identity.give(&mut command);
    command.args(rest).stdin(if args.interactive { Stdio::inherit() } else { Stdio::null() });
    attend(command.spawn()?)
}

/// Waits for the end. A terminal's own signals reach the program by themselves; others we pass on.
fn attend(mut child: Child) -> io::Result<u8> {
    // Blocked after the spawn, so that the program does not inherit it; a signal lost before shows in the first look.
    let signals: SigSet =
        [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block()?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(code(status));
        }
        match signals.wait()? {
            Signal::SIGCHLD | Signal::SIGINT | Signal::SIGQUIT => {}
            other => drop(kill(Pid::from_raw(child.id() as i32), other)),
        }
    }
}
