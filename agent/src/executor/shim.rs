//! The process between a daemon and a task. It runs from the daemon's binary, before any thread exists, lives as long as the
//! task, keeps its output and its exit code.
#![allow(unsafe_code)]

use super::{
    group::Group,
    log::{LONGEST, Stream, Writer, now_ms},
    memory::{self, MemoryFile},
    record::{self, EXIT, Exit, Running, SPEC, ShimSpec, TASK},
};
use bytesize::ByteSize;
use nix::{
    libc,
    mount::{MsFlags, mount},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns, unshare},
    sys::{
        prctl,
        signal::{SigSet, Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe, read, sethostname, setsid},
};
use std::{
    collections::BTreeSet,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

/// Name under which a command means our own binary.
const SELF: &str = "heddle";
/// Where control groups are, by convention.
const GROUPS: &str = "/sys/fs/cgroup";
/// What a shell says when a program cannot be run.
const CANNOT_RUN: i32 = 127;
const SYSFS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
/// Of a mount that there is.
const READ_ONLY: MsFlags = MsFlags::MS_BIND.union(MsFlags::MS_REMOUNT).union(MsFlags::MS_RDONLY);
const KILLED: i32 = 128 + Signal::SIGKILL as i32;

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
    let new = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWPID;
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
    copy([(out_read, Stream::Stdout), (err_read, Stream::Stderr)], &mut Writer::open(dir)?);
    let code = loop {
        match waitpid(init, None) {
            Ok(WaitStatus::Exited(_, code)) => break code,
            Ok(WaitStatus::Signaled(_, signal, _)) => break 128 + signal as i32,
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    };
    let last = || super::log::read(dir, 0, 0).ok()?.0.pop().map(|line| line.text);
    let error = match code {
        CANNOT_RUN => last(),
        0 => None,
        code => match spec.resources.limit.memory {
            limit if limit > 0 && group.was_out_of_memory() => Some(out_of_memory(code, limit)),
            _ => None,
        },
    };
    group.remove();
    record::write(&dir.join(EXIT), &Exit { code, error, at_ms: now_ms() })?;
    drop(tell);
    Ok(())
}

fn out_of_memory(code: i32, limit: u64) -> String {
    let limit = ByteSize::b(limit);
    match code {
        KILLED => format!("killed by the kernel: its memory limit of {limit} was reached"),
        code => {
            format!("exit code {code}; the kernel has killed a process of it: its memory limit of {limit} was reached")
        }
    }
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
    let prepared = (|| -> io::Result<()> {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The shim has written down who we are before anything can be left behind.
        read(go, &mut [0])?;
        dup2_stdin(null)?;
        dup2_stdout(out)?;
        dup2_stderr(err)?;
        prepare(spec)?;
        memory::show(&secret)
    })();
    drop(secret);
    let signals = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1];
    let signals: SigSet = signals.into_iter().chain([Signal::SIGUSR2]).collect();
    let child = prepared.and_then(|()| {
        signals.thread_block()?;
        command(spec)?.spawn()
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

fn prepare(spec: &ShimSpec) -> io::Result<()> {
    let none: Option<&str> = None;
    // Slave: what the host unmounts goes here too, so that no removed namespace is kept alive.
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, none)?;
    sethostname(&spec.hostname)?;
    mount(Some("tmpfs"), "/dev/shm", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, none)?;
    if !spec.is_on_host() {
        own_sysfs()?;
    }
    let groups = Path::new(GROUPS);
    if groups.is_dir() {
        // Each hierarchy is a mount of its own, and a task does not set its own limits.
        for place in mounts_in(groups)? {
            mount(none, &place, none, SYSFS | READ_ONLY, none)?;
        }
    }
    for (path, content) in &spec.files {
        // A file of our own on top of the host's, in this task's view only. It may be a symbolic link there.
        let target = fs::canonicalize(path)?;
        let own = "/dev/shm/.heddle";
        fs::write(own, content)?;
        mount(Some(own), &target, none, MsFlags::MS_BIND, none)?;
        fs::remove_file(own)?;
    }
    Ok(())
}

/// The host's sysfs shows the host's links, and lets root change them. One of our own, made in our network namespace, shows
/// ours. It holds no reference that keeps the namespace alive, and goes with our mount namespace.
fn own_sysfs() -> io::Result<()> {
    let none: Option<&str> = None;
    let groups = Path::new(GROUPS);
    let kept = Path::new("/dev/shm/.heddle-cgroup");
    // Programs look there for the limits of their memory and CPU.
    let has_groups = groups.is_dir();
    if has_groups {
        fs::create_dir(kept)?;
        mount(Some(groups), kept, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    }
    mount(Some("sysfs"), "/sys", Some("sysfs"), SYSFS, none)?;
    // Only this view of it is read-only: the kernel has one file system for all who mount it in this network namespace.
    mount(none, "/sys", none, SYSFS | READ_ONLY, none)?;
    if has_groups {
        mount(Some(kept), groups, none, MsFlags::MS_MOVE, none)?;
        fs::remove_dir(kept)?;
    }
    Ok(())
}

/// The mount at this path, and those in it.
fn mounts_in(path: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let places = fs::read_to_string("/proc/self/mounts")?;
    let places = places.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    Ok(places.filter(|place| place.starts_with(path)).collect())
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
