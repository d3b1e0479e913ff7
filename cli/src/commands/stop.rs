//! stop: the stop signal, and after a time the kill.

use super::each::each;
use crate::client::{Client, said};
use anyhow::Result;
use clap::Args;
use heddle_proto::v1;

#[derive(Debug, Args)]
pub struct StopArgs {
    /// Ids, names, or beginnings of ids
    #[arg(required = true)]
    workloads: Vec<String>,
    /// Seconds between the stop signal and the kill [default: the workload's own]
    #[arg(short, long, visible_alias = "timeout")]
    time: Option<u32>,
}

pub async fn run(client: &Client, args: StopArgs) -> Result<()> {
    let mut host = client.host()?;
    let grace_ms = args.time.map(|seconds| u64::from(seconds) * 1000);
    each(args.workloads, async |r#ref| {
        host.stop_workload(v1::StopWorkloadRequest { r#ref: r#ref.clone(), grace_ms }).await.map_err(said)?;
        println!("{}", r#ref);
        Ok(())
    })
    .await
}
