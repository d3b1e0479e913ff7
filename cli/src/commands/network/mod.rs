//! network create, ls, inspect, connect, disconnect, rm, prune, rules.
//!
//! ```text
//! this host's networks ── Host ──┐                 create, rules: one of the two, by the driver
//!                                ├─ find, all ──>  inspect, ls, rm, prune
//! the cluster's ──────── Control ┘  cluster: what Control answers, as a document like Host's
//! ```

mod cluster;
mod connect;
mod create;
pub mod find;
mod inspect;
mod ls;
mod pools;
mod prune;
mod rm;
mod rules;

use crate::client::Client;
use anyhow::Result;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Make a network of this host, or with `-d overlay` one that spans the cluster
    Create(Box<create::CreateArgs>),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(ls::LsArgs),
    /// Show networks with their addresses and members, as JSON
    Inspect(inspect::InspectArgs),
    /// Let a workload join a network
    Connect(connect::ConnectArgs),
    /// Let a workload leave a network
    Disconnect(connect::DisconnectArgs),
    /// Remove networks that nobody uses
    #[command(visible_alias = "remove")]
    Rm(rm::RmArgs),
    /// Remove all networks that were made here and that nobody uses
    Prune(prune::PruneArgs),
    /// Tell what this host's kernel does with packets: published ports, translation, load balancing, filters
    Rules(rules::RulesArgs),
}

pub async fn run(client: &Client, command: NetworkCommand) -> Result<()> {
    match command {
        NetworkCommand::Create(args) => create::run(client, *args).await,
        NetworkCommand::Ls(args) => ls::run(client, args).await,
        NetworkCommand::Inspect(args) => inspect::run(client, args).await,
        NetworkCommand::Connect(args) => connect::connect(client, args).await,
        NetworkCommand::Disconnect(args) => connect::disconnect(client, args).await,
        NetworkCommand::Rm(args) => rm::run(client, args).await,
        NetworkCommand::Prune(args) => prune::run(client, args).await,
        NetworkCommand::Rules(args) => rules::run(client, args).await,
    }
}
