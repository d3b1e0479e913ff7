//! Limits by setrlimit(2).

use super::BadContainer;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

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

    pub(super) fn names() -> String {
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

    pub(super) fn check(&self, name: Rlimit) -> Result<(), BadContainer> {
        match *self {
            Self { soft, hard } if soft > hard => Err(BadContainer::SoftAboveHard { name, soft, hard }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
