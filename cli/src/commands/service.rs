//! service create, ls, ps, inspect, scale, rm, logs.

use crate::{
    client::{Client, said},
    commands::network::key_value,
    output::{self, Format},
};
use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand};
use futures::StreamExt;
use heddle_model::{
    Annotations,
    endpoint::{EndpointMode, EndpointSpec, PortConfig, PublishMode},
    net::{Port, Protocol},
    node::Node,
    service::{
        Mode, NetworkTarget, Placement, ProcessSpec, RestartCondition, RestartPolicy, Runtime, Service, ServiceSpec,
        TaskSpec,
    },
    task::{Task, TaskState},
};
use heddle_proto::v1::{self, control_client::ControlClient};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    time::Duration,
};
use tonic::transport::Channel;

#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Make a service and wait until every replica answers on every host
    Create(Box<CreateArgs>),
    /// List services
    Ls {
        #[arg(long, value_enum, default_value_t)]
        format: Format,
        /// Print ids alone
        #[arg(short, long)]
        quiet: bool,
    },
    /// List the tasks of services
    Ps {
        #[arg(required = true)]
        services: Vec<String>,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Show all that is known of services, as JSON
    Inspect {
        #[arg(required = true)]
        services: Vec<String>,
    },
    /// Change how many replicas services have: NAME=REPLICAS
    Scale {
        #[arg(required = true, value_parser = key_value)]
        services: Vec<(String, String)>,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Remove services
    Rm {
        #[arg(required = true)]
        services: Vec<String>,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Print what the tasks of a service, or one task, have written
    Logs {
        /// A service, or the id of a task
        service: String,
        /// Go on printing
        #[arg(short, long)]
        follow: bool,
        /// Only the last lines of each task
        #[arg(short = 'n', long)]
        tail: Option<u64>,
        /// Without the task's name before each line
        #[arg(long)]
        raw: bool,
    },
}

#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Do not wait until it is done
    #[arg(short, long)]
    detach: bool,
    /// Seconds to wait
    #[arg(long, default_value_t = 60)]
    timeout: u64,
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    #[arg(long)]
    name: String,
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
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    restart_delay: Duration,
    /// 0 is no limit
    #[arg(long, default_value_t = 0)]
    restart_max_attempts: u64,
    /// Within which attempts are counted; 0s is for ever
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    restart_window: Duration,
    /// Between the stop signal and the kill
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    stop_grace_period: Duration,
    /// KEY=VALUE
    #[arg(short, long, value_parser = key_value)]
    label: Vec<(String, String)>,
    #[command(flatten)]
    wait: WaitArgs,
    /// The program and its arguments
    #[arg(last = true)]
    command: Vec<String>,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|_| "use a time such as 500ms, 5s or 1m".to_owned())?;
    Duration::try_from(span).map_err(|_| "use a time that is not negative".into())
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

fn spec(args: &CreateArgs) -> Result<ServiceSpec> {
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
        },
        endpoint: EndpointSpec { mode: args.endpoint_mode, ports: args.publish.clone() },
    })
}

pub async fn run(client: &Client, command: ServiceCommand) -> Result<()> {
    let mut control = client.control()?;
    match command {
        ServiceCommand::Create(args) => {
            let request = v1::CreateServiceRequest { spec: Some(spec(&args)?.into()) };
            let service = control.create_service(request).await.map_err(said)?.into_inner();
            if !args.wait.detach {
                settle(&mut control, &args.name, &service.id, args.wait.timeout).await?;
            }
            println!("{}", service.id);
        }
        ServiceCommand::Ls { format, quiet } => list(&mut control, format, quiet).await?,
        ServiceCommand::Ps { services, format } => tasks(&mut control, services, format).await?,
        ServiceCommand::Inspect { services } => {
            let mut values = Vec::new();
            for r#ref in services {
                let service = control.get_service(v1::RefRequest { r#ref }).await.map_err(said)?.into_inner();
                values.push(value(&Service::try_from(service)?));
            }
            println!("{:#}", Value::Array(values));
        }
        ServiceCommand::Scale { services, wait } => {
            for (name, text) in services {
                let replicas = text.parse().map_err(|_| {
                    anyhow!("replicas {text:?} of {name}: use a number from 1 to {}", Mode::MAX_REPLICAS)
                })?;
                let request = v1::ScaleServiceRequest { r#ref: name.clone(), replicas };
                let service = control.scale_service(request).await.map_err(said)?.into_inner();
                if !wait.detach {
                    settle(&mut control, &name, &service.id, wait.timeout).await?;
                }
                println!("{name} scaled to {replicas}");
            }
        }
        ServiceCommand::Rm { services, wait } => {
            for name in services {
                let gone =
                    control.remove_service(v1::RefRequest { r#ref: name.clone() }).await.map_err(said)?.into_inner();
                if !wait.detach {
                    settle(&mut control, &name, &gone.id, wait.timeout).await?;
                }
                println!("{name}");
            }
        }
        ServiceCommand::Logs { service, follow, tail, raw } => {
            logs(&mut control, service, follow, tail, raw).await?;
        }
    }
    Ok(())
}

/// What the progress says in one line, and whether that is what was asked for.
fn describe(progress: &v1::ServiceProgress) -> (String, bool) {
    let (done, wanted) = (progress.in_rotation, progress.desired);
    let removing = wanted == 0;
    let reached =
        if removing { progress.gone } else { done == wanted && progress.running == wanted && progress.stopping == 0 };
    let mut text = match removing {
        true => format!("{} tasks left", progress.stopping),
        false => format!("{} of {wanted} running, {done} in rotation on every host", progress.running),
    };
    if progress.stopping > 0 && !removing {
        text.push_str(&format!(", {} stopping", progress.stopping));
    }
    (text, reached)
}

/// Waits until the service is as wanted. On a time-out says what is missing.
async fn settle(control: &mut ControlClient<Channel>, name: &str, id: &str, timeout: u64) -> Result<()> {
    let request = v1::RefRequest { r#ref: id.to_owned() };
    let mut stream = control.watch_service(request).await.map_err(said)?.into_inner();
    let until = tokio::time::Instant::now() + Duration::from_secs(timeout);
    let bar = std::io::stderr().is_terminal().then(indicatif::ProgressBar::new_spinner);
    let mut last = v1::ServiceProgress::default();
    let mut shown = String::new();
    loop {
        match tokio::time::timeout_at(until, stream.next()).await {
            Ok(Some(Ok(progress))) => last = progress,
            Ok(Some(Err(status))) => return Err(said(status)),
            Ok(None) if last.gone => return Ok(()),
            Ok(None) => bail!("{name}: the manager went away while waiting: look with `heddle service ps {name}`"),
            Err(_) => break,
        }
        let (text, reached) = describe(&last);
        if reached {
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
            return Ok(());
        }
        match &bar {
            Some(bar) => {
                bar.set_message(format!("{name}: {text}"));
                bar.tick();
            }
            None if shown != text => eprintln!("{name}: {text}"),
            None => {}
        }
        shown = text;
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let mut why = last.reasons.clone();
    if !last.waiting_for.is_empty() {
        why.push(format!("waiting for {}", last.waiting_for.join(", ")));
    }
    bail!("{name}: not done after {timeout} s: {}; {}", describe(&last).0, why.join("; "))
}

fn ports(service: &Service) -> String {
    let ports = service.endpoint.as_ref().map_or(&service.spec.endpoint.ports, |e| &e.ports);
    let port = |p: &PortConfig| match p.published {
        Some(n) => format!("*:{n}->{}/{}", p.target, p.protocol),
        None => format!("*:?->{}/{}", p.target, p.protocol),
    };
    ports.iter().map(port).collect::<Vec<_>>().join(", ")
}

fn value(service: &Service) -> Value {
    let Mode::Replicated { replicas } = service.spec.mode;
    json!({
        "id": service.id.as_str(),
        "version": service.meta.version,
        "createdAt": service.meta.created_at,
        "updatedAt": service.meta.updated_at,
        "replicas": replicas,
        "spec": service.spec,
        "endpoint": service.endpoint,
    })
}

async fn list(control: &mut ControlClient<Channel>, format: Format, quiet: bool) -> Result<()> {
    let answer = control.list_services(v1::ListServicesRequest {}).await.map_err(said)?.into_inner();
    let mut all = Vec::new();
    for summary in answer.services {
        let Some(service) = summary.service else { continue };
        all.push((Service::try_from(service)?, summary.running, summary.desired));
    }
    all.sort_by(|a, b| a.0.spec.annotations.name.cmp(&b.0.spec.annotations.name));
    if quiet {
        all.iter().for_each(|(s, _, _)| println!("{}", s.id));
        return Ok(());
    }
    let row = |(service, running, desired): &(Service, u64, u64)| {
        let Runtime::Process(process) = &service.spec.task.runtime;
        vec![
            service.id.short().to_owned(),
            service.spec.annotations.name.clone(),
            "replicated".into(),
            format!("{running}/{desired}"),
            process.command.join(" "),
            ports(service),
        ]
    };
    let json = |(service, running, _): &(Service, u64, u64)| {
        let mut value = value(service);
        value["running"] = (*running).into();
        value
    };
    let headings = ["ID", "NAME", "MODE", "REPLICAS", "COMMAND", "PORTS"];
    output::print(format, &headings, all.iter().map(row).collect(), all.iter().map(json).collect());
    Ok(())
}

async fn tasks(control: &mut ControlClient<Channel>, services: Vec<String>, format: Format) -> Result<()> {
    let nodes = control.list_nodes(v1::ListNodesRequest {}).await.map_err(said)?.into_inner().nodes;
    let nodes: Vec<Node> = nodes.into_iter().map(Node::try_from).collect::<Result<_, _>>()?;
    let request = v1::ListTasksRequest { services, nodes: Vec::new() };
    let answer = control.list_tasks(request).await.map_err(said)?.into_inner();
    let mut all: Vec<Task> = answer.tasks.into_iter().map(Task::try_from).collect::<Result<_, _>>()?;
    all.sort_by_key(|t| (t.service_name.clone(), t.slot, std::cmp::Reverse(t.meta.created_at), t.id.clone()));
    let host = |t: &Task| {
        let node = t.node.as_ref().and_then(|id| nodes.iter().find(|n| n.id == *id));
        node.map_or_else(String::new, |n| n.description.hostname.clone())
    };
    let title = |state: TaskState| {
        let text = state.as_str();
        text[..1].to_uppercase() + &text[1..]
    };
    let row = |t: &Task| {
        let error = if t.status.state <= TaskState::Pending { &t.status.message } else { &t.status.error };
        vec![
            t.id.short().to_owned(),
            format!("{}.{}", t.service_name, t.slot),
            host(t),
            title(t.desired),
            format!("{} {}", title(t.status.state), output::ago(t.status.since.0)),
            error.clone(),
        ]
    };
    let json = |t: &Task| {
        json!({
            "id": t.id.as_str(), "name": t.name(), "service": t.service.as_str(), "slot": t.slot,
            "node": t.node.as_ref().map(|n| n.as_str()), "hostname": host(t), "desiredState": t.desired,
            "state": t.status.state, "since": t.status.since, "message": t.status.message, "error": t.status.error,
            "pid": t.status.pid, "exitCode": t.status.exit_code, "attachments": t.attachments,
        })
    };
    let headings = ["ID", "NAME", "NODE", "DESIRED STATE", "CURRENT STATE", "ERROR"];
    output::print(format, &headings, all.iter().map(row).collect(), all.iter().map(json).collect());
    Ok(())
}

async fn logs(
    control: &mut ControlClient<Channel>,
    r#ref: String,
    follow: bool,
    tail: Option<u64>,
    raw: bool,
) -> Result<()> {
    let request = v1::ServiceLogsRequest { r#ref, follow, tail, since_ms: 0 };
    let mut lines = control.service_logs(request).await.map_err(said)?.into_inner();
    while let Some(line) = lines.next().await {
        let line = line.map_err(said)?;
        let mut bytes = if raw { Vec::new() } else { format!("{} | ", line.task_name).into_bytes() };
        let stderr = line.stream() == v1::LogStream::Stderr;
        bytes.extend(line.line);
        bytes.push(b'\n');
        // A reader that has gone away is no error.
        let written = if stderr { std::io::stderr().write_all(&bytes) } else { std::io::stdout().write_all(&bytes) };
        if written.is_err() {
            return Ok(());
        }
    }
    Ok(())
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
    fn durations_have_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1m"), Ok(Duration::from_secs(60)));
        assert!(parse_duration("5").is_err() && parse_duration("-5s").is_err());
    }
}
