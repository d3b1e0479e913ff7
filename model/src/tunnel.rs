//! Encryption between hosts: every host has one end of the cluster's WireGuard tunnel for each epoch of keys.
//!
//! ```text
//! epoch      1                      2
//!            current                              current: hosts send by it
//!                        next ──────current       next: hosts have made keys and know each other's, none sends by it yet
//!            current ────retiring ──(gone)        retiring: still taken from, so that nothing under way is lost
//! ```
//!
//! A host makes the keys of an epoch itself and tells its public key alone.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

use crate::{Timestamp, net::Port};

/// A public key of Curve25519, written in base64 as WireGuard's tools do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(pub [u8; 32]);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a WireGuard key: use 44 characters of base64")]
pub struct BadKey(String);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        key.to_string()
    }
}

impl TryFrom<String> for PublicKey {
    type Error = BadKey;
    fn try_from(text: String) -> Result<Self, BadKey> {
        text.parse()
    }
}

impl FromStr for PublicKey {
    type Err = BadKey;
    fn from_str(s: &str) -> Result<Self, BadKey> {
        let bytes = STANDARD.decode(s).ok().and_then(|b| b.try_into().ok());
        bytes.map(Self).ok_or_else(|| BadKey(s.to_owned()))
    }
}

/// A generation of keys, the same on every host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u32);

impl Epoch {
    pub const FIRST: Self = Self(1);

    pub const fn following(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// 0 or 1: never two of a kind at a time, so devices and ports are named by it.
    pub const fn slot(self) -> u8 {
        (self.0 % 2) as u8
    }

    /// UDP port of the epoch's device, given the first of the two that the cluster uses.
    pub fn port(self, first: Port) -> Port {
        let port = first.get().saturating_add(self.slot().into());
        Port::try_from(port).unwrap_or(first)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which epochs there are now. `next` and `retiring` are never set together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epochs {
    /// Hosts send by it.
    pub current: Epoch,
    /// Being prepared.
    pub next: Option<Epoch>,
    /// Was current before.
    pub retiring: Option<Epoch>,
    /// When this last changed.
    pub since: Timestamp,
}

impl Default for Epochs {
    fn default() -> Self {
        Self { current: Epoch::FIRST, next: None, retiring: None, since: Timestamp(0) }
    }
}

impl Epochs {
    /// All for which a host has keys and a device.
    pub fn all(&self) -> impl Iterator<Item = Epoch> + use<> {
        [Some(self.current), self.next, self.retiring].into_iter().flatten()
    }
}

/// What does the encryption on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The kernel's wireguard module.
    Kernel,
    /// A library in the daemon, by way of /dev/net/tun.
    Userspace,
}

impl Backend {
    pub const fn as_str(self) -> &'static str {
        match self {
            Backend::Kernel => "kernel",
            Backend::Userspace => "userspace",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a host says of its end of the tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelEnd {
    pub backend: Backend,
    /// Of the epochs that it has heard of.
    pub keys: BTreeMap<Epoch, PublicKey>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_as_they_are_written() {
        let text = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";
        let key: PublicKey = text.parse().unwrap();
        assert_eq!(key.to_string(), text);
        for bad in ["", "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8yg==", "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw"] {
            assert_eq!(bad.parse::<PublicKey>(), Err(BadKey(bad.into())));
        }
    }

    #[test]
    fn neighbouring_epochs_share_neither_device_nor_port() {
        let (old, first) = (Epoch::FIRST, Port::try_from(51820).unwrap());
        let new = old.following();
        assert_ne!(old.slot(), new.slot());
        assert_eq!((old.port(first).get(), new.port(first).get()), (51821, 51820));
        assert_eq!(new.following().slot(), old.slot());
    }
}
