//! What registries are shown so that they give private images.

use crate::image::ImageName;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// Who asks a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    pub username: String,
    pub password: Password,
}

/// A password or a token. It does not show itself.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("login for registry {registry}: {why}")]
pub struct BadLogin {
    registry: String,
    why: String,
}

/// Bytes of a name: registries keep none that are longer.
const NAME: usize = 255;
/// Bytes of a password: tokens of clouds have some thousands.
const PASSWORD: usize = 16 << 10;

impl Login {
    /// # Errors
    /// No registry takes it.
    pub fn check(&self, registry: &str) -> Result<(), BadLogin> {
        let bad = |why: String| Err(BadLogin { registry: registry.to_owned(), why });
        match (self.username.len(), self.password.0.len()) {
            (1..=NAME, 1..=PASSWORD) if !self.username.contains(':') => Ok(()),
            (1..=NAME, 1..=PASSWORD) => bad("a user name has no colon".into()),
            (1..=NAME, found) => bad(format!("a password has 1 to {PASSWORD} bytes, and this one {found}")),
            (found, _) => bad(format!("a user name has 1 to {NAME} bytes, and this one {found}")),
        }
    }
}

/// The logins of one service, by registry. They are part of it, and of nothing that is listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Logins(pub BTreeMap<String, Login>);

impl Logins {
    /// What is shown for an image.
    pub fn of(&self, image: &ImageName) -> Option<&Login> {
        self.0.get(image.parts().registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(username: &str, password: &str) -> Login {
        Login { username: username.into(), password: Password(password.into()) }
    }

    #[test]
    fn each_is_for_one_registry_and_is_not_shown() {
        let logins = Logins([("registry.example:5000".to_owned(), login("me", "hunter2"))].into());
        assert_eq!(logins.of(&"registry.example:5000/a/b:1".parse().unwrap()).unwrap().username, "me");
        assert_eq!(logins.of(&"nginx".parse().unwrap()), None);
        assert!(!format!("{logins:?}").contains("hunter2"));
    }

    #[test]
    fn what_no_registry_takes_is_refused() {
        login("me", "x").check("r").unwrap();
        for (username, password, said) in [
            ("", "x", "login for registry r: a user name has 1 to 255 bytes, and this one 0"),
            ("a:b", "x", "login for registry r: a user name has no colon"),
            ("me", "", "login for registry r: a password has 1 to 16384 bytes, and this one 0"),
        ] {
            assert_eq!(login(username, password).check("r").unwrap_err().to_string(), said);
        }
    }
}
