//! rm: nothing of a workload is left.

use super::each::each;
use crate::client::{Client, said};
use anyhow::Result;
use clap::Args;
use heddle_proto::v1;
use tonic::Code;

#[derive(Debug, Args)]
pub struct RmArgs {
    /// Ids, names, or beginnings of ids
    #[arg(required = true)]
    workloads: Vec<String>,
    /// Running ones too; those that do not exist are no error
    #[arg(short, long)]
    force: bool,
}

pub async fn run(client: &Client, args: RmArgs) -> Result<()> {
    let (mut host, force) = (client.host()?, args.force);
    each(args.workloads, async |r#ref| {
        match host.remove_workload(v1::RemoveWorkloadRequest { r#ref: r#ref.clone(), force }).await {
            Ok(_) => println!("{}", r#ref),
            Err(status) if force && status.code() == Code::NotFound => {}
            Err(status) => return Err(said(status)),
        }
        Ok(())
    })
    .await
}
