//! Interface names.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A Linux interface name: 1 to 15 bytes, no '/', no white space (`dev_valid_name` in net/core/dev.c).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("interface name {0:?} is not 1 to 15 characters without '/', ':' and white space")]
pub struct BadIfName(pub String);

impl IfName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = BadIfName;
    fn from_str(s: &str) -> Result<Self, BadIfName> {
        let good = (1..=15).contains(&s.len())
            && s != "."
            && s != ".."
            && s.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
        if good { Ok(IfName(s.to_owned())) } else { Err(BadIfName(s.to_owned())) }
    }
}

impl TryFrom<String> for IfName {
    type Error = BadIfName;
    fn try_from(s: String) -> Result<Self, BadIfName> {
        s.parse()
    }
}

impl From<IfName> for String {
    fn from(n: IfName) -> String {
        n.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
