//! network inspect.

use super::find;
use crate::{
    client::{Client, said},
    commands::each::each,
};
use anyhow::Result;
use clap::Args;
use serde_json::Value;

#[derive(Debug, Args)]
pub struct InspectArgs {
    #[arg(required = true)]
    networks: Vec<String>,
    /// With the services on each, their addresses and tasks
    #[arg(short, long)]
    verbose: bool,
}

/// Prints what was found, even if something was not.
pub async fn run(client: &Client, args: InspectArgs) -> Result<()> {
    let (mut host, mut control) = (client.host()?, client.control()?);
    let mut found = Vec::new();
    let all = each(args.networks, async |r#ref| {
        let mut document = find::find(&mut host, &mut control, &r#ref).await.map_err(said)?.document;
        if let Some(fields) = document.as_object_mut().filter(|_| !args.verbose) {
            fields.remove("Services");
        }
        found.push(document);
        Ok(())
    })
    .await;
    println!("{:#}", Value::Array(found));
    all
}
