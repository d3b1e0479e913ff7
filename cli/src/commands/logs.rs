//! logs: what a workload has written.

use super::moment;
use crate::client::{Client, said};
use anyhow::Result;
use clap::Args;
use futures::StreamExt;
use heddle_proto::v1;
use std::io::{self, Write};

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// An id, a name, or the beginning of an id
    workload: String,
    /// Go on printing
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines, or all
    #[arg(short = 'n', long, default_value = "all", value_parser = tail)]
    tail: Tail,
    /// From a date, or so long ago, such as 10m
    #[arg(long, value_parser = moment::now)]
    since: Option<u64>,
    /// With the time before each line
    #[arg(short, long)]
    timestamps: bool,
}

#[derive(Debug, Clone, Copy)]
struct Tail(Option<u64>);

fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail(None)),
        n => n.parse().map(|n| Tail(Some(n))).map_err(|_| "use a number of lines, or all".into()),
    }
}

/// Prints a line where the workload wrote it. False: nobody reads any more.
pub fn print(line: &v1::LogLine, timestamps: bool) -> bool {
    let mut bytes = if timestamps { format!("{} ", moment::show(line.at_ms)).into_bytes() } else { Vec::new() };
    bytes.extend(&line.line);
    bytes.push(b'\n');
    let written = match line.stream() {
        v1::LogStream::Stderr => io::stderr().write_all(&bytes),
        _ => io::stdout().write_all(&bytes),
    };
    written.is_ok()
}

pub async fn run(client: &Client, args: LogsArgs) -> Result<()> {
    let request = v1::ServiceLogsRequest {
        r#ref: args.workload,
        follow: args.follow,
        tail: args.tail.0,
        since_ms: args.since.unwrap_or(0),
    };
    let mut lines = client.host()?.workload_logs(request).await.map_err(said)?.into_inner();
    while let Some(line) = lines.next().await {
        if !print(&line.map_err(said)?, args.timestamps) {
            return Ok(());
        }
    }
    Ok(())
}
