//! The flags of how a task's program is set up on its host.

use super::update::{missing, take, take_key};
use crate::commands::{mount::MountFlags, pair::key_value};
use anyhow::{Result, bail};
use clap::Args;
use heddle_model::{
    container::{BadContainer, Capability, Container, LogLimits, Mount, Rlimit, StopSignal, Ulimit, User, host_line},
    workload::DnsConfig,
};
use std::net::IpAddr;

/// What is absent stays as it is.
#[derive(Debug, Args)]
pub struct ContainerFlags {
    /// Who the program runs as: USER or USER:GROUP, by name or number; empty is the executor's choice, root for a program of the
    /// host
    #[arg(short = 'u', long = "user", value_name = "USER", value_parser = user)]
    runs_as: Option<Wanted<User>>,
    /// Let the program write nowhere but to what is mounted for it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    read_only: Option<bool>,
    /// The signal that asks the program to end; empty is SIGTERM
    #[arg(long, value_name = "SIGNAL", value_parser = signal)]
    stop_signal: Option<Wanted<StopSignal>>,
    /// What the program may do beside what it may at first: a capability such as NET_ADMIN, or ALL. A program of the host that is
    /// root may do all. In an update, what was dropped is as at first again
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<Capability>,
    /// What it may not do of that. In an update, what was added is as at first again
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<Capability>,
    /// How much of what a task prints is kept: max-size=10m of each file, and max-file=2 files
    #[arg(long, value_name = "OPTION", value_parser = log_option)]
    log_opt: Vec<String>,
}

/// A value, or none instead of the one before.
#[derive(Debug, Clone)]
struct Wanted<T>(Option<T>);

fn user(text: &str) -> Result<Wanted<User>, BadContainer> {
    Ok(Wanted(if text.is_empty() { None } else { Some(text.parse()?) }))
}

fn signal(text: &str) -> Result<Wanted<StopSignal>, BadContainer> {
    Ok(Wanted(if text.is_empty() { None } else { Some(text.parse()?) }))
}

fn log_option(text: &str) -> Result<String, BadContainer> {
    LogLimits::default().set(text).map(|()| text.to_owned())
}

fn ulimit(text: &str) -> Result<(Rlimit, Ulimit), BadContainer> {
    Ulimit::parse(text)
}

impl ContainerFlags {
    pub fn apply(&self, container: &mut Container) -> Result<()> {
        if let Some(both) = self.cap_add.iter().find(|c| self.cap_drop.contains(c)) {
            bail!("--cap-add {both} and --cap-drop {both}: name it once");
        }
        if let Some(Wanted(user)) = &self.runs_as {
            container.user.clone_from(user);
        }
        if let Some(Wanted(signal)) = &self.stop_signal {
            container.stop_signal.clone_from(signal);
        }
        if let Some(read_only) = self.read_only {
            container.read_only = read_only;
        }
        // What undoes the other is as it was at first.
        for capability in &self.cap_add {
            if !container.cap_drop.remove(capability) {
                container.cap_add.insert(capability.clone());
            }
        }
        for capability in &self.cap_drop {
            if !container.cap_add.remove(capability) {
                container.cap_drop.insert(capability.clone());
            }
        }
        self.log_opt.iter().try_for_each(|option| Ok(container.log.set(option)?))
    }
}

/// At first.
#[derive(Debug, Args)]
pub struct ContainerLists {
    /// A further group of the user, by name or number
    #[arg(long)]
    group: Vec<String>,
    #[command(flatten)]
    mounts: MountFlags,
    /// A limit of the program by setrlimit(2): NAME=SOFT[:HARD], such as nofile=1024:4096
    #[arg(long, value_parser = ulimit)]
    ulimit: Vec<(Rlimit, Ulimit)>,
    /// A server for names that are not of the cluster, asked from the task instead of the host's
    #[arg(long)]
    dns: Vec<IpAddr>,
    /// A domain in which short names are looked up
    #[arg(long)]
    dns_search: Vec<String>,
    /// An option for resolv.conf
    #[arg(long)]
    dns_option: Vec<String>,
    /// A line for /etc/hosts: NAME:ADDRESS
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = host_line)]
    host: Vec<(String, IpAddr)>,
    /// KEY=VALUE of the container, where there is one
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    container_label: Vec<(String, String)>,
}

impl ContainerLists {
    pub fn made(&self) -> Container {
        Container {
            groups: self.group.clone(),
            mounts: self.mounts.made(),
            ulimits: self.ulimit.iter().copied().collect(),
            dns: DnsConfig {
                servers: self.dns.clone(),
                search: self.dns_search.clone(),
                options: self.dns_option.clone(),
            },
            hosts: self.host.clone(),
            labels: self.container_label.iter().cloned().collect(),
            ..Container::default()
        }
    }
}

/// Later.
#[derive(Debug, Args)]
pub struct ContainerChanges {
    /// Be in another group
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Be in a group no more
    #[arg(long, value_name = "GROUP")]
    group_rm: Vec<String>,
    /// See something else at a path, as `service create --mount` takes it
    #[arg(long, value_name = "MOUNT")]
    mount_add: Vec<Mount>,
    /// See it no more, by its target
    #[arg(long, value_name = "TARGET")]
    mount_rm: Vec<String>,
    /// Have another limit, or another value of one
    #[arg(long, value_name = "LIMIT", value_parser = ulimit)]
    ulimit_add: Vec<(Rlimit, Ulimit)>,
    /// Have a limit no more, by its name
    #[arg(long, value_name = "NAME")]
    ulimit_rm: Vec<Rlimit>,
    /// Ask another server for names
    #[arg(long, value_name = "ADDRESS")]
    dns_add: Vec<IpAddr>,
    /// Ask a server no more
    #[arg(long, value_name = "ADDRESS")]
    dns_rm: Vec<IpAddr>,
    /// Look short names up in another domain
    #[arg(long, value_name = "DOMAIN")]
    dns_search_add: Vec<String>,
    /// Look them up in a domain no more
    #[arg(long, value_name = "DOMAIN")]
    dns_search_rm: Vec<String>,
    /// Have another option in resolv.conf
    #[arg(long, value_name = "OPTION")]
    dns_option_add: Vec<String>,
    /// Have an option no more
    #[arg(long, value_name = "OPTION")]
    dns_option_rm: Vec<String>,
    /// Have another line in /etc/hosts: NAME:ADDRESS
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = host_line)]
    host_add: Vec<(String, IpAddr)>,
    /// Have a line no more: NAME:ADDRESS
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = host_line)]
    host_rm: Vec<(String, IpAddr)>,
    /// Set a label of the container: KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    container_label_add: Vec<(String, String)>,
    /// Take one away: KEY
    #[arg(long, value_name = "KEY")]
    container_label_rm: Vec<String>,
}

/// Takes some out of a list, then adds others.
fn edit<T: Clone + PartialEq>(
    list: &mut Vec<T>,
    flag: &str,
    gone: &[T],
    more: &[T],
    say: impl Fn(&T) -> String,
) -> Result<()> {
    for item in gone {
        take(list, flag, &say(item), |other| other == item)?;
    }
    list.extend(more.iter().cloned());
    Ok(())
}

impl ContainerChanges {
    pub fn apply(&self, container: &mut Container) -> Result<()> {
        let as_it_is = String::clone;
        let dns = &mut container.dns;
        edit(&mut container.groups, "--group-rm", &self.group_rm, &self.group_add, as_it_is)?;
        edit(&mut dns.servers, "--dns-rm", &self.dns_rm, &self.dns_add, IpAddr::to_string)?;
        edit(&mut dns.search, "--dns-search-rm", &self.dns_search_rm, &self.dns_search_add, as_it_is)?;
        edit(&mut dns.options, "--dns-option-rm", &self.dns_option_rm, &self.dns_option_add, as_it_is)?;
        let line = |(name, addr): &(String, IpAddr)| format!("{name}:{addr}");
        edit(&mut container.hosts, "--host-rm", &self.host_rm, &self.host_add, line)?;
        for target in &self.mount_rm {
            take(&mut container.mounts, "--mount-rm", target, |m| m.target == *target)?;
        }
        container.mounts.extend(self.mount_add.iter().cloned());
        for name in &self.ulimit_rm {
            container.ulimits.remove(name).ok_or_else(|| missing("--ulimit-rm", name.as_str()))?;
        }
        container.ulimits.extend(self.ulimit_add.iter().copied());
        for key in &self.container_label_rm {
            take_key(&mut container.labels, "--container-label-rm", key)?;
        }
        container.labels.extend(self.container_label_add.iter().cloned());
        Ok(())
    }
}
