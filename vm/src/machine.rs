//! One qemu process: an emulated processor, memory, a console, and what devices its user adds.

use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};
use wait_timeout::ChildExt;

/// Ends with the value.
pub struct Machine {
    qemu: Child,
    folder: PathBuf,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// Counts instructions, one for each `1 << shift` nanoseconds, and skips what the processor would sleep. So a slow or
    /// busy machine makes the guest late for nothing: heartbeats come in time, and a wait costs nothing. It has one
    /// processor, since qemu counts in one thread.
    Instructions { shift: u8 },
    /// Goes as everybody's, for a guest that talks to others.
    Wall,
}

pub struct Shape<'a> {
    pub kernel: &'a Path,
    pub initramfs: &'a Path,
    pub memory_mib: u32,
    pub clock: Clock,
}

/// For translated code, all of which is taken in time; when it is full, qemu translates everything anew. While a cluster
/// forms and starts a service, a debug build of Heddle fills 96 MiB nine times, and 200 twice.
const TRANSLATED_MIB: u32 = 512;
/// All that qemu can emulate, but for the instructions that move strings: kernels think them fast and clear each page with
/// one, and qemu emulates them a byte at a time.
const PROCESSOR: &str = "max,erms=off,fsrm=off";

impl Machine {
    /// What the devices and the console write is in the folder.
    pub fn boot(shape: &Shape, folder: &Path, devices: &[String], stdin: Stdio) -> Result<Self> {
        // It ends with the thread that started it, even if that is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot"]);
        command.args(["-display", "none", "-cpu", PROCESSOR, "-m", &shape.memory_mib.to_string()]);
        command.args(["-accel", &format!("tcg,tb-size={TRANSLATED_MIB}")]);
        match shape.clock {
            Clock::Instructions { shift } => {
                command.args(["-icount", &format!("shift={shift},align=off,sleep=off"), "-rtc", "clock=vm"])
            }
            Clock::Wall => command.args(["-rtc", "base=utc,clock=host"]),
        };
        command.arg("-kernel").arg(shape.kernel).arg("-initrd").arg(shape.initramfs);
        // What follows the dashes is for the first process.
        command.args(["-append", "console=ttyS0 loglevel=4 panic=-1 random.trust_cpu=on -- vm-init"]);
        command.args(["-serial", &format!("file:{}", value(&folder.join("console")))]);
        command.args(["-device", "virtio-serial-pci"]).args(devices);
        let log = fs::File::create(folder.join("qemu"))?;
        command.stdin(stdin).stdout(log.try_clone()?).stderr(log);
        let qemu = command.spawn().context("setpriv")?;
        Ok(Self { qemu, folder: folder.to_owned() })
    }

    /// None: it still runs.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        Ok(self.qemu.wait_timeout(limit)?)
    }

    /// What the guest wrote to a port so far.
    pub fn port(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.folder.join(name);
        fs::read(&path).with_context(|| path.display().to_string())
    }
}

/// What tells why a machine does not answer: qemu's own words, and the end of the console.
pub fn last_words(folder: &Path) -> String {
    let text = |name| fs::read(folder.join(name)).map(|t| String::from_utf8_lossy(&t).into_owned()).unwrap_or_default();
    let console = text("console");
    let lines: Vec<_> = console.lines().collect();
    format!("{}{}", text("qemu"), lines[lines.len().saturating_sub(40)..].join("\n"))
}

/// A path in an option's value: qemu takes a doubled comma for one.
pub fn value(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
