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
    #[command(flatten)]
    lines: LineArgs,
}

/// Which lines, and how.
#[derive(Debug, Args)]
pub struct LineArgs {
    /// Go on printing
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines of each task or workload, or all
    #[arg(short = 'n', long, default_value = "all", value_parser = tail)]
    tail: Tail,
    /// From a date, or so long ago, such as 10m
    #[arg(long, value_parser = moment::now)]
    since: Option<u64>,
    /// With the time before each line
    #[arg(short, long)]
    pub timestamps: bool,
}

impl LineArgs {
    pub fn of(&self, r#ref: String) -> v1::ServiceLogsRequest {
        v1::ServiceLogsRequest { r#ref, follow: self.follow, tail: self.tail.0, since_ms: self.since.unwrap_or(0) }
    }
}

#[derive(Debug, Clone, Copy)]
struct Tail(Option<u64>);

fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail(None)),
        n => n.parse().map(|n| Tail(Some(n))).map_err(|_| "use a number of lines, or all".into()),
    }
}

/// Prints a line where the workload wrote it, with the time and the name before it if asked for. False: nobody reads any more.
pub fn print(line: &v1::LogLine, timestamps: bool, name: Option<&str>) -> bool {
    let mut bytes = if timestamps { format!("{} ", moment::show(line.at_ms)).into_bytes() } else { Vec::new() };
    bytes.extend(name.map(|name| format!("{name} | ")).unwrap_or_default().into_bytes());
    bytes.extend(&line.line);
    bytes.push(b'\n');
    let written = match line.stream() {
        v1::LogStream::Stderr => io::stderr().write_all(&bytes),
        _ => io::stdout().write_all(&bytes),
    };
    written.is_ok()
}

pub async fn run(client: &Client, args: LogsArgs) -> Result<()> {
    let request = args.lines.of(args.workload);
    let mut lines = client.host()?.workload_logs(request).await.map_err(said)?.into_inner();
    while let Some(line) = lines.next().await {
        if !print(&line.map_err(said)?, args.lines.timestamps, None) {
            return Ok(());
        }
    }
    Ok(())
}
