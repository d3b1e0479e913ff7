//! A host in the cluster.

use crate::{
    Annotations, Meta, NodeId, Timestamp,
    cluster::Role,
    net::{DualAddr, Mac, Mtu, Port, Protocol},
    placement::{Amounts, NanoCpus},
    tunnel::TunnelEnd,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

/// Whether the scheduler may use a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    #[default]
    Active,
    /// Keeps its tasks, gets no new one.
    Pause,
    /// Loses its tasks.
    Drain,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    pub annotations: Annotations,
    /// The role the node should have; the role it has is in its certificate.
    pub role: Role,
    pub availability: Availability,
}

/// What a node's certificate goes back to, and what the node believes, each a root by its SHA-256 in hexadecimal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Empty: none of those that it trusts.
    pub signer: String,
    pub roots: Vec<String>,
}

impl Trust {
    /// Whether it needs no other root than this one.
    pub fn is_by(&self, root: &str) -> bool {
        self.signer == root && self.roots.iter().any(|r| r == root)
    }
}

/// What a daemon says of its host when its session starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDescription {
    pub hostname: String,
    pub os: String,
    pub arch: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub version: String,
    /// Subnets the host routes elsewhere: overlays must not overlap them.
    pub host_subnets: Vec<IpNet>,
    /// MTU of the link that carries the data path.
    pub data_path_mtu: Option<Mtu>,
    /// Ports below the ephemeral range that processes of the host listen on: services cannot publish them.
    #[serde(default)]
    pub listening: Vec<(Protocol, Port)>,
    /// Executors that work here, such as `process`.
    pub executors: Vec<String>,
    /// None: this host cannot encrypt, and takes no part in networks that are encrypted.
    #[serde(default)]
    pub tunnel: Option<TunnelEnd>,
    #[serde(default)]
    pub trust: Trust,
    /// Those that its daemon was given, for constraints on `engine.labels`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What its daemon was told that the host has, such as `gpu`, by name.
    #[serde(default)]
    pub generic: BTreeMap<String, u64>,
}

impl NodeDescription {
    /// All that tasks can be given.
    pub fn capacity(&self) -> Amounts {
        Amounts { cpu: NanoCpus::whole(self.cpus), memory: self.memory_bytes, generic: self.generic.clone() }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Known, but no session yet since the leader changed.
    #[default]
    Unknown,
    Ready,
    /// No heartbeat within the detection window.
    Down,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub state: NodeState,
    pub message: String,
    /// When `state` last changed.
    pub since: Timestamp,
}

/// What a node says goes wrong on it. It is as old as the node's last word, and stored nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeReport {
    /// What its kernel lacks of what it should have.
    pub errors: Vec<String>,
    /// What is wrong below the overlays.
    pub warnings: Vec<String>,
}

impl NodeReport {
    /// Sentences of each kind.
    const MOST: usize = 16;
    /// Bytes of a sentence.
    const LONGEST: usize = 512;

    /// No more than somebody reads, or a manager keeps for each of many nodes. What is left out is counted.
    pub fn bounded(self) -> Self {
        Self { errors: some(self.errors), warnings: some(self.warnings) }
    }

    pub fn is_empty(&self) -> bool {
        self.errors.is_empty() && self.warnings.is_empty()
    }
}

/// Cuts a sentence that is longer than anybody reads.
pub(crate) fn shorten(sentence: &mut String) {
    if sentence.len() > NodeReport::LONGEST {
        let end = sentence.floor_char_boundary(NodeReport::LONGEST - "...".len());
        sentence.replace_range(end.., "...");
    }
}

fn some(mut sentences: Vec<String>) -> Vec<String> {
    let more = sentences.len().saturating_sub(NodeReport::MOST);
    if more > 0 {
        // One makes room for the number.
        sentences.truncate(NodeReport::MOST - 1);
        sentences.push(format!("and {} more", more + 1));
    }
    sentences.iter_mut().for_each(shorten);
    sentences
}

/// A manager's place in raft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerStatus {
    pub raft_id: u64,
    /// Where the control API listens.
    pub addr: SocketAddr,
}

/// A node's own leg in the ingress network: the address it enters from, and the MAC by which replies find it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressLeg {
    /// Connection mark of this node in every ingress workload; 1 to 65535, unique in the cluster.
    pub index: u16,
    pub addr: DualAddr,
    pub mac: Mac,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    pub meta: Meta,
    pub spec: NodeSpec,
    pub role: Role,
    pub description: NodeDescription,
    pub status: NodeStatus,
    /// Tunnel end point of the data path.
    pub data_path_addr: IpAddr,
    pub manager: Option<ManagerStatus>,
    pub ingress: Option<IngressLeg>,
}

impl Node {
    /// What its next certificate should say. Who is to be a manager gets that at once, who is to be none any more when
    /// the others have let it go.
    pub fn next_role(&self) -> Role {
        self.role.max(self.spec.role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_gone_to_when_it_is_believed_and_shown() {
        let trust = |signer: &str, roots: &[&str]| Trust {
            signer: signer.into(),
            roots: roots.iter().map(|&r| r.to_owned()).collect(),
        };
        assert!(trust("b", &["a", "b"]).is_by("b"));
        for other in [trust("", &[]), trust("b", &["a"]), trust("a", &["a", "b"]), trust("", &["b"])] {
            assert!(!other.is_by("b"), "{other:?}");
        }
    }

    #[test]
    fn a_report_has_an_end() {
        let few = NodeReport { errors: vec!["port taken".into()], warnings: vec!["w".into(); NodeReport::MOST] };
        assert_eq!(few.clone().bounded(), few);
        let warnings = (0..1000).map(|n| format!("{n} {}", "\u{e9}".repeat(1000))).collect();
        let bounded = NodeReport { errors: vec![], warnings }.bounded();
        assert_eq!(bounded.warnings.len(), NodeReport::MOST);
        assert_eq!(bounded.warnings.last().unwrap(), "and 985 more");
        assert!(bounded.warnings.iter().all(|w| w.len() <= NodeReport::LONGEST));
        assert!(bounded.warnings[0].starts_with("0 \u{e9}") && bounded.warnings[0].ends_with("\u{e9}..."));
        // Both ends bound it.
        assert_eq!(bounded.clone().bounded(), bounded);
    }
}
