//! How a task's program is set up on its host: as whom it runs, what it may do there, what it sees.

mod capability;
mod mount;
mod ulimit;

pub use capability::Capability;
pub use mount::{Mount, MountSource};
pub use ulimit::{Bound, Rlimit, Ulimit};

use crate::{template, volume::BadVolumeName, workload::DnsConfig};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    str::FromStr,
};

/// Whichever executor runs the program. What is not said is the executor's own choice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Container {
    pub user: Option<User>,
    /// Further groups of the user, by name or number.
    pub groups: Vec<String>,
    /// The root file system, but for what is mounted there.
    pub read_only: bool,
    pub mounts: Vec<Mount>,
    pub cap_add: BTreeSet<Capability>,
    pub cap_drop: BTreeSet<Capability>,
    pub ulimits: BTreeMap<Rlimit, Ulimit>,
    /// None: SIGTERM.
    pub stop_signal: Option<StopSignal>,
    pub dns: DnsConfig,
    /// NAME:ADDRESS lines of /etc/hosts.
    pub hosts: Vec<(String, IpAddr)>,
    /// Of the container, where the executor makes one.
    pub labels: BTreeMap<String, String>,
    pub log: LogLimits,
}

/// What of a container cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadContainer {
    #[error("user {0:?}: use USER or USER:GROUP, by name or number")]
    User(String),
    #[error("capability {0:?} is unknown: use ALL or one of capabilities(7), such as NET_ADMIN")]
    Capability(String),
    #[error("ulimit {text:?}: use NAME=SOFT or NAME=SOFT:HARD, numbers or unlimited, with one of {names} as NAME", names = Rlimit::names())]
    Ulimit { text: String },
    #[error("ulimit {name}={soft}:{hard}: the soft limit is above the hard one")]
    SoftAboveHard { name: Rlimit, soft: Bound, hard: Bound },
    #[error("stop signal {0:?}: use the name or the number of one that ends programs, such as SIGTERM, QUIT or 15")]
    Signal(String),
    #[error("mount {text:?}: {what}")]
    Mount { text: String, what: &'static str },
    #[error("mount at {0:?}: it is the target of two mounts, give one of them another")]
    MountTwice(String),
    #[error("host {0:?}: use NAME:ADDRESS, such as db:192.0.2.5")]
    Host(String),
    #[error("log option {text:?}: use max-size=BYTES, from 4k to 1g, or max-file=COUNT, from 1 to 100")]
    Log { text: String },
    #[error(transparent)]
    Template(#[from] template::BadTemplate),
    #[error(transparent)]
    Volume(#[from] BadVolumeName),
}

/// `USER[:GROUP]`, each a name or a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct User {
    pub name: String,
    pub group: Option<String>,
}

impl FromStr for User {
    type Err = BadContainer;
    fn from_str(text: &str) -> Result<Self, BadContainer> {
        let usable = |part: &str| !part.is_empty() && part.len() <= 32 && !part.contains([':', ' ', '/', '\0']);
        let (name, group) = match text.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (text, None),
        };
        match usable(name) && group.is_none_or(usable) {
            true => Ok(Self { name: name.to_owned(), group: group.map(str::to_owned) }),
            false => Err(BadContainer::User(text.to_owned())),
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group {
            Some(group) => write!(f, "{}:{group}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// The name of a signal that ends programs, such as `SIGTERM`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StopSignal(String);

impl StopSignal {
    /// In the order of their numbers, from 1 (signal(7)); empty: none that a program could be asked to end by.
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "", "", "ABRT", "", "", "KILL", "USR1", "", "USR2", "PIPE", "ALRM", "TERM", "STKFLT", "",
        "", "", "", "", "", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StopSignal {
    type Err = BadContainer;
    fn from_str(text: &str) -> Result<Self, BadContainer> {
        let capitals = text.to_ascii_uppercase();
        let wanted = match text.parse::<usize>() {
            Ok(number) => Self::NAMES.get(number.wrapping_sub(1)).copied().unwrap_or_default(),
            Err(_) => capitals.strip_prefix("SIG").unwrap_or(&capitals),
        };
        let found = Self::NAMES.into_iter().find(|name| !name.is_empty() && *name == wanted);
        found.map(|name| Self(format!("SIG{name}"))).ok_or_else(|| BadContainer::Signal(text.to_owned()))
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// 64m and the like, as docker takes them: a kilobyte is 1,024 bytes.
fn bytes(text: &str) -> Option<u64> {
    parse_size::Config::new().with_binary().parse_size(text).ok()
}

/// How much of what a task prints is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// Bytes in one file.
    pub max_size: u64,
    /// Files, with the one that is written to.
    pub max_files: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { max_size: 10 << 20, max_files: 2 }
    }
}

impl LogLimits {
    /// Changes one of them: `max-size=10m` or `max-file=3`, as docker's options of the same names.
    pub fn set(&mut self, text: &str) -> Result<(), BadContainer> {
        let bad = || BadContainer::Log { text: text.to_owned() };
        let (name, value) = text.split_once('=').ok_or_else(bad)?;
        match name {
            "max-size" => self.max_size = bytes(value).ok_or_else(bad)?,
            "max-file" => self.max_files = value.parse().map_err(|_| bad())?,
            _ => return Err(bad()),
        }
        self.check().map_err(|_| bad())
    }

    fn check(&self) -> Result<(), BadContainer> {
        let fits = (4 << 10..=1 << 30).contains(&self.max_size) && (1..=100).contains(&self.max_files);
        let text = || format!("max-size={},max-file={}", self.max_size, self.max_files);
        if fits { Ok(()) } else { Err(BadContainer::Log { text: text() }) }
    }
}

/// `NAME:ADDRESS` of a line of /etc/hosts, or `NAME=ADDRESS`.
pub fn host_line(text: &str) -> Result<(String, IpAddr), BadContainer> {
    let bad = || BadContainer::Host(text.to_owned());
    let usable =
        |name: &&str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let (name, addr) = text.split_once(['=', ':']).filter(|(name, _)| usable(name)).ok_or_else(bad)?;
    let bare = addr.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(addr);
    Ok((name.to_owned(), bare.parse().map_err(|_| bad())?))
}

macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = BadContainer;
            fn try_from(text: String) -> Result<Self, BadContainer> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    )*};
}
as_text!(User, Capability, StopSignal);

impl Container {
    /// What its parts do not say of themselves.
    pub fn check(&self) -> Result<(), BadContainer> {
        Mount::check_all(&self.mounts)?;
        self.ulimits.iter().try_for_each(|(name, limit)| limit.check(*name))?;
        for (name, addr) in &self.hosts {
            host_line(&format!("{name}:{addr}"))?;
        }
        for group in &self.groups {
            group
                .parse::<User>()
                .ok()
                .filter(|g| g.group.is_none())
                .ok_or_else(|| BadContainer::User(group.clone()))?;
        }
        self.log.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, want) in [
            ("SIGTERM", Some("SIGTERM")),
            ("quit", Some("SIGQUIT")),
            ("15", Some("SIGTERM")),
            ("28", Some("SIGWINCH")),
            ("SIGSTOP", None),
            ("CHLD", None),
            ("0", None),
            ("64", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<StopSignal>().ok().as_ref().map(StopSignal::as_str), want, "{text}");
        }
    }

    #[test]
    fn users_hosts_and_logs() {
        assert!(["www-data", "1000:1000", "a:b"].iter().all(|t| t.parse::<User>().is_ok_and(|u| u.to_string() == *t)));
        assert!(["", ":", "a:", ":b", "a b", "a:b:c"].iter().all(|t| t.parse::<User>().is_err()));
        assert_eq!(host_line("db:[fd00::5]"), Ok(("db".into(), "fd00::5".parse().unwrap())));
        assert!(["db", "db:", ":192.0.2.5", "d b:192.0.2.5", "db:x"].iter().all(|t| host_line(t).is_err()));
        let mut log = LogLimits::default();
        assert!(log.set("max-size=1m").is_ok() && log.set("max-file=5").is_ok());
        assert_eq!((log.max_size, log.max_files), (1 << 20, 5));
        assert!(
            ["max-size=1", "max-size=2g", "max-file=0", "max-file=x", "tag=x", ""].iter().all(|t| log.set(t).is_err())
        );
    }
}
