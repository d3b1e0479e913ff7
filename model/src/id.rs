//! Object ids: 25 characters of base 36, the form docker uses. Made from random bytes that the caller supplies.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Length of every id, in characters.
pub const ID_LEN: usize = 25;

/// An id that is not 25 characters of `[0-9a-z]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("id {0:?} is not {ID_LEN} characters of 0-9 and a-z")]
pub struct BadId(pub String);

fn encode(random: [u8; 16]) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut rest = u128::from_be_bytes(random);
    let mut out = [b'0'; ID_LEN];
    for slot in out.iter_mut().rev() {
        *slot = DIGITS[(rest % 36) as usize];
        rest /= 36;
    }
    out.iter().map(|b| char::from(*b)).collect()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Makes an id from 128 random bits.
            pub fn from_random(random: [u8; 16]) -> Self {
                Self(encode(random))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 12 characters, as shown in tables.
            pub fn short(&self) -> &str {
                &self.0[..12]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(s: &str) -> Result<Self, BadId> {
                let good = s.len() == ID_LEN && s.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
                if good { Ok(Self(s.to_owned())) } else { Err(BadId(s.to_owned())) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(s: String) -> Result<Self, BadId> {
                s.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

id!(
    /// A cluster.
    ClusterId
);
id!(
    /// A host in a cluster; also the common name of its certificate.
    NodeId
);
id!(
    /// A network.
    NetworkId
);
id!(
    /// A service.
    ServiceId
);
id!(
    /// One run of one replica, or a standalone workload.
    TaskId
);
id!(
    /// A place on an overlay that a host asked for.
    ConnectionId
);
id!(
    /// A secret or a config.
    PayloadId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_length_and_parse_back() {
        for random in [[0; 16], [255; 16], [7; 16]] {
            let id = TaskId::from_random(random);
            assert_eq!(id.as_str().len(), ID_LEN);
            assert_eq!(id.as_str().parse(), Ok(id));
        }
    }

    #[test]
    fn rejects_what_is_not_an_id() {
        for bad in ["", "short", "ABCDEFGHIJKLMNOPQRSTUVWXY", "0123456789012345678901234567"] {
            assert_eq!(bad.parse::<NodeId>(), Err(BadId(bad.to_owned())));
        }
    }
}
