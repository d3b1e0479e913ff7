//! Where tasks may run, and what they are given of a node.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Such as `node.role==worker` or `node.labels.zone!=a`.
    pub constraints: Vec<String>,
    /// What tasks are spread evenly over, the first above all: `node.labels.zone`.
    #[serde(default)]
    pub spread: Vec<String>,
    /// Zero means no limit.
    pub max_replicas_per_node: u32,
}

/// Processor time, in billionths of one processor's. Zero stands for no amount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NanoCpus(pub u64);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no number of processors: use one from 0.01 to {most}, such as 0.5, or 0 for none", most = NanoCpus::MOST)]
pub struct BadCpus {
    text: String,
}

impl NanoCpus {
    const ONE: u64 = 1_000_000_000;
    /// Processors of the largest node.
    pub const MOST: u64 = 65_536;
    /// The kernel's period is 100 ms and its shortest quota 1 ms (cpu.rst).
    pub const LEAST: NanoCpus = NanoCpus(10_000_000);

    pub const fn whole(cpus: u32) -> Self {
        Self(cpus as u64 * Self::ONE)
    }
}

impl FromStr for NanoCpus {
    type Err = BadCpus;
    fn from_str(text: &str) -> Result<Self, BadCpus> {
        let bad = || BadCpus { text: text.to_owned() };
        let cpus: f64 = text.parse().map_err(|_| bad())?;
        let range = 0.0..=Self::MOST as f64;
        let amount = NanoCpus((cpus * Self::ONE as f64).round() as u64);
        let usable = range.contains(&cpus) && (cpus == 0.0 || amount >= Self::LEAST);
        if usable { Ok(amount) } else { Err(bad()) }
    }
}

impl fmt::Display for NanoCpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 as f64 / Self::ONE as f64)
    }
}

/// What a node has, or a task takes of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    pub cpu: NanoCpus,
    /// Bytes.
    pub memory: u64,
    /// What nodes are told that they have, such as `gpu`, by name.
    #[serde(default)]
    pub generic: BTreeMap<String, u64>,
}

impl Amounts {
    pub fn add(&mut self, other: &Amounts) {
        self.cpu.0 = self.cpu.0.saturating_add(other.cpu.0);
        self.memory = self.memory.saturating_add(other.memory);
        for (name, count) in &other.generic {
            let sum = self.generic.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*count);
        }
    }

    pub fn is_none(&self) -> bool {
        *self == Amounts::default()
    }
}

/// What a node's kernel lets a task have at most. Zero means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub cpu: NanoCpus,
    /// Bytes.
    pub memory: u64,
    /// Processes and threads.
    #[serde(default)]
    pub pids: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// What a node must have free; it counts as taken there.
    pub reserved: Amounts,
    pub limit: Limits,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadResources {
    #[error("memory limit of {0} bytes: use at least {min}, or 0 for none", min = Resources::LEAST_MEMORY)]
    LittleMemory(u64),
    #[error("processors {0}: use 0.01 to {most}, or 0 for none", most = NanoCpus::MOST)]
    Cpus(NanoCpus),
    #[error("{what}: {reserved} are reserved and {limit} are the limit, use a limit that is no lower")]
    AboveLimit { what: &'static str, reserved: String, limit: String },
    #[error("limit of {0} processes: use 1 to {most}, or 0 for none", most = Resources::MOST_PIDS)]
    Pids(u64),
    #[error("resource {0:?}: use a name of letters, digits, '-', '_' and '.'")]
    Name(String),
}

impl Resources {
    /// docker's: with less no program starts.
    pub const LEAST_MEMORY: u64 = 6 << 20;
    /// PID_MAX_LIMIT (linux/threads.h).
    pub const MOST_PIDS: u64 = 4 << 20;

    /// # Errors
    /// What no node can follow.
    pub fn check(&self) -> Result<(), BadResources> {
        let (reserved, limit) = (&self.reserved, &self.limit);
        for cpu in [reserved.cpu, limit.cpu].into_iter().filter(|c| c.0 > 0) {
            if cpu < NanoCpus::LEAST || cpu.0 > NanoCpus::MOST * NanoCpus::ONE {
                return Err(BadResources::Cpus(cpu));
            }
        }
        if (1..Self::LEAST_MEMORY).contains(&limit.memory) {
            return Err(BadResources::LittleMemory(limit.memory));
        }
        if limit.pids > Self::MOST_PIDS {
            return Err(BadResources::Pids(limit.pids));
        }
        if limit.cpu.0 > 0 && reserved.cpu > limit.cpu {
            let (reserved, limit) = (reserved.cpu.to_string(), limit.cpu.to_string());
            return Err(BadResources::AboveLimit { what: "processors", reserved, limit });
        }
        if limit.memory > 0 && reserved.memory > limit.memory {
            let (reserved, limit) = (reserved.memory.to_string(), limit.memory.to_string());
            return Err(BadResources::AboveLimit { what: "bytes of memory", reserved, limit });
        }
        match reserved.generic.keys().find(|name| !is_resource_name(name)) {
            Some(name) => Err(BadResources::Name(name.clone())),
            None => Ok(()),
        }
    }
}

/// Whether nodes may have something by this name.
pub fn is_resource_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_read_and_shown() {
        for (text, want) in [
            ("0.5", Some(500_000_000)),
            ("2", Some(2_000_000_000)),
            ("0", Some(0)),
            ("0.01", Some(10_000_000)),
            ("0.001", None),
            ("-1", None),
            ("1e9", None),
            ("NaN", None),
            ("inf", None),
            ("half", None),
        ] {
            assert_eq!(text.parse::<NanoCpus>().ok().map(|c| c.0), want, "{text}");
        }
        assert_eq!(NanoCpus(1_500_000_000).to_string(), "1.5");
        assert_eq!(NanoCpus::whole(4).to_string(), "4");
    }

    #[test]
    fn what_no_node_can_follow_is_refused() {
        let with = |change: fn(&mut Resources)| {
            let mut resources = Resources::default();
            change(&mut resources);
            resources.check().map_err(|e| e.to_string())
        };
        assert_eq!(with(|r| r.limit.memory = 64 << 20), Ok(()));
        let refused = [
            with(|r| r.limit.memory = 1),
            with(|r| (r.limit.memory, r.reserved.memory) = (64 << 20, 65 << 20)),
            with(|r| (r.limit.cpu, r.reserved.cpu) = (NanoCpus::whole(1), NanoCpus::whole(2))),
            with(|r| r.limit.cpu = NanoCpus(1)),
            with(|r| r.limit.pids = u64::MAX),
            with(|r| r.reserved.generic = [("g p u".to_owned(), 1)].into()),
        ];
        let parts = ["at least 6291456", "no lower", "no lower", "0.01", "1 to 4194304", "letters"];
        for (said, part) in refused.into_iter().zip(parts) {
            let said = said.expect_err(part);
            assert!(said.contains(part), "{said}");
        }
    }
}
