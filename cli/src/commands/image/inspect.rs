//! image inspect.

use crate::{
    client::{Client, said},
    commands::each::show_each,
};
use anyhow::Result;
use clap::Args;
use heddle_proto::v1;

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Names, ids, or beginnings of ids
    #[arg(required = true)]
    images: Vec<String>,
}

pub async fn run(client: &Client, args: InspectArgs) -> Result<()> {
    let mut host = client.host()?;
    show_each(args.images, async |r#ref| {
        let answer = host.inspect_image(v1::RefRequest { r#ref }).await.map_err(said)?;
        Ok(serde_json::from_str(&answer.into_inner().json)?)
    })
    .await
}
