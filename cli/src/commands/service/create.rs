//! The flags of `service create` as a spec.

use super::WaitArgs;
use crate::commands::{moment, pair::key_value};
use anyhow::{Result, bail};
use clap::Args;
use heddle_model::{
    Annotations,
    endpoint::{EndpointMode, EndpointSpec, PortConfig, PublishMode},
    net::{Port, Protocol},
    network::HOST,
    service::{
        Mode, NetworkTarget, Placement, ProcessSpec, RestartCondition, RestartPolicy, Runtime, ServiceSpec, TaskSpec,
    },
    update::UpdateConfig,
};
use std::{collections::BTreeMap, time::Duration};

#[derive(Debug, Args)]
pub struct CreateArgs {
    #[arg(long)]
    pub name: String,
    /// Run a program of the hosts, in namespaces of its own
    #[arg(long)]
    process: bool,
    #[arg(long, default_value_t = 1)]
    replicas: u64,
    /// [PUBLISHED:]TARGET[/tcp|/udp], or published=N,target=N,protocol=tcp|udp,mode=ingress|host
    #[arg(short, long, value_parser = parse_port)]
    publish: Vec<PortConfig>,
    /// A network to join: NAME, or name=NAME,alias=ALIAS
    #[arg(long, value_parser = parse_network)]
    network: Vec<NetworkTarget>,
    /// vip (one address for the service) or dnsrr (the name gives all tasks)
    #[arg(long, default_value = "vip", value_parser = parse_endpoint_mode)]
    endpoint_mode: EndpointMode,
    /// KEY=VALUE in the task's environment
    #[arg(short, long, value_parser = key_value)]
    env: Vec<(String, String)>,
    /// Working directory
    #[arg(short, long)]
    workdir: Option<String>,
    /// Host name the task sees
    #[arg(long)]
    hostname: Option<String>,
    /// Where tasks may run: node.role==worker, node.hostname!=a, node.labels.zone==b
    #[arg(long)]
    constraint: Vec<String>,
    /// 0 is no limit
    #[arg(long, default_value_t = 0)]
    replicas_max_per_node: u32,
    /// none, on-failure or any
    #[arg(long, default_value = "any", value_parser = parse_condition)]
    restart_condition: RestartCondition,
    /// Between the end of a task and the next, such as 500ms or 5s
    #[arg(long, default_value = "5s", value_parser = moment::duration)]
    restart_delay: Duration,
    /// 0 is no limit
    #[arg(long, default_value_t = 0)]
    restart_max_attempts: u64,
    /// Within which attempts are counted; 0s is for ever
    #[arg(long, default_value = "0s", value_parser = moment::duration)]
    restart_window: Duration,
    /// Between the stop signal and the kill
    #[arg(long, default_value = "10s", value_parser = moment::duration)]
    stop_grace_period: Duration,
    /// KEY=VALUE
    #[arg(short, long, value_parser = key_value)]
    label: Vec<(String, String)>,
    #[command(flatten)]
    pub wait: WaitArgs,
    /// The program and its arguments
    #[arg(last = true)]
    command: Vec<String>,
}

fn parse_condition(text: &str) -> Result<RestartCondition, String> {
    match text {
        "none" => Ok(RestartCondition::None),
        "on-failure" => Ok(RestartCondition::OnFailure),
        "any" => Ok(RestartCondition::Any),
        _ => Err("use none, on-failure or any".into()),
    }
}

fn parse_endpoint_mode(text: &str) -> Result<EndpointMode, String> {
    match text {
        "vip" => Ok(EndpointMode::Vip),
        "dnsrr" => Ok(EndpointMode::DnsRr),
        _ => Err("use vip or dnsrr".into()),
    }
}

fn parse_protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err(format!("protocol {text:?}: use tcp or udp")),
    }
}

fn parse_port(text: &str) -> Result<PortConfig, String> {
    let number = |s: &str| s.parse::<Port>().map_err(|e| e.to_string());
    if text.contains('=') {
        let (mut protocol, mut target, mut published, mut mode) = (Protocol::Tcp, None, None, PublishMode::Ingress);
        for field in text.split(',') {
            match field.split_once('=') {
                Some(("published", n)) => published = Some(number(n)?),
                Some(("target", n)) => target = Some(number(n)?),
                Some(("protocol", p)) => protocol = parse_protocol(p)?,
                Some(("mode", "ingress")) => mode = PublishMode::Ingress,
                Some(("mode", "host")) => mode = PublishMode::Host,
                _ => return Err(format!("{field:?}: use published=N, target=N, protocol=tcp|udp, mode=ingress|host")),
            }
        }
        let target = target.ok_or("target=N is missing")?;
        return Ok(PortConfig { protocol, target, published, mode });
    }
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, p)) => (ports, parse_protocol(p)?),
        None => (text, Protocol::Tcp),
    };
    let (published, target) = match ports.split_once(':') {
        Some((published, target)) => (Some(number(published)?), number(target)?),
        None => (None, number(ports)?),
    };
    Ok(PortConfig { protocol, target, published, mode: PublishMode::Ingress })
}

fn parse_network(text: &str) -> Result<NetworkTarget, String> {
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

/// Whether tasks share their host's network, which no published port leads into.
fn on_host_network(args: &CreateArgs) -> bool {
    args.network.iter().any(|n| n.target == HOST)
}

/// What the operator should know although it is no error.
pub fn warning(args: &CreateArgs) -> Option<&'static str> {
    let dropped = on_host_network(args) && !args.publish.is_empty();
    dropped.then_some("published ports are ignored in host network mode")
}

pub fn spec(args: &CreateArgs) -> Result<ServiceSpec> {
    if !args.process {
        bail!("give --process and a program after `--`: images are not supported yet");
    }
    let process = ProcessSpec {
        command: args.command.clone(),
        env: args.env.iter().cloned().collect::<BTreeMap<_, _>>(),
        dir: args.workdir.clone(),
        hostname: args.hostname.clone(),
    };
    Ok(ServiceSpec {
        annotations: Annotations { name: args.name.clone(), labels: args.label.iter().cloned().collect() },
        mode: Mode::Replicated { replicas: args.replicas },
        task: TaskSpec {
            runtime: Runtime::Process(process),
            restart: RestartPolicy {
                condition: args.restart_condition,
                delay: args.restart_delay,
                max_attempts: args.restart_max_attempts,
                window: args.restart_window,
            },
            placement: Placement {
                constraints: args.constraint.clone(),
                max_replicas_per_node: args.replicas_max_per_node,
            },
            networks: args.network.clone(),
            stop_grace: args.stop_grace_period,
            linger: TaskSpec::LINGER,
            force_update: 0,
        },
        endpoint: EndpointSpec {
            mode: args.endpoint_mode,
            ports: if on_host_network(args) { Vec::new() } else { args.publish.clone() },
        },
        update: UpdateConfig::default(),
        rollback: UpdateConfig::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let got = parse_port(text).ok();
            let got = got.map(|p| (p.published.map(Port::get), p.target.get(), p.protocol, p.mode));
            assert_eq!(got, want, "{text}");
        }
    }

    #[test]
    fn ports_are_dropped_with_a_warning_on_the_hosts_network() {
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(flatten)]
            create: CreateArgs,
        }
        for (network, ports, warned) in [("host", 0, true), ("front", 1, false)] {
            let line = ["create", "--process", "--name", "x", "--network", network, "-p", "80:80", "--", "true"];
            let args = <Line as clap::Parser>::try_parse_from(line).unwrap().create;
            assert_eq!((spec(&args).unwrap().endpoint.ports.len(), warning(&args).is_some()), (ports, warned));
        }
    }
}
