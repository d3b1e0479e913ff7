//! network connect and disconnect.

use crate::client::{Client, said};
use anyhow::{Result, bail};
use clap::Args;
use heddle_model::workload::NetworkWish;
use heddle_proto::v1;
use std::net::{Ipv4Addr, Ipv6Addr};

#[derive(Debug, Args)]
pub struct ConnectArgs {
    network: String,
    /// A workload or a task of this host
    workload: String,
    /// IPv4 address on the network
    #[arg(long)]
    ip: Option<Ipv4Addr>,
    /// IPv6 address on the network
    #[arg(long)]
    ip6: Option<Ipv6Addr>,
    /// A further name on the network
    #[arg(long)]
    alias: Vec<String>,
    /// The network with the highest gives the default route
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    gw_priority: i32,
    #[arg(long, hide = true)]
    driver_opt: Vec<String>,
    #[arg(long, hide = true)]
    link: Vec<String>,
    #[arg(long, hide = true)]
    link_local_ip: Vec<String>,
}

fn request(args: ConnectArgs) -> Result<v1::ConnectNetworkRequest> {
    let unknown = [("driver-opt", &args.driver_opt), ("link", &args.link), ("link-local-ip", &args.link_local_ip)];
    if let Some((flag, _)) = unknown.iter().find(|(_, given)| !given.is_empty()) {
        bail!("--{flag} is not supported: use --ip, --ip6, --alias and --gw-priority");
    }
    let wish = NetworkWish {
        network: args.network,
        aliases: args.alias,
        ip: args.ip,
        ip6: args.ip6,
        mac: None,
        gateway_priority: args.gw_priority,
    };
    Ok(v1::ConnectNetworkRequest { target: args.workload, wish: Some(wish.into()) })
}

pub async fn connect(client: &Client, args: ConnectArgs) -> Result<()> {
    let request = request(args)?;
    client.host()?.connect_network(request).await.map_err(said)?;
    Ok(())
}

#[derive(Debug, Args)]
pub struct DisconnectArgs {
    network: String,
    /// A workload or a task of this host
    workload: String,
    /// Although it cannot be told, or is not running
    #[arg(short, long)]
    force: bool,
}

pub async fn disconnect(client: &Client, args: DisconnectArgs) -> Result<()> {
    let request = v1::DisconnectNetworkRequest { target: args.workload, network: args.network, force: args.force };
    client.host()?.disconnect_network(request).await.map_err(said)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        connect: ConnectArgs,
    }

    fn parsed(line: &str) -> Result<v1::ConnectNetworkRequest> {
        request(Line::try_parse_from(["connect"].into_iter().chain(line.split(' ')))?.connect)
    }

    #[test]
    fn flags_make_the_wish() {
        let request = parsed("--ip 10.1.0.9 --alias a --alias b --gw-priority -5 front web").unwrap();
        let wish = request.wish.unwrap();
        assert_eq!((request.target.as_str(), wish.network.as_str()), ("web", "front"));
        assert_eq!((wish.ip.as_str(), wish.aliases.len(), wish.gateway_priority), ("10.1.0.9", 2, -5));
        let said = parsed("--driver-opt a=b front web").unwrap_err().to_string();
        assert!(said.starts_with("--driver-opt is not supported"), "{said}");
    }
}
