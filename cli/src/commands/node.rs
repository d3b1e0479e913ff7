//! node ls, node inspect.

use crate::{
    client::{Client, said},
    output::{self, Format},
};
use anyhow::Result;
use clap::Subcommand;
use heddle_model::node::{Availability, Node, NodeState};
use heddle_proto::v1;
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
        /// Ids, host names, or beginnings of ids
        #[arg(required = true)]
        nodes: Vec<String>,
    },
}

pub fn value(node: &Node, leader: &str) -> Value {
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
            let mut nodes: Vec<Node> = answer.nodes.into_iter().map(Node::try_from).collect::<Result<_, _>>()?;
            nodes.sort_by(|a, b| a.description.hostname.cmp(&b.description.hostname));
            if quiet {
                nodes.iter().for_each(|n| println!("{}", n.id));
                return Ok(());
            }
            let row = |n: &Node| {
                let state = match n.status.state {
                    NodeState::Ready => "Ready",
                    NodeState::Down => "Down",
                    NodeState::Unknown => "Unknown",
                };
                let availability = match n.spec.availability {
                    Availability::Active => "Active",
                    Availability::Pause => "Pause",
                    Availability::Drain => "Drain",
                };
                let manager = match &n.manager {
                    Some(_) if n.id.as_str() == leader => "Leader",
                    Some(_) if n.status.state == NodeState::Ready => "Reachable",
                    Some(_) => "Unreachable",
                    None => "",
                };
                let texts = [
                    n.id.short(),
                    &n.description.hostname,
                    state,
                    availability,
                    manager,
                    &n.data_path_addr.to_string(),
                    &n.description.version,
                ];
                texts.map(str::to_owned).to_vec()
            };
            let headings = ["ID", "HOSTNAME", "STATUS", "AVAILABILITY", "MANAGER STATUS", "ADDRESS", "VERSION"];
            output::print(
                format,
                &headings,
                nodes.iter().map(row).collect(),
                nodes.iter().map(|n| value(n, &leader)).collect(),
            );
        }
        NodeCommand::Inspect { nodes } => {
            let mut values = Vec::new();
            for r#ref in nodes {
                let node = control.get_node(v1::RefRequest { r#ref }).await.map_err(said)?.into_inner();
                values.push(value(&Node::try_from(node)?, &leader));
            }
            println!("{:#}", Value::Array(values));
        }
    }
    Ok(())
}
