//! The key that encrypts what this manager keeps on its disk, and where that key is kept: beside it, in clear, for root only. It is
//! of this manager alone, random, and never changed.

use crate::ambient;
use base64::{Engine, prelude::BASE64_STANDARD};
use heddle_plumbing::{seal::Key, tls::write_private};
use std::{
    fs::{self, File},
    io,
    path::Path,
};

/// Beside the node's credentials.
const FILE: &str = "state.key";
const CLEAR: &str = "clear";

#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("cannot read or write {file}")]
    Io {
        file: String,
        #[source]
        source: io::Error,
    },
    #[error("{file} is not a manager's state key: restore the file, or take this host out with `heddle leave --force`")]
    Form { file: String },
}

/// An open state key.
#[derive(Debug, Clone)]
pub struct Vault {
    key: Key,
}

fn file_error(dir: &Path) -> impl Fn(io::Error) -> VaultError {
    let file = dir.join(FILE).display().to_string();
    move |source| VaultError::Io { file: file.clone(), source }
}

/// The kind, a revision that is of no use yet, and the key.
fn parse(text: &str) -> Option<Key> {
    let mut words = text.split_ascii_whitespace();
    let (kind, _, stored) = (words.next()?, words.next()?.parse::<u64>().ok()?, words.next()?);
    let key = BASE64_STANDARD.decode(stored).ok()?.try_into().ok()?;
    (kind == CLEAR && words.next().is_none()).then(|| Key::new(key))
}

impl Vault {
    /// A new state key, kept in the directory of the node's credentials.
    pub fn make(dir: &Path) -> Result<Self, VaultError> {
        let key = Key::new(ambient::random());
        let text = format!("{CLEAR} 0 {}\n", BASE64_STANDARD.encode(key.bytes()));
        fs::create_dir_all(dir)
            .and_then(|()| write_private(&dir.join(FILE), text.as_bytes()))
            .and_then(|()| File::open(dir)?.sync_all())
            .map_err(file_error(dir))?;
        Ok(Self { key })
    }

    /// The state key that is kept there; a new one if there is none yet.
    pub fn open_or_make(dir: &Path) -> Result<Self, VaultError> {
        let text = match fs::read_to_string(dir.join(FILE)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Self::make(dir),
            read => read.map_err(file_error(dir))?,
        };
        let key = parse(&text).ok_or_else(|| VaultError::Form { file: dir.join(FILE).display().to_string() })?;
        Ok(Self { key })
    }

    /// Of a node that is no manager any more.
    pub fn forget(dir: &Path) -> io::Result<()> {
        match fs::remove_file(dir.join(FILE)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    pub fn key(&self) -> &Key {
        &self.key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_for_root_only() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let made = Vault::open_or_make(dir).unwrap();
        assert_eq!(Vault::open_or_make(dir).unwrap().key(), made.key());
        assert_eq!(fs::metadata(dir.join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        Vault::forget(dir).unwrap();
        Vault::forget(dir).unwrap();
        assert_ne!(Vault::open_or_make(dir).unwrap().key(), made.key());
    }

    #[test]
    fn a_file_that_is_no_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let clear = format!("clear 0 {}", BASE64_STANDARD.encode([0; 32]));
        for bad in
            ["", "clear", "clear 0 AAAA", "clear x AAAA", &clear[2..], &clear[..clear.len() - 2], &format!("{clear} x")]
        {
            fs::write(dir.path().join(FILE), bad).unwrap();
            let error = Vault::open_or_make(dir.path()).unwrap_err().to_string();
            assert!(error.contains("state.key is not a manager's state key"), "{bad:?}: {error}");
        }
        fs::write(dir.path().join(FILE), clear).unwrap();
        assert_eq!(Vault::open_or_make(dir.path()).unwrap().key().bytes(), &[0; 32]);
    }
}
