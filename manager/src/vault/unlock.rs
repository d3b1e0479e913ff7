//! The key that operators unlock managers with.

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use heddle_model::cluster::Secret;
use heddle_plumbing::seal::Key;
use std::str::FromStr;

/// First field of every unlock key, and its version.
const PREFIX: &str = "HDLKEY-1-";

#[derive(Debug, thiserror::Error)]
#[error("the unlock key is not of the form {PREFIX}<43 characters>: copy it whole from `heddle cluster unlock-key`")]
pub struct UnlockKeyError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnlockKey(Key);

impl UnlockKey {
    pub fn new(random: [u8; 32]) -> Self {
        Self(Key::new(random))
    }

    pub(super) fn key(&self) -> &Key {
        &self.0
    }

    /// What an operator copies, and the cluster's object holds.
    pub fn text(&self) -> Secret {
        Secret(format!("{PREFIX}{}", BASE64_STANDARD_NO_PAD.encode(self.0.bytes())))
    }
}

impl FromStr for UnlockKey {
    type Err = UnlockKeyError;
    fn from_str(text: &str) -> Result<Self, UnlockKeyError> {
        let bytes = text.trim().strip_prefix(PREFIX).and_then(|rest| BASE64_STANDARD_NO_PAD.decode(rest).ok());
        bytes.and_then(|b| b.try_into().ok()).map(Self::new).ok_or(UnlockKeyError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_key_is_read_as_it_is_written(random: [u8; 32]) {
            let key = UnlockKey::new(random);
            let Secret(text) = key.text();
            prop_assert!(text.len() == PREFIX.len() + 43 && text.starts_with(PREFIX));
            prop_assert_eq!(text.parse::<UnlockKey>().unwrap(), key.clone());
            prop_assert_eq!(format!(" {text}\n").parse::<UnlockKey>().unwrap(), key);
            prop_assert!(text[..text.len() - 1].parse::<UnlockKey>().is_err());
            prop_assert!((text + "A").parse::<UnlockKey>().is_err());
        }

        #[test]
        fn other_texts_are_refused(text: String) {
            prop_assert!(text.parse::<UnlockKey>().is_err());
        }
    }
}
