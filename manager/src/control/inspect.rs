//! A network with all that is on it.

use crate::{dispatcher::assignment, store::Snapshot};
use heddle_model::{NodeId, connection::Connection, net::Pool, network::Network, task::Task};
use heddle_proto::v1;
use std::sync::Arc;

pub fn network(state: &Snapshot, network: &Network) -> v1::InspectNetworkResponse {
    let attached = |t: &&Arc<Task>| t.on_node() && t.attachments.iter().any(|a| a.network == network.id);
    let tasks: Vec<_> = state.tasks.values().filter(attached).collect();
    let connections: Vec<_> = state.connections_to(&network.id).filter(|c| !c.released).collect();
    let takes_part = |n: &NodeId| {
        let connected = || connections.iter().any(|c| c.node == *n);
        network.spec.ingress || tasks.iter().any(|t| t.node.as_ref() == Some(n)) || connected()
    };
    let peers = state.nodes.values().filter(|n| takes_part(&n.id)).map(|n| v1::NetworkPeer {
        node: n.id.to_string(),
        hostname: n.description.hostname.clone(),
        data_path_addr: n.data_path_addr.to_string(),
        ingress: n.ingress.clone().filter(|_| network.spec.ingress).map(Into::into),
    });
    let endpoint = |t: &&&Arc<Task>| {
        let a = t.attachments.iter().find(|a| a.network == network.id)?;
        Some(v1::NetworkEndpoint {
            task: t.id.to_string(),
            name: t.name(),
            node: t.node.as_ref().map_or_else(String::new, ToString::to_string),
            addr: Some(a.addr.into()),
            mac: a.mac.to_string(),
            state: v1::TaskState::from(t.status.state).into(),
            aliases: a.aliases.clone(),
        })
    };
    let services = state.services.values().filter_map(|s| {
        let given = s.endpoint.as_ref()?;
        let vip = given.virtual_ips.iter().find(|v| v.network == network.id);
        let endpoints: Vec<_> = tasks.iter().filter(|t| t.service == s.id).filter_map(|t| endpoint(&t)).collect();
        (vip.is_some() || !endpoints.is_empty()).then(|| v1::NetworkService {
            id: s.id.to_string(),
            name: s.spec.annotations.name.clone(),
            virtual_ip: vip.map(|v| v.addr.into()),
            ports: given.ports.iter().cloned().map(Into::into).collect(),
            endpoints,
        })
    });
    v1::InspectNetworkResponse {
        mtu: assignment::mtu(state, network).0.into(),
        peers: peers.collect(),
        services: services.collect(),
        connections: connections.iter().map(|c| connection(c)).collect(),
        pools: network.pools().into_iter().map(with_gateway).map(Into::into).collect(),
        network: Some(network.clone().into()),
    }
}

fn connection(c: &Connection) -> v1::NetworkEndpoint {
    v1::NetworkEndpoint {
        task: c.workload.to_string(),
        name: c.name.clone(),
        node: c.node.to_string(),
        addr: Some(c.attachment.addr.into()),
        mac: c.attachment.mac.to_string(),
        state: v1::TaskState::Unspecified.into(),
        aliases: c.attachment.aliases.clone(),
    }
}

fn with_gateway(pool: Pool) -> Pool {
    Pool { gateway: Some(pool.gateway()), ..pool }
}
