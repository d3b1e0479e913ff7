//! The sample workload: answers who it is and whom it sees, over HTTP and as UDP datagrams; and a client for it.
//!
//! ```text
//! serve <── ask: one target, so many times      probe: many targets, each once
//! ```

mod ask;
pub(crate) mod probe;
mod serve;

use anyhow::Result;
use clap::Args;
use std::{net::IpAddr, time::Duration};

#[derive(Debug, Args)]
pub struct WhoamiArgs {
    /// TCP and UDP port to answer on
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// Address to answer at; a host that has several answers datagrams from the one that it was asked at only if it is
    /// named here [default: all]
    #[arg(long, value_name = "ADDRESS")]
    bind: Vec<IpAddr>,
    /// Be the client: ask HOST:PORT instead of answering
    #[arg(long, value_name = "HOST:PORT")]
    ask: Option<String>,
    /// Ask by UDP
    #[arg(long, requires = "ask")]
    udp: bool,
    /// How often to ask, each time on a new connection unless --keep-alive is given
    #[arg(long, requires = "ask", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Ask on one connection for as long as the other side keeps it open; with --udp, from one port
    #[arg(long, requires = "ask")]
    keep_alive: bool,
    /// Milliseconds between one request and the next
    #[arg(long, requires = "ask", default_value_t = 0, value_name = "MILLISECONDS")]
    every: u64,
    /// Print the answers as they are, not counted
    #[arg(long, requires = "ask")]
    verbose: bool,
    /// Be the client: ask tcp4:HOST:PORT, tcp6:, udp4: or udp6:, all such targets at once, and print which answer
    #[arg(long, value_name = "TARGET", conflicts_with = "ask")]
    probe: Vec<probe::Target>,
    /// Milliseconds in which a target must answer
    #[arg(long, requires = "probe", default_value_t = 1000)]
    within: u64,
}

pub async fn run(args: WhoamiArgs) -> Result<()> {
    if !args.probe.is_empty() {
        probe::run(&args.probe, Duration::from_millis(args.within)).await;
        return Ok(());
    }
    match &args.ask {
        Some(target) => ask::run(target, &args).await,
        None => serve::run(&args).await,
    }
}
