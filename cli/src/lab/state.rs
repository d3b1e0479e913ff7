//! Which hosts a lab has. Kept in a file, since every command is a process of its own.

use crate::backend::LbBackend;
use anyhow::{Context, Result, anyhow, bail};
use heddle_agent::executor::remove_groups;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const RUN: &str = "/run/heddle-lab";
const STATE: &str = "/var/lib/heddle-lab";
/// Last part of the client's addresses.
pub const CLIENT: u8 = 250;
const END_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Host {
    pub name: String,
    /// manager, worker, or nothing for the client.
    pub role: String,
    /// Last part of its addresses.
    pub number: u8,
    /// Its first process. Of a virtual machine: the one that carries its channel, and ends with it.
    pub pid: i32,
    /// When that started, in clock ticks since boot.
    pub start: u64,
    /// Of a virtual machine: where its sockets are.
    pub machine: Option<PathBuf>,
}

/// How hosts are made that are virtual machines.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machines {
    pub cache: PathBuf,
    /// Programs of this machine that they have too.
    pub tools: Vec<String>,
    pub memory_mib: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Lab {
    pub name: String,
    /// None: nodes are namespaces.
    pub machines: Option<Machines>,
    pub underlay: Option<Host>,
    /// What its daemons balance with.
    pub lb_backend: LbBackend,
    pub hosts: Vec<Host>,
}

/// Fields of /proc/PID/stat after the name: state first.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

pub fn is_zombie(pid: i32) -> bool {
    stat(pid).is_none_or(|fields| fields.first().is_some_and(|s| s == "Z" || s == "X"))
}

pub fn start_time(pid: i32) -> u64 {
    stat(pid).and_then(|fields| fields.get(19)?.parse().ok()).unwrap_or(0)
}

impl Host {
    pub fn v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.number)
    }

    pub fn v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, self.number.into())
    }

    pub fn is_alive(&self) -> bool {
        !is_zombie(self.pid) && start_time(self.pid) == self.start
    }

    /// The daemon's socket, as seen from outside.
    pub fn socket(&self) -> PathBuf {
        match &self.machine {
            Some(folder) => heddle_vm::host::daemon_socket(folder),
            None => PathBuf::from(format!("/proc/{}/root/run/heddle/heddle.sock", self.pid)),
        }
    }

    /// Ends the host with everything on it, and waits until it is gone.
    pub fn kill(&self) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        kill(Pid::from_raw(self.pid), Signal::SIGKILL)?;
        let until = Instant::now() + END_LIMIT;
        while self.is_alive() {
            if Instant::now() > until {
                bail!("host {} does not end", self.name);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// The daemon's process: the one in the first process's pid namespace that runs `heddle daemon`.
pub fn daemon_pid(first: i32) -> Option<i32> {
    let space = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = space(first)?;
    let pids = fs::read_dir("/proc").ok()?.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| space(*pid).as_ref() == Some(&own)).find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|b| *b == 0).nth(1) == Some(b"daemon".as_slice()) && !is_zombie(*pid)
    })
}

impl Lab {
    fn file(name: &str) -> PathBuf {
        Path::new(RUN).join(name).join("lab.json")
    }

    pub fn create(name: &str, lb_backend: LbBackend, machines: Option<Machines>) -> Result<Self> {
        let dir = Path::new(RUN).join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        // What an earlier lab of this name may have left when the machine went down.
        let _ = fs::remove_dir_all(Path::new(STATE).join(name));
        let lab = Lab { name: name.to_owned(), machines, underlay: None, lb_backend, hosts: Vec::new() };
        lab.save()?;
        Ok(lab)
    }

    pub fn load(name: &str) -> Result<Self> {
        let none = || format!("no lab {name:?} is up: `heddle lab up` makes one");
        let bytes = fs::read(Self::file(name)).with_context(none)?;
        let lab: Lab = serde_json::from_slice(&bytes).context("the lab's file cannot be read")?;
        if lab.underlay.as_ref().is_some_and(|u| !u.is_alive()) {
            lab.destroy()?;
            bail!(none());
        }
        Ok(lab)
    }

    pub fn save(&self) -> Result<()> {
        let file = Self::file(&self.name);
        let draft = file.with_extension("new");
        fs::write(&draft, serde_json::to_vec_pretty(self)?)?;
        fs::rename(draft, file)?;
        Ok(())
    }

    pub fn host(&self, name: &str) -> Result<&Host> {
        let names = || self.hosts.iter().map(|h| h.name.as_str()).collect::<Vec<_>>().join(", ");
        self.hosts.iter().find(|h| h.name == name).ok_or_else(|| anyhow!("no host {name:?}: use one of {}", names()))
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(|h| !h.role.is_empty())
    }

    pub fn state_dir(&self, host: &str) -> PathBuf {
        Path::new(STATE).join(&self.name).join(host)
    }

    /// Of a virtual machine: what outlives it.
    pub fn disk(&self, host: &str) -> PathBuf {
        self.state_dir(host).join("disk")
    }

    pub fn run_dir(&self) -> PathBuf {
        Path::new(RUN).join(&self.name)
    }

    pub fn destroy(&self) -> Result<()> {
        let all = || self.hosts.iter().chain(&self.underlay);
        for host in all().filter(|h| h.is_alive()) {
            kill(Pid::from_raw(host.pid), Signal::SIGKILL)?;
        }
        for host in all() {
            host.kill()?;
        }
        self.hosts.iter().for_each(|host| remove_groups_of(&self.state_dir(&host.name)));
        for dir in [self.run_dir(), Path::new(STATE).join(&self.name)] {
            match fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(e).with_context(|| format!("cannot remove {}", dir.display()));
                }
                _ => {}
            }
        }
        // Only when no other lab is there.
        let _ = fs::remove_dir(RUN);
        let _ = fs::remove_dir(STATE);
        Ok(())
    }
}

/// Control groups are the machine's: those of a host's tasks outlive it when it is killed.
fn remove_groups_of(state_dir: &Path) {
    let tasks = fs::read_dir(state_dir.join("agent").join("tasks"));
    for task in tasks.into_iter().flatten().flatten() {
        remove_groups(&task.file_name().to_string_lossy());
    }
}
