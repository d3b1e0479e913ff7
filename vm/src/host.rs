//! A machine that is a host until it is killed: a disk that outlives it, a cable, a channel.

use crate::{
    Cache, DATA_PLANE, PROGRAM, TOOLS,
    channel::mux::{self, Door},
    guest::{self, Job, Order},
    initramfs::Tree,
    kernel::Kernel,
    machine::{self, Clock, Machine, Shape},
};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::{
    collections::hash_map::DefaultHasher,
    fs::{self, File},
    hash::{Hash, Hasher},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tokio::net::UnixListener;

/// What a host needs beside what every machine is made with, and the Debian packages that have it.
pub const PROGRAMS: [(&str, &str); 5] = [
    ("mke2fs", "e2fsprogs"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
];
/// Where the machine has its daemon's socket.
pub const DAEMON_SOCKET: &str = "/run/heddle/heddle.sock";
/// Loaded at boot: drivers of what the machine is made of.
const DRIVERS: [&str; 4] = ["virtio_pci", "virtio_console", "virtio_net", "virtio_blk"];
/// There to be loaded by whoever asks for them, as on any Debian host.
const MODULES: [&str; 55] = [
    "ipvlan",
    "macvlan",
    "macvtap",
    "8021q",
    "dummy",
    "bonding",
    "tun",
    "wireguard",
    "ip_vs",
    "ip_vs_rr",
    "ip_vs_wrr",
    "ip_vs_lc",
    "ip_vs_wlc",
    "ip_vs_sh",
    "ip_vs_dh",
    "ip_vs_mh",
    "sch_netem",
    "sch_ingress",
    "sch_htb",
    "cls_u32",
    "cls_flower",
    "cls_matchall",
    "act_mirred",
    "tcp_diag",
    "udp_diag",
    "ip_tables",
    "ip6_tables",
    "iptable_filter",
    "iptable_nat",
    "iptable_mangle",
    "iptable_raw",
    "ip6table_filter",
    "ip6table_nat",
    "nft_compat",
    "nft_objref",
    "nft_quota",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "nft_meta_bridge",
    "nft_reject_bridge",
    "nft_dup_netdev",
    "nft_fwd_netdev",
    "nft_fib_netdev",
    "xt_conntrack",
    "xt_addrtype",
    "xt_MASQUERADE",
    "xt_nat",
    "xt_mark",
    "xt_comment",
    "xt_tcpudp",
    "xt_multiport",
    "xt_LOG",
    "xt_ipvs",
    "xt_connmark",
    "xt_bpf",
];
const DISK_MIB: u64 = 1024;
const LEAST_MIB: u32 = 256;

/// What hosts boot from.
#[derive(Debug)]
pub struct Image {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
}

impl Image {
    /// Memory that a host has unless somebody says otherwise. While it boots, the archive is there twice, and its files take
    /// at most half of what the kernel leaves.
    pub fn memory_mib(&self) -> Result<u32> {
        let bytes = fs::metadata(&self.initramfs).with_context(|| self.initramfs.display().to_string())?.len();
        Ok(u32::try_from(4 * bytes.div_ceil(1 << 20))?.max(LEAST_MIB))
    }

    /// From the cache as far as nothing has changed. `heddle` is the program, `tools` further ones of this machine's `PATH`.
    pub fn prepare(cache: &Cache, heddle: &Path, tools: &[String]) -> Result<Self> {
        let kernel = Kernel::fetch(cache)?;
        // One for each program and set of tools, so that two who take turns do not write it anew each time.
        let mut hasher = DefaultHasher::new();
        (heddle, tools).hash(&mut hasher);
        let name = format!("host-{:016x}", hasher.finish());
        let _lock = cache.lock(&name)?;
        let initramfs = initramfs(cache, &kernel, heddle, tools)?.archive(&cache.folder(&name)?)?;
        Ok(Self { kernel: kernel.image, initramfs })
    }
}

fn initramfs<'a>(cache: &'a Cache, kernel: &Kernel, heddle: &Path, tools: &[String]) -> Result<Tree<'a>> {
    let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let mut tree = Tree::new(cache)?;
    tree.program(heddle, Path::new(PROGRAM))?;
    let folder = kernel.guest_folder();
    let all = kernel.modules(&owned(&[&DRIVERS[..], &DATA_PLANE, &MODULES].concat()))?;
    for (host, path) in &all {
        tree.copy(host, &folder.join(path))?;
    }
    for (name, text) in kernel.indexes(&all)? {
        tree.text(&folder.join(name), &text);
    }
    // The kernel asks for this one, and by this path (kernel.modprobe).
    tree.link(Path::new("/usr/sbin/modprobe"), "/bin/busybox");
    for tool in owned(&TOOLS).iter().chain(tools) {
        tree.tool(tool)?;
    }
    // It comes with ip.
    tree.tool("bridge")?;
    let modules = kernel.modules(&owned(&DRIVERS))?;
    let modules = modules.into_iter().map(|(_, path)| folder.join(path).display().to_string()).collect();
    tree.order(&Order { modules, job: Job::Serve })?;
    Ok(tree)
}

/// An empty disk that takes no more of this machine's than is written to it.
pub fn make_disk(path: &Path) -> Result<()> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    file.set_len(DISK_MIB << 20)?;
    let made = Command::new("mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(path).output().context("mke2fs")?;
    ensure!(made.status.success(), "mke2fs {}: {}", path.display(), String::from_utf8_lossy(&made.stderr).trim());
    Ok(())
}

/// One host's machine.
#[derive(Debug, Serialize, Deserialize)]
pub struct Spec {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    pub memory_mib: u32,
    pub disk: PathBuf,
    /// A tap in this network namespace.
    pub tap: String,
    pub mac: String,
    /// Where its sockets are, and what its console writes.
    pub folder: PathBuf,
}

/// Commands of [`crate::channel::exec`].
pub fn exec_socket(folder: &Path) -> PathBuf {
    folder.join("exec.sock")
}

/// The machine's daemon, as it has its socket.
pub fn daemon_socket(folder: &Path) -> PathBuf {
    folder.join("heddle.sock")
}

/// What tells why it does not answer.
pub fn last_words(folder: &Path) -> String {
    machine::last_words(folder)
}

/// Starts the machine and carries its channel until it ends. `ready` is called when its sockets are there: it boots yet,
/// but who connects needs only wait.
pub fn run(spec: &Spec, ready: impl FnOnce() -> Result<()>) -> Result<()> {
    fs::create_dir_all(&spec.folder)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let doors = [(Door::Exec, exec_socket(&spec.folder)), (Door::Daemon, daemon_socket(&spec.folder))].map(
            |(door, path)| {
                // Of a machine that was killed.
                let _ = fs::remove_file(&path);
                UnixListener::bind(&path).map(|listener| (door, listener)).with_context(|| path.display().to_string())
            },
        );
        let doors = doors.into_iter().collect::<Result<Vec<_>>>()?;
        let (ours, theirs) = UnixStream::pair()?;
        let shape =
            Shape { kernel: &spec.kernel, initramfs: &spec.initramfs, memory_mib: spec.memory_mib, clock: Clock::Wall };
        let _machine = Machine::boot(&shape, &spec.folder, &devices(spec), Stdio::from(OwnedFd::from(theirs)))?;
        ready()?;
        // It is at an end when qemu is.
        mux::carry(ours, doors).await
    })
}

fn devices(spec: &Spec) -> Vec<String> {
    let (port, disk) = (guest::CHANNEL, machine::value(&spec.disk));
    let list = [
        // Its standard input is the channel's socket: a descriptor that needs no name.
        "-chardev",
        &format!("socket,id={port},fd=0"),
        "-device",
        &format!("virtserialport,chardev={port},name={port}"),
        // What the guest has flushed is in this machine's memory, which outlives qemu.
        "-drive",
        &format!("file={disk},if=virtio,format=raw,cache=unsafe"),
        "-netdev",
        &format!("tap,id=cable,ifname={},script=no,downscript=no", spec.tap),
        "-device",
        &format!("virtio-net-pci,netdev=cable,mac={},romfile=", spec.mac),
    ];
    list.map(str::to_owned).into()
}
