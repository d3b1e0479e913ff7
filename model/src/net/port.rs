//! Transport ports and protocols.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A TCP or UDP port, 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Port(u16);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("port {0:?} is not a number from 1 to 65535")]
pub struct BadPort(pub String);

impl Port {
    /// Ports handed out when a service publishes without naming one; docker's range.
    pub const DYNAMIC: std::ops::RangeInclusive<u16> = 30000..=32767;

    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for Port {
    type Error = BadPort;
    fn try_from(n: u16) -> Result<Self, BadPort> {
        if n == 0 { Err(BadPort(n.to_string())) } else { Ok(Port(n)) }
    }
}

impl FromStr for Port {
    type Err = BadPort;
    fn from_str(s: &str) -> Result<Self, BadPort> {
        // The library takes a sign, too.
        let number = s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse::<u16>().ok()).flatten();
        number.and_then(|n| Port::try_from(n).ok()).ok_or_else(|| BadPort(s.to_owned()))
    }
}

impl From<Port> for u16 {
    fn from(p: Port) -> u16 {
        p.0
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Transport protocol of a published port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}

impl Protocol {
    pub const fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }

    /// Number in the IP header (IANA).
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_digits() {
        assert_eq!("80".parse(), Port::try_from(80));
        for bad in ["", "0", "65536", "+80", "-1", "80 "] {
            assert_eq!(bad.parse::<Port>(), Err(BadPort(bad.to_owned())));
        }
    }
}
