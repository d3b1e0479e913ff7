//! What services may be told by flags, when they are made and later.

use super::{container::ContainerFlags, health::HealthFlags, resources::ResourceFlags};
use crate::commands::moment;
use anyhow::{Result, bail};
use clap::Args;
use heddle_model::{
    endpoint::{EndpointMode, PortConfig, PublishMode},
    net::{Port, Protocol},
    payload::{BadFile, FileMode, FilePath, PayloadFile, PayloadKind},
    service::{Mode, NetworkTarget, RestartCondition, Runtime, ServiceSpec},
    update::{FailureAction, Order, Ratio, UpdateConfig},
};
use std::time::Duration;

/// What is absent stays as it is.
#[derive(Debug, Args)]
pub struct Settings {
    /// How many tasks; of a job, how many run to their end [1 at first]
    #[arg(long)]
    replicas: Option<u64>,
    /// Of a job's tasks, how many run at once; 0 is all [0 at first]
    #[arg(long, value_name = "COUNT")]
    max_concurrent: Option<u64>,
    /// vip (one address for the service) or dnsrr (the name gives all tasks) [vip at first]
    #[arg(long, value_parser = endpoint_mode)]
    endpoint_mode: Option<EndpointMode>,
    /// Working directory
    #[arg(short, long)]
    workdir: Option<String>,
    /// Host name the task sees
    #[arg(long)]
    hostname: Option<String>,
    /// What the image runs instead of its own entry point, in words as a shell takes them; empty: its own
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// 0 is no limit [0 at first]
    #[arg(long)]
    replicas_max_per_node: Option<u32>,
    /// none, on-failure or any [any at first]
    #[arg(long, value_parser = condition)]
    restart_condition: Option<RestartCondition>,
    /// Between the end of a task and the next, such as 500ms or 5s [5s at first]
    #[arg(long, value_parser = moment::duration)]
    restart_delay: Option<Duration>,
    /// 0 is no limit [0 at first]
    #[arg(long)]
    restart_max_attempts: Option<u64>,
    /// Within which attempts are counted; 0s is for ever [0s at first]
    #[arg(long, value_parser = moment::duration)]
    restart_window: Option<Duration>,
    /// Between the stop signal and the kill [10s at first]
    #[arg(long, value_parser = moment::duration)]
    stop_grace_period: Option<Duration>,
    /// Between the moment when no host sends a task anything new and the stop signal [300ms at first]
    #[arg(long, value_parser = moment::duration)]
    drain_linger: Option<Duration>,
    #[command(flatten)]
    container: ContainerFlags,
    /// Have tasks move by themselves to nodes that have fewer, with at least so much time between two such moves, such as 10m; 0s
    /// is never [0s at first]
    #[arg(long, value_name = "TIME", value_parser = moment::duration)]
    rebalance_every: Option<Duration>,
    /// Tasks that are moved at a time then, at most [1 at first]
    #[arg(long, value_name = "COUNT")]
    rebalance_max: Option<u64>,
    #[command(flatten)]
    resources: ResourceFlags,
    #[command(flatten)]
    health: HealthFlags,
    #[command(flatten)]
    update: UpdateRules,
    #[command(flatten)]
    rollback: RollbackRules,
}

#[derive(Debug, Args)]
struct UpdateRules {
    /// Tasks that are replaced at once; 0 is all [1 at first]
    #[arg(long, value_name = "COUNT")]
    update_parallelism: Option<u64>,
    /// Between one task that is replaced and the next [0s at first]
    #[arg(long, value_name = "TIME", value_parser = moment::duration)]
    update_delay: Option<Duration>,
    /// stop-first, or start-first: an old task goes when every host's balancers have the new one [stop-first at first]
    #[arg(long, value_name = "ORDER", value_parser = order)]
    update_order: Option<Order>,
    /// pause, continue or rollback [pause at first]
    #[arg(long, value_name = "ACTION", value_parser = action)]
    update_failure_action: Option<FailureAction>,
    /// How long after its start the end of a new task is a failure [5s at first]
    #[arg(long, value_name = "TIME", value_parser = moment::duration)]
    update_monitor: Option<Duration>,
    /// Share of the replicas that may fail, from 0 to 1 [0 at first]
    #[arg(long, value_name = "RATIO")]
    update_max_failure_ratio: Option<Ratio>,
    /// In which a new task must be in service, or has failed; 0s is for ever [10m at first]
    #[arg(long, value_name = "TIME", value_parser = moment::duration)]
    update_deadline: Option<Duration>,
}

#[derive(Debug, Args)]
struct RollbackRules {
    /// The same for a rollback
    #[arg(long, value_name = "COUNT")]
    rollback_parallelism: Option<u64>,
    /// The same for a rollback
    #[arg(long, value_name = "TIME", value_parser = moment::duration)]
    rollback_delay: Option<Duration>,
    /// The same for a rollback
    #[arg(long, value_name = "ORDER", value_parser = order)]
    rollback_order: Option<Order>,
    /// pause or continue [pause at first]
    #[arg(long, value_name = "ACTION", value_parser = action)]
    rollback_failure_action: Option<FailureAction>,
    /// The same for a rollback
    #[arg(long, value_name = "TIME", value_parser = moment::duration)]
    rollback_monitor: Option<Duration>,
    /// The same for a rollback
    #[arg(long, value_name = "RATIO")]
    rollback_max_failure_ratio: Option<Ratio>,
    /// The same for a rollback
    #[arg(long, value_name = "TIME", value_parser = moment::duration)]
    rollback_deadline: Option<Duration>,
}

pub fn set<T: Clone>(field: &mut T, value: &Option<T>) {
    if let Some(value) = value {
        field.clone_from(value);
    }
}

/// Empty text takes it away.
fn set_text(field: &mut Option<String>, value: &Option<String>) {
    if let Some(value) = value {
        *field = Some(value.clone()).filter(|v| !v.is_empty());
    }
}

impl Settings {
    pub fn apply(&self, spec: &mut ServiceSpec) -> Result<()> {
        if let Some(replicas) = self.replicas {
            let Some(mode) = spec.mode.scaled(replicas) else {
                bail!("--replicas {replicas}: a {} service has one task on each node", spec.mode.as_str());
            };
            spec.mode = mode;
        }
        if let Some(wanted) = self.max_concurrent {
            let Mode::ReplicatedJob { concurrent, .. } = &mut spec.mode else {
                bail!("--max-concurrent {wanted}: only a replicated-job has it, and this is {}", spec.mode.as_str());
            };
            *concurrent = wanted;
        }
        set(&mut spec.endpoint.mode, &self.endpoint_mode);
        let task = &mut spec.task;
        if let Some(words) = &self.entrypoint {
            let Runtime::Image(image) = &mut task.runtime else {
                bail!(
                    "--entrypoint {words:?}: only a service of an image has one, and this runs a program of the hosts"
                );
            };
            image.entrypoint = entrypoint(words)?;
        }
        let process = task.runtime.program_mut();
        set_text(&mut process.dir, &self.workdir);
        set_text(&mut process.hostname, &self.hostname);
        set(&mut task.placement.max_replicas_per_node, &self.replicas_max_per_node);
        set(&mut task.restart.condition, &self.restart_condition);
        set(&mut task.restart.delay, &self.restart_delay);
        set(&mut task.restart.max_attempts, &self.restart_max_attempts);
        set(&mut task.restart.window, &self.restart_window);
        set(&mut task.stop_grace, &self.stop_grace_period);
        set(&mut task.linger, &self.drain_linger);
        self.container.apply(&mut task.container)?;
        self.resources.apply(&mut task.resources);
        set(&mut spec.rebalance.every, &self.rebalance_every);
        set(&mut spec.rebalance.most, &self.rebalance_max);
        self.update.apply(&mut spec.update);
        self.rollback.apply(&mut spec.rollback);
        self.health.apply(&mut spec.task)
    }
}

impl UpdateRules {
    fn apply(&self, config: &mut UpdateConfig) {
        set(&mut config.parallelism, &self.update_parallelism);
        set(&mut config.delay, &self.update_delay);
        set(&mut config.order, &self.update_order);
        set(&mut config.failure_action, &self.update_failure_action);
        set(&mut config.monitor, &self.update_monitor);
        set(&mut config.max_failure_ratio, &self.update_max_failure_ratio);
        set(&mut config.deadline, &self.update_deadline);
    }
}

impl RollbackRules {
    fn apply(&self, config: &mut UpdateConfig) {
        set(&mut config.parallelism, &self.rollback_parallelism);
        set(&mut config.delay, &self.rollback_delay);
        set(&mut config.order, &self.rollback_order);
        set(&mut config.failure_action, &self.rollback_failure_action);
        set(&mut config.monitor, &self.rollback_monitor);
        set(&mut config.max_failure_ratio, &self.rollback_max_failure_ratio);
        set(&mut config.deadline, &self.rollback_deadline);
    }
}

pub fn mode(text: &str) -> Result<Mode, String> {
    let all = [
        Mode::Replicated { replicas: 1 },
        Mode::Global,
        Mode::ReplicatedJob { completions: 1, concurrent: 0 },
        Mode::GlobalJob,
    ];
    let found = all.into_iter().find(|mode| mode.as_str() == text);
    found.ok_or_else(|| "use replicated, global, replicated-job or global-job".into())
}

fn order(text: &str) -> Result<Order, String> {
    match text {
        "stop-first" => Ok(Order::StopFirst),
        "start-first" => Ok(Order::StartFirst),
        _ => Err("use stop-first or start-first".into()),
    }
}

fn action(text: &str) -> Result<FailureAction, String> {
    match text {
        "pause" => Ok(FailureAction::Pause),
        "continue" => Ok(FailureAction::Continue),
        "rollback" => Ok(FailureAction::Rollback),
        _ => Err("use pause, continue or rollback".into()),
    }
}

/// As a shell would read it. None: the image's own.
pub fn entrypoint(text: &str) -> Result<Option<Vec<String>>> {
    match shlex::split(text) {
        Some(words) => Ok((!words.is_empty()).then_some(words)),
        None => bail!("--entrypoint {text:?}: a quote is not closed"),
    }
}

fn condition(text: &str) -> Result<RestartCondition, String> {
    match text {
        "none" => Ok(RestartCondition::None),
        "on-failure" => Ok(RestartCondition::OnFailure),
        "any" => Ok(RestartCondition::Any),
        _ => Err("use none, on-failure or any".into()),
    }
}

fn endpoint_mode(text: &str) -> Result<EndpointMode, String> {
    match text {
        "vip" => Ok(EndpointMode::Vip),
        "dnsrr" => Ok(EndpointMode::DnsRr),
        _ => Err("use vip or dnsrr".into()),
    }
}

fn protocol_named(text: &str) -> Result<Protocol, String> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err(format!("protocol {text:?}: use tcp or udp")),
    }
}

pub fn port(text: &str) -> Result<PortConfig, String> {
    let number = |s: &str| s.parse::<Port>().map_err(|e| e.to_string());
    if text.contains('=') {
        let (mut protocol, mut target, mut published, mut mode) = (Protocol::Tcp, None, None, PublishMode::Ingress);
        for field in text.split(',') {
            match field.split_once('=') {
                Some(("published", n)) => published = Some(number(n)?),
                Some(("target", n)) => target = Some(number(n)?),
                Some(("protocol", p)) => protocol = protocol_named(p)?,
                Some(("mode", "ingress")) => mode = PublishMode::Ingress,
                Some(("mode", "host")) => mode = PublishMode::Host,
                _ => return Err(format!("{field:?}: use published=N, target=N, protocol=tcp|udp, mode=ingress|host")),
            }
        }
        let target = target.ok_or("target=N is missing")?;
        return Ok(PortConfig { protocol, target, published, mode });
    }
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, p)) => (ports, protocol_named(p)?),
        None => (text, Protocol::Tcp),
    };
    let (published, target) = match ports.split_once(':') {
        Some((published, target)) => (Some(number(published)?), number(target)?),
        None => (None, number(ports)?),
    };
    Ok(PortConfig { protocol, target, published, mode: PublishMode::Ingress })
}

pub fn secret(text: &str) -> Result<PayloadFile, String> {
    payload(PayloadKind::Secret, text)
}

pub fn config(text: &str) -> Result<PayloadFile, String> {
    payload(PayloadKind::Config, text)
}

fn payload(kind: PayloadKind, text: &str) -> Result<PayloadFile, String> {
    let (mut source, mut target, mut owners, mut mode) = (None, None, [0, 0], FileMode::READABLE);
    let number = |name: &str, n: &str| n.parse().map_err(|_| format!("{name} {n:?}: use a number"));
    match text.contains('=') {
        false => source = Some(text),
        true => {
            for field in text.split(',') {
                match field.split_once('=') {
                    Some(("source" | "src", name)) => source = Some(name),
                    Some(("target", path)) => target = Some(path),
                    Some(("uid", n)) => owners[0] = number("uid", n)?,
                    Some(("gid", n)) => owners[1] = number("gid", n)?,
                    Some(("mode", digits)) => mode = digits.parse().map_err(|e: BadFile| e.to_string())?,
                    _ => return Err(format!("{field:?}: use source=NAME, target=PATH, uid=N, gid=N, mode=0444")),
                }
            }
        }
    }
    let source = source.filter(|name| !name.is_empty()).ok_or("source=NAME is missing")?.to_owned();
    let path = FilePath::of(kind, target.unwrap_or(&source)).map_err(|e| e.to_string())?;
    Ok(PayloadFile { kind, source, path, uid: owners[0], gid: owners[1], mode })
}

pub fn network(text: &str) -> Result<NetworkTarget, String> {
    if !text.contains('=') {
        return Ok(NetworkTarget { target: text.to_owned(), aliases: Vec::new() });
    }
    let (mut target, mut aliases) = (None, Vec::new());
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("name", name)) => target = Some(name.to_owned()),
            Some(("alias", alias)) => aliases.push(alias.to_owned()),
            _ => return Err(format!("{field:?}: use name=NETWORK and alias=NAME")),
        }
    }
    Ok(NetworkTarget { target: target.ok_or("name=NETWORK is missing")?, aliases })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_both_forms() {
        for (text, want) in [
            ("key", Some(("key", "/run/secrets/key", 0, 0, 0o444))),
            ("source=key,target=a/b,uid=7,gid=8,mode=0400", Some(("key", "/run/secrets/a/b", 7, 8, 0o400))),
            ("src=key,target=/etc/key", Some(("key", "/etc/key", 0, 0, 0o444))),
            ("target=/etc/key", None),
            ("source=key,mode=999", None),
            ("source=key,uid=root", None),
            ("source=key,target=../key", None),
            ("source=key,x=1", None),
        ] {
            let got = secret(text).ok();
            let got = got.as_ref().map(|f| (f.source.as_str(), f.path.to_string(), f.uid, f.gid, f.mode.get()));
            let want = want.map(|(s, p, u, g, m)| (s, p.to_owned(), u, g, m));
            assert_eq!(got, want, "{text}");
        }
    }

    #[test]
    fn ports_in_both_forms() {
        for (text, want) in [
            ("8080:80", Some((Some(8080), 80, Protocol::Tcp, PublishMode::Ingress))),
            ("53:53/udp", Some((Some(53), 53, Protocol::Udp, PublishMode::Ingress))),
            ("80", Some((None, 80, Protocol::Tcp, PublishMode::Ingress))),
            ("published=1,target=2,protocol=udp,mode=host", Some((Some(1), 2, Protocol::Udp, PublishMode::Host))),
            ("0:80", None),
            ("80:99999", None),
            ("80/sctp", None),
            ("published=1", None),
            ("x=1", None),
        ] {
            let got = port(text).ok();
            let got = got.map(|p| (p.published.map(Port::get), p.target.get(), p.protocol, p.mode));
            assert_eq!(got, want, "{text}");
        }
    }
}
