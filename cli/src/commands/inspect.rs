//! inspect: workloads, tasks of this host and networks, as JSON.

use super::{each::show_each, network::find};
use crate::client::{Client, said};
use anyhow::{Result, anyhow};
use clap::Args;
use heddle_proto::v1;
use serde_json::Value;
use tonic::Code;

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Workloads, tasks of this host, or networks
    #[arg(required = true)]
    objects: Vec<String>,
}

async fn document(client: &Client, r#ref: &str) -> Result<Value> {
    match client.host()?.inspect_workload(v1::RefRequest { r#ref: r#ref.to_owned() }).await {
        Ok(answer) => return Ok(serde_json::from_str(&answer.into_inner().json)?),
        Err(status) if status.code() == Code::NotFound => {}
        Err(status) => return Err(said(status)),
    }
    match find::find(&mut client.host()?, &mut client.control()?, r#ref).await {
        Ok(found) => Ok(found.document),
        Err(status) if status.code() == Code::NotFound => {
            Err(anyhow!("no workload, task or network of this host is called {ref:?}"))
        }
        Err(status) => Err(said(status)),
    }
}

pub async fn run(client: &Client, args: InspectArgs) -> Result<()> {
    show_each(args.objects, async |r#ref| document(client, &r#ref).await).await
}
