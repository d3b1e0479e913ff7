//! tunnel ls, tunnel rotate: what encrypts the networks that are encrypted.

use crate::{
    client::{Client, said},
    output::{self, Format},
};
use anyhow::{Context, Result};
use clap::Subcommand;
use heddle_model::{
    net::Port,
    node::Node,
    tunnel::{Epoch, Epochs},
};
use heddle_proto::v1;
use serde_json::{Value, json};
use std::net::SocketAddr;

#[derive(Debug, Subcommand)]
pub enum TunnelCommand {
    /// List the hosts' ends of the tunnel: what encrypts there, where, and with which key
    Ls {
        /// The hosts that this host's own end knows instead: when they last shook hands, and what was sent
        #[arg(long)]
        peers: bool,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Make the keys of all hosts anew; connections go on
    Rotate {
        /// Do not wait until the new keys are in use
        #[arg(short, long)]
        detach: bool,
    },
}

pub async fn run(client: &Client, command: TunnelCommand) -> Result<()> {
    match command {
        TunnelCommand::Ls { peers: true, format } => {
            let answer = client.local()?.list_tunnel_peers(v1::ListTunnelPeersRequest {}).await.map_err(said)?;
            let mut peers = answer.into_inner().peers;
            peers.sort_by(|a, b| (&a.hostname, a.epoch).cmp(&(&b.hostname, b.epoch)));
            let headings = ["HOSTNAME", "ENDPOINT", "EPOCH", "LAST HANDSHAKE", "SENT", "RECEIVED", "PUBLIC KEY"];
            let rows = peers.iter().map(peer_row).collect();
            output::print(format, &headings, rows, peers.iter().map(peer_value).collect());
        }
        TunnelCommand::Ls { peers: false, format } => {
            let mut control = client.control()?;
            let cluster = control.get_cluster(v1::GetClusterRequest {}).await.map_err(said)?.into_inner();
            let epochs: Epochs = cluster.epochs.context("the manager names no epoch of keys")?.into();
            let port = Port::try_from(u16::try_from(cluster.tunnel_port)?)?;
            let answer = control.list_nodes(v1::ListNodesRequest {}).await.map_err(said)?.into_inner();
            let mut nodes: Vec<Node> = answer.nodes.into_iter().map(Node::try_from).collect::<Result<_, _>>()?;
            nodes.sort_by(|a, b| a.description.hostname.cmp(&b.description.hostname));
            let ends: Vec<End> = nodes.iter().flat_map(|n| ends(n, &epochs, port)).collect();
            let headings = ["HOSTNAME", "BACKEND", "ENDPOINT", "EPOCH", "USE", "PUBLIC KEY"];
            output::print(
                format,
                &headings,
                ends.iter().map(End::row).collect(),
                ends.iter().map(|e| json!({
                    "hostname": e.host, "backend": e.backend, "endpoint": e.endpoint, "epoch": e.epoch, "use": e.r#use,
                    "publicKey": e.key,
                })).collect(),
            );
        }
        TunnelCommand::Rotate { detach } => {
            let mut control = client.control()?;
            let epochs = control.rotate_tunnel(v1::RotateTunnelRequest { detach }).await.map_err(said)?.into_inner();
            let epochs = Epochs::from(epochs);
            match epochs.next {
                Some(next) => println!("{next}"),
                None => println!("{}", epochs.current),
            }
        }
    }
    Ok(())
}

fn peer_row(peer: &v1::TunnelPeer) -> Vec<String> {
    let hostname = if peer.hostname.is_empty() { "(none)" } else { &peer.hostname };
    let handshake = peer.handshake_ms_ago.map_or_else(|| "none".into(), output::age);
    let (epoch, sent, received) = (peer.epoch.to_string(), peer.sent.to_string(), peer.received.to_string());
    [hostname, &peer.endpoint, &epoch, &handshake, &sent, &received, &peer.public_key].map(str::to_owned).to_vec()
}

fn peer_value(peer: &v1::TunnelPeer) -> Value {
    json!({
        "hostname": peer.hostname, "endpoint": peer.endpoint, "epoch": peer.epoch,
        "handshakeMsAgo": peer.handshake_ms_ago, "sent": peer.sent, "received": peer.received,
        "publicKey": peer.public_key,
    })
}

/// A host's end of the tunnel by the keys of one epoch.
struct End {
    host: String,
    /// `none`: it cannot encrypt, and has no more to tell.
    backend: &'static str,
    endpoint: String,
    epoch: Option<Epoch>,
    r#use: &'static str,
    key: String,
}

fn ends(node: &Node, epochs: &Epochs, first: Port) -> Vec<End> {
    let host = node.description.hostname.clone();
    let Some(tunnel) = &node.description.tunnel else {
        return vec![End {
            host,
            backend: "none",
            endpoint: String::new(),
            epoch: None,
            r#use: "",
            key: String::new(),
        }];
    };
    let end = |epoch: Epoch| End {
        host: host.clone(),
        backend: tunnel.backend.as_str(),
        endpoint: SocketAddr::new(node.data_path_addr, epoch.port(first).get()).to_string(),
        epoch: Some(epoch),
        r#use: match epoch {
            e if e == epochs.current => "current",
            e if Some(e) == epochs.next => "next",
            _ => "retiring",
        },
        key: tunnel.keys.get(&epoch).map_or_else(|| "(none yet)".into(), ToString::to_string),
    };
    epochs.all().map(end).collect()
}

impl End {
    fn row(&self) -> Vec<String> {
        let epoch = self.epoch.map_or_else(String::new, |e| e.to_string());
        [&self.host, self.backend, &self.endpoint, &epoch, self.r#use, &self.key].map(str::to_owned).to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_model::{
        NodeId,
        tunnel::{Backend, PublicKey, TunnelEnd},
    };

    fn node(tunnel: Option<TunnelEnd>) -> Node {
        let node = v1::Node {
            id: NodeId::from_random([1; 16]).to_string(),
            data_path_addr: "192.0.2.1".into(),
            role: v1::Role::Worker.into(),
            ..v1::Node::default()
        };
        let mut node = Node::try_from(v1::Node {
            meta: Some(v1::Meta::default()),
            spec: Some(v1::NodeSpec {
                annotations: Some(v1::Annotations::default()),
                role: v1::Role::Worker.into(),
                availability: v1::Availability::Active.into(),
            }),
            description: Some(v1::NodeDescription { hostname: "a".into(), ..v1::NodeDescription::default() }),
            status: Some(v1::NodeStatus { state: v1::NodeState::Ready.into(), ..v1::NodeStatus::default() }),
            ..node
        })
        .unwrap();
        node.description.tunnel = tunnel;
        node
    }

    #[test]
    fn a_peer_that_never_shook_hands_is_told_as_such() {
        let peer = v1::TunnelPeer {
            hostname: "b".into(),
            endpoint: "192.0.2.2:51821".into(),
            epoch: 1,
            public_key: "k".into(),
            handshake_ms_ago: Some(65_000),
            sent: 148,
            received: 92,
        };
        assert_eq!(peer_row(&peer).join(" "), "b 192.0.2.2:51821 1 1 minute ago 148 92 k");
        let stranger = v1::TunnelPeer { hostname: String::new(), handshake_ms_ago: None, ..peer };
        assert_eq!(peer_row(&stranger).join(" "), "(none) 192.0.2.2:51821 1 none 148 92 k");
        assert_eq!(peer_value(&stranger)["handshakeMsAgo"], Value::Null);
    }

    #[test]
    fn each_epoch_has_a_port_a_use_and_a_key_or_none_yet() {
        let port = Port::try_from(51820).unwrap();
        let epochs = Epochs { next: Some(Epoch(2)), ..Epochs::default() };
        let keys = [(Epoch(1), PublicKey([1; 32]))].into();
        let ends = ends(&node(Some(TunnelEnd { backend: Backend::Kernel, keys })), &epochs, port);
        let rows: Vec<_> = ends.iter().map(|e| e.row().join(" ")).collect();
        assert_eq!(
            rows,
            [
                format!("a kernel 192.0.2.1:51821 1 current {}", PublicKey([1; 32])),
                "a kernel 192.0.2.1:51820 2 next (none yet)".into(),
            ]
        );
        assert_eq!(super::ends(&node(None), &epochs, port)[0].row(), ["a", "none", "", "", "", ""]);
    }
}
