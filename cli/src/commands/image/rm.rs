//! image rm.

use crate::{
    client::{Client, said},
    commands::each::each,
};
use anyhow::Result;
use clap::Args;
use heddle_proto::v1;

#[derive(Debug, Args)]
pub struct RmArgs {
    /// Names, ids, or beginnings of ids
    #[arg(required = true)]
    images: Vec<String>,
    /// Take the name away although containers use the image: they run on
    #[arg(short, long)]
    force: bool,
}

pub async fn run(client: &Client, args: RmArgs) -> Result<()> {
    let (mut host, force) = (client.host()?, args.force);
    each(args.images, async |r#ref| {
        let gone = host.remove_image(v1::RemoveImageRequest { r#ref, force }).await.map_err(said)?;
        println!("{}", gone.into_inner().name);
        Ok(())
    })
    .await
}
