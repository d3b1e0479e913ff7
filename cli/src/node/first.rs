//! The first objects of a new cluster, from what `init` was asked for.

use super::state::NodeState;
use anyhow::{Result, anyhow, bail};
use heddle_manager::{ca, raft::raft_id, store::now};
use heddle_model::{
    Annotations, ClusterId, Meta, NodeId,
    cluster::{AddressPools, Cluster, ClusterSpec, Role, Secret},
    net::{Port, parse_subnet, unique_local},
    node::{Availability, ManagerStatus, Node, NodeSpec, NodeStatus},
    tunnel::Epochs,
};
use heddle_proto::v1;
use ipnet::{IpNet, Ipv4Net};
use std::{collections::BTreeMap, time::Duration};

const DATA_PATH_PORT: u16 = 4789;
/// WireGuard's own, and the one after it.
const TUNNEL_PORT: u16 = 51820;
const TUNNEL_KEY_LIFE: Duration = Duration::from_secs(86400);
const HEARTBEAT: Duration = Duration::from_millis(300);
const HEARTBEATS: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
/// docker's default.
const TASK_HISTORY: u32 = 5;
/// docker's default.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(90 * 86400);
const CERTIFICATE_LIVES: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(10)..=Duration::from_secs(10 * 365 * 86400);

fn parse_v4(field: &str, text: &str, default: &str) -> Result<Ipv4Net> {
    match parse_subnet(if text.is_empty() { default } else { text })? {
        IpNet::V4(net) => Ok(net),
        IpNet::V6(_) => bail!("--{field} {text:?} is not an IPv4 subnet such as {default}"),
    }
}

/// `pool`: the prefix length of what is divided.
fn mask_length(length: u32, pool: u8) -> Result<u8> {
    let length = if length == 0 { 24 } else { length };
    match u8::try_from(length) {
        Ok(length) if length > pool && length <= 29 => Ok(length),
        _ => bail!("--default-addr-pool-mask-length {length}: use {} to 29", pool + 1),
    }
}

fn data_path_port(port: u32) -> Result<Port> {
    let port = if port == 0 { DATA_PATH_PORT.into() } else { port };
    let known = u16::try_from(port).ok().and_then(|port| Port::try_from(port).ok());
    known.ok_or_else(|| anyhow!("--data-path-port {port}: use 1 to 65535"))
}

fn heartbeat(millis: u32) -> Result<Duration> {
    let period = if millis == 0 { HEARTBEAT } else { Duration::from_millis(millis.into()) };
    if !HEARTBEATS.contains(&period) {
        bail!("--dispatcher-heartbeat {period:?}: use 100ms to 60s");
    }
    Ok(period)
}

fn certificate_life(seconds: u64) -> Result<Duration> {
    let life = if seconds == 0 { CERTIFICATE_LIFE } else { Duration::from_secs(seconds) };
    if !CERTIFICATE_LIVES.contains(&life) {
        bail!("--cert-expiry {life:?}: use 10s to 87600h");
    }
    Ok(life)
}

pub fn cluster(
    id: ClusterId,
    root_ca: heddle_model::cluster::RootCa,
    request: &v1::InitRequest,
    unlock_key: Option<Secret>,
) -> Result<(Cluster, Vec<IpNet>)> {
    let v4 = parse_v4("default-addr-pool", &request.pool_v4, "10.0.0.0/8")?;
    let v4_size = mask_length(request.pool_v4_size, v4.prefix_len())?;
    let v6 = match request.pool_v6.as_str() {
        "" => unique_local(rand::random()),
        text => match parse_subnet(text)? {
            IpNet::V6(net) if net.prefix_len() <= 60 => net,
            _ => bail!("--default-addr-pool-v6 {text:?} is not an IPv6 subnet of at most /60"),
        },
    };
    let ingress = match request.ingress_subnet_v4.as_str() {
        "" => Vec::new(),
        text => vec![IpNet::V4(parse_v4("ingress-subnet", text, "10.255.0.0/16")?)],
    };
    let heartbeat = heartbeat(request.heartbeat_ms)?;
    let spec = ClusterSpec {
        name: "default".into(),
        pools: AddressPools { v4, v4_size, v6 },
        data_path_port: data_path_port(request.data_path_port)?,
        tunnel_port: Port::try_from(TUNNEL_PORT)?,
        tunnel_key_life: TUNNEL_KEY_LIFE,
        heartbeat,
        task_history: TASK_HISTORY,
        node_cert_life: certificate_life(request.cert_life_s)?,
        dead_manager_after: ClusterSpec::dead_manager_after_of(request.dead_manager_after_ms)?,
    };
    let join_tokens = ca::new_tokens(rand::random());
    let cluster = Cluster {
        id,
        meta: Meta::default(),
        spec,
        root_ca,
        join_tokens,
        ingress_seed: rand::random(),
        epochs: Epochs { since: now(), ..Epochs::default() },
        begun: 0,
        removed: BTreeMap::new(),
        users: BTreeMap::new(),
        unlock_key,
        rotation: None,
    };
    Ok((cluster, ingress))
}

pub fn manager_node(id: &NodeId, state: &NodeState) -> Node {
    Node {
        id: id.clone(),
        meta: Meta::default(),
        spec: NodeSpec { annotations: Annotations::default(), role: Role::Manager, availability: Availability::Active },
        role: Role::Manager,
        description: heddle_agent::host::describe(state.data_path),
        status: NodeStatus::default(),
        data_path_addr: state.data_path,
        manager: Some(ManagerStatus { raft_id: raft_id(id), addr: state.advertise }),
        ingress: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_not_cut_to_what_fits() {
        assert_eq!((mask_length(0, 8).unwrap(), mask_length(29, 8).unwrap()), (24, 29));
        for length in [8, 30, 256 + 24] {
            let said = mask_length(length, 8).unwrap_err().to_string();
            assert_eq!(said, format!("--default-addr-pool-mask-length {length}: use 9 to 29"));
        }
        assert_eq!(data_path_port(0).unwrap().get(), 4789);
        assert_eq!(data_path_port(65536 + 80).unwrap_err().to_string(), "--data-path-port 65616: use 1 to 65535");
    }

    #[test]
    fn heartbeats_are_neither_a_flood_nor_an_age_apart() {
        assert_eq!(heartbeat(0).unwrap(), Duration::from_millis(300));
        assert_eq!(heartbeat(1000).unwrap(), Duration::from_secs(1));
        assert_eq!(heartbeat(99).unwrap_err().to_string(), "--dispatcher-heartbeat 99ms: use 100ms to 60s");
        assert!(heartbeat(60_001).is_err());
    }
}
