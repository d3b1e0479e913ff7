//! node ls, node inspect.

use crate::{
    client::{Client, said},
    output::{self, Format},
};
use anyhow::Result;
use clap::Subcommand;
use heddle_model::node::{Availability, Node, NodeReport, NodeState};
use heddle_proto::{convert::ConvertError, v1};
use serde_json::{Value, json};

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
