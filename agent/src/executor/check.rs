//! The command of a health check, run where the task's program runs.
//!
//! ```text
//! daemon ── pipe as standard input ─> task-check (enters the namespaces) ─> task-check-run (in them) ─> /bin/sh -c COMMAND
//! ```
//!
//! When the pipe closes, because the check took too long or the daemon is gone, `task-check-run` ends all that the command began:
//! it is their subreaper, so whatever loses its parent becomes its child.

use super::{
    ProcessExecutor,
    enter::Namespaces,
    group,
    identity::Identity,
    record::{self, Running, SPEC, ShimSpec, TASK},
};
use heddle_model::TaskId;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        stat::Mode,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, mkfifo},
};
use std::{
    fs, io,
    os::{
        fd::AsFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};
use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver, process, time::timeout};

/// Bytes that are kept of what a check writes, from its end.
const OUTPUT: usize = 4 << 10;
/// In which what is killed has ended.
const END_LIMIT: Duration = Duration::from_secs(1);
/// As a shell says it of a program that was killed.
const KILLED: u8 = 128 + Signal::SIGKILL as u8;

/// A command that may be run in a task.
#[derive(Debug, Clone)]
pub struct CheckCommand {
    shim: PathBuf,
    /// Of the task.
    dir: PathBuf,
    command: String,
}

/// The named pipe for what checks in a task's container write. It is there when this returns.
pub fn check_output(dir: &Path) -> io::Result<PathBuf> {
    let path = dir.join("check");
    match mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(()) | Err(Errno::EEXIST) => Ok(path),
        Err(error) => Err(error.into()),
    }
}

impl ProcessExecutor {
    pub fn check(&self, task: &TaskId, command: &str) -> CheckCommand {
        CheckCommand { shim: self.shim.clone(), dir: self.task_dir(task), command: command.to_owned() }
    }
}

impl CheckCommand {
    /// What was wrong, if anything was. All that was begun ends with the future.
    pub async fn run(&self, limit: Duration) -> io::Result<Result<(), String>> {
        let (output, written) = io::pipe()?;
        let mut command = process::Command::new(&self.shim);
        command.arg("task-check").arg(&self.dir).arg(&self.command).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(written.try_clone()?).stderr(written);
        let mut child = command.spawn()?;
        // It holds the end of the pipe that is written to.
        drop(command);
        let stop = child.stdin.take();
        let mut output = Receiver::from_owned_fd(output.into())?;
        let mut said = Vec::new();
        let ended = timeout(limit, async {
            keep_end(&mut output, &mut said).await?;
            child.wait().await
        });
        match ended.await {
            Ok(status) => Ok(judge(code(status?), &said)),
            Err(_) => {
                drop(stop);
                // What does not end now is stuck in the kernel.
                let _ = timeout(END_LIMIT, child.wait()).await;
                Ok(Err(format!("not done after {limit:?}{}", because(&said))))
            }
        }
    }
}

/// Reads all, so that the writer never waits for us.
pub(super) async fn keep_end(output: &mut Receiver, said: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 1024];
    loop {
        let count = output.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        said.extend_from_slice(&buffer[..count]);
        let surplus = said.len().saturating_sub(OUTPUT);
        said.drain(..surplus);
    }
}

pub(super) fn judge(code: u8, said: &[u8]) -> Result<(), String> {
    match code {
        0 => Ok(()),
        code => Err(format!("exit code {code}{}", because(said))),
    }
}

/// The last line that says something.
pub(super) fn because(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    line.map_or_else(String::new, |line| format!(": {}", line.replace(char::is_control, " ")))
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// `heddle task-check`: runs the command in the namespaces, and with the environment, of the task that the directory describes. Must
/// be called while the process has one thread. Returns the exit code.
pub fn check_in_task(dir: &Path, command: &str) -> io::Result<u8> {
    let ended = || io::Error::other("the task has just ended");
    let spec: ShimSpec = record::read(&dir.join(SPEC))?.ok_or_else(ended)?;
    let running: Running = record::read(&dir.join(TASK))?.ok_or_else(ended)?;
    let spaces = Namespaces::of(running.init).map_err(|_| ended())?;
    // Better a check that counts for the daemon than none.
    let _ = group::join(running.init);
    // A pid may be used again: what was opened is the task's if that is still there.
    if record::start_time(running.init) != Some(running.init_start) {
        return Err(ended());
    }
    let identity = Identity::of(&spec.container)?;
    spaces.enter()?;
    // Read by the new process, which sees itself there.
    let mut inside = Command::new("/proc/self/exe");
    inside.arg0("heddle").arg("task-check-run").arg("--").arg(command).env_clear().envs(&spec.env);
    inside.current_dir(spec.dir.as_deref().unwrap_or("/"));
    identity.own(&[io::stdout().as_fd(), io::stderr().as_fd()])?;
    identity.give(&mut inside);
    Ok(code(inside.status()?))
}

/// `heddle task-check-run`: runs the command, and ends with all of it, at the latest when nobody has the other end of the standard
/// input any more. Returns the exit code.
pub fn run_check(command: &str) -> io::Result<u8> {
    prctl::set_child_subreaper(true)?;
    let mut shell = Command::new("/bin/sh").arg("-c").arg(command).stdin(Stdio::null()).spawn()?;
    // Blocked after the spawn, so that the shell does not inherit it; a signal lost before shows in the first look.
    let signals: SigSet = [Signal::SIGCHLD].into_iter().collect();
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let asks = io::stdin();
    let code = loop {
        if let Some(status) = shell.try_wait()? {
            break code(status);
        }
        let mut waits = [signals.as_fd(), asks.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut waits, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let [_, gone] = waits.map(|wait| wait.any().unwrap_or(true));
        if gone {
            break KILLED;
        }
        while signals.read_signal()?.is_some() {}
    };
    end_children();
    Ok(code)
}

/// Until there are none: those of a child that ended are ours then.
fn end_children() {
    loop {
        let children = children();
        for child in &children {
            // It may have ended by itself.
            let _ = kill(*child, Signal::SIGKILL);
        }
        // One that was killed ends, so this returns.
        let wait = if children.is_empty() { Some(WaitPidFlag::WNOHANG) } else { None };
        match waitpid(None, wait) {
            Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return,
            Ok(_) | Err(_) => {}
        }
    }
}

fn children() -> Vec<Pid> {
    let own = std::process::id();
    let names = fs::read_dir("/proc").into_iter().flatten().filter_map(|e| e.ok()?.file_name().into_string().ok());
    let pids = names.filter_map(|name| name.parse::<u32>().ok());
    pids.filter(|pid| record::parent(*pid) == Some(own)).map(|pid| Pid::from_raw(pid as i32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_that_says_something_is_the_reason() {
        assert_eq!(judge(0, b"all is well\n"), Ok(()));
        for (said, want) in [
            (&b""[..], "exit code 1"),
            (b"\n \n", "exit code 1"),
            (b"trying\nconnection refused\n\n", "exit code 1: connection refused"),
            (b"a\x1b[1mb\xff", "exit code 1: a [1mb\u{fffd}"),
        ] {
            assert_eq!(judge(1, said), Err(want.to_owned()));
        }
    }

    #[tokio::test]
    async fn no_more_than_the_end_of_the_output_is_kept() {
        let (reader, mut writer) = io::pipe().unwrap();
        let write = std::thread::spawn(move || {
            use io::Write;
            writer.write_all(&vec![b'x'; 1 << 20]).unwrap();
            writer.write_all(b"end").unwrap();
        });
        let mut said = Vec::new();
        keep_end(&mut Receiver::from_owned_fd(reader.into()).unwrap(), &mut said).await.unwrap();
        write.join().unwrap();
        assert!(said.len() == OUTPUT && said.ends_with(b"xend"));
    }
}
