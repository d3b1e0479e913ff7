//! A whole cluster on one machine. Every host is a process with namespaces of its own, joined to a bridge in a namespace of
//! its own; when the processes end, all of it is gone.
//!
//! ```text
//! underlay (pid 1, br0) ── veth ── node1 (pid 1 ─ daemon ─ tasks), node2, ..., client
//! state   which hosts there are      host   the first process of each, and entering it      net   bridge, links, cuts
//! machine   nodes that are virtual machines: a tap instead of the veth, a channel instead of entering
//! ```

mod host;
mod machine;
mod net;
mod state;

pub use host::run as run_host;

use crate::{
    args::LOG,
    backend::LbBackend,
    client::Client,
    output::{self, Format},
};
use anyhow::{Context, Result, anyhow, bail};
use clap::Subcommand;
use heddle_proto::v1;
use heddle_vm::host::Image;
use serde_json::json;
use state::{Host, Lab, Machines};
use std::{path::PathBuf, process::Command, time::Duration};

const MOST_NODES: u8 = 40;
const START_LIMIT: Duration = Duration::from_secs(20);
/// An emulated processor is slower by an order of magnitude.
const EMULATED_START_LIMIT: Duration = Duration::from_secs(120);

/// Busy with itself, it may miss three of the usual ones.
const EMULATED_HEARTBEAT_MS: u32 = 2000;

#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Make hosts node1 to nodeN with a daemon each, one cluster of them, and `client` outside of it
    Up {
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=i64::from(MOST_NODES)))]
        nodes: u8,
        /// How many of the nodes are managers
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=7))]
        managers: u8,
        /// Leave the daemons outside of any cluster
        #[arg(long)]
        bare: bool,
        /// How often nodes say that they are there [default: as in any cluster, more seldom with --vm]
        #[arg(long, hide = true, conflicts_with = "bare")]
        heartbeat_ms: Option<u32>,
        /// What the daemons balance with
        #[arg(long, value_enum, env = "HEDDLE_LB_BACKEND", default_value_t)]
        lb_backend: LbBackend,
        #[command(flatten)]
        vm: VmArgs,
        #[command(flatten)]
        lab: LabName,
    },
    /// Run a command on a host
    Exec {
        host: String,
        #[command(flatten)]
        lab: LabName,
        /// Do not wait for the command; its output goes to this file
        #[arg(long, hide = true)]
        background: Option<PathBuf>,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// List the hosts with their addresses and sockets
    Ps {
        #[arg(long, value_enum, default_value_t)]
        format: Format,
        #[command(flatten)]
        lab: LabName,
    },
    /// Cut a host's cable, or the way between two hosts (A:B)
    Cut {
        target: String,
        #[command(flatten)]
        lab: LabName,
    },
    /// Mend what was cut: everything, or one host
    Heal {
        target: Option<String>,
        #[command(flatten)]
        lab: LabName,
    },
    /// Kill a host at once with all that runs on it, or only its daemon
    Kill {
        host: String,
        /// The daemon alone; tasks go on
        #[arg(long)]
        daemon: bool,
        #[command(flatten)]
        lab: LabName,
    },
    /// Start a host, or its daemon, that was killed
    Start {
        host: String,
        /// What the daemon, and those started later, balance with [default: as before]
        #[arg(long, value_enum)]
        lb_backend: Option<LbBackend>,
        #[command(flatten)]
        lab: LabName,
    },
    /// End the lab; nothing of it is left
    Down {
        #[command(flatten)]
        lab: LabName,
    },
}

#[derive(Debug, clap::Args)]
pub struct LabName {
    /// Which lab
    #[arg(long = "name", default_value = "lab", value_parser = lab_name)]
    name: String,
}

#[derive(Debug, clap::Args)]
pub struct VmArgs {
    /// Make the nodes virtual machines on Debian's kernel, emulated by qemu: no KVM is needed
    #[arg(long)]
    vm: bool,
    /// A program of this machine that the nodes have too, such as tcpdump
    #[arg(long = "tool", value_name = "PROGRAM", requires = "vm")]
    tools: Vec<String>,
    /// Memory of each node, in MiB [default: four times what they boot from, at least 256]
    #[arg(long, requires = "vm", value_parser = clap::value_parser!(u32).range(160..=16384))]
    memory: Option<u32>,
    /// Where what the nodes boot from is kept
    #[arg(long, value_name = "DIR", env = "HEDDLE_VM_CACHE", default_value = "/var/cache/heddle/vm")]
    vm_cache: PathBuf,
}

impl VmArgs {
    /// None: the nodes are namespaces.
    fn machines(self) -> Result<Option<(Machines, Image)>> {
        let Self { vm, tools, memory, vm_cache } = self;
        if !vm {
            return Ok(None);
        }
        let mut machines = Machines { cache: vm_cache, tools, memory_mib: 0 };
        let image = machine::image(&machines)?;
        machines.memory_mib = memory.map_or_else(|| image.memory_mib(), Ok)?;
        Ok(Some((machines, image)))
    }
}

fn lab_name(text: &str) -> Result<String, String> {
    heddle_model::meta::check_name(text).map(|()| text.to_owned()).map_err(|e| e.to_string())
}

/// Runs in a process with one thread: entering a host is not possible otherwise.
pub fn run(command: LabCommand) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a lab makes namespaces and links: run the command as root");
    }
    if let LabCommand::Exec { host, lab, background, command } = command {
        let lab = Lab::load(&lab.name)?;
        let code = host::enter(lab.host(&host)?, &command, background.as_deref())?;
        std::process::exit(code);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match command {
            LabCommand::Exec { .. } => Ok(()),
            LabCommand::Up { nodes, managers, bare, heartbeat_ms, lb_backend, vm, lab } => {
                up(&lab.name, &Shape { nodes, managers, bare, heartbeat_ms, lb_backend }, vm).await
            }
            LabCommand::Ps { format, lab } => ps(&Lab::load(&lab.name)?, format).await,
            LabCommand::Cut { target, lab } => cut(&Lab::load(&lab.name)?, &target).await,
            LabCommand::Heal { target, lab } => net::heal(&Lab::load(&lab.name)?, target.as_deref()).await,
            LabCommand::Kill { host, daemon, lab } => kill(&Lab::load(&lab.name)?, &host, daemon),
            LabCommand::Start { host, lb_backend, lab } => start(&mut Lab::load(&lab.name)?, &host, lb_backend).await,
            LabCommand::Down { lab } => down(&lab.name),
        }
    })
}

struct Shape {
    nodes: u8,
    managers: u8,
    bare: bool,
    heartbeat_ms: Option<u32>,
    lb_backend: LbBackend,
}

async fn up(name: &str, shape: &Shape, vm: VmArgs) -> Result<()> {
    let Shape { nodes, managers, .. } = *shape;
    if managers > nodes {
        bail!("--managers {managers}: use at most the number of nodes, {nodes}");
    }
    if Lab::load(name).is_ok() {
        bail!("lab {name:?} is up already: `heddle lab down` ends it");
    }
    // Before anything is made.
    let (machines, image) = vm.machines()?.unzip();
    let mut lab = Lab::create(name, shape.lb_backend, machines)?;
    let made = build(&mut lab, shape, image.as_ref()).await;
    if let Err(e) = made {
        let _ = lab.destroy();
        return Err(e);
    }
    ps(&lab, Format::Table).await
}

async fn build(lab: &mut Lab, shape: &Shape, image: Option<&Image>) -> Result<()> {
    let underlay = host::spawn(lab, "underlay", None)?;
    lab.underlay = Some(underlay);
    lab.save()?;
    net::make_bridge(lab).await?;
    for n in 1..=shape.nodes {
        let role = if n <= shape.managers { "manager" } else { "worker" };
        add_host(lab, &format!("node{n}"), role, n, image).await?;
    }
    add_host(lab, "client", "", state::CLIENT, None).await?;
    for host in lab.nodes().filter(|h| h.machine.is_some()) {
        machine::set_up(lab, host).await?;
    }
    for host in lab.nodes() {
        start_daemon(lab, host)?;
    }
    for host in lab.nodes() {
        wait_for_daemon(lab, host).await?;
    }
    if shape.bare { Ok(()) } else { form_cluster(lab, shape.heartbeat_ms).await }
}

/// A host is made with its cable; a virtual machine is still to be set up.
async fn make_host(lab: &Lab, name: &str, role: &str, number: u8, image: Option<&Image>) -> Result<Host> {
    let mut host = match (image, &lab.machines) {
        (Some(image), Some(machines)) => machine::spawn(lab, machines, image, name, number).await?,
        _ => host::spawn(lab, name, Some(number))?,
    };
    host.role = role.to_owned();
    if host.machine.is_none() {
        net::plug(lab, &host).await?;
    }
    Ok(host)
}

async fn add_host(lab: &mut Lab, name: &str, role: &str, number: u8, image: Option<&Image>) -> Result<()> {
    let host = make_host(lab, name, role, number, image).await?;
    lab.hosts.push(host);
    lab.save()
}

fn this_program() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find this program")
}

fn start_daemon(lab: &Lab, host: &Host) -> Result<()> {
    let state = lab.state_dir(&host.name);
    std::fs::create_dir_all(&state)?;
    let level = std::env::var("HEDDLE_LOG").unwrap_or_else(|_| LOG.into());
    let status = Command::new(this_program()?)
        .args(["lab", "exec", &host.name, "--name", &lab.name, "--background"])
        .arg(state.join("daemon.log"))
        .args(["--", "heddle", "daemon", "--lb-backend", &lab.lb_backend.to_string(), "--log", &level, "--state-dir"])
        .arg(&state)
        .status()?;
    if status.success() { Ok(()) } else { bail!("the daemon of {} did not start", host.name) }
}

fn start_limit(lab: &Lab) -> Duration {
    if lab.machines.is_some() { EMULATED_START_LIMIT } else { START_LIMIT }
}

async fn wait_for_daemon(lab: &Lab, host: &Host) -> Result<()> {
    let client = Client::new(&host.socket());
    let until = tokio::time::Instant::now() + start_limit(lab);
    loop {
        if let Ok(mut local) = client.local()
            && local.info(v1::InfoRequest {}).await.is_ok()
        {
            return Ok(());
        }
        if tokio::time::Instant::now() > until {
            bail!("the daemon of {} does not answer", host.name);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn form_cluster(lab: &Lab, heartbeat_ms: Option<u32>) -> Result<()> {
    let said = crate::client::said;
    let first = lab.host("node1")?;
    let client = Client::new(&first.socket());
    let usual = if lab.machines.is_some() { EMULATED_HEARTBEAT_MS } else { 0 };
    let heartbeat_ms = heartbeat_ms.unwrap_or(usual);
    let request = v1::InitRequest { advertise_addr: "eth0".into(), heartbeat_ms, ..v1::InitRequest::default() };
    client.local()?.init(request).await.map_err(said)?;
    for host in lab.nodes().filter(|h| h.name != "node1") {
        let role = if host.role == "manager" { v1::Role::Manager } else { v1::Role::Worker };
        let request = v1::GetJoinTokenRequest { role: role.into(), rotate: false };
        let token = client.control()?.get_join_token(request).await.map_err(said)?.into_inner();
        let request = v1::JoinRequest {
            token: token.token,
            managers: token.managers,
            advertise_addr: "eth0".into(),
            ..v1::JoinRequest::default()
        };
        let joined = Client::new(&host.socket()).local()?.join(request).await;
        joined.map_err(said).with_context(|| format!("{} cannot join", host.name))?;
    }
    wait_until_ready(lab, &client, lab.nodes().count()).await
}

async fn wait_until_ready(lab: &Lab, client: &Client, count: usize) -> Result<()> {
    let until = tokio::time::Instant::now() + start_limit(lab);
    loop {
        let nodes = client.control()?.list_nodes(v1::ListNodesRequest {}).await.map_err(crate::client::said)?;
        let ready = nodes.into_inner().nodes.into_iter().filter(|n| {
            let state = n.status.as_ref().map(|s| s.state());
            state == Some(v1::NodeState::Ready) && n.ingress.is_some()
        });
        if ready.count() == count {
            return Ok(());
        }
        if tokio::time::Instant::now() > until {
            bail!("not all of {count} nodes are ready after {} s", start_limit(lab).as_secs());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn ps(lab: &Lab, format: Format) -> Result<()> {
    let state = |h: &Host| if h.is_alive() { "up" } else { "killed" };
    // The client has no daemon.
    let socket = |h: &Host| (!h.role.is_empty()).then(|| h.socket());
    let row = |h: &Host| {
        let socket = socket(h).map_or_else(String::new, |path| path.display().to_string());
        let texts = [&h.name, &h.role, &h.v4().to_string(), &h.v6().to_string(), state(h), &socket];
        texts.map(|t| t.to_string()).to_vec()
    };
    let value = |h: &Host| {
        json!({
            "name": h.name, "role": h.role, "ipv4": h.v4(), "ipv6": h.v6(), "state": state(h),
            "pid": h.pid, "socket": socket(h), "stateDir": lab.state_dir(&h.name),
        })
    };
    let headings = ["HOST", "ROLE", "IPV4", "IPV6", "STATE", "SOCKET"];
    output::print(format, &headings, lab.hosts.iter().map(row).collect(), lab.hosts.iter().map(value).collect());
    Ok(())
}

async fn cut(lab: &Lab, target: &str) -> Result<()> {
    match target.split_once(':') {
        Some((a, b)) => net::cut_between(lab, lab.host(a)?, lab.host(b)?).await,
        None => net::cable(lab, lab.host(target)?, false).await,
    }
}

fn kill(lab: &Lab, name: &str, daemon: bool) -> Result<()> {
    let host = lab.host(name)?;
    if !daemon {
        return host.kill();
    }
    let pid = daemon_pid(host)?.ok_or_else(|| anyhow!("no daemon runs on {name}"))?;
    if let Some(folder) = &host.machine {
        return machine::kill(folder, pid);
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
    while std::path::Path::new(&format!("/proc/{pid}")).exists() && !state::is_zombie(pid) {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// By its own number there.
fn daemon_pid(host: &Host) -> Result<Option<i32>> {
    match &host.machine {
        Some(folder) => machine::daemon_pid(folder),
        None => Ok(state::daemon_pid(host.pid)),
    }
}

/// `heddle lab-daemon`, in a host.
pub fn print_daemon() -> Result<()> {
    if let Some(pid) = state::daemon_pid(1) {
        println!("{pid}");
    }
    Ok(())
}

async fn start(lab: &mut Lab, name: &str, lb_backend: Option<LbBackend>) -> Result<()> {
    let host = lab.host(name)?.clone();
    if let Some(backend) = lb_backend {
        lab.lb_backend = backend;
        lab.save()?;
    }
    if !host.is_alive() {
        let machines = lab.machines.as_ref().filter(|_| host.machine.is_some());
        let image = machines.map(machine::image).transpose()?;
        net::unplug(lab, &host).await?;
        let new = make_host(lab, name, &host.role, host.number, image.as_ref()).await?;
        lab.hosts.iter_mut().filter(|h| h.name == name).for_each(|h| *h = new.clone());
        lab.save()?;
        if new.machine.is_some() {
            machine::set_up(lab, &new).await?;
        }
    } else if daemon_pid(&host)?.is_some() {
        bail!("{name} and its daemon are running");
    }
    let host = lab.host(name)?;
    if host.role.is_empty() {
        return Ok(());
    }
    start_daemon(lab, host)?;
    wait_for_daemon(lab, host).await
}

fn down(name: &str) -> Result<()> {
    Lab::load(name)?.destroy()
}
