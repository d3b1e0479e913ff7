//! A place on an overlay that a host asked for: of a standalone workload, or of a task that was connected while running.

use crate::{ConnectionId, Meta, NodeId, TaskId, endpoint::Attachment};
use serde::{Deserialize, Serialize};

/// At most one that is held for each workload and network. Goes with its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    pub id: ConnectionId,
    pub meta: Meta,
    pub node: NodeId,
    pub workload: TaskId,
    /// That others know the workload by.
    pub name: String,
    pub attachment: Attachment,
    /// Given up: nobody is told of it any more. It keeps its addresses until every ready node has stopped using them.
    #[serde(default)]
    pub released: bool,
}
