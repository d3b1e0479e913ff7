//! Ethernet addresses.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("MAC address {0:?} is not six hexadecimal bytes joined by ':'")]
pub struct BadMac(pub String);

impl Mac {
    /// A locally administered unicast address (IEEE 802, 8.2) from 48 random bits, 46 of which are kept.
    pub fn from_random(mut bytes: [u8; 6]) -> Mac {
        bytes[0] = (bytes[0] & 0xfc) | 0x02;
        Mac(bytes)
    }

    /// Whether an interface can have it: neither a group's nor nobody's.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = BadMac;
    fn from_str(s: &str) -> Result<Self, BadMac> {
        let bad = || BadMac(s.to_owned());
        let mut out = [0; 6];
        let mut parts = s.split(':');
        for byte in &mut out {
            // The library takes a sign, too.
            let digits = |p: &&str| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit());
            let part = parts.next().filter(digits).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Mac(out)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = BadMac;
    fn try_from(s: String) -> Result<Self, BadMac> {
        s.parse()
    }
}

impl From<Mac> for String {
    fn from(m: Mac) -> String {
        m.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_addresses_are_local_unicast_and_print_back() {
        for seed in [[0; 6], [0xff; 6], [1, 2, 3, 4, 5, 6]] {
            let mac = Mac::from_random(seed);
            assert_eq!(mac.0[0] & 3, 2);
            assert_eq!(mac.to_string().parse(), Ok(mac));
        }
        for bad in ["", "02:00", "02:00:00:00:00:00:00", "02:00:00:00:00:zz", "2:0:0:0:0:0", "02:00:00:00:00:+1"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
