//! What every stored object carries: version, times, name and labels.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// The raft log index at which an object was last written. Grows with every write in the cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Milliseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Time passed since `earlier`; zero if `earlier` lies in the future.
    pub fn since(self, earlier: Timestamp) -> std::time::Duration {
        std::time::Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    pub fn plus(self, by: std::time::Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(by.as_millis() as u64))
    }
}

/// Version and times of an object. Set by the store, never by a caller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    pub version: Version,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Name and labels of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Annotations {
    pub name: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A name that cannot be used as a host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("name {0:?} is not a DNS label: use 1 to 63 of a-z, A-Z, 0-9 and '-', with a letter or digit at both ends")]
pub struct BadName(pub String);

/// Checks that `name` is one DNS label (RFC 1123, section 2.1), since services are reached by their names.
pub fn check_name(name: &str) -> Result<(), BadName> {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    let good = bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
    if good { Ok(()) } else { Err(BadName(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "web", "web-1", "A9", &"x".repeat(63)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "a_b", "a.b", "ä", "a b", &"x".repeat(64)] {
            assert_eq!(check_name(bad), Err(BadName(bad.to_owned())), "{bad}");
        }
    }
}
