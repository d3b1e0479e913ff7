//! Object ids: 25 characters of base 36, the form docker uses. Made from random bytes that the caller supplies, and held in
//! place: a store has each in several lists, and every copy of a list would allocate them all.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

/// Length of every id, in characters.
pub const ID_LEN: usize = 25;

/// An id that is not 25 characters of `[0-9a-z]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("id {0:?} is not {ID_LEN} characters of 0-9 and a-z")]
pub struct BadId(pub String);

fn encode(random: [u8; 16]) -> [u8; ID_LEN] {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut rest = u128::from_be_bytes(random);
    let mut out = [b'0'; ID_LEN];
    for slot in out.iter_mut().rev() {
        *slot = DIGITS[(rest % 36) as usize];
        rest /= 36;
    }
    out
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; ID_LEN]);

        impl $name {
            /// Makes an id from 128 random bits.
            pub fn from_random(random: [u8; 16]) -> Self {
                Self(encode(random))
            }

            pub fn as_str(&self) -> &str {
                // Never another: no way to make one takes other bytes.
                std::str::from_utf8(&self.0).unwrap_or_default()
            }

            /// The first 12 characters, as shown in tables.
            pub fn short(&self) -> &str {
                &self.as_str()[..12]
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.as_str()).finish()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(s: &str) -> Result<Self, BadId> {
                let good = s.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
                match s.as_bytes().try_into() {
                    Ok(bytes) if good => Ok(Self(bytes)),
                    _ => Err(BadId(s.to_owned())),
                }
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.as_str().to_owned()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl de::Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "{ID_LEN} characters of 0-9 and a-z")
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }

                deserializer.deserialize_str(Text)
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
