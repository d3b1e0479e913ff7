//! One qemu process: an emulated processor, memory, a console, and ports that are files here. No disk, no network.
//!
//! The guest's clock counts instructions, one for each nanosecond, and skips what the processor would sleep. So a slow or
//! busy machine makes the guest late for nothing: heartbeats come in time, and a wait costs nothing. It has one processor,
//! since qemu counts in one thread.

use super::guest;
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

pub struct Shape<'a> {
    pub kernel: &'a Path,
    pub initramfs: &'a Path,
    pub memory_mib: u32,
}

impl Machine {
    /// The ports' files and the console's are made in the folder.
    pub fn boot(shape: &Shape, folder: &Path) -> Result<Self> {
        // It ends with the thread that started it, even if that is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot"]);
        command.args(["-display", "none", "-accel", "tcg", "-cpu", "max"]);
        command.args(["-icount", "shift=0,sleep=off", "-rtc", "clock=vm", "-m", &shape.memory_mib.to_string()]);
        command.arg("-kernel").arg(shape.kernel).arg("-initrd").arg(shape.initramfs);
        command.args(["-append", "console=ttyS0 loglevel=4 panic=-1 random.trust_cpu=on"]);
        command.arg("-serial").arg(file("file:", folder, "console"));
        command.args(["-device", "virtio-serial-pci"]);
        for port in [guest::STDOUT, guest::STDERR, guest::REPORT] {
            command.arg("-chardev").arg(file(&format!("file,id={port},path="), folder, port));
            command.args(["-device", &format!("virtserialport,chardev={port},name={port}")]);
        }
        let log = fs::File::create(folder.join("qemu"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
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

    /// What tells why there is no answer: qemu's own words, and the end of the console.
    pub fn last_words(&self) -> String {
        let text = |name| self.port(name).map(|t| String::from_utf8_lossy(&t).into_owned()).unwrap_or_default();
        let console = text("console");
        let lines: Vec<_> = console.lines().collect();
        format!("{}{}", text("qemu"), lines[lines.len().saturating_sub(40)..].join("\n"))
    }
}

/// A path in an option's value: qemu takes a doubled comma for one.
fn file(before: &str, folder: &Path, name: &str) -> String {
    format!("{before}{}", folder.join(name).display().to_string().replace(',', ",,"))
}
