//! image ls, pull, rm, prune, inspect: of this host's containerd, in a namespace of our own.

mod inspect;
mod ls;
mod prune;
pub mod pull;
mod rm;

use crate::client::Client;
use anyhow::Result;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// List the images that this host has. SIZE is that of the content as it was sent: its layers are compressed, and take more when
    /// they are unpacked
    #[command(visible_alias = "list")]
    Ls(ls::LsArgs),
    /// Bring an image here, or the one that has its tag now
    Pull(pull::PullArgs),
    /// Remove images that no container and no task uses
    #[command(visible_alias = "remove")]
    Rm(rm::RmArgs),
    /// Remove all images that have no tag, or with --all any, and that no container and no task uses
    Prune(prune::PruneArgs),
    /// Show all that is known of images, as JSON
    Inspect(inspect::InspectArgs),
}

pub async fn run(client: &Client, command: ImageCommand) -> Result<()> {
    match command {
        ImageCommand::Ls(args) => ls::run(client, args).await,
        ImageCommand::Pull(args) => pull::run(client, args).await,
        ImageCommand::Rm(args) => rm::run(client, args).await,
        ImageCommand::Prune(args) => prune::run(client, args).await,
        ImageCommand::Inspect(args) => inspect::run(client, args).await,
    }
}
