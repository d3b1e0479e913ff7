//! What can be asked of a node: `node.role`, `node.labels.zone`.

use heddle_model::node::Node;
use std::{borrow::Cow, str::FromStr};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    Id,
    Hostname,
    Ip,
    Role,
    Os,
    Arch,
    NodeLabel(String),
    EngineLabel(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is nothing that a node has: use node.id, node.hostname, node.ip, node.role, node.platform.os, node.platform.arch, \
     node.labels.NAME or engine.labels.NAME"
)]
pub struct UnknownAttribute(pub String);

impl FromStr for Attribute {
    type Err = UnknownAttribute;
    fn from_str(key: &str) -> Result<Self, UnknownAttribute> {
        let label = |prefix| key.strip_prefix(prefix).filter(|name: &&str| !name.is_empty()).map(str::to_owned);
        Ok(match key {
            "node.id" => Attribute::Id,
            "node.hostname" => Attribute::Hostname,
            "node.ip" => Attribute::Ip,
            "node.role" => Attribute::Role,
            "node.platform.os" => Attribute::Os,
            "node.platform.arch" => Attribute::Arch,
            _ => match (label("node.labels."), label("engine.labels.")) {
                (Some(name), _) => Attribute::NodeLabel(name),
                (_, Some(name)) => Attribute::EngineLabel(name),
                _ => return Err(UnknownAttribute(key.to_owned())),
            },
        })
    }
}

impl Attribute {
    /// None: the node has no such label.
    pub fn of<'n>(&self, node: &'n Node) -> Option<Cow<'n, str>> {
        let text = match self {
            Attribute::Id => node.id.as_str(),
            Attribute::Hostname => &node.description.hostname,
            Attribute::Ip => return Some(node.data_path_addr.to_string().into()),
            Attribute::Role => node.role.as_str(),
            Attribute::Os => &node.description.os,
            Attribute::Arch => &node.description.arch,
            Attribute::NodeLabel(name) => node.spec.annotations.labels.get(name)?,
            Attribute::EngineLabel(name) => node.description.labels.get(name)?,
        };
        Some(text.into())
    }
}
