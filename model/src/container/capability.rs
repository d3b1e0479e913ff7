//! What a program may do.

use super::{BadContainer, Container};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// Without its prefix `CAP_`, in capitals; or `ALL`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Capability(String);

impl Capability {
    pub const ALL: &str = "ALL";
    /// In the order of their numbers (linux/capability.h).
    pub const NAMES: [&str; 41] = [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ];

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Capability {
    type Err = BadContainer;
    fn from_str(text: &str) -> Result<Self, BadContainer> {
        let capitals = text.to_ascii_uppercase();
        let name = capitals.strip_prefix("CAP_").unwrap_or(&capitals);
        let known = name == Self::ALL || Self::NAMES.contains(&name);
        if known { Ok(Self(name.to_owned())) } else { Err(BadContainer::Capability(text.to_owned())) }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Container {
    /// Of the capabilities in `at_first`, those that a program may have: what is added counts for more than what is dropped, and
    /// one that is named for more than all.
    pub fn capabilities(&self, at_first: &[&str]) -> BTreeSet<&'static str> {
        let names = |set: &BTreeSet<Capability>, name: &str| set.iter().any(|c| c.as_str() == name);
        let has = |name: &&str| {
            if names(&self.cap_add, name) {
                return true;
            }
            if names(&self.cap_drop, name) {
                return false;
            }
            let all = names(&self.cap_add, Capability::ALL);
            all || (at_first.contains(name) && !names(&self.cap_drop, Capability::ALL))
        };
        Capability::NAMES.into_iter().filter(has).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_that_is_named_counts_for_more_than_all() {
        let set = |names: &[&str]| names.iter().map(|n| n.parse().unwrap()).collect();
        let with = |add: &[&str], drop: &[&str]| {
            let container = Container { cap_add: set(add), cap_drop: set(drop), ..Container::default() };
            container.capabilities(&["CHOWN", "KILL"]).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(with(&[], &[]), ["CHOWN", "KILL"]);
        assert_eq!(with(&["cap_net_admin"], &["CHOWN"]), ["KILL", "NET_ADMIN"]);
        assert_eq!(with(&["NET_RAW"], &["ALL"]), ["NET_RAW"]);
        assert_eq!(with(&["all"], &["SYS_ADMIN"]).len(), 40);
        assert!("SYS_ROOT".parse::<Capability>().is_err());
    }
}
