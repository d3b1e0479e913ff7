//! image prune.

use crate::{
    client::{Client, said},
    commands::confirm::agreed,
};
use anyhow::Result;
use bytesize::ByteSize;
use clap::Args;
use heddle_proto::v1;

#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Those with a tag, too: images of services have one
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub async fn run(client: &Client, args: PruneArgs) -> Result<()> {
    let which = if args.all { "images" } else { "images without a tag" };
    if !args.force && !agreed(&format!("all {which} not used by at least one container or task"), "unused images", &[])?
    {
        return Ok(());
    }
    let done = client.host()?.prune_images(v1::PruneImagesRequest { all: args.all }).await.map_err(said)?.into_inner();
    if !done.names.is_empty() {
        println!("Deleted Images:\n{}\n", done.names.join("\n"));
    }
    println!("Total reclaimed space: {} of compressed content, and what was unpacked of it", ByteSize::b(done.freed));
    Ok(())
}
