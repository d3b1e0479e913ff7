//! Placement constraints: `node.role==worker`, `node.labels.zone!=a`.

use heddle_model::node::Node;
use std::str::FromStr;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    key: String,
    equal: bool,
    value: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "constraint {0:?} is not KEY==VALUE or KEY!=VALUE with node.id, node.hostname, node.role, node.platform.os, \
     node.platform.arch or node.labels.NAME as KEY"
)]
pub struct BadConstraint(pub String);

impl FromStr for Constraint {
    type Err = BadConstraint;
    fn from_str(s: &str) -> Result<Self, BadConstraint> {
        let bad = || BadConstraint(s.to_owned());
        let (key, equal, value) = match (s.split_once("=="), s.split_once("!=")) {
            (Some((k, v)), _) => (k.trim(), true, v.trim()),
            (None, Some((k, v))) => (k.trim(), false, v.trim()),
            (None, None) => return Err(bad()),
        };
        let known = ["node.id", "node.hostname", "node.role", "node.platform.os", "node.platform.arch"];
        let label = key.strip_prefix("node.labels.").is_some_and(|name| !name.is_empty());
        if value.is_empty() || !(known.contains(&key) || label) {
            return Err(bad());
        }
        Ok(Constraint { key: key.to_owned(), equal, value: value.to_owned() })
    }
}

impl Constraint {
    pub fn admits(&self, node: &Node) -> bool {
        let actual = match self.key.as_str() {
            "node.id" => node.id.as_str(),
            "node.hostname" => &node.description.hostname,
            "node.role" => node.role.as_str(),
            "node.platform.os" => &node.description.os,
            "node.platform.arch" => &node.description.arch,
            key => {
                let name = key.strip_prefix("node.labels.").unwrap_or_default();
                node.spec.annotations.labels.get(name).map_or("", String::as_str)
            }
        };
        (actual == self.value) == self.equal
    }
}
