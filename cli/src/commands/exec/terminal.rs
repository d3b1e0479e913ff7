//! A program on a pseudo terminal of the workload's, with our own terminal passed through to it.

use super::{ExecArgs, furnish, plain, program};
use crate::signals;
use heddle_agent::executor::Identity;
use heddle_proto::v1;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    pty::openpty,
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr},
    },
    unistd::{Pid, read, write},
};
use rustix::termios::{tcgetwinsize, tcsetwinsize};
use std::{
    io::{self, IsTerminal, Stdin, stdin, stdout},
    os::fd::{AsFd, OwnedFd},
    process::{Child, Stdio},
};

/// Our terminal while it passes every key on; what it was before when this ends.
struct Raw(Termios);

impl Raw {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin(), SetArg::TCSADRAIN, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), SetArg::TCSADRAIN, &self.0);
    }
}

/// Runs in the workload's namespaces.
pub fn run(target: &v1::ExecTarget, args: &ExecArgs, identity: Identity) -> io::Result<u8> {
    let pty = openpty(None, None)?;
    // openpty(3) does not know close-on-exec; what the program holds of ours would keep the terminal open.
    for fd in [&pty.master, &pty.slave] {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    resize(&pty.master);
    let Some((name, rest)) = args.command.split_first() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let mut command = program(name);
    command.args(rest);
    furnish(&mut command, target, args);
    signals::begin_session(&mut command);
    identity.own(&[pty.slave.as_fd()])?;
    identity.give(&mut command);
    command.stdin(pty.slave.try_clone()?).stdout(pty.slave.try_clone()?).stderr(Stdio::from(pty.slave));
    let mut child = command.spawn()?;
    drop(command);
    let raw = if args.interactive { Some(Raw::enter()?) } else { None };
    let code = relay(&mut child, &pty.master, args.interactive);
    drop(raw);
    code
}

/// Gives the pseudo terminal the size of ours, if we have one.
fn resize(master: &OwnedFd) {
    let size = if stdin().is_terminal() { tcgetwinsize(stdin()) } else { tcgetwinsize(stdout()) };
    if let Ok(size) = size {
        let _ = tcsetwinsize(master, size);
    }
}

/// Copies both ways until the program has ended.
fn relay(child: &mut Child, master: &OwnedFd, interactive: bool) -> io::Result<u8> {
    let wanted = [Signal::SIGCHLD, Signal::SIGWINCH, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT];
    let wanted: SigSet = wanted.into_iter().collect();
    wanted.thread_block()?;
    let signals = SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    // The size may have changed before the signal was blocked.
    resize(master);
    let input = stdin();
    let (mut typing, mut showing) = (interactive, true);
    loop {
        if let Some(status) = child.try_wait()? {
            // What it wrote last is still in the terminal's buffer.
            while showing && is_ready(master)? {
                showing = show(master)?;
            }
            return Ok(plain::code(status));
        }
        let mut waits = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        waits.extend(showing.then(|| PollFd::new(master.as_fd(), PollFlags::POLLIN)));
        waits.extend(typing.then(|| PollFd::new(input.as_fd(), PollFlags::POLLIN)));
        match poll(&mut waits, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let mut ready = waits.iter().map(|w| w.any().unwrap_or(true));
        let signalled = ready.next().unwrap_or(false);
        let shown = showing && ready.next().unwrap_or(false);
        let typed = typing && ready.next().unwrap_or(false);
        if signalled && let Some(signal) = signals.read_signal()? {
            pass_on(signal.ssi_signo, child, master);
        }
        if shown {
            showing = show(master)?;
        }
        if typed {
            typing = type_in(&input, master)?;
        }
    }
}

fn pass_on(signal: u32, child: &Child, master: &OwnedFd) {
    match Signal::try_from(signal as i32) {
        Ok(Signal::SIGWINCH) => resize(master),
        Ok(Signal::SIGCHLD) | Err(_) => {}
        Ok(other) => drop(kill(Pid::from_raw(child.id() as i32), other)),
    }
}

fn is_ready(fd: &OwnedFd) -> io::Result<bool> {
    let mut wait = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut wait, PollTimeout::ZERO)? > 0)
}

fn write_all(to: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(&to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// False: nobody has the terminal open any more (EIO).
fn show(master: &OwnedFd) -> io::Result<bool> {
    let mut buffer = [0; 8192];
    match read(master, &mut buffer) {
        Ok(0) | Err(Errno::EIO) => Ok(false),
        Ok(count) => write_all(stdout(), &buffer[..count]).map(|()| true),
        Err(Errno::EINTR) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

/// False: there is no more input.
fn type_in(input: &Stdin, master: &OwnedFd) -> io::Result<bool> {
    let mut buffer = [0; 8192];
    match read(input, &mut buffer) {
        Ok(0) | Err(Errno::EIO) => Ok(false),
        Ok(count) => write_all(master, &buffer[..count]).map(|()| true),
        Err(Errno::EINTR) => Ok(true),
        Err(e) => Err(e.into()),
    }
}
