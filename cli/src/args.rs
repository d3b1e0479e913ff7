//! The command line.

use crate::{
    backend::{LbBackend, Wireguard},
    commands, lab,
    output::Format,
};
use clap::{Args, Parser, Subcommand};
use std::{net::SocketAddr, path::PathBuf};

/// Swarm-style overlay networking and service routing for a few to a few hundred Linux hosts.
#[derive(Debug, Parser)]
#[command(name = "heddle", version, max_term_width = 110)]
pub struct Cli {
    /// Socket of the daemon on this host
    #[arg(long, global = true, env = "HEDDLE_SOCKET", default_value = "/run/heddle/heddle.sock")]
    pub socket: PathBuf,
    /// Answer from what this manager has itself, which may be old: for commands that only look, also without a leader
    #[arg(long, global = true)]
    pub stale: bool,
    /// Ask the cluster through its port as a user, with the files that `cluster user add` made in this directory
    #[arg(long = "as", global = true, env = "HEDDLE_AS", value_name = "DIR")]
    pub user: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon of this host
    Daemon(DaemonArgs),
    /// Make a cluster with this host as its first manager
    Init(commands::cluster::InitArgs),
    /// Show, or replace, the token that lets hosts join
    JoinToken(commands::cluster::TokenArgs),
    /// Join a cluster, as worker or manager according to the token
    Join(commands::cluster::JoinArgs),
    /// Leave the cluster: ends this host's tasks and removes everything Heddle made on it
    Leave(commands::cluster::LeaveArgs),
    /// Unlock this host's manager, which has started locked: asks for the key, or reads it from the standard input
    Unlock,
    /// Show this host's place in the cluster
    Info(FormatArgs),
    /// The cluster as a whole
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Print every change of the cluster's state, as it is agreed on
    Events(commands::events::EventsArgs),
    /// Nodes of the cluster
    #[command(subcommand)]
    Node(commands::node::NodeCommand),
    /// Run a program on this host, in namespaces of its own
    Run(Box<commands::run::RunArgs>),
    /// List the workloads, and the tasks of services, on this host
    Ps(commands::ps::PsArgs),
    /// Print what a workload has written
    Logs(commands::logs::LogsArgs),
    /// Run a further program in a running workload
    Exec(commands::exec::ExecArgs),
    /// Start workloads that have ended
    Start(commands::start::StartArgs),
    /// Stop workloads
    Stop(commands::stop::StopArgs),
    /// Wait until workloads have ended, and print their exit codes
    Wait(commands::wait::WaitArgs),
    /// Remove workloads
    Rm(commands::rm::RmArgs),
    /// Show all that is known of workloads and networks, as JSON
    Inspect(commands::inspect::InspectArgs),
    /// Networks
    #[command(subcommand)]
    Network(commands::network::NetworkCommand),
    /// Images that this host has for tasks
    #[command(subcommand)]
    Image(commands::image::ImageCommand),
    /// The encrypted tunnel between hosts
    #[command(subcommand)]
    Tunnel(commands::tunnel::TunnelCommand),
    /// Services
    #[command(subcommand)]
    Service(commands::service::ServiceCommand),
    /// Secrets: bytes that tasks have as files in memory, and that nobody can read back
    #[command(subcommand)]
    Secret(commands::payload::PayloadCommand),
    /// Configs: bytes that tasks have as files in memory
    #[command(subcommand)]
    Config(commands::payload::PayloadCommand),
    /// Logins for registries of private images
    #[command(subcommand)]
    Registry(commands::registry::RegistryCommand),
    /// Volumes: directories of this host that outlive the workloads and tasks that use them
    #[command(subcommand)]
    Volume(commands::volume::VolumeCommand),
    /// A whole cluster on this machine, for trying and testing
    #[command(subcommand)]
    Lab(lab::LabCommand),
    /// Tell what this host's kernel has and what is in the way
    Doctor(FormatArgs),
    /// A small server that says who it is and whom it sees; with --ask, its client
    Whoami(crate::whoami::WhoamiArgs),
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
    /// Write manual pages of all commands into a directory
    #[command(hide = true)]
    ManPages { dir: PathBuf },
    /// The process between a daemon and a task
    #[command(hide = true)]
    TaskShim { dir: PathBuf },
    /// Keeps what a container prints
    #[command(hide = true)]
    TaskLog { dir: PathBuf },
    /// Runs the command of a health check where a task's program runs
    #[command(hide = true)]
    TaskCheck { dir: PathBuf, command: String },
    /// What that is inside
    #[command(hide = true)]
    TaskCheckRun {
        #[arg(last = true)]
        command: String,
    },
    /// The first process of a lab's host
    #[command(hide = true)]
    LabHost { spec: PathBuf },
    /// Prints the pid of the daemon that runs beside this process, if one does
    #[command(hide = true)]
    LabDaemon,
    /// The first process of a virtual machine
    #[command(hide = true)]
    VmInit,
    /// Runs commands in a virtual machine for whoever asks from outside
    #[command(hide = true)]
    VmAgent,
}

/// What the daemon logs unless it is told otherwise.
pub const LOG: &str = "info,openraft=warn,hickory_server=warn,gotatun=warn";

#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// Where the daemon keeps its state
    #[arg(long, env = "HEDDLE_STATE_DIR", default_value = "/var/lib/heddle")]
    pub state_dir: PathBuf,
    /// What spreads connections over the tasks of a service
    #[arg(long, value_enum, env = "HEDDLE_LB_BACKEND", default_value_t)]
    pub lb_backend: LbBackend,
    /// What to log: error, warn, info, debug, trace, or a filter such as heddle_agent=debug,info
    #[arg(long, env = "HEDDLE_LOG", default_value = LOG)]
    pub log: String,
    /// Log as JSON, one object a line
    #[arg(long)]
    pub log_json: bool,
    /// Where others reach this host from now on, in place of what `init` or `join` was told: IP[:PORT] or INTERFACE[:PORT].
    /// Tunnels that end at the former address follow
    #[arg(long, env = "HEDDLE_ADVERTISE_ADDR", default_value = "", hide_default_value = true)]
    pub advertise_addr: String,
    /// Where this host's tunnels end from now on, in place of what `init` or `join` was told: IP or INTERFACE
    #[arg(long, env = "HEDDLE_DATA_PATH_ADDR", default_value = "", hide_default_value = true)]
    pub data_path_addr: String,
    /// What encrypts between hosts: the kernel's WireGuard, or one in the daemon; auto takes the kernel's if it has one
    #[arg(long, env = "HEDDLE_WIREGUARD", value_enum, default_value_t)]
    pub wireguard: Wireguard,
    /// A label of this host, for constraints on engine.labels.KEY: KEY=VALUE. In the file, a list of them
    #[arg(long, value_name = "KEY=VALUE", value_parser = commands::pair::key_value)]
    pub label: Vec<(String, String)>,
    /// What this host has besides processors and memory, for services that reserve it: NAME=COUNT, such as gpu=2
    #[arg(long, value_name = "NAME=COUNT", value_parser = commands::pair::resource)]
    pub generic_resource: Vec<(String, u64)>,
    /// The socket of containerd, which runs images where there is one
    #[arg(long, env = "HEDDLE_CONTAINERD", value_name = "SOCKET", default_value = "/run/containerd/containerd.sock")]
    pub containerd: PathBuf,
    /// Holds a directory for each registry with a hosts.toml, as containerd has them: mirrors, private CAs, plain HTTP
    #[arg(long, env = "HEDDLE_REGISTRY_HOSTS", value_name = "DIR", default_value = "/etc/containerd/certs.d")]
    pub registry_hosts: PathBuf,
    /// What makes containers from now on, by name or path: runc, crun, or another that takes the same commands [default: runc]
    #[arg(long, env = "HEDDLE_OCI_RUNTIME", value_name = "PROGRAM", value_parser = program)]
    pub oci_runtime: Option<PathBuf>,
    /// Tell numbers (/metrics, for Prometheus), /healthz and /readyz over HTTP at this IP:PORT [default: nowhere]
    #[arg(long, env = "HEDDLE_METRICS_ADDR")]
    pub metrics_addr: Option<SocketAddr>,
}

/// Where a program is that is found by name, or by path.
fn program(name: &str) -> Result<PathBuf, String> {
    which::which(name).map_err(|_| "no such program: it takes a name in PATH or the path of one that may be run".into())
}

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show how managers and nodes are, and what another loss would mean
    Status(FormatArgs),
    /// Change settings of the cluster
    Update(commands::cluster::UpdateArgs),
    /// Show, or replace, the key that managers are unlocked with while autolock is on
    UnlockKey(commands::autolock::UnlockKeyArgs),
    /// Show the root certificate that all others go back to, or put another in its place
    Ca(commands::ca::CaArgs),
    /// People who may ask the cluster through its port
    #[command(subcommand)]
    User(commands::user::UserCommand),
    /// Write all that the cluster is made of to a file, which is a secret: it has the key of the certificate authority, and is not
    /// encrypted, with autolock neither
    Backup(commands::backup::BackupArgs),
    /// Make a cluster again from a backup, with this host, which is in none, as its only manager
    Restore(commands::backup::RestoreArgs),
}

#[derive(Debug, Args)]
pub struct FormatArgs {
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}
