//! A machine that runs one program and ends with it.

use crate::{
    Cache, PATH, PROGRAM,
    guest::{self, Ended, Job, Order, Report},
    initramfs::Tree,
    kernel::Kernel,
    machine::{self, Clock, Machine, Shape},
};
use anyhow::{Result, bail};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

/// The drivers of the ports.
const PORTS: [&str; 2] = ["virtio_pci", "virtio_console"];

pub struct Vm {
    cache: Cache,
    /// Heddle's own, whose part the first process is.
    heddle: PathBuf,
    name: String,
    modules: Vec<String>,
    tools: Vec<String>,
    files: Vec<(PathBuf, PathBuf)>,
    programs: Vec<(PathBuf, PathBuf)>,
    links: Vec<(PathBuf, String)>,
    command: Vec<String>,
    env: BTreeMap<String, String>,
    memory_mib: u32,
    clock: Clock,
    limit: Duration,
}

#[derive(Debug)]
pub struct Output {
    pub ended: Ended,
    pub stdout: String,
    pub stderr: String,
    /// `uname -r` of the guest.
    pub release: String,
    /// From the kernel's start to the program's, on the guest's clock.
    pub booted: Duration,
    /// From qemu's start to its end.
    pub took: Duration,
    pub initramfs_bytes: u64,
}

impl Vm {
    /// Two of one name run one after the other.
    pub fn new(cache: Cache, heddle: impl Into<PathBuf>, name: &str) -> Self {
        Self {
            cache,
            heddle: heddle.into(),
            name: name.to_owned(),
            modules: PORTS.map(str::to_owned).into(),
            tools: Vec::new(),
            files: Vec::new(),
            programs: Vec::new(),
            links: Vec::new(),
            command: Vec::new(),
            env: BTreeMap::from([("PATH".into(), PATH.into()), ("HOME".into(), "/root".into())]),
            memory_mib: 768,
            clock: Clock::Instructions { shift: 0 },
            limit: Duration::from_secs(900),
        }
    }

    /// Loaded before the program starts, with all that they need.
    pub fn modules(mut self, names: &[&str]) -> Self {
        self.modules.extend(names.iter().map(|n| (*n).to_owned()));
        self
    }

    /// Programs of this machine's `PATH` that replace busybox's commands of the same name.
    pub fn tools(mut self, names: &[&str]) -> Self {
        self.tools.extend(names.iter().map(|n| (*n).to_owned()));
        self
    }

    /// A file or a folder of this machine.
    pub fn file(mut self, host: impl Into<PathBuf>, guest: impl Into<PathBuf>) -> Self {
        self.files.push((host.into(), guest.into()));
        self
    }

    /// A program of this machine with its libraries, without its symbols.
    pub fn binary(mut self, host: impl Into<PathBuf>, guest: impl Into<PathBuf>) -> Self {
        self.programs.push((host.into(), guest.into()));
        self
    }

    /// A symbolic link in the guest.
    pub fn link(mut self, guest: impl Into<PathBuf>, target: &str) -> Self {
        self.links.push((guest.into(), target.to_owned()));
        self
    }

    /// What runs, by its path or name in the guest.
    pub fn command(mut self, command: &[&str]) -> Self {
        self.command = command.iter().map(|n| (*n).to_owned()).collect();
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn memory_mib(mut self, memory: u32) -> Self {
        self.memory_mib = memory;
        self
    }

    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// From qemu's start, on this machine's clock.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// An error tells what the console and the program said last.
    pub fn run(&self) -> Result<Output> {
        let kernel = Kernel::fetch(&self.cache)?;
        let _lock = self.cache.lock(&self.name)?;
        let folder = self.cache.folder(&self.name)?;
        let initramfs = self.initramfs(&kernel, &folder)?;
        let (memory_mib, clock) = (self.memory_mib, self.clock);
        let shape = Shape { kernel: &kernel.image, initramfs: &initramfs, memory_mib, clock };
        let start = Instant::now();
        let mut machine = Machine::boot(&shape, &folder, &ports(&folder), Stdio::null())?;
        let ended = machine.wait(self.limit)?;
        let text = |port| machine.port(port).map(|t| String::from_utf8_lossy(&t).into_owned());
        let (stdout, stderr) = (text(guest::STDOUT)?, text(guest::STDERR)?);
        let why = match ended {
            None => format!("is not done after {:?}", self.limit),
            Some(status) => format!("ended ({status}) without a report"),
        };
        let report: Option<Report> = serde_json::from_slice(&machine.port(guest::REPORT)?).ok();
        let Some(report) = report.filter(|_| ended.is_some()) else {
            let last = machine::last_words(&folder);
            bail!("the machine {} {why}\n{stdout}{stderr}---- console\n{last}", self.name);
        };
        Ok(Output {
            ended: report.ended,
            stdout,
            stderr,
            release: kernel.release,
            booted: report.booted,
            took: start.elapsed(),
            initramfs_bytes: fs::metadata(&initramfs)?.len(),
        })
    }

    fn initramfs(&self, kernel: &Kernel, folder: &Path) -> Result<PathBuf> {
        let mut tree = Tree::new(&self.cache)?;
        tree.program(&self.heddle, Path::new(PROGRAM))?;
        let mut modules = Vec::new();
        for (host, path) in kernel.modules(&self.modules)? {
            let guest = kernel.guest_folder().join(path);
            tree.copy(&host, &guest)?;
            modules.push(guest.display().to_string());
        }
        for tool in &self.tools {
            tree.tool(tool)?;
        }
        for (host, guest) in &self.files {
            tree.copy(host, guest)?;
        }
        for (host, guest) in &self.programs {
            tree.program(host, guest)?;
        }
        for (guest, target) in &self.links {
            tree.link(guest, target);
        }
        let job = Job::Run { command: self.command.clone(), env: self.env.clone() };
        tree.order(&Order { modules, job })?;
        tree.archive(folder)
    }
}

/// Each is a file in the folder.
fn ports(folder: &Path) -> Vec<String> {
    let device = |port: &str| {
        let file = format!("file,id={port},path={}", machine::value(&folder.join(port)));
        ["-chardev".into(), file, "-device".into(), format!("virtserialport,chardev={port},name={port}")]
    };
    [guest::STDOUT, guest::STDERR, guest::REPORT].into_iter().flat_map(device).collect()
}
