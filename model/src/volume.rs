//! Volumes: directories that a host keeps under a name, whatever becomes of the tasks that use them.

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use std::{borrow::Borrow, collections::BTreeMap, fmt, str::FromStr};

/// docker's rule for names. It is the name of a directory, too: NAME_MAX bytes at most (linux/limits.h).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeName(String);

const LONGEST: usize = 255;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("volume name {0:?}: use 1 to {LONGEST} of a-z, A-Z, 0-9, '_', '.' and '-', beginning with a letter or digit")]
pub struct BadVolumeName(String);

impl VolumeName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VolumeName {
    type Err = BadVolumeName;
    fn from_str(text: &str) -> Result<Self, BadVolumeName> {
        let begins = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let usable = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        match begins && text.len() <= LONGEST && text.bytes().all(usable) {
            true => Ok(Self(text.to_owned())),
            false => Err(BadVolumeName(text.to_owned())),
        }
    }
}

impl TryFrom<String> for VolumeName {
    type Error = BadVolumeName;
    fn try_from(text: String) -> Result<Self, BadVolumeName> {
        text.parse()
    }
}

impl From<VolumeName> for String {
    fn from(name: VolumeName) -> String {
        name.0
    }
}

impl Borrow<str> for VolumeName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a host keeps beside a volume's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    pub created_at: Timestamp,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_docker_takes() {
        let long = "a".repeat(LONGEST);
        for name in ["data", "0", "web.1-a_B", &long] {
            assert_eq!(name.parse::<VolumeName>().map(String::from).as_deref(), Ok(name));
        }
        let longer = format!("{long}a");
        for name in ["", ".", "..", ".new", "-a", "_a", "a/b", "a b", "a\0", "\u{e9}", &longer] {
            assert!(name.parse::<VolumeName>().is_err(), "{name}");
        }
        let said = "a/b".parse::<VolumeName>().unwrap_err().to_string();
        assert_eq!(
            said,
            "volume name \"a/b\": use 1 to 255 of a-z, A-Z, 0-9, '_', '.' and '-', beginning with a letter or digit"
        );
    }
}
