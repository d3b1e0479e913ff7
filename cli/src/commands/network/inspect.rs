//! network inspect.

use super::find;
use crate::{
    client::{Client, said},
    commands::each::show_each,
};
use anyhow::Result;
use clap::Args;

#[derive(Debug, Args)]
pub struct InspectArgs {
    #[arg(required = true)]
    networks: Vec<String>,
    /// With the services on each, their addresses and tasks
    #[arg(short, long)]
    verbose: bool,
}

pub async fn run(client: &Client, args: InspectArgs) -> Result<()> {
    let (mut host, mut control) = (client.host()?, client.control()?);
    show_each(args.networks, async |r#ref| {
        let mut document = find::find(&mut host, &mut control, &r#ref).await.map_err(said)?.document;
        if let Some(fields) = document.as_object_mut().filter(|_| !args.verbose) {
            fields.remove("Services");
        }
        Ok(document)
    })
    .await
}
