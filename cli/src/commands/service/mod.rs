//! service create, ls, ps, inspect, update, plan, explain, rebalance, rollback, scale, rm, logs.

mod container;
mod create;
mod explain;
mod health;
mod plan;
mod resources;
pub(crate) mod settings;
mod settle;
mod update;

use crate::{
    client::{Client, Control, said},
    commands::{
        logs::{self, LineArgs},
        pair::key_value,
        registry,
    },
    output::{self, Format},
};
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use create::{CreateArgs, spec, warning};
use futures::StreamExt;
use heddle_model::{
    endpoint::PortConfig,
    image::ImageName,
    login::Logins,
    node::Node,
    service::{Mode, Runtime, Service, ServiceSpec},
    task::{Task, TaskState},
};
use heddle_proto::v1;
use serde_json::{Value, json};
use settle::{Goal, settle};
use update::{Changes, UpdateArgs};

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
    /// Change a service and wait until all its tasks are as it says now, replaced as its --update-... say
    Update(Box<UpdateArgs>),
    /// Move tasks to nodes that have fewer of the service, one at a time, each when another has taken its place
    Rebalance {
        #[arg(required = true)]
        services: Vec<String>,
        /// Tasks to move at most, of each service; 0 ends what goes on [default: as many as it takes]
        #[arg(long, value_name = "COUNT")]
        max: Option<u64>,
        #[command(flatten)]
        end: EndArgs,
    },
    /// Tell what an update would do, and change nothing: which fields differ, which tasks are replaced and where they come, how
    /// the update would end
    Plan {
        #[command(flatten)]
        changes: Box<Changes>,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Tell why each task of a service is where it is, or what every node has against it and what would help
    Explain {
        /// Id, name, or beginning of an id
        service: String,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Go back to what a service was before its last update, and forth again
    Rollback {
        /// Id, name, or beginning of an id
        service: String,
        #[command(flatten)]
        end: EndArgs,
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
        #[command(flatten)]
        lines: LineArgs,
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

/// An update ends by itself: it has a deadline.
#[derive(Debug, Args)]
pub struct EndArgs {
    /// Do not wait until it is done
    #[arg(short, long)]
    detach: bool,
    /// Seconds to wait [default: until it ends]
    #[arg(long)]
    timeout: Option<u64>,
}

pub async fn run(client: &Client, command: ServiceCommand) -> Result<()> {
    let mut control = client.control()?;
    match command {
        ServiceCommand::Create(args) => {
            let mut spec = spec(&args)?;
            let logins = logins(&spec, args.with_registry_auth)?;
            if let Runtime::Image(image) = &mut spec.task.runtime
                && !args.no_resolve_image
            {
                pin(client, &mut image.image, &logins).await?;
            }
            let request = v1::CreateServiceRequest { spec: Some(spec.into()), logins: Some(logins.into()) };
            if let Some(warning) = warning(&args) {
                eprintln!("WARNING: {warning}");
            }
            let service = control.create_service(request).await.map_err(said)?.into_inner();
            if !args.wait.detach {
                settle(&mut control, &args.name, &service.id, Some(args.wait.timeout), Goal::Wanted).await?;
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
            let wanted = services.iter().map(|(name, text)| Ok((name, replicas(name, text)?)));
            let wanted = wanted.collect::<Result<Vec<_>>>()?;
            // What is wrong with any of them is said before one is another.
            for (name, replicas) in &wanted {
                let request = v1::RefRequest { r#ref: (*name).clone() };
                let service = Service::try_from(control.get_service(request).await.map_err(said)?.into_inner())?;
                let mode = &service.spec.mode;
                if mode.scaled(*replicas).is_none() {
                    bail!(
                        "service {name:?} is {}: it has one task on each node, and no number that could be changed",
                        mode.as_str()
                    );
                }
            }
            let mut scaled = Vec::new();
            for (name, replicas) in wanted {
                let request = v1::ScaleServiceRequest { r#ref: name.clone(), replicas };
                scaled.push((name, replicas, control.scale_service(request).await.map_err(said)?.into_inner().id));
            }
            for (name, replicas, id) in scaled {
                if !wait.detach {
                    settle(&mut control, name, &id, Some(wait.timeout), Goal::Wanted).await?;
                }
                println!("{name} scaled to {replicas}");
            }
        }
        ServiceCommand::Update(mut args) => {
            args.changes.pin(client).await?;
            let name = &args.changes.service;
            let service = update::update(client, &mut control, &args.changes).await?;
            if !args.end.detach {
                settle(&mut control, name, &service.id, args.end.timeout, Goal::Updated).await?;
            }
            println!("{name}");
        }
        ServiceCommand::Rebalance { services, max, end } => {
            for name in services {
                let request = v1::RebalanceServiceRequest { r#ref: name.clone(), most: max };
                let service = control.rebalance_service(request).await.map_err(said)?.into_inner();
                if !end.detach {
                    settle(&mut control, &name, &service.id, end.timeout, Goal::Even).await?;
                }
                println!("{name}");
            }
        }
        ServiceCommand::Plan { mut changes, format } => {
            changes.pin(client).await?;
            plan::plan(client, &mut control, &changes, format).await?;
        }
        ServiceCommand::Explain { service, format } => explain::explain(&mut control, service, format).await?,
        ServiceCommand::Rollback { service: name, end } => {
            let request = v1::RefRequest { r#ref: name.clone() };
            let service = control.rollback_service(request).await.map_err(said)?.into_inner();
            if !end.detach {
                settle(&mut control, &name, &service.id, end.timeout, Goal::RolledBack).await?;
            }
            println!("{name}");
        }
        ServiceCommand::Rm { services, wait } => {
            for name in services {
                let gone =
                    control.remove_service(v1::RefRequest { r#ref: name.clone() }).await.map_err(said)?.into_inner();
                if !wait.detach {
                    settle(&mut control, &name, &gone.id, Some(wait.timeout), Goal::Wanted).await?;
                }
                println!("{name}");
            }
        }
        ServiceCommand::Logs { service, lines, raw } => print_logs(&mut control, service, &lines, raw).await?,
    }
    Ok(())
}

/// The login for the registry of a service's image, if it is to be shown.
fn logins(spec: &ServiceSpec, shown: bool) -> Result<Logins> {
    match &spec.task.runtime {
        _ if !shown => Ok(Logins::default()),
        Runtime::Image(image) => Ok(Logins([registry::login(&image.image)?].into())),
        Runtime::Process(_) => bail!("--with-registry-auth: the service runs a program of the hosts, and no image"),
    }
}

/// Has every node run the image that has the name now. Where no registry tells, a node takes what it is given.
async fn pin(client: &Client, image: &mut ImageName, logins: &Logins) -> Result<()> {
    if image.is_pinned() {
        return Ok(());
    }
    let login = v1::RegistryLogins::from(logins.clone()).logins.pop();
    let request = v1::ResolveImageRequest { image: image.to_string(), login };
    match client.host()?.resolve_image(request).await {
        Ok(answer) => *image = image.pinned(&answer.into_inner().digest)?,
        Err(status) => {
            eprintln!("WARNING: {}; without its digest, nodes may run different ones", said(status));
        }
    }
    Ok(())
}

fn replicas(name: &str, text: &str) -> Result<u64> {
    let most = Mode::MAX_REPLICAS;
    match text.parse() {
        Ok(number) if number <= most => Ok(number),
        Ok(number) => bail!("replicas {number} of {name}: use a number from 0 to {most}"),
        Err(_) => bail!("replicas {text:?} of {name}: use a number from 0 to {most}"),
    }
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
    json!({
        "id": service.id.as_str(),
        "version": service.meta.version,
        "createdAt": service.meta.created_at,
        "updatedAt": service.meta.updated_at,
        "mode": service.spec.mode.as_str(),
        "replicas": service.spec.mode.count(),
        "spec": service.spec,
        "endpoint": service.endpoint,
        "updateStatus": service.update,
        "previousSpec": service.previous.as_ref().map(|p| &p.spec),
    })
}

async fn list(control: &mut Control, format: Format, quiet: bool) -> Result<()> {
    let answer = control.list_services(v1::ListServicesRequest {}).await.map_err(said)?.into_inner();
    let mut all = Vec::new();
    for summary in answer.services {
        let Some(service) = summary.service else { continue };
        all.push((Service::try_from(service)?, summary.running, summary.desired, summary.completed));
    }
    all.sort_by(|a, b| a.0.spec.annotations.name.cmp(&b.0.spec.annotations.name));
    if quiet {
        all.iter().for_each(|(s, ..)| println!("{}", s.id));
        return Ok(());
    }
    type Row = (Service, u64, u64, u64);
    let row = |(service, running, desired, completed): &Row| {
        let most = service.spec.mode.at_once().unwrap_or(*desired).min(desired.saturating_sub(*completed));
        let replicas = match service.spec.mode.is_job() {
            true => format!("{running}/{most} ({completed}/{desired} completed)"),
            false => format!("{running}/{desired}"),
        };
        vec![
            service.id.short().to_owned(),
            service.spec.annotations.name.clone(),
            service.spec.mode.as_str().to_owned(),
            replicas,
            service.spec.task.runtime.shown(),
            ports(service),
        ]
    };
    let json = |(service, running, desired, completed): &Row| {
        let mut value = value(service);
        value["running"] = (*running).into();
        value["desired"] = (*desired).into();
        if service.spec.mode.is_job() {
            value["completed"] = (*completed).into();
        }
        value
    };
    let headings = ["ID", "NAME", "MODE", "REPLICAS", "COMMAND", "PORTS"];
    output::print(format, &headings, all.iter().map(row).collect(), all.iter().map(json).collect());
    Ok(())
}

async fn tasks(control: &mut Control, services: Vec<String>, format: Format) -> Result<()> {
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
            "unhealthy": t.status.unhealthy, "pid": t.status.pid, "exitCode": t.status.exit_code, "attachments": t.attachments,
        })
    };
    let headings = ["ID", "NAME", "NODE", "DESIRED STATE", "CURRENT STATE", "ERROR"];
    output::print(format, &headings, all.iter().map(row).collect(), all.iter().map(json).collect());
    Ok(())
}

async fn print_logs(control: &mut Control, service: String, args: &LineArgs, raw: bool) -> Result<()> {
    let mut lines = control.service_logs(args.of(service)).await.map_err(said)?.into_inner();
    while let Some(line) = lines.next().await {
        let line = line.map_err(said)?;
        // A reader that has gone away is no error.
        if !logs::print(&line, args.timestamps, (!raw).then_some(&line.task_name)) {
            return Ok(());
        }
    }
    Ok(())
}
