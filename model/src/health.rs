//! How a task shows that it is well: a check that its host runs again and again.

use crate::net::Port;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What is tried, in the task's own namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// Of a shell; exit code 0 is healthy.
    Command(String),
    /// A program with its arguments, without a shell; exit code 0 is healthy.
    Exec(Vec<String>),
    /// A GET; 200 to 399 is healthy.
    Http { port: Port, path: String },
    /// A connection that is accepted is healthy.
    Tcp(Port),
}

impl Probe {
    /// Where the program has to listen for it.
    pub fn port(&self) -> Option<Port> {
        match self {
            Probe::Command(_) | Probe::Exec(_) => None,
            Probe::Http { port, .. } | Probe::Tcp(port) => Some(*port),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    pub probe: Probe,
    /// Between the end of one check and the next.
    pub interval: Duration,
    /// A check that takes longer has failed.
    pub timeout: Duration,
    /// So many failures in a row make a task unhealthy.
    pub retries: u32,
    /// In which failures do not count, unless a check has succeeded.
    pub start_period: Duration,
    /// The same as `interval` while failures do not count.
    pub start_interval: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadHealthCheck {
    #[error("the command of the health check is empty: give a command of a shell, or leave the check out")]
    NoCommand,
    #[error(
        "health check path {0:?}: use one that begins with /, with what stands for itself in a URL, such as /healthz?full=1"
    )]
    Path(String),
    #[error("health {field} {value:?}: use {least} to 24h")]
    Time { field: &'static str, value: Duration, least: &'static str },
    #[error("health retries {0}: use 1 to {most}", most = HealthCheck::MOST_RETRIES)]
    Retries(u32),
}

/// In a path or a query (RFC 3986, 3.3 and 3.4).
fn in_a_url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&byte)
}

impl HealthCheck {
    /// A host looks at its tasks no more often than that is worth.
    pub const SHORTEST: Duration = Duration::from_millis(100);
    /// A day.
    pub const LONGEST: Duration = Duration::from_secs(86_400);
    pub const MOST_RETRIES: u32 = 1000;

    /// With docker's defaults.
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            retries: 3,
            start_period: Duration::ZERO,
            start_interval: Duration::from_secs(5),
        }
    }

    pub fn check(&self) -> Result<(), BadHealthCheck> {
        match &self.probe {
            Probe::Command(command) if command.trim().is_empty() => return Err(BadHealthCheck::NoCommand),
            Probe::Exec(args) if args.first().is_none_or(String::is_empty) => return Err(BadHealthCheck::NoCommand),
            Probe::Http { path, .. } if !path.starts_with('/') || !path.bytes().all(in_a_url) => {
                return Err(BadHealthCheck::Path(path.clone()));
            }
            Probe::Command(_) | Probe::Exec(_) | Probe::Http { .. } | Probe::Tcp(_) => {}
        }
        let (some, none) = ((Self::SHORTEST, "100ms"), (Duration::ZERO, "0s"));
        for (field, value, (shortest, least)) in [
            ("interval", self.interval, some),
            ("timeout", self.timeout, some),
            ("start period", self.start_period, none),
            ("start interval", self.start_interval, some),
        ] {
            if value < shortest || value > Self::LONGEST {
                return Err(BadHealthCheck::Time { field, value, least });
            }
        }
        match self.retries {
            1..=Self::MOST_RETRIES => Ok(()),
            other => Err(BadHealthCheck::Retries(other)),
        }
    }
}
