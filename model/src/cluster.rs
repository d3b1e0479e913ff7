//! The one object that describes the cluster itself: settings, root certificate, join tokens.

use crate::{ClusterId, Meta, Timestamp, id::NodeId, net::Port, tunnel::Epochs};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, net::SocketAddr, ops::RangeInclusive, time::Duration};

/// Text that must not reach a log: `Debug` prints nothing of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Role of a node, written in its certificate's organisational unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Worker,
    Manager,
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Worker => "worker",
            Role::Manager => "manager",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where the allocator takes subnets from when a network names none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPools {
    pub v4: Ipv4Net,
    /// Prefix length of an IPv4 task subnet cut from `v4`.
    pub v4_size: u8,
    /// A unique local prefix (RFC 4193) chosen at `init`; networks get /64s of it.
    pub v6: Ipv6Net,
}

/// What an operator may set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSpec {
    pub name: String,
    pub pools: AddressPools,
    /// UDP port of VXLAN.
    pub data_path_port: Port,
    /// The first of two UDP ports of the tunnel between hosts.
    pub tunnel_port: Port,
    /// After this long the keys of the tunnel are made anew.
    pub tunnel_key_life: Duration,
    /// How often an agent reports, and the unit of failure detection, where nodes are few: see `heartbeat_among`.
    pub heartbeat: Duration,
    /// Finished tasks kept per replica.
    pub task_history: u32,
    /// Life of a node certificate.
    pub node_cert_life: Duration,
    /// A manager that is down for so long is removed; None: an operator does that.
    #[serde(default)]
    pub dead_manager_after: Option<Duration>,
}

/// Longer than a restart takes.
const DEAD_MANAGER_AFTER: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(365 * 86400);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("autopilot {0:?}: use 10s to 8760h, or off")]
pub struct BadAutopilot(pub Duration);

/// What a leader hears a second from all nodes together, at most; and from more nodes than `MANY`, each of whose heartbeats costs
/// half as much again, since so many sessions are in no processor's caches.
const HEARTBEATS_A_SECOND: usize = 1000;
const HEARTBEATS_OF_MANY: usize = 500;
const MANY: usize = 1000;

impl ClusterSpec {
    /// How often each of so many nodes reports: a multiple of `heartbeat`, so that the leader has time for other things.
    pub fn heartbeat_among(&self, nodes: usize) -> Duration {
        let a_second = if nodes > MANY { HEARTBEATS_OF_MANY } else { HEARTBEATS_A_SECOND };
        let few = (self.heartbeat.as_secs_f64() * a_second as f64).max(1.0) as usize;
        self.heartbeat * nodes.div_ceil(few).max(1) as u32
    }

    /// `dead_manager_after` from milliseconds, of which 0 stand for None.
    pub fn dead_manager_after_of(millis: u64) -> Result<Option<Duration>, BadAutopilot> {
        match Duration::from_millis(millis) {
            Duration::ZERO => Ok(None),
            time if DEAD_MANAGER_AFTER.contains(&time) => Ok(Some(time)),
            time => Err(BadAutopilot(time)),
        }
    }

    /// And back.
    pub fn dead_manager_after_ms(&self) -> u64 {
        self.dead_manager_after.map_or(0, |time| time.as_millis() as u64)
    }
}

/// Secrets that let a machine join, one per role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokens {
    pub worker: Secret,
    pub manager: Secret,
}

/// The cluster's own certificate authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootCa {
    pub cert_pem: String,
    pub key_pem: Secret,
}

/// The root gives way to another. Both count until every node has a certificate by the next one, and trusts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRotation {
    pub next: RootCa,
    /// The next root's name and key, signed by the one before: whoever trusts only that one follows.
    pub cross_pem: String,
    pub since: Timestamp,
}

/// A person who may ask the cluster through its port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// In the certificate, so that one of an earlier user of the same name does not count.
    pub id: String,
    pub added: Timestamp,
    /// When the certificate ends.
    pub ends: Timestamp,
    /// Digest of the root that it is by; empty: the first one of the cluster.
    #[serde(default)]
    pub signer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    pub id: ClusterId,
    pub meta: Meta,
    pub spec: ClusterSpec,
    pub root_ca: RootCa,
    pub join_tokens: JoinTokens,
    /// Seeds the ingress hash alike on every host, so that a flow keeps its backend when it enters elsewhere.
    pub ingress_seed: u32,
    pub epochs: Epochs,
    /// How often it began anew, from one manager or from a backup. Managers of before count no more.
    #[serde(default)]
    pub begun: u32,
    /// Nodes that were removed, and until when a certificate of theirs may seem to count.
    #[serde(default)]
    pub removed: BTreeMap<NodeId, Timestamp>,
    /// People with a certificate, by name.
    #[serde(default)]
    pub users: BTreeMap<String, User>,
    /// Autolock: what managers that start are unlocked with. None: they start unlocked.
    #[serde(default)]
    pub unlock_key: Option<Secret>,
    #[serde(default)]
    pub rotation: Option<RootRotation>,
}

impl Cluster {
    /// By whose key certificates are made now.
    pub fn signer(&self) -> &RootCa {
        self.rotation.as_ref().map_or(&self.root_ca, |rotation| &rotation.next)
    }

    /// All roots that certificates may go back to, PEM, one after the other.
    pub fn trusted_pem(&self) -> String {
        let next = self.rotation.iter().map(|rotation| &rotation.next);
        std::iter::once(&self.root_ca).chain(next).map(|root| root.cert_pem.as_str()).collect()
    }

    /// Remembers a removed node for as long as its certificate may last; forgets those that need it no more.
    pub fn remove(&mut self, node: NodeId, now: Timestamp) {
        self.removed.retain(|_, until| *until > now);
        self.removed.insert(node, now.plus(self.spec.node_cert_life));
    }
}

/// A manager as agents and clients dial it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ManagerPeer {
    pub node: NodeId,
    pub addr: SocketAddr,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_nodes_report_more_seldom() {
        let spec = |heartbeat| ClusterSpec {
            name: String::new(),
            pools: AddressPools { v4: Ipv4Net::default(), v4_size: 24, v6: Ipv6Net::default() },
            data_path_port: Port::try_from(1).unwrap(),
            tunnel_port: Port::try_from(1).unwrap(),
            tunnel_key_life: Duration::ZERO,
            heartbeat: Duration::from_millis(heartbeat),
            task_history: 0,
            node_cert_life: Duration::ZERO,
            dead_manager_after: None,
        };
        for (heartbeat, nodes, every) in [
            (300, 0, 300),
            (300, 1, 300),
            (300, 300, 300),
            (300, 301, 600),
            (300, 1000, 1200),
            (300, 1001, 2100),
            (300, 5000, 10_200),
            (1000, 1000, 1000),
            (60_000, 5000, 60_000),
        ] {
            let found = spec(heartbeat).heartbeat_among(nodes);
            assert_eq!(found, Duration::from_millis(every), "{heartbeat} {nodes}");
        }
    }
}
