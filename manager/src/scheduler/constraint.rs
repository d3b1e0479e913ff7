//! Placement constraints: `node.role==worker`, `node.labels.zone not in (a, b)`, `node.hostname==web-*`.

use super::attribute::{Attribute, UnknownAttribute};
use heddle_model::{node::Node, service::TaskSpec};
use ipnet::IpNet;
use std::{fmt, net::IpAddr, str::FromStr};
use wildmatch::WildMatch;

#[derive(Debug, Clone, PartialEq)]
pub struct Constraint {
    text: String,
    attribute: Attribute,
    /// Whether it admits what is among the values, or what is not.
    among: bool,
    values: Vec<Value>,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    /// `*` stands for any characters, `?` for one; case does not count, as in docker.
    Like(WildMatch),
    Within(IpNet),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadConstraint {
    #[error("constraint {0:?}: use KEY==VALUE, KEY!=VALUE, KEY in (A, B) or KEY not in (A, B)")]
    Form(String),
    #[error("constraint {text:?}: {source}")]
    Key { text: String, source: UnknownAttribute },
    #[error("constraint {text:?}: {value:?} is no address and no subnet, use one such as 192.0.2.7 or 192.0.2.0/24")]
    Address { text: String, value: String },
}

/// Key, whether it is to be among the values, and those.
fn parts(text: &str) -> Option<(&str, bool, Vec<&str>)> {
    let one = |sign: &str| text.split_once(sign).map(|(key, value)| (key, vec![value]));
    let list = |sign: &str| {
        let (key, rest) = text.split_once(sign)?;
        let inside = rest.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some((key, inside.split(',').collect()))
    };
    let (key, among, values) = None
        .or_else(|| one("==").map(|(k, v)| (k, true, v)))
        .or_else(|| one("!=").map(|(k, v)| (k, false, v)))
        .or_else(|| list(" not in ").map(|(k, v)| (k, false, v)))
        .or_else(|| list(" in ").map(|(k, v)| (k, true, v)))?;
    let values: Vec<_> = values.into_iter().map(str::trim).collect();
    let plain = values.iter().all(|v| !v.is_empty());
    plain.then_some((key.trim(), among, values))
}

impl FromStr for Constraint {
    type Err = BadConstraint;
    fn from_str(text: &str) -> Result<Self, BadConstraint> {
        let (key, among, values) = parts(text).ok_or_else(|| BadConstraint::Form(text.to_owned()))?;
        let attribute: Attribute =
            key.parse().map_err(|source| BadConstraint::Key { text: text.to_owned(), source })?;
        let value = |value: &str| match attribute {
            Attribute::Ip => {
                let net = value.parse().or_else(|_| value.parse::<IpAddr>().map(IpNet::from));
                net.map(Value::Within)
                    .map_err(|_| BadConstraint::Address { text: text.to_owned(), value: value.to_owned() })
            }
            _ => Ok(Value::Like(WildMatch::new_case_insensitive(value))),
        };
        let values = values.into_iter().map(value).collect::<Result<_, _>>()?;
        Ok(Constraint { text: text.to_owned(), attribute, among, values })
    }
}

impl Constraint {
    /// Those of a task. What cannot be read was never accepted.
    pub fn all(spec: &TaskSpec) -> Vec<Constraint> {
        spec.placement.constraints.iter().filter_map(|c| c.parse().ok()).collect()
    }

    pub fn admits(&self, node: &Node) -> bool {
        let is = |value: &Value, actual: &str| match value {
            Value::Like(pattern) => pattern.matches(actual),
            Value::Within(net) => net.contains(&node.data_path_addr),
        };
        let among = self.attribute.of(node).is_some_and(|actual| self.values.iter().any(|v| is(v, &actual)));
        among == self.among
    }

    pub fn attribute(&self) -> &Attribute {
        &self.attribute
    }

    /// The only value that it admits, if there is one.
    pub fn only(&self) -> Option<String> {
        match self.values.as_slice() {
            [Value::Like(pattern)] if self.among && !pattern.pattern().contains(['*', '?']) => Some(pattern.pattern()),
            _ => None,
        }
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    #[test]
    fn what_is_written_is_what_is_admitted() {
        let mut node = World::new().node(7);
        node.description.hostname = "web-7".into();
        node.spec.annotations.labels = [("zone".to_owned(), "a".to_owned())].into();
        node.description.labels = [("disk".to_owned(), "SSD".to_owned())].into();
        for (text, admits) in [
            ("node.labels.zone==a", true),
            ("node.labels.zone == b", false),
            ("node.labels.zone!=b", true),
            ("node.labels.zone in (b, a)", true),
            ("node.labels.zone not in (b,a)", false),
            ("node.labels.zone not in ( b )", true),
            ("node.labels.rack==1", false),
            ("node.labels.rack!=1", true),
            ("node.labels.rack not in (1)", true),
            ("node.labels.rack==*", false),
            ("node.hostname==web-*", true),
            ("node.hostname==web-?", true),
            ("node.hostname!=web-*", false),
            ("node.hostname==web", false),
            ("node.role==Worker", true),
            ("engine.labels.disk==ssd", true),
            ("node.ip==192.0.2.7", true),
            ("node.ip==192.0.2.0/24", true),
            ("node.ip in (198.51.100.0/24, 2001:db8::/32)", false),
        ] {
            assert_eq!(text.parse::<Constraint>().unwrap().admits(&node), admits, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (text, part) in [
            ("zone=a", "KEY==VALUE"),
            ("node.labels.zone in a", "KEY in (A, B)"),
            ("node.labels.zone in (a,)", "KEY in (A, B)"),
            ("node.labels.zone==", "KEY==VALUE"),
            ("node.labels.==a", "\"node.labels.\" is nothing that a node has"),
            ("node.zone==a", "engine.labels.NAME"),
            ("node.ip==web", "\"web\" is no address"),
        ] {
            let said = text.parse::<Constraint>().unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
        }
    }
}
