//! How a task's program is set up on its host: as whom it runs, what it may do there, what it sees.

use crate::{template, workload::DnsConfig};
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

/// What a program's use of is limited by setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rlimit {
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

impl Rlimit {
    const ALL: [(&str, Rlimit); 15] = [
        ("core", Self::Core),
        ("cpu", Self::Cpu),
        ("data", Self::Data),
        ("fsize", Self::Fsize),
        ("locks", Self::Locks),
        ("memlock", Self::Memlock),
        ("msgqueue", Self::Msgqueue),
        ("nice", Self::Nice),
        ("nofile", Self::Nofile),
        ("nproc", Self::Nproc),
        ("rss", Self::Rss),
        ("rtprio", Self::Rtprio),
        ("rttime", Self::Rttime),
        ("sigpending", Self::Sigpending),
        ("stack", Self::Stack),
    ];

    fn names() -> String {
        Self::ALL.map(|(name, _)| name).join(", ")
    }

    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, limit)| *limit == self).map_or("", |(name, _)| name)
    }
}

impl FromStr for Rlimit {
    type Err = BadContainer;
    fn from_str(text: &str) -> Result<Self, BadContainer> {
        let found = Self::ALL.iter().find(|(name, _)| *name == text).map(|(_, limit)| *limit);
        found.ok_or_else(|| BadContainer::Ulimit { text: text.to_owned() })
    }
}

impl fmt::Display for Rlimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// In the unit of the limit (setrlimit(2)); the greatest number is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bound(pub u64);

impl Bound {
    pub const NONE: Self = Self(u64::MAX);

    fn parse(text: &str) -> Option<Self> {
        match text {
            "unlimited" | "-1" => Some(Self::NONE),
            number => number.parse().ok().map(Self),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NONE => f.write_str("unlimited"),
            Self(number) => write!(f, "{number}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    pub soft: Bound,
    pub hard: Bound,
}

impl Ulimit {
    /// `NAME=SOFT[:HARD]`; without a hard limit that is the soft one, as docker has it.
    pub fn parse(text: &str) -> Result<(Rlimit, Self), BadContainer> {
        let bad = || BadContainer::Ulimit { text: text.to_owned() };
        let (name, bounds) = text.split_once('=').ok_or_else(bad)?;
        let name: Rlimit = name.parse().map_err(|_| bad())?;
        let (soft, hard) = bounds.split_once(':').unwrap_or((bounds, bounds));
        let limit = Self { soft: Bound::parse(soft).ok_or_else(bad)?, hard: Bound::parse(hard).ok_or_else(bad)? };
        limit.check(name)?;
        Ok((name, limit))
    }

    fn check(&self, name: Rlimit) -> Result<(), BadContainer> {
        match *self {
            Self { soft, hard } if soft > hard => Err(BadContainer::SoftAboveHard { name, soft, hard }),
            _ => Ok(()),
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

/// Something that the program sees at a path of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub source: MountSource,
    /// Absolute. May hold templates, as the source of a bind mount may.
    pub target: String,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountSource {
    /// An absolute path of the host, which must exist there.
    Bind(String),
    Tmpfs {
        /// Bytes; zero is the kernel's own limit, half of the memory.
        size: u64,
        /// Permissions of its root.
        mode: u32,
    },
}

impl MountSource {
    /// docker's: world-writable, as /tmp.
    const TMPFS_MODE: u32 = 0o1777;
}

impl FromStr for Mount {
    type Err = BadContainer;
    /// docker's: `type=bind,source=PATH,target=PATH[,readonly]`, `type=tmpfs,target=PATH[,tmpfs-size=BYTES][,tmpfs-mode=MODE]`.
    fn from_str(text: &str) -> Result<Self, BadContainer> {
        let bad = |what| BadContainer::Mount { text: text.to_owned(), what };
        let (mut kind, mut source, mut target, mut read_only) = (None, None, None, false);
        let (mut size, mut mode) = (None, None);
        for field in text.split(',') {
            let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
            match (key, value) {
                ("type", Some(value)) => kind = Some(value),
                ("source" | "src", Some(value)) => source = Some(value),
                ("target" | "dst" | "destination", Some(value)) => target = Some(value),
                ("readonly" | "ro", None | Some("true" | "1")) => read_only = true,
                ("readonly" | "ro", Some("false" | "0")) => read_only = false,
                ("tmpfs-size", Some(value)) => size = Some(value),
                ("tmpfs-mode", Some(value)) => mode = Some(value),
                _ => return Err(bad("use type, source, target, readonly, tmpfs-size and tmpfs-mode as fields")),
            }
        }
        let target = target.ok_or_else(|| bad("target=PATH is missing"))?.to_owned();
        let only_tmpfs = size.is_some() || mode.is_some();
        let source = match (kind, source) {
            (Some("bind"), Some(_)) if only_tmpfs => return Err(bad("tmpfs-size and tmpfs-mode are for type=tmpfs")),
            (Some("bind"), Some(path)) => MountSource::Bind(path.to_owned()),
            (Some("bind"), None) => return Err(bad("source=PATH is missing")),
            (Some("tmpfs"), Some(_)) => return Err(bad("type=tmpfs has no source")),
            (Some("tmpfs"), None) => MountSource::Tmpfs {
                size: match size {
                    Some(text) => bytes(text).ok_or_else(|| bad("tmpfs-size takes bytes, such as 64m"))?,
                    None => 0,
                },
                mode: match mode {
                    Some(digits) => {
                        let mode = u32::from_str_radix(digits, 8).ok().filter(|m| *m <= 0o7777);
                        mode.ok_or_else(|| bad("tmpfs-mode takes octal digits, such as 0700"))?
                    }
                    None => MountSource::TMPFS_MODE,
                },
            },
            (Some("volume") | None, _) => {
                return Err(bad("volumes are not supported yet: use type=bind or type=tmpfs"));
            }
            (Some(_), _) => return Err(bad("use type=bind or type=tmpfs")),
        };
        let mount = Self { source, target, read_only };
        mount.check()?;
        Ok(mount)
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            MountSource::Bind(source) => write!(f, "type=bind,source={source},target={}", self.target)?,
            MountSource::Tmpfs { size, mode } => {
                write!(f, "type=tmpfs,target={},tmpfs-mode={mode:04o}", self.target)?;
                if *size > 0 {
                    write!(f, ",tmpfs-size={size}")?;
                }
            }
        }
        if self.read_only { f.write_str(",readonly") } else { Ok(()) }
    }
}

/// 64m and the like, as docker takes them: a kilobyte is 1,024 bytes.
fn bytes(text: &str) -> Option<u64> {
    parse_size::Config::new().with_binary().parse_size(text).ok()
}

impl Mount {
    fn check(&self) -> Result<(), BadContainer> {
        let bad = |what| BadContainer::Mount { text: self.to_string(), what };
        let absolute = |path: &str| path.starts_with('/') && !path.split('/').any(|part| part == "..");
        if !absolute(&self.target) || self.target.trim_matches('/').is_empty() {
            return Err(bad("the target is an absolute path below /, without .. in it"));
        }
        match &self.source {
            MountSource::Bind(path) if !absolute(path) => Err(bad("the source is an absolute path, without .. in it")),
            _ => Ok(()),
        }
    }
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
        let mut targets = BTreeSet::new();
        for mount in &self.mounts {
            mount.check()?;
            template::check(&mount.target)?;
            if let MountSource::Bind(source) = &mount.source {
                template::check(source)?;
            }
            if !targets.insert(mount.target.trim_end_matches('/')) {
                return Err(BadContainer::MountTwice(mount.target.clone()));
            }
        }
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
    fn what_is_read_is_written_alike() {
        for text in [
            "type=bind,source=/srv,target=/data",
            "type=bind,source=/srv/{{.Task.Slot}},target=/data,readonly",
            "type=tmpfs,target=/tmp,tmpfs-mode=1777",
            "type=tmpfs,target=/tmp,tmpfs-mode=0700,tmpfs-size=65536",
        ] {
            assert_eq!(text.parse::<Mount>().map(|m| m.to_string()).as_deref(), Ok(text));
        }
        let short = "type=tmpfs,dst=/tmp,tmpfs-size=64k".parse::<Mount>().map(|m| m.to_string());
        assert_eq!(short.as_deref(), Ok("type=tmpfs,target=/tmp,tmpfs-mode=1777,tmpfs-size=65536"));
    }

    #[test]
    fn a_mount_that_cannot_be_says_why() {
        for (text, want) in [
            ("type=bind,target=/a", "source=PATH is missing"),
            ("type=bind,source=/a", "target=PATH is missing"),
            ("type=bind,source=a,target=/b", "the source is an absolute path, without .. in it"),
            ("type=bind,source=/a/../b,target=/b", "the source is an absolute path, without .. in it"),
            ("type=bind,source=/a,target=/", "the target is an absolute path below /, without .. in it"),
            ("type=bind,source=/a,target=/b,tmpfs-size=1", "tmpfs-size and tmpfs-mode are for type=tmpfs"),
            ("type=tmpfs,source=/a,target=/b", "type=tmpfs has no source"),
            ("type=tmpfs,target=/b,tmpfs-size=x", "tmpfs-size takes bytes, such as 64m"),
            ("type=tmpfs,target=/b,tmpfs-mode=9", "tmpfs-mode takes octal digits, such as 0700"),
            ("type=volume,source=v,target=/b", "volumes are not supported yet: use type=bind or type=tmpfs"),
            ("type=npipe,target=/b", "use type=bind or type=tmpfs"),
            (
                "type=bind,source=/a,target=/b,x=1",
                "use type, source, target, readonly, tmpfs-size and tmpfs-mode as fields",
            ),
        ] {
            let said = text.parse::<Mount>().map_err(|e| e.to_string());
            assert!(said.as_ref().is_err_and(|e| e.ends_with(want)), "{text}: {said:?}");
        }
        let mount: Mount = "type=tmpfs,target=/a".parse().unwrap();
        let twice =
            Container { mounts: vec![mount.clone(), Mount { target: "/a/".into(), ..mount }], ..Default::default() };
        assert_eq!(twice.check(), Err(BadContainer::MountTwice("/a/".into())));
    }

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
    fn limits_by_name() {
        let limit = |soft, hard| Ulimit { soft: Bound(soft), hard: Bound(hard) };
        for (text, want) in [
            ("nofile=1024", Some((Rlimit::Nofile, limit(1024, 1024)))),
            ("nofile=1024:2048", Some((Rlimit::Nofile, limit(1024, 2048)))),
            ("core=0:unlimited", Some((Rlimit::Core, Ulimit { soft: Bound(0), hard: Bound::NONE }))),
            ("nofile=2:1", None),
            ("files=1", None),
            ("nofile", None),
            ("nofile=-5", None),
        ] {
            assert_eq!(Ulimit::parse(text).ok(), want, "{text}");
        }
    }

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
