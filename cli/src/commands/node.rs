//! node ls, inspect, update, promote, demote, rm.

use crate::{
    client::{Client, Control, said},
    commands::{cluster::role, pair},
    output::{self, Format},
};
use anyhow::{Result, bail};
use clap::{Subcommand, ValueEnum};
use heddle_model::{
    cluster::Role,
    node::{Availability, Node, NodeReport, NodeState},
};
use heddle_proto::{convert::ConvertError, v1};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List nodes
    Ls {
        #[arg(long, value_enum, default_value_t)]
        format: Format,
        /// Print ids alone
        #[arg(short, long)]
        quiet: bool,
    },
    /// Show all that is known of nodes, as JSON
    Inspect {
        /// In lines for people
        #[arg(long)]
        pretty: bool,
        /// Ids, host names, or beginnings of ids
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Change what a node is for
    Update {
        /// Id, host name, or beginning of an id
        node: String,
        /// Whether it gets tasks: active, pause (no new ones) or drain (none)
        #[arg(long, value_enum)]
        availability: Option<Use>,
        /// worker or manager
        #[arg(long, value_parser = role)]
        role: Option<Role>,
        /// Add a label: KEY=VALUE
        #[arg(long, value_parser = pair::key)]
        label_add: Vec<(String, String)>,
        /// Remove a label: KEY
        #[arg(long)]
        label_rm: Vec<String>,
    },
    /// Make managers of workers
    Promote {
        /// Ids, host names, or beginnings of ids
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Make workers of managers
    Demote {
        /// Ids, host names, or beginnings of ids
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Forget nodes that are down
    Rm {
        /// Ids, host names, or beginnings of ids
        #[arg(required = true)]
        nodes: Vec<String>,
        /// Cast out a node that is there, too, or a manager that is down and does not come back
        #[arg(short, long)]
        force: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Use {
    Active,
    Pause,
    Drain,
}

impl From<Use> for v1::Availability {
    fn from(u: Use) -> Self {
        match u {
            Use::Active => v1::Availability::Active,
            Use::Pause => v1::Availability::Pause,
            Use::Drain => v1::Availability::Drain,
        }
    }
}

/// How long a change of roles may take before that is said.
const LIMIT: Duration = Duration::from_secs(30);

/// Asks for a role, and waits until the node has it.
async fn become_role(control: &mut Control, reference: &str, role: Role) -> Result<()> {
    let request = v1::UpdateNodeRequest {
        r#ref: reference.to_owned(),
        role: Some(v1::Role::from(role).into()),
        ..v1::UpdateNodeRequest::default()
    };
    let node = control.update_node(request).await.map_err(said)?.into_inner();
    wait_for_role(control, node, reference, role).await
}

async fn wait_for_role(control: &mut Control, mut node: v1::Node, reference: &str, role: Role) -> Result<()> {
    let until = Instant::now() + LIMIT;
    while node.role() != v1::Role::from(role) {
        if Instant::now() > until {
            bail!("node {reference} is not a {role} yet: it becomes one as soon as it is there, see `heddle node ls`");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        // The leader may be the one that goes.
        if let Ok(now) = control.get_node(v1::RefRequest { r#ref: node.id.clone() }).await {
            node = now.into_inner();
        }
    }
    println!("{reference} is a {role} now.");
    Ok(())
}

/// A node, and what it says goes wrong on it.
struct Told {
    node: Node,
    report: NodeReport,
}

impl TryFrom<v1::Node> for Told {
    type Error = ConvertError;
    fn try_from(mut node: v1::Node) -> Result<Self, ConvertError> {
        let report = node.report.take().map(NodeReport::from).unwrap_or_default();
        Ok(Self { node: node.try_into()?, report })
    }
}

fn value(Told { node, report }: &Told, leader: &str) -> Value {
    json!({
        "id": node.id.as_str(),
        "hostname": node.description.hostname,
        "role": node.role,
        "availability": node.spec.availability,
        "state": node.status.state,
        "message": node.status.message,
        "leader": node.id.as_str() == leader,
        "dataPathAddr": node.data_path_addr,
        "managerAddr": node.manager.as_ref().map(|m| m.addr),
        "ingress": node.ingress,
        "description": node.description,
        "dataPlaneErrors": report.errors,
        "warnings": report.warnings,
        "labels": node.spec.annotations.labels,
        "version": node.meta.version,
        "createdAt": node.meta.created_at,
    })
}

pub async fn run(client: &Client, command: NodeCommand) -> Result<()> {
    let mut control = client.control()?;
    let leader = control.get_cluster(v1::GetClusterRequest {}).await.map_err(said)?.into_inner().leader;
    match command {
        NodeCommand::Ls { format, quiet } => {
            let answer = control.list_nodes(v1::ListNodesRequest {}).await.map_err(said)?.into_inner();
            let mut nodes: Vec<Told> = answer.nodes.into_iter().map(Told::try_from).collect::<Result<_, _>>()?;
            nodes.sort_by(|a, b| a.node.description.hostname.cmp(&b.node.description.hostname));
            if quiet {
                nodes.iter().for_each(|n| println!("{}", n.node.id));
                return Ok(());
            }
            let headings = ["ID", "HOSTNAME", "STATUS", "AVAILABILITY", "MANAGER STATUS", "ADDRESS", "VERSION"];
            output::print(
                format,
                &headings,
                nodes.iter().map(|n| row(n, &leader)).collect(),
                nodes.iter().map(|n| value(n, &leader)).collect(),
            );
        }
        NodeCommand::Inspect { nodes, pretty } => {
            let mut told = Vec::new();
            for r#ref in nodes {
                let node = control.get_node(v1::RefRequest { r#ref }).await.map_err(said)?.into_inner();
                told.push(Told::try_from(node)?);
            }
            if pretty {
                println!("{}", told.iter().map(|n| lines(n, &leader)).collect::<Vec<_>>().join("\n\n"));
                return Ok(());
            }
            println!("{:#}", Value::Array(told.iter().map(|n| value(n, &leader)).collect()));
        }
        NodeCommand::Update { node, availability, role, label_add, label_rm } => {
            let request = v1::UpdateNodeRequest {
                r#ref: node.clone(),
                availability: availability.map(|a| v1::Availability::from(a).into()),
                labels_add: label_add.into_iter().collect(),
                labels_remove: label_rm,
                role: role.map(|r| v1::Role::from(r).into()),
            };
            let updated = control.update_node(request).await.map_err(said)?.into_inner();
            match role {
                Some(role) => wait_for_role(&mut control, updated, &node, role).await?,
                None => println!("{node}"),
            }
        }
        NodeCommand::Promote { nodes } => {
            for node in nodes {
                become_role(&mut control, &node, Role::Manager).await?;
            }
        }
        NodeCommand::Demote { nodes } => {
            for node in nodes {
                become_role(&mut control, &node, Role::Worker).await?;
            }
        }
        NodeCommand::Rm { nodes, force } => {
            for r#ref in nodes {
                control.remove_node(v1::RemoveNodeRequest { r#ref: r#ref.clone(), force }).await.map_err(said)?;
                println!("{}", r#ref);
            }
        }
    }
    Ok(())
}

fn state(node: &Node) -> &'static str {
    match node.status.state {
        NodeState::Ready => "Ready",
        NodeState::Down => "Down",
        NodeState::Unknown => "Unknown",
    }
}

fn availability(node: &Node) -> &'static str {
    match node.spec.availability {
        Availability::Active => "Active",
        Availability::Pause => "Pause",
        Availability::Drain => "Drain",
    }
}

fn manager(node: &Node, leader: &str) -> &'static str {
    match &node.manager {
        Some(_) if node.id.as_str() == leader => "Leader",
        Some(_) if node.status.state == NodeState::Ready => "Reachable",
        Some(_) => "Unreachable",
        None => "",
    }
}

fn row(Told { node, report }: &Told, leader: &str) -> Vec<String> {
    let troubles = report.errors.len() + report.warnings.len();
    // What they are `node inspect` tells.
    let status = match troubles {
        0 => state(node).to_owned(),
        1 => format!("{} (1 problem)", state(node)),
        n => format!("{} ({n} problems)", state(node)),
    };
    let texts = [
        node.id.short(),
        &node.description.hostname,
        &status,
        availability(node),
        manager(node, leader),
        &node.data_path_addr.to_string(),
        &node.description.version,
    ];
    texts.map(str::to_owned).to_vec()
}

fn lines(Told { node, report }: &Told, leader: &str) -> String {
    let description = &node.description;
    let mut pairs = vec![
        ("ID", node.id.to_string()),
        ("Hostname", description.hostname.clone()),
        ("Role", node.role.to_string()),
        ("Status", state(node).to_owned()),
        ("Availability", availability(node).to_owned()),
        ("Data path", node.data_path_addr.to_string()),
    ];
    pairs.extend(description.data_path_mtu.map(|mtu| ("Data path's MTU", mtu.0.to_string())));
    pairs.extend(node.manager.as_ref().map(|m| ("Manager", format!("{} ({})", m.addr, manager(node, leader)))));
    pairs.push(("Version", description.version.clone()));
    pairs.extend(Some(&node.status.message).filter(|m| !m.is_empty()).map(|m| ("Message", m.clone())));
    pairs.extend(report.errors.iter().map(|e| ("Behind", e.clone())));
    pairs.extend(report.warnings.iter().map(|w| ("Warning", w.clone())));
    pairs.into_iter().map(|(name, text)| format!("{:<17}{text}", format!("{name}:"))).collect::<Vec<_>>().join("\n")
}
