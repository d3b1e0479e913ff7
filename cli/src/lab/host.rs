//! The first process of a lab's host, and entering a host from outside.
#![allow(unsafe_code)]

use super::{
    machine,
    state::{Host, Lab, start_time},
};
use anyhow::{Context, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::wait::waitpid,
    unistd::{ForkResult, fork, sethostname},
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

#[derive(Debug, Serialize, Deserialize)]
enum Spec {
    Namespaces {
        hostname: String,
    },
    Machine {
        /// Where its cable ends: the underlay's network namespace.
        network: PathBuf,
        machine: heddle_vm::host::Spec,
    },
}

/// Starts the first process of a host; everything on the host ends with it.
pub fn spawn(lab: &Lab, name: &str, number: Option<u8>) -> Result<Host> {
    start(lab, name, number, &Spec::Namespaces { hostname: name.to_owned() })
}

/// The same for a virtual machine, which boots yet when this returns.
pub fn spawn_machine(lab: &Lab, name: &str, number: u8, machine: heddle_vm::host::Spec) -> Result<Host> {
    let underlay = lab.underlay.as_ref().context("the lab has no underlay")?;
    let folder = machine.folder.clone();
    let network = format!("/proc/{}/ns/net", underlay.pid).into();
    let host = start(lab, name, Some(number), &Spec::Machine { network, machine })?;
    Ok(Host { machine: Some(folder), ..host })
}

fn start(lab: &Lab, name: &str, number: Option<u8>, spec: &Spec) -> Result<Host> {
    let file = lab.run_dir().join(format!("{name}.json"));
    fs::write(&file, serde_json::to_vec(spec)?)?;
    let output = Command::new(super::this_program()?)
        .arg("lab-host")
        .arg(&file)
        .stdin(Stdio::null())
        .output()
        .context("cannot start a host")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let pid: i32 = match text.trim().parse() {
        Ok(pid) if output.status.success() => pid,
        _ => bail!("host {name} did not start: {}", String::from_utf8_lossy(&output.stderr).trim()),
    };
    let (name, number) = (name.to_owned(), number.unwrap_or(0));
    Ok(Host { name, role: String::new(), number, pid, start: start_time(pid), machine: None })
}

/// `heddle lab-host`: makes the namespaces, prints the pid of the first process in them, and leaves it behind. Must run while
/// the process has one thread.
pub fn run(spec: &Path) -> Result<()> {
    let spec: Spec = serde_json::from_slice(&fs::read(spec)?)?;
    match &spec {
        Spec::Namespaces { .. } => {
            let all = CloneFlags::CLONE_NEWPID
                | CloneFlags::CLONE_NEWNS
                | CloneFlags::CLONE_NEWNET
                | CloneFlags::CLONE_NEWUTS
                | CloneFlags::CLONE_NEWIPC;
            unshare(all).context("cannot make namespaces")?;
        }
        Spec::Machine { network, .. } => {
            let network = File::open(network).context("the underlay is gone")?;
            setns(network, CloneFlags::CLONE_NEWNET).context("cannot enter the underlay")?;
            // So that its processes end with the first.
            unshare(CloneFlags::CLONE_NEWPID).context("cannot make namespaces")?;
        }
    }
    let (ready, tell) = nix::unistd::pipe()?;
    // SAFETY: one thread; the child goes on as any process.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(tell);
            if nix::unistd::read(&ready, &mut [0])? != 1 {
                bail!("the host's first process failed");
            }
            println!("{child}");
            Ok(())
        }
        ForkResult::Child => {
            drop(ready);
            nix::unistd::setsid()?;
            match spec {
                Spec::Namespaces { hostname } => {
                    prepare(&hostname)?;
                    leave_alone(tell)?;
                    reap()
                }
                Spec::Machine { machine, .. } => heddle_vm::host::run(&machine, || leave_alone(tell)),
            }
        }
    }
}

/// Tells whoever waits that the host is there, and holds nothing of theirs any more.
fn leave_alone(tell: OwnedFd) -> Result<()> {
    nix::unistd::write(&tell, b"1")?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    Ok(())
}

fn prepare(hostname: &str) -> Result<()> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none)?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none)?;
    let (groups, kept) = ("/sys/fs/cgroup", "/run/cgroup");
    let has_groups = Path::new(groups).is_dir();
    if has_groups {
        std::fs::create_dir(kept)?;
        mount(Some(groups), kept, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    }
    // This network namespace's own links are to be seen there; control groups are the machine's.
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none)?;
    if has_groups {
        mount(Some(kept), groups, none, MsFlags::MS_MOVE, none)?;
        std::fs::remove_dir(kept)?;
    }
    sethostname(hostname)?;
    Ok(())
}

/// Pid 1: takes in orphans until it is killed.
fn reap() -> ! {
    loop {
        match waitpid(None, None) {
            Err(nix::errno::Errno::ECHILD) => std::thread::sleep(std::time::Duration::from_millis(50)),
            _ => continue,
        }
    }
}

/// Runs a command on the host and returns its exit code. Must run while the process has one thread.
pub fn enter(host: &Host, command: &[String], background: Option<&Path>) -> Result<i32> {
    if !host.is_alive() {
        bail!("host {} is not running: `heddle lab start {}`", host.name, host.name);
    }
    if let Some(folder) = &host.machine {
        return machine::exec(folder, command, background);
    }
    // The host sees the same files, so the path holds there too.
    let own = super::this_program()?;
    let log = background.map(|path| File::options().create(true).append(true).open(path)).transpose()?;
    let spaces = ["ipc", "uts", "net", "pid", "mnt"];
    let files: Vec<File> = spaces
        .iter()
        .map(|s| File::open(format!("/proc/{}/ns/{s}", host.pid)))
        .collect::<std::io::Result<_>>()
        .with_context(|| format!("host {} cannot be entered", host.name))?;
    let directory = std::env::current_dir().ok();
    for file in files {
        setns(file, CloneFlags::empty())?;
    }
    let program = command.first().map_or("", String::as_str);
    let mut child = match program {
        "heddle" => Command::new(own),
        other => Command::new(other),
    };
    child.arg0(program).args(&command[1..]).current_dir(directory.as_deref().unwrap_or(Path::new("/")));
    match log {
        None => {
            let status = child.status().with_context(|| format!("cannot run {program:?}"))?;
            Ok(status.code().or(status.signal().map(|s| 128 + s)).unwrap_or(1))
        }
        Some(log) => {
            child.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
            child.spawn().with_context(|| format!("cannot run {program:?}"))?;
            Ok(0)
        }
    }
}
