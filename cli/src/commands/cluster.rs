//! init, join-token, join, leave, info.

use crate::{
    client::{Client, said},
    commands::{autolock, moment},
    output::Format,
};
use anyhow::Result;
use clap::{ArgAction, Args};
use heddle_model::cluster::Role;
use heddle_proto::v1;
use serde_json::json;
use std::time::Duration;

/// What a cluster that goes on has already.
const OF_A_NEW_ONE: [&str; 12] = [
    "advertise_addr",
    "listen_addr",
    "data_path_addr",
    "data_path_port",
    "default_addr_pool",
    "default_addr_pool_mask_length",
    "default_addr_pool_v6",
    "ingress_subnet",
    "dispatcher_heartbeat",
    "cert_expiry",
    "autolock",
    "autopilot",
];

#[derive(Debug, Args)]
pub struct InitArgs {
    /// Where others reach this host: IP[:PORT] or INTERFACE[:PORT] [default: the only address there is, port 2377]
    #[arg(long, default_value = "", hide_default_value = true)]
    advertise_addr: String,
    /// Where to listen: IP[:PORT] [default: everywhere]
    #[arg(long, default_value = "", hide_default_value = true)]
    listen_addr: String,
    /// Where this host's tunnels end: IP or INTERFACE [default: the advertise address]
    #[arg(long, default_value = "", hide_default_value = true)]
    data_path_addr: String,
    /// UDP port of VXLAN
    #[arg(long, default_value_t = 4789, value_parser = clap::value_parser!(u16).range(1..))]
    data_path_port: u16,
    /// Where networks get their IPv4 subnets from
    #[arg(long, default_value = "10.0.0.0/8")]
    default_addr_pool: String,
    /// Prefix length of a network's IPv4 subnet
    #[arg(long, default_value_t = 24)]
    default_addr_pool_mask_length: u32,
    /// Where networks get their IPv6 subnets from [default: a random unique local prefix]
    #[arg(long, default_value = "", hide_default_value = true)]
    default_addr_pool_v6: String,
    /// IPv4 subnet of the ingress network [default: from the pool]
    #[arg(long, default_value = "", hide_default_value = true)]
    ingress_subnet: String,
    /// How often nodes say that they are there; many nodes more seldom, so that it is a thousand times a second at most. One that is
    /// silent for three times as long is down
    #[arg(long, default_value = "300ms", value_parser = moment::duration)]
    dispatcher_heartbeat: Duration,
    /// How long certificates of nodes count; they are renewed by themselves after a half to four fifths of it
    #[arg(long, default_value = "2160h", value_parser = moment::duration)]
    cert_expiry: Duration,
    /// Lock managers that start until `heddle unlock` gives them the key that this prints: a stolen disk tells nothing
    #[arg(long)]
    autolock: bool,
    /// Remove a manager that is down for so long, such as 10m, while a majority of the others is there; or off
    #[arg(long, default_value = "off", value_parser = autopilot)]
    autopilot: Autopilot,
    /// Instead of a new cluster: go on with this manager alone, with all that it knows, when a majority is lost for good.
    /// The other managers must not run then; they come back as workers
    #[arg(long, conflicts_with_all = OF_A_NEW_ONE)]
    force_new_cluster: bool,
}

async fn force_new_cluster(client: &Client) -> Result<()> {
    let made = client.local()?.force_new_cluster(v1::ForceNewClusterRequest {}).await.map_err(said)?.into_inner();
    println!("The cluster goes on with this host ({}) as its only manager.", made.node);
    if !made.former_managers.is_empty() {
        println!("No managers any more, and workers when they are back: {}", made.former_managers.join(", "));
    }
    if made.unsure > 0 {
        println!("Kept, though a majority may not have had it: the last {} of the writes.", made.unsure);
    }
    println!("Make managers again with `heddle node promote`.");
    Ok(())
}

pub async fn init(client: &Client, args: InitArgs) -> Result<()> {
    if args.force_new_cluster {
        return force_new_cluster(client).await;
    }
    let request = v1::InitRequest {
        advertise_addr: args.advertise_addr,
        listen_addr: args.listen_addr,
        data_path_addr: args.data_path_addr,
        data_path_port: args.data_path_port.into(),
        pool_v4: args.default_addr_pool,
        pool_v4_size: args.default_addr_pool_mask_length,
        pool_v6: args.default_addr_pool_v6,
        ingress_subnet_v4: args.ingress_subnet,
        heartbeat_ms: u32::try_from(args.dispatcher_heartbeat.as_millis()).unwrap_or(u32::MAX).max(1),
        cert_life_s: args.cert_expiry.as_secs().max(1),
        autolock: args.autolock,
        dead_manager_after_ms: args.autopilot.millis(),
    };
    let made = client.local()?.init(request).await.map_err(said)?.into_inner();
    println!("Cluster made: this host ({}) is its manager.\n", made.node);
    println!("On every host that is to be a worker:\n");
    println!("    heddle join --token {} {}\n", made.worker_token, made.manager_addr);
    println!("For a manager, take the token that `heddle join-token manager` shows.");
    if !made.unlock_key.is_empty() {
        print!("\n{}", autolock::advice(&made.unlock_key));
    }
    Ok(())
}

/// How long a manager may be down before it is removed; None: for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Autopilot(Option<Duration>);

impl Autopilot {
    fn millis(self) -> u64 {
        self.0.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }
}

fn autopilot(text: &str) -> Result<Autopilot, String> {
    match text {
        "off" => Ok(Autopilot(None)),
        time => match moment::duration(time) {
            Ok(time) if time.as_millis() > 0 => Ok(Autopilot(Some(time))),
            Ok(_) | Err(_) => Err("use a time such as 10m, or off".into()),
        },
    }
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct UpdateArgs {
    /// Whether managers that start have to be unlocked, with a key that this prints
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    #[arg(require_equals = true, value_name = "true|false")]
    autolock: Option<bool>,
    /// Remove a manager that is down for so long, such as 10m, while a majority of the others is there; or off
    #[arg(long, value_parser = autopilot)]
    autopilot: Option<Autopilot>,
}

pub async fn update(client: &Client, args: UpdateArgs) -> Result<()> {
    let dead_manager_after_ms = args.autopilot.map(Autopilot::millis);
    let request = v1::UpdateClusterRequest { autolock: args.autolock, dead_manager_after_ms };
    let answer = client.control()?.update_cluster(request).await.map_err(said)?.into_inner();
    match (args.autolock, answer.unlock_key.as_str()) {
        (None, _) => {}
        (Some(_), "") => println!("Managers start unlocked."),
        (Some(_), key) => print!("{}", autolock::advice(key)),
    }
    match (dead_manager_after_ms, answer.cluster.unwrap_or_default().dead_manager_after_ms) {
        (None, _) => {}
        (Some(_), 0) => println!("Autopilot is off: managers that are dead stay until they are removed."),
        (Some(_), millis) => {
            println!("Autopilot removes managers that are down for {}.", moment::show_duration(millis));
        }
    }
    Ok(())
}

pub fn role(text: &str) -> Result<Role, String> {
    match text {
        "worker" => Ok(Role::Worker),
        "manager" => Ok(Role::Manager),
        _ => Err("use worker or manager".into()),
    }
}

#[derive(Debug, Args)]
pub struct TokenArgs {
    /// worker or manager
    #[arg(value_parser = role)]
    role: Role,
    /// Make a new one; the old one lets nobody in any more
    #[arg(long)]
    rotate: bool,
    /// Print the token alone
    #[arg(short, long)]
    quiet: bool,
}

pub async fn join_token(client: &Client, args: TokenArgs) -> Result<()> {
    let request = v1::GetJoinTokenRequest { role: v1::Role::from(args.role).into(), rotate: args.rotate };
    let answer = client.control()?.get_join_token(request).await.map_err(said)?.into_inner();
    if args.quiet {
        println!("{}", answer.token);
        return Ok(());
    }
    let addrs = answer.managers.join(" ");
    println!("To add a {}:\n\n    heddle join --token {} {addrs}", args.role, answer.token);
    Ok(())
}

#[derive(Debug, Args)]
pub struct JoinArgs {
    /// What `heddle join-token` shows
    #[arg(long)]
    token: String,
    /// Managers to join at: IP[:PORT]
    #[arg(required = true)]
    managers: Vec<String>,
    /// Where others reach this host: IP[:PORT] or INTERFACE[:PORT]
    #[arg(long, default_value = "", hide_default_value = true)]
    advertise_addr: String,
    /// Where to listen, on a manager: IP[:PORT]
    #[arg(long, default_value = "", hide_default_value = true)]
    listen_addr: String,
    /// Where this host's tunnels end: IP or INTERFACE
    #[arg(long, default_value = "", hide_default_value = true)]
    data_path_addr: String,
}

pub async fn join(client: &Client, args: JoinArgs) -> Result<()> {
    let request = v1::JoinRequest {
        token: args.token,
        managers: args.managers,
        advertise_addr: args.advertise_addr,
        listen_addr: args.listen_addr,
        data_path_addr: args.data_path_addr,
    };
    let joined = client.local()?.join(request).await.map_err(said)?.into_inner();
    let role = Role::try_from(joined.role())?;
    println!("This host ({}) joined as a {role}.", joined.node);
    Ok(())
}

#[derive(Debug, Args)]
pub struct LeaveArgs {
    /// Leave although the cluster cannot be told, or ends with this manager
    #[arg(long)]
    force: bool,
}

pub async fn leave(client: &Client, args: LeaveArgs) -> Result<()> {
    client.local()?.leave(v1::LeaveRequest { force: args.force }).await.map_err(said)?;
    println!("This host left the cluster.");
    Ok(())
}

pub async fn info(client: &Client, format: Format) -> Result<()> {
    let info = client.local()?.info(v1::InfoRequest {}).await.map_err(said)?.into_inner();
    let role = Role::try_from(info.role()).map_or_else(|_| String::new(), |r| r.to_string());
    if format == Format::Json {
        let value = json!({
            "inCluster": info.in_cluster, "node": info.node, "cluster": info.cluster, "role": role,
            "hostname": info.hostname, "advertiseAddr": info.advertise_addr, "dataPathAddr": info.data_path_addr,
            "managers": info.managers, "connected": info.connected, "assignedRevision": info.assigned_revision,
            "appliedRevision": info.applied_revision, "dataPlaneErrors": info.data_plane_errors, "warnings": info.warnings,
            "loadBalancer": info.load_balancer, "version": info.version, "tasksRunning": info.tasks_running,
            "locked": info.locked,
            "certificateEnds": (info.certificate_ends_ms > 0).then(|| moment::show(info.certificate_ends_ms)),
        });
        println!("{value:#}");
        return Ok(());
    }
    println!("Version:        {}", info.version);
    println!("Hostname:       {}", info.hostname);
    println!("Load balancer:  {}", info.load_balancer);
    if !info.in_cluster {
        println!("Cluster:        none (run `heddle init`, or `heddle join`)");
        return Ok(());
    }
    println!("Cluster:        {}", info.cluster);
    println!("Node:           {} ({role})", info.node);
    if info.locked {
        println!("Manager:        locked (run `heddle unlock`)");
    }
    println!("Address:        {}", info.advertise_addr);
    println!("Data path:      {}", info.data_path_addr);
    println!("Managers:       {}", info.managers.join(", "));
    println!("Leader:         {}", if info.connected { "connected" } else { "not connected" });
    println!("Revision:       {} of {} in the kernel", info.applied_revision, info.assigned_revision);
    println!("Tasks running:  {}", info.tasks_running);
    if !info.locked {
        println!("Certificate:    until {}", moment::show(info.certificate_ends_ms));
    }
    for error in info.data_plane_errors {
        println!("Behind:         {error}");
    }
    for warning in info.warnings {
        println!("Warning:        {warning}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, ClusterCommand, Command};
    use clap::Parser;

    #[test]
    fn autopilot_is_a_time_or_off() {
        assert_eq!(autopilot("off"), Ok(Autopilot(None)));
        assert_eq!(autopilot("10m").map(Autopilot::millis), Ok(600_000));
        for bad in ["", "on", "10", "-5m", "0s", "1us"] {
            assert_eq!(autopilot(bad), Err("use a time such as 10m, or off".into()), "{bad}");
        }
    }

    #[test]
    fn settings_are_changed_alone_or_together() {
        let parse = |more: &[&str]| match Cli::try_parse_from([&["heddle", "cluster", "update"], more].concat()) {
            Ok(Cli { command: Command::Cluster(ClusterCommand::Update(args)), .. }) => {
                Some((args.autolock, args.autopilot.map(Autopilot::millis)))
            }
            _ => None,
        };
        assert_eq!(parse(&["--autolock"]), Some((Some(true), None)));
        assert_eq!(parse(&["--autolock=false", "--autopilot", "1m"]), Some((Some(false), Some(60_000))));
        assert_eq!(parse(&["--autopilot", "off"]), Some((None, Some(0))));
        assert_eq!(parse(&["--autolock=maybe"]), None);
        assert_eq!(parse(&[]), None, "nothing is asked for");
    }

    #[test]
    fn a_cluster_that_goes_on_gets_no_new_settings() {
        let parse = |more: &[&str]| Cli::try_parse_from([&["heddle", "init", "--force-new-cluster"], more].concat());
        assert!(parse(&[]).is_ok() && parse(&["--socket", "/run/s"]).is_ok());
        for more in [["--advertise-addr", "eth0"], ["--cert-expiry", "10s"], ["--data-path-port", "4789"]] {
            assert!(parse(&more).is_err(), "{more:?}");
        }
    }
}
