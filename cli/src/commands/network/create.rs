//! network create: of this host, or of the cluster, by the driver.

use super::pools::{self, pools};
use crate::{
    client::{Client, Control, said},
    commands::pair::{key, key_value},
};
use anyhow::{Result, bail};
use clap::{ArgAction, Args};
use heddle_model::{
    Annotations,
    net::Mtu,
    network::{Driver, Network, NetworkSpec, Scope},
};
use heddle_proto::v1;
use std::{net::IpAddr, time::Duration};

/// docker's name for what `--mtu` sets.
const MTU: &str = "com.docker.network.driver.mtu";

#[derive(Debug, Args)]
pub struct CreateArgs {
    name: String,
    /// bridge, overlay, macvlan or ipvlan [default: bridge]
    #[arg(short, long)]
    driver: Option<String>,
    /// A subnet in CIDR form; once for IPv4, once for IPv6 [default: a free one]
    #[arg(long)]
    subnet: Vec<String>,
    /// The gateway's address in one of the subnets [default: the first address]
    #[arg(long)]
    gateway: Vec<IpAddr>,
    /// The part of a subnet that addresses are given out from [default: all of it]
    #[arg(long)]
    ip_range: Vec<String>,
    /// NAME=IP: an address that others have already
    #[arg(long, value_parser = aux_address)]
    aux_address: Vec<(String, IpAddr)>,
    /// Give out IPv4 addresses [default: where the kernel has IPv4]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ipv4: Option<bool>,
    /// Give out IPv6 addresses [default: where the kernel has IPv6]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ipv6: Option<bool>,
    /// No way out
    #[arg(long)]
    internal: bool,
    /// Let standalone workloads join an overlay
    #[arg(long)]
    attachable: bool,
    /// Make the overlay that carries published ports
    #[arg(long)]
    ingress: bool,
    /// local or swarm; goes with the driver
    #[arg(long)]
    scope: Option<String>,
    /// An option of the driver: KEY or KEY=VALUE
    #[arg(short, long = "opt", value_parser = key)]
    opt: Vec<(String, String)>,
    /// The same as -o com.docker.network.driver.mtu=MTU
    #[arg(long)]
    mtu: Option<u16>,
    /// KEY or KEY=VALUE
    #[arg(short, long, value_parser = key)]
    label: Vec<(String, String)>,
    #[arg(long, hide = true)]
    config_from: Option<String>,
    #[arg(long, hide = true)]
    config_only: bool,
    #[arg(long, hide = true)]
    ipam_driver: Option<String>,
    #[arg(long, hide = true, action = ArgAction::Append)]
    ipam_opt: Vec<String>,
}

fn aux_address(text: &str) -> Result<(String, IpAddr), String> {
    let wrong = || "use NAME=IP, such as router=10.1.0.5".to_owned();
    let (name, addr) = key_value(text).map_err(|_| wrong())?;
    Ok((name, addr.parse().map_err(|_| wrong())?))
}

/// What docker has and Heddle has not.
fn supported(args: &CreateArgs) -> Result<()> {
    if args.config_only || args.config_from.is_some() {
        bail!("--config-only and --config-from are not supported: give every network its own flags");
    }
    if let Some(driver) = args.ipam_driver.as_deref().filter(|d| *d != "default") {
        bail!("--ipam-driver {driver:?}: there is only the built-in address management, default");
    }
    if !args.ipam_opt.is_empty() {
        bail!("--ipam-opt: the built-in address management has no options");
    }
    Ok(())
}

fn driver(args: &CreateArgs) -> Result<Driver> {
    let driver = match &args.driver {
        Some(name) => name.parse()?,
        None if args.ingress => Driver::Overlay,
        None => Driver::Bridge,
    };
    if args.ingress && driver != Driver::Overlay {
        bail!("--ingress: only an overlay carries published ports; use -d overlay, not {driver}");
    }
    let scope = match driver.scope() {
        Scope::Cluster => "swarm",
        Scope::Host => "local",
    };
    if let Some(given) = args.scope.as_deref().filter(|s| *s != scope) {
        bail!("--scope {given:?}: networks of driver {driver} are {scope}");
    }
    Ok(driver)
}

fn spec(args: &CreateArgs) -> Result<NetworkSpec> {
    supported(args)?;
    let driver = driver(args)?;
    let mut options: std::collections::BTreeMap<_, _> = args.opt.iter().cloned().collect();
    if let Some(mtu) = args.mtu {
        options.insert(MTU.to_owned(), mtu.to_string());
    }
    let mtu = match options.get(MTU).map(|text| (text, text.parse())) {
        None => None,
        Some((_, Ok(n))) => Some(Mtu(n)),
        Some((text, Err(_))) => bail!("option {MTU}={text}: use a number of bytes such as 1400"),
    };
    if driver == Driver::Overlay {
        // Of an overlay it is no option of the driver but a property that managers check.
        options.remove(MTU);
    }
    let flags =
        pools::Flags { subnets: &args.subnet, gateways: &args.gateway, ranges: &args.ip_range, aux: &args.aux_address };
    Ok(NetworkSpec {
        annotations: Annotations { name: args.name.clone(), labels: args.label.iter().cloned().collect() },
        driver,
        ingress: args.ingress,
        internal: args.internal,
        attachable: args.attachable,
        pools: pools(&flags)?,
        ipv4: args.ipv4,
        ipv6: args.ipv6,
        mtu,
        options,
    })
}

pub async fn run(client: &Client, args: CreateArgs) -> Result<()> {
    let spec = spec(&args)?;
    let scope = spec.driver.scope();
    let request = v1::CreateNetworkRequest { spec: Some(spec.into()) };
    let id = match scope {
        Scope::Cluster => create_in_cluster(client.control()?, request).await?,
        Scope::Host => {
            let made = client.host()?.create_network(request).await.map_err(said)?.into_inner();
            made.warnings.iter().for_each(|w| eprintln!("WARNING: {w}"));
            made.id
        }
    };
    println!("{id}");
    Ok(())
}

async fn create_in_cluster(mut control: Control, request: v1::CreateNetworkRequest) -> Result<String> {
    let made = Network::try_from(control.create_network(request).await.map_err(said)?.into_inner())?;
    // It is a network once it has its subnets.
    for _ in 0..100 {
        let r#ref = made.id.to_string();
        let now = control.inspect_network(v1::RefRequest { r#ref }).await.map_err(said)?.into_inner();
        if now.network.is_some_and(|n| n.allocation.is_some()) {
            return Ok(made.id.to_string());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let _ = control.remove_network(v1::RefRequest { r#ref: made.id.to_string() }).await;
    bail!("network {}: the address pools have no free subnet left", made.spec.annotations.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        create: CreateArgs,
    }

    fn parsed(line: &str) -> Result<NetworkSpec> {
        spec(&Line::try_parse_from(["create"].into_iter().chain(line.split(' ')))?.create)
    }

    #[test]
    fn dockers_flags_make_the_spec() {
        let spec = parsed(
            "-d macvlan --subnet 10.1.0.0/24 --gateway 10.1.0.9 --ip-range 10.1.0.64/26 --aux-address r=10.1.0.7 \
             --ipv6=false --ipv4 --internal -o parent=eth0 -o com.docker.network.bridge.enable_icc=false --mtu 1400 \
             --label tier=front lan",
        )
        .unwrap();
        assert_eq!((spec.annotations.name.as_str(), spec.driver), ("lan", Driver::Macvlan));
        assert_eq!((spec.ipv4, spec.ipv6, spec.internal), (Some(true), Some(false), true));
        assert_eq!((spec.options["parent"].as_str(), spec.options[MTU].as_str()), ("eth0", "1400"));
        assert_eq!((spec.mtu, spec.pools.len()), (Some(Mtu(1400)), 1));
        let plain = parsed("plain").unwrap();
        assert_eq!((plain.driver, plain.ipv4, plain.ipv6), (Driver::Bridge, None, None));
    }

    #[test]
    fn ingress_is_an_overlay_whose_mtu_is_no_option() {
        let spec = parsed("--ingress -o com.docker.network.driver.mtu=1300 in").unwrap();
        assert_eq!((spec.driver, spec.ingress, spec.mtu), (Driver::Overlay, true, Some(Mtu(1300))));
        assert!(spec.options.is_empty());
    }

    #[test]
    fn what_is_not_there_is_refused_in_a_sentence() {
        for (line, part) in [
            ("-d host x", "use bridge, overlay, macvlan or ipvlan"),
            ("-d bridge --ingress x", "only an overlay"),
            ("-d overlay --scope local x", "driver overlay are swarm"),
            ("--scope swarm x", "driver bridge are local"),
            ("--config-only x", "not supported"),
            ("--config-from y x", "not supported"),
            ("--ipam-driver dhcp x", "only the built-in"),
            ("--ipam-opt a=b x", "no options"),
            ("--mtu 1300 -o com.docker.network.driver.mtu=big x", ""),
            ("-o com.docker.network.driver.mtu=big x", "use a number of bytes"),
            ("--subnet 10.1.0.1/24 x", "without host bits"),
            ("--gateway 10.1.0.1 x", "no --subnet is given"),
        ] {
            match parsed(line) {
                Err(e) => assert!(e.to_string().contains(part), "{line}: {e}"),
                // The shorthand wins over the option.
                Ok(spec) => assert_eq!((part, spec.mtu), ("", Some(Mtu(1300))), "{line}"),
            }
        }
    }
}
