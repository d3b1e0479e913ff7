//! VXLAN network identifier (RFC 7348, section 5).

use serde::{Deserialize, Serialize};
use std::fmt;

/// 24 bits; Heddle hands out 4096 and up, as docker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("VNI {0} is out of range: use 1 to 16777215")]
pub struct BadVni(pub u32);

impl Vni {
    /// The first VNI that the allocator hands out.
    pub const FIRST: Vni = Vni(4096);
    pub const MAX: u32 = (1 << 24) - 1;

    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = BadVni;
    fn try_from(n: u32) -> Result<Self, BadVni> {
        if (1..=Self::MAX).contains(&n) { Ok(Vni(n)) } else { Err(BadVni(n)) }
    }
}

impl From<Vni> for u32 {
    fn from(v: Vni) -> u32 {
        v.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
