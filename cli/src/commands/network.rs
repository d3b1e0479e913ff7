//! network create, ls, inspect, rm.

use crate::{
    client::{Client, said},
    output::{self, Format},
};
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use heddle_model::{
    Annotations,
    net::{Mtu, Pool, parse_subnet},
    network::{Driver, Network, NetworkSpec},
};
use heddle_proto::v1;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use tonic::transport::Channel;

#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Make a network that spans the cluster
    Create(CreateArgs),
    /// List networks
    Ls {
        #[arg(long, value_enum, default_value_t)]
        format: Format,
        /// Print ids alone
        #[arg(short, long)]
        quiet: bool,
    },
    /// Show networks with their peers, services and addresses, as JSON
    Inspect {
        #[arg(required = true)]
        networks: Vec<String>,
    },
    /// Remove networks that no service uses
    Rm {
        #[arg(required = true)]
        networks: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    name: String,
    /// overlay is the only one
    #[arg(short, long, default_value = "overlay")]
    driver: String,
    /// A subnet in CIDR form; once for IPv4, once for IPv6 [default: from the pools]
    #[arg(long)]
    subnet: Vec<String>,
    /// No way out through the gateway bridge
    #[arg(long)]
    internal: bool,
    /// Let standalone workloads join
    #[arg(long)]
    attachable: bool,
    /// Lower than what the data path allows
    #[arg(long)]
    mtu: Option<u16>,
    /// KEY=VALUE
    #[arg(short, long, value_parser = key_value)]
    label: Vec<(String, String)>,
}

pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("use KEY=VALUE".into()),
    }
}

fn value(network: &Network) -> Value {
    json!({
        "id": network.id.as_str(),
        "name": network.spec.annotations.name,
        "labels": network.spec.annotations.labels,
        "driver": "overlay",
        "scope": "cluster",
        "ingress": network.spec.ingress,
        "internal": network.spec.internal,
        "attachable": network.spec.attachable,
        "vni": network.allocation.as_ref().map(|a| a.vni.get()),
        "subnets": network.allocation.as_ref().map(|a| a.subnet.nets()),
        "serviceSubnets": network.allocation.as_ref().map(|a| a.service_subnet.nets()),
        "createdAt": network.meta.created_at,
    })
}

pub async fn run(client: &Client, command: NetworkCommand) -> Result<()> {
    let mut control = client.control()?;
    match command {
        NetworkCommand::Create(args) => create(control, args).await,
        NetworkCommand::Ls { format, quiet } => {
            let answer = control.list_networks(v1::ListNetworksRequest {}).await.map_err(said)?.into_inner();
            let mut all: Vec<Network> = answer.networks.into_iter().map(Network::try_from).collect::<Result<_, _>>()?;
            all.sort_by(|a, b| a.spec.annotations.name.cmp(&b.spec.annotations.name));
            if quiet {
                all.iter().for_each(|n| println!("{}", n.id));
                return Ok(());
            }
            let row = |n: &Network| {
                let given = n.allocation.as_ref();
                let vni = given.map_or_else(String::new, |a| a.vni.to_string());
                let subnets = given.map_or_else(String::new, |a| format!("{} {}", a.subnet.v4, a.subnet.v6));
                vec![
                    n.id.short().into(),
                    n.spec.annotations.name.clone(),
                    "overlay".into(),
                    "cluster".into(),
                    vni,
                    subnets,
                ]
            };
            let headings = ["NETWORK ID", "NAME", "DRIVER", "SCOPE", "VNI", "SUBNETS"];
            output::print(format, &headings, all.iter().map(row).collect(), all.iter().map(value).collect());
            Ok(())
        }
        NetworkCommand::Inspect { networks } => {
            let mut values = Vec::new();
            for r#ref in networks {
                let answer = control.inspect_network(v1::RefRequest { r#ref }).await.map_err(said)?.into_inner();
                values.push(inspect(answer)?);
            }
            println!("{:#}", Value::Array(values));
            Ok(())
        }
        NetworkCommand::Rm { networks } => {
            for r#ref in networks {
                control.remove_network(v1::RefRequest { r#ref: r#ref.clone() }).await.map_err(said)?;
                println!("{}", r#ref);
            }
            Ok(())
        }
    }
}

fn addrs(addr: Option<v1::DualAddr>) -> Value {
    addr.map_or(Value::Null, |a| json!([a.v4, a.v6]))
}

fn inspect(answer: v1::InspectNetworkResponse) -> Result<Value> {
    let Some(network) = answer.network else { bail!("the daemon's answer has no network") };
    let mut out = value(&Network::try_from(network)?);
    out["mtu"] = answer.mtu.into();
    let peer = |p: v1::NetworkPeer| {
        let leg = p.ingress.map(|l| json!({ "index": l.index, "addrs": addrs(l.addr), "mac": l.mac }));
        json!({ "node": p.node, "hostname": p.hostname, "dataPathAddr": p.data_path_addr, "ingress": leg })
    };
    out["peers"] = answer.peers.into_iter().map(peer).collect();
    let endpoint = |e: v1::NetworkEndpoint| {
        let state = heddle_model::task::TaskState::try_from(e.state()).ok();
        json!({ "task": e.task, "name": e.name, "node": e.node, "addrs": addrs(e.addr), "mac": e.mac, "state": state })
    };
    let service = |s: v1::NetworkService| {
        let endpoints: Vec<Value> = s.endpoints.into_iter().map(endpoint).collect();
        json!({ "id": s.id, "name": s.name, "virtualIps": addrs(s.virtual_ip), "endpoints": endpoints })
    };
    out["services"] = answer.services.into_iter().map(service).collect();
    Ok(out)
}

async fn create(mut control: heddle_proto::v1::control_client::ControlClient<Channel>, args: CreateArgs) -> Result<()> {
    if args.driver != "overlay" {
        bail!("--driver {:?}: use overlay", args.driver);
    }
    let spec = NetworkSpec {
        annotations: Annotations { name: args.name, labels: args.label.into_iter().collect() },
        driver: Driver::Overlay,
        ingress: false,
        internal: args.internal,
        attachable: args.attachable,
        pools: args.subnet.iter().map(|s| parse_subnet(s).map(Pool::new)).collect::<Result<_, _>>()?,
        ipv4: None,
        ipv6: None,
        mtu: args.mtu.map(Mtu),
        options: BTreeMap::new(),
    };
    let request = v1::CreateNetworkRequest { spec: Some(spec.into()) };
    let made = Network::try_from(control.create_network(request).await.map_err(said)?.into_inner())?;
    // It is a network once it has its subnets.
    for _ in 0..100 {
        let r#ref = made.id.to_string();
        let now = control.inspect_network(v1::RefRequest { r#ref }).await.map_err(said)?.into_inner();
        if now.network.is_some_and(|n| n.allocation.is_some()) {
            println!("{}", made.id);
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let _ = control.remove_network(v1::RefRequest { r#ref: made.id.to_string() }).await;
    bail!("network {}: the address pools have no free subnet left", made.spec.annotations.name)
}
