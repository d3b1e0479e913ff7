//! wait: until workloads have ended; prints their exit codes.

use super::each::each;
use crate::client::{Client, said};
use anyhow::Result;
use clap::Args;
use heddle_proto::v1;

#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Ids, names, or beginnings of ids
    #[arg(required = true)]
    workloads: Vec<String>,
}

pub async fn run(client: &Client, args: WaitArgs) -> Result<()> {
    let mut host = client.host()?;
    each(args.workloads, async |r#ref| {
        let ended = host.wait_workload(v1::RefRequest { r#ref }).await.map_err(said)?.into_inner();
        println!("{}", ended.exit_code);
        Ok(())
    })
    .await
}
