//! The first process inside the machine, `heddle vm-init`: prepares it, runs one program or serves a host's channel, reports
//! how that ended, switches off.

use crate::{PATH, PROGRAM, channel::mux, host::DAEMON_SOCKET};
use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        reboot::{RebootMode, reboot},
        signal::{Signal, kill},
        stat::{Mode, SFlag, makedev, mknod},
        wait::{WaitStatus, wait, waitpid},
    },
    unistd::{Pid, chdir, chroot, sethostname},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::{fs::symlink, net::UnixStream},
    },
    process::{Command, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Names of the ports by which the guest answers, each a file on the other side.
pub const STDOUT: &str = "stdout";
pub const STDERR: &str = "stderr";
pub const REPORT: &str = "report";
/// The port of a host's channel, whose other side is a socket.
pub const CHANNEL: &str = "channel";
/// Where the guest finds its [`Order`].
pub const ORDER: &str = "/vm/order.json";

/// A port appears soon after its driver is loaded, or never.
const PORT_LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);
const NONE: Option<&str> = None;

/// What the first process is to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// Files, in the order of loading.
    pub modules: Vec<String>,
    pub job: Job,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Job {
    Run {
        command: Vec<String>,
        env: BTreeMap<String, String>,
    },
    /// `heddle vm-agent`, for as long as the machine runs.
    Serve,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// How long the kernel had run when the program was started.
    pub booted: Duration,
    pub ended: Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    Exit(i32),
    Signal(i32),
}

pub fn main() -> ! {
    // What goes wrong before the ports are open is to be read on the console, and by the missing report.
    if let Err(e) = life() {
        eprintln!("init: {e:#}");
    }
    let Err(e): Result<Infallible, _> = reboot(RebootMode::RB_POWER_OFF);
    // The kernel panics when its first process ends, and qemu ends with it.
    panic!("power off: {e}");
}

fn life() -> Result<()> {
    let order: Order = serde_json::from_slice(&fs::read(ORDER)?)?;
    mounts().context("mounts")?;
    for module in &order.modules {
        let file = File::open(module).with_context(|| module.clone())?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => Err(e).with_context(|| module.clone())?,
        }
    }
    sethostname("vm")?;
    let status = Command::new("/bin/busybox").args(["ip", "link", "set", "lo", "up"]).status()?;
    ensure!(status.success(), "lo: {status}");
    match order.job {
        Job::Run { command, env } => {
            let write = || File::options().write(true).clone();
            let (out, err) = (port(STDOUT, &write())?, port(STDERR, &write())?);
            let mut report = port(REPORT, &write())?;
            let answer = run(&command, &env, out, err)?;
            report.write_all(&serde_json::to_vec(&answer)?)?;
            Ok(())
        }
        Job::Serve => {
            let mut command = Command::new(PROGRAM);
            command.arg("vm-agent").env_clear().env("PATH", PATH).env("HOME", "/root").current_dir("/root");
            let agent = command.spawn().context(PROGRAM)?;
            let ended = reap(Pid::from_raw(i32::try_from(agent.id())?))?;
            bail!("the channel's agent ended: {ended:?}");
        }
    }
}

/// `heddle vm-agent`: a host's end of the channel, for as long as the other end is there.
pub fn agent() -> Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    let port = channel()?;
    copy(Box::new(port.try_clone()?), theirs.try_clone()?);
    copy(Box::new(theirs), port);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(mux::serve(ours, DAEMON_SOCKET.into()))
}

fn channel() -> Result<File> {
    let port = port(CHANNEL, File::options().read(true).write(true))?;
    // Until the driver has heard of the other end, it takes it for gone.
    let start = Instant::now();
    loop {
        let mut fds = [PollFd::new(port.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fds, PollTimeout::try_from(PORT_LIMIT)?)?;
        if !fds[0].revents().is_some_and(|seen| seen.contains(PollFlags::POLLHUP)) {
            return Ok(port);
        }
        ensure!(start.elapsed() < PORT_LIMIT, "nobody is at the other end of the channel");
        std::thread::sleep(PAUSE);
    }
}

/// As systemd leaves them.
fn mounts() -> Result<()> {
    // The kernel's first root cannot be pivoted away from: what stands on it can.
    mount(Some("/"), "/mnt", NONE, MsFlags::MS_BIND, NONE)?;
    chdir("/mnt")?;
    mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE)?;
    chroot(".")?;
    chdir("/")?;
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("devpts", "/dev/pts"),
        ("tmpfs", "/dev/shm"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/var"),
        ("cgroup2", "/sys/fs/cgroup"),
    ] {
        fs::create_dir_all(at)?;
        mount(Some(kind), at, Some(kind), MsFlags::empty(), NONE).with_context(|| at.to_owned())?;
    }
    for (link, target) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        symlink(format!("/proc/self/fd{target}"), format!("/dev/{link}"))?;
    }
    // Whoever opens it has its module loaded.
    fs::create_dir_all("/dev/net")?;
    mknod("/dev/net/tun", SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(10, 200)).context("/dev/net/tun")?;
    mount(NONE, "/", NONE, MsFlags::MS_SHARED | MsFlags::MS_REC, NONE)?;
    for folder in ["/var/lib", "/var/log", "/var/tmp", "/run/lock"] {
        fs::create_dir_all(folder)?;
    }
    Ok(())
}

fn port(name: &str, how: &OpenOptions) -> Result<File> {
    let start = Instant::now();
    loop {
        for port in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            let named = fs::read_to_string(port.path().join("name")).unwrap_or_default();
            if named.trim() == name {
                let device = format!("/dev/{}", port.file_name().to_string_lossy());
                return how.open(&device).context(device);
            }
        }
        ensure!(start.elapsed() < PORT_LIMIT, "no virtio port is called {name}");
        std::thread::sleep(PAUSE);
    }
}

/// The ports are written here and not by the program: they can be opened only once, which /dev/stdout would do again.
fn run(command: &[String], env: &BTreeMap<String, String>, out: File, err: File) -> Result<Report> {
    let (program, args) = command.split_first().context("the order names no program")?;
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(env).current_dir("/root").stdin(Stdio::null());
    let booted = booted()?;
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.with_context(|| program.clone())?;
    let main = Pid::from_raw(i32::try_from(child.id())?);
    let stdout = child.stdout.take().context("stdout is a pipe")?;
    let stderr = child.stderr.take().context("stderr is a pipe")?;
    let copies = [copy(Box::new(stdout), out), copy(Box::new(stderr), err)];
    let ended = reap(main)?;
    // What the program left behind may hold its output open.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    while waitpid(None, None).is_ok() {}
    for copy in copies {
        copy.join().ok().context("the output's thread panicked")?.context("the output")?;
    }
    Ok(Report { booted, ended })
}

/// Of a reader of unknown type, since of a pipe `io::copy` would make a splice(2), whose bytes the port's driver loses.
fn copy(mut from: Box<dyn Read + Send>, mut to: impl Write + Send + 'static) -> JoinHandle<io::Result<u64>> {
    std::thread::spawn(move || io::copy(&mut from, &mut to))
}

/// The first process inherits every orphan.
fn reap(main: Pid) -> Result<Ended> {
    loop {
        match wait()? {
            WaitStatus::Exited(pid, code) if pid == main => return Ok(Ended::Exit(code)),
            WaitStatus::Signaled(pid, signal, _) if pid == main => return Ok(Ended::Signal(signal as i32)),
            _ => {}
        }
    }
}

fn booted() -> Result<Duration> {
    let uptime = fs::read_to_string("/proc/uptime")?;
    let seconds = uptime.split_whitespace().next().context("/proc/uptime is empty")?;
    Ok(Duration::from_secs_f64(seconds.parse()?))
}
