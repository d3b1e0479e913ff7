//! Virtual machines on Debian's kernel, emulated: no KVM is needed. Each runs one program and ends, or is a host until it is
//! killed.
//!
//! ```text
//! once ──┬─> kernel     apt's package, unpacked; which modules load in which order
//! host ──┤   initramfs  busybox, tools, programs with their libraries, the Order ───────────┐
//!        └─> machine    qemu: processor, memory, console                                   │
//!              once: no disk, no network, ports stdout, stderr, report <─┐                 │
//!              host: a disk, a cable, a channel <────────────────────────┴─ guest: mounts, modules, program
//! channel   commands in a host's machine, and its daemon's socket
//! cache     what is kept      programs   what this machine must have for all that
//! ```

mod cache;
pub mod channel;
pub mod guest;
pub mod host;
mod initramfs;
mod kernel;
mod machine;
mod once;
pub mod programs;

pub use cache::Cache;
pub use guest::Ended;
pub use machine::Clock;
pub use once::{Output, Vm};

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

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where the program of the first process is, which is Heddle's.
pub const PROGRAM: &str = "/usr/bin/heddle";
