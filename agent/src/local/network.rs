//! A network of this host.

use heddle_model::{NetworkId, Timestamp, net::Pool, network::NetworkSpec};
use serde::{Deserialize, Serialize};

/// As kept on disk. What the spec left open is chosen when it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostNetwork {
    pub id: NetworkId,
    pub created_at: Timestamp,
    pub spec: NetworkSpec,
    /// At most one of each family, each with its gateway.
    pub pools: Vec<Pool>,
    /// The 802.1Q sub-interface that is the parent is made and removed with the network.
    #[serde(default)]
    pub owns_parent: bool,
}

impl HostNetwork {
    pub fn name(&self) -> &str {
        &self.spec.annotations.name
    }
}
