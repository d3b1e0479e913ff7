//! A test in a machine of its own, on Debian's kernel, for what this machine's kernel lacks.
//!
//! ```text
//! Vm ─┬─> kernel     apt's package, unpacked; which modules load in which order
//!     ├─> initramfs  busybox, tools, programs with their libraries, the Order ──────────┐
//!     └─> machine    qemu, emulating: no KVM is needed, nor a disk, nor a network       │
//!           console, ports stdout, stderr, report <── guest: mounts, modules, program <─┘
//! ```
//!
//! A test runs itself inside:
//!
//! ```no_run
//! # use heddle_cluster_tests::vm;
//! #[test]
//! fn links() {
//!     if vm::skipped() || vm::ran_inside("links", &["ipvlan"], &["ip"]) {
//!         return;
//!     }
//!     // Here is a kernel with ipvlan, and nobody else's links.
//! }
//! ```

mod cache;
pub mod guest;
mod initramfs;
mod kernel;
mod machine;

pub use guest::Ended;

use crate::program;
use anyhow::{Context, Result, bail};
use guest::Report;
use initramfs::Tree;
use kernel::Kernel;
use machine::{Machine, Shape};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Set inside the machine.
const INSIDE: &str = "HEDDLE_IN_VM";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What the harness itself calls.
const PROGRAMS: [&str; 8] = ["qemu-system-x86_64", "busybox", "depmod", "setpriv", "strip", "ldd", "dpkg", "apt-get"];
/// The drivers of the ports.
const PORTS: [&str; 2] = ["virtio_pci", "virtio_console"];

/// What Heddle's data plane asks of a kernel.
pub const DATA_PLANE: [&str; 20] = [
    "veth",
    "bridge",
    "br_netfilter",
    "vxlan",
    "nf_tables",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nft_chain_nat",
    "nft_ct",
    "nft_fib_inet",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_hash",
    "nft_limit",
    "nft_log",
    "nft_masq",
    "nft_nat",
    "nft_numgen",
    "nft_redir",
    "nft_reject_inet",
];
/// What its balancer asks for, if it is to be IPVS, and the other schedulers.
pub const IPVS: [&str; 5] = ["ip_vs", "ip_vs_rr", "ip_vs_wrr", "ip_vs_lc", "ip_vs_mh"];
/// What Heddle and the tests of it call.
pub const TOOLS: [&str; 4] = ["nft", "ip", "nsenter", "unshare"];

/// What the first process of the guest is to do.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Order {
    /// Files, in the order of loading.
    modules: Vec<String>,
    command: Vec<String>,
    env: BTreeMap<String, String>,
}

/// A machine that runs one program.
pub struct Vm {
    name: String,
    modules: Vec<String>,
    tools: Vec<String>,
    files: Vec<(PathBuf, PathBuf)>,
    programs: Vec<(PathBuf, PathBuf)>,
    command: Vec<String>,
    env: BTreeMap<String, String>,
    memory_mib: u32,
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
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            modules: PORTS.map(str::to_owned).into(),
            tools: Vec::new(),
            files: Vec::new(),
            programs: Vec::new(),
            command: Vec::new(),
            env: BTreeMap::from([("PATH".into(), PATH.into()), ("HOME".into(), "/root".into())]),
            memory_mib: 768,
            limit: Duration::from_secs(120),
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

    /// From qemu's start, on this machine's clock.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// An error tells what the console and the program said last.
    pub fn run(&self) -> Result<Output> {
        let kernel = Kernel::fetch()?;
        let _lock = cache::lock(&self.name)?;
        let folder = cache::dir()?.join(&self.name);
        fs::create_dir_all(&folder)?;
        let initramfs = self.initramfs(&kernel, &folder)?;
        let shape = Shape { kernel: &kernel.image, initramfs: &initramfs, memory_mib: self.memory_mib };
        let start = Instant::now();
        let mut machine = Machine::boot(&shape, &folder)?;
        let ended = machine.wait(self.limit)?;
        let text = |port| machine.port(port).map(|t| String::from_utf8_lossy(&t).into_owned());
        let (stdout, stderr) = (text(guest::STDOUT)?, text(guest::STDERR)?);
        let why = match ended {
            None => format!("is not done after {:?}", self.limit),
            Some(status) => format!("ended ({status}) without a report"),
        };
        let report: Option<Report> = serde_json::from_slice(&machine.port(guest::REPORT)?).ok();
        let Some(report) = report.filter(|_| ended.is_some()) else {
            bail!("the machine {} {why}\n{stdout}{stderr}---- console\n{}", self.name, machine.last_words());
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

    /// Writes it anew only if something has changed.
    fn initramfs(&self, kernel: &Kernel, folder: &Path) -> Result<PathBuf> {
        let mut tree = Tree::new()?;
        tree.program(&init()?, Path::new("/init"))?;
        let mut order = Order { command: self.command.clone(), env: self.env.clone(), ..Order::default() };
        for (host, path) in kernel.modules(&self.modules)? {
            let guest = format!("/lib/modules/{}/{path}", kernel.release);
            tree.copy(&host, Path::new(&guest))?;
            order.modules.push(guest);
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
        tree.text(guest::ORDER, &serde_json::to_string(&order)?);
        let (archive, inputs) = (folder.join("initramfs"), folder.join("inputs"));
        let wanted = tree.inputs()?;
        if !archive.exists() || fs::read_to_string(&inputs).ok().as_ref() != Some(&wanted) {
            let _ = fs::remove_file(&inputs);
            tree.write(&archive)?;
            fs::write(&inputs, wanted)?;
        }
        Ok(archive)
    }
}

/// The guest's first process, which cargo puts beside the program under test.
fn init() -> Result<PathBuf> {
    let init = std::env::current_exe()?.ancestors().nth(2).map(|p| p.join("heddle-vm-init"));
    init.filter(|i| i.exists()).context("heddle-vm-init is missing: run `cargo build --workspace` first")
}

/// True: the test should end, since it cannot be run here. With `REQUIRE` set, that is a failure.
pub fn skipped() -> bool {
    if inside() {
        return false;
    }
    let missing = PROGRAMS.into_iter().find(|p| initramfs::which(p).is_none());
    let Some(missing) = missing else { return crate::skipped() };
    assert!(std::env::var_os("REQUIRE").is_none(), "REQUIRE is set and this needs {missing}: run scripts/prepare");
    println!("SKIPPED: {missing}");
    true
}

/// Whether this process runs in such a machine.
pub fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// A machine whose program is this test alone, with the program under test where the test looks for it.
pub fn of_this_test(test: &str) -> Vm {
    let own = std::env::current_exe().expect("a test knows its own path");
    Vm::new(test)
        .binary(own, "/target/debug/deps/test")
        .binary(program(), "/target/debug/heddle")
        .command(&["/target/debug/deps/test", "--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .env("REQUIRE", "1")
        .env("RUST_BACKTRACE", "0")
}

/// Called first in the test of this name. Outside: boots a machine with these modules and tools, has the test run in
/// it, fails as it fails, and is true: the test is over. Inside: false.
pub fn ran_inside(test: &str, modules: &[&str], tools: &[&str]) -> bool {
    ran_in(test, |vm| vm.modules(modules).tools(tools))
}

/// The same with a machine that is changed first: its memory, its deadline, more files.
pub fn ran_in(test: &str, change: impl FnOnce(Vm) -> Vm) -> bool {
    if inside() {
        return false;
    }
    let output = change(of_this_test(test)).run().unwrap_or_else(|e| panic!("{e:#}"));
    println!("{}{}", output.stdout, output.stderr);
    println!(
        "{test}: kernel {}, booted in {:.1?}, {:.1?} in all, initramfs of {} MB",
        output.release,
        output.booted,
        output.took,
        output.initramfs_bytes / 1_000_000
    );
    assert_eq!(output.ended, Ended::Exit(0), "{test} failed in the machine");
    // A name that no test has would pass as well.
    assert!(output.stdout.contains("test result: ok. 1 passed"), "no test is called {test}");
    true
}
