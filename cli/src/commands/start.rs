//! start: a workload that has ended, once more.

use super::each::each;
use crate::client::{Client, said};
use anyhow::Result;
use clap::Args;
use heddle_proto::v1;

#[derive(Debug, Args)]
pub struct StartArgs {
    /// Ids, names, or beginnings of ids
    #[arg(required = true)]
    workloads: Vec<String>,
}

pub async fn run(client: &Client, args: StartArgs) -> Result<()> {
    let mut host = client.host()?;
    each(args.workloads, async |r#ref| {
        host.start_workload(v1::RefRequest { r#ref: r#ref.clone() }).await.map_err(said)?;
        println!("{}", r#ref);
        Ok(())
    })
    .await
}
