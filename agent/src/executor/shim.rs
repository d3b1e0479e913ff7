//! The process between a daemon and a task. It runs from the daemon's binary, before any thread exists, lives as long as the
//! task, keeps its output and its exit code.
#![allow(unsafe_code)]

use super::{
    check::check_output,
    group::Group,
    identity::Identity,
    log::{self, LONGEST, Stream, Writer, now_ms},
    memory::MemoryFile,
    record::{self, EXIT, Exit, Running, SPEC, ShimSpec, TASK},
    view,
};
use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns, unshare},
    sys::{
        prctl,
        signal::{SigSet, Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe, read, setsid},
};
use std::{
    fs, io,
    os::{
        fd::{AsFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::Command,
};

/// Name under which a command means our own binary.
const SELF: &str = "heddle";
/// What a shell says when a program cannot be run.
const CANNOT_RUN: i32 = 127;
/// What the kernel tells a program of itself is not passed on from outside.
const ITS_OWN: [Signal; 5] = [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGTRAP];

/// Whose process returns from `run`.
pub enum Outcome {
    /// The process that the daemon waits for: the task is on its way.
    Started,
    /// The shim, after the task has ended.
    Ended,
}

/// Runs the task that the directory describes. Must be called while the process has one thread.
pub fn run(dir: &Path) -> io::Result<Outcome> {
    let spec: ShimSpec =
        record::read(&dir.join(SPEC))?.ok_or_else(|| io::Error::other("the task has no specification"))?;
    let netns = fs::File::open(&spec.netns)
        .map_err(|e| io::Error::new(e.kind(), format!("network namespace {}: {e}", spec.netns.display())))?;
    let mut secret = Vec::<MemoryFile>::new();
    if spec.secrets > 0 {
        secret = rmp_serde::from_read(io::stdin().lock()).map_err(io::Error::other)?;
        if secret.len() != spec.secrets {
            return Err(io::Error::other("the daemon did not tell all secrets and configs"));
        }
        // What crashes on the way to the program leaves no core behind; the program itself is as any other.
        prctl::set_dumpable(false)?;
    }
    let (ready, tell) = pipe()?;
    // SAFETY: the process has one thread, so the child may go on as it likes.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(tell);
            let mut byte = [0];
            let started = read(&ready, &mut byte)? == 1;
            let _ = child;
            match started {
                true => Ok(Outcome::Started),
                false => Err(io::Error::other("the shim ended before the task began")),
            }
        }
        ForkResult::Child => {
            drop(ready);
            setsid()?;
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            supervise(dir, &spec, secret, tell)?;
            Ok(Outcome::Ended)
        }
    }
}

fn supervise(dir: &Path, spec: &ShimSpec, secret: Vec<MemoryFile>, tell: OwnedFd) -> io::Result<()> {
    // The shim goes on seeing the host's files: it writes there what the task prints, and how it ends.
    let new = CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWPID;
    let mut group = Group::of(&dir.file_name().unwrap_or_default().to_string_lossy());
    unshare(new)?;
    let (out_read, out_write) = pipe()?;
    let (err_read, err_write) = pipe()?;
    let (go_read, go_write) = pipe()?;
    let (up_read, up_write) = pipe()?;
    let null = fs::File::open("/dev/null")?;
    // SAFETY: still one thread.
    let init = match unsafe { fork() }? {
        ForkResult::Child => {
            drop((out_read, err_read, go_write, up_read, tell, group));
            let status = be_init(spec, secret, &null, [&out_write, &err_write], &go_read, up_write);
            // SAFETY: ends this process at once, without the parent's clean-up.
            unsafe { libc::_exit(status) }
        }
        ForkResult::Parent { child } => child,
    };
    drop((out_write, err_write, go_read, up_write, secret));
    let (shim, init_pid) = (std::process::id(), init.as_raw() as u32);
    let running = Running {
        shim,
        shim_start: record::start_time(shim).unwrap_or_default(),
        init: init_pid,
        init_start: record::start_time(init_pid).unwrap_or_default(),
    };
    record::write(&dir.join(TASK), &running)?;
    if let Err(e) = group.hold(init_pid, &spec.resources) {
        // It has not begun yet, and must not. How it ended is on disk before the daemon hears of it.
        let _ = kill(init, Signal::SIGKILL).and_then(|()| waitpid(init, None));
        let error = Some(format!("cannot limit the task: {e}"));
        return record::write(&dir.join(EXIT), &Exit { code: CANNOT_RUN, error, at_ms: now_ms() });
    }
    drop(go_write);
    // A program that cannot be run never counts as started; then how it ended is on disk before the daemon hears of it.
    let mut tell = Some(tell);
    if read(&up_read, &mut [0])? == 1
        && let Some(tell) = tell.take()
    {
        nix::unistd::write(&tell, b"1")?;
    }
    // Threads cannot be made after a new pid namespace was asked for, so one loop copies both.
    copy([(out_read, Stream::Stdout), (err_read, Stream::Stderr)], &mut Writer::open(dir, spec.container.log)?);
    let code = loop {
        match waitpid(init, None) {
            Ok(WaitStatus::Exited(_, code)) => break code,
            Ok(WaitStatus::Signaled(_, signal, _)) => break 128 + signal as i32,
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    };
    let error = match code {
        CANNOT_RUN => log::last(dir),
        0 => None,
        code => match spec.resources.limit.memory {
            0 => None,
            limit => group.out_of_memory(code, limit),
        },
    };
    group.remove();
    record::write(&dir.join(EXIT), &Exit { code, error, at_ms: now_ms() })?;
    drop(tell);
    Ok(())
}

/// `heddle task-log`: keeps what a container prints, until nobody can print any more. containerd's shim starts it with the container's
/// output and errors as files 3 and 4, and waits until 5 is closed.
pub fn keep_log(dir: &Path) -> io::Result<()> {
    // SAFETY: whoever started this process gave it these files, and nothing here has them yet.
    let [out, err, ready] = [3, 4, 5].map(|number| unsafe { OwnedFd::from_raw_fd(number) });
    let spec: Option<ShimSpec> = record::read(&dir.join(SPEC))?;
    let limits = spec.map(|spec| spec.container.log).unwrap_or_default();
    let mut log = Writer::open(dir, limits)?;
    // As long as anybody runs there: the daemon may be gone before containerd's shim opens the other end, and that would wait.
    let _checked = fs::File::options().read(true).write(true).open(check_output(dir)?)?;
    // containerd's shim asks it to end before all is written.
    setsid()?;
    let mut term: SigSet = [Signal::SIGTERM].into_iter().collect();
    term.add(Signal::SIGINT);
    term.thread_block()?;
    drop(ready);
    copy([(out, Stream::Stdout), (err, Stream::Stderr)], &mut log);
    Ok(())
}

/// Until both pipes are closed: all that held them is gone with the task's pid namespace.
fn copy(pipes: [(OwnedFd, Stream); 2], log: &mut Writer) {
    let mut open: Vec<_> = pipes.into_iter().map(|(fd, stream)| (fd, stream, Vec::new())).collect();
    let mut buffer = [0; 8192];
    while !open.is_empty() {
        let mut wait: Vec<_> = open.iter().map(|(fd, ..)| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
        if let Err(nix::errno::Errno::EINTR) = poll(&mut wait, PollTimeout::NONE) {
            continue;
        }
        let ready: Vec<bool> = wait.iter().map(|w| w.any().unwrap_or(true)).collect();
        let mut at = 0;
        open.retain_mut(|(fd, stream, pending)| {
            at += 1;
            if !ready[at - 1] {
                return true;
            }
            let count = read(&*fd, &mut buffer).unwrap_or(0);
            pending.extend_from_slice(&buffer[..count]);
            write_lines(pending, *stream, log, count == 0);
            count > 0
        });
    }
}

/// Takes whole lines out of what came; all of it at the end.
fn write_lines(pending: &mut Vec<u8>, stream: Stream, log: &mut Writer, end: bool) {
    loop {
        let line = pending.iter().position(|b| *b == b'\n');
        let (length, taken) = match line {
            Some(at) => (at, at + 1),
            None if pending.len() > LONGEST => (LONGEST, LONGEST),
            None if end && !pending.is_empty() => (pending.len(), pending.len()),
            None => return,
        };
        // A full disk must not end the task.
        let _ = log.write(stream, &pending[..length]);
        pending.drain(..taken);
    }
}

/// Pid 1 of the task: prepares its view of the system, runs the program, reaps orphans, passes signals on.
fn be_init(
    spec: &ShimSpec,
    secret: Vec<MemoryFile>,
    null: &fs::File,
    [out, err]: [&OwnedFd; 2],
    go: &OwnedFd,
    up: OwnedFd,
) -> i32 {
    let prepared = (|| -> io::Result<Identity> {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The shim has written down who we are before anything can be left behind.
        read(go, &mut [0])?;
        dup2_stdin(null)?;
        dup2_stdout(out)?;
        dup2_stderr(err)?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        let identity = Identity::of(&spec.container)?;
        identity.own(&[io::stdout().as_fd(), io::stderr().as_fd()])?;
        view::prepare(spec, &secret)?;
        Ok(identity)
    })();
    drop(secret);
    let mut signals = SigSet::all();
    ITS_OWN.into_iter().for_each(|signal| signals.remove(signal));
    let child = prepared.and_then(|identity| {
        signals.thread_block()?;
        let mut command = command(spec)?;
        identity.give(&mut command);
        command.spawn()
    });
    let child = match child {
        Ok(child) => {
            let _ = nix::unistd::write(&up, b"1");
            drop(up);
            Pid::from_raw(child.id() as i32)
        }
        Err(e) => {
            let program = spec.command.first().map_or("", String::as_str);
            // The directory may be what does not exist.
            let place = spec.dir.as_ref().map_or_else(String::new, |dir| format!(" in {dir:?}"));
            eprintln!("cannot run {program:?}{place}: {e}");
            return CANNOT_RUN;
        }
    };
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(code) = reap(child) {
                    return code;
                }
            }
            Ok(signal) => drop(kill(child, signal)),
            Err(_) => {}
        }
    }
}

/// The program's exit code, once it has ended.
fn reap(child: Pid) -> Option<i32> {
    let mut ended = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => ended = Some(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => ended = Some(128 + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(_) => return ended,
            Ok(_) => {}
        }
    }
}

fn command(spec: &ShimSpec) -> io::Result<Command> {
    let program = spec.command.first().ok_or_else(|| io::Error::other("no program is given"))?;
    let mut command = match program.as_str() {
        SELF => Command::new("/proc/self/exe"),
        other => Command::new(other),
    };
    command.arg0(program).args(&spec.command[1..]).env_clear().envs(&spec.env);
    command.current_dir(spec.dir.as_deref().unwrap_or("/"));
    // SAFETY: runs between fork and exec and does one sigprocmask(2), which is async-signal-safe.
    unsafe { command.pre_exec(|| Ok(SigSet::all().thread_unblock()?)) };
    Ok(command)
}
