//! The key that encrypts what this manager keeps on its disk, and where that key is kept.
//!
//! ```text
//! state key    random, of this manager alone: encrypts its raft log and snapshots and, with autolock, its node's private key
//! unlock key   random, of the cluster: wraps every manager's state key while autolock is on (see `unlock`)
//! ```
//!
//! Without autolock the state key lies beside what it encrypts, in clear, for root only. With autolock only who has the unlock key
//! gets anything out of a disk; running managers know it from the cluster's object, and wrap their state keys anew when it changes.
//!
//! A state key is never changed, as in docker: another unlock key encrypts nothing anew. Who has read the state key itself, or a
//! disk from before autolock was turned on, can read what the manager writes until it is made anew (`leave`, `join`).

mod follow;
mod unlock;

pub use follow::follow;
pub use unlock::{UnlockKey, UnlockKeyError};

use crate::ambient;
use base64::{Engine, prelude::BASE64_STANDARD};
use heddle_model::{Version, cluster::Role};
use heddle_plumbing::{
    seal::Key,
    tls::{Credentials, CredentialsError, write_private},
};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Beside the node's credentials.
const FILE: &str = "state.key";
/// What the state key is sealed for.
const PLACE: &[u8] = b"state.key";
const CLEAR: &str = "clear";
const WRAPPED: &str = "wrapped";

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
    #[error("this is not the key that this manager was locked with: it stays locked")]
    WrongKey,
    #[error("this manager is locked: run `heddle unlock`")]
    Locked,
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// What is wished of the state key's file, and since which revision of the cluster's object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    revision: Version,
    unlock: Option<UnlockKey>,
}

#[derive(Debug)]
struct Inner {
    /// Where the state key and the node's credentials are.
    dir: PathBuf,
    key: Key,
    /// What the file is like; held while any of these files is written.
    kept: Mutex<Wish>,
}

/// An open state key. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Vault(Arc<Inner>);

/// A state key that waits for the unlock key.
#[derive(Debug)]
pub struct Locked {
    dir: PathBuf,
    revision: Version,
    wrapped: Vec<u8>,
}

#[derive(Debug)]
pub enum Found {
    Nothing,
    Open(Vault),
    Locked(Locked),
}

fn file_error(dir: &Path) -> impl Fn(io::Error) -> VaultError {
    let file = dir.join(FILE).display().to_string();
    move |source| VaultError::Io { file: file.clone(), source }
}

fn parse(dir: &Path, text: &str) -> Option<Found> {
    let mut words = text.split_ascii_whitespace();
    let (kind, revision, stored) = (words.next()?, Version(words.next()?.parse().ok()?), words.next()?);
    let stored = BASE64_STANDARD.decode(stored).ok()?;
    match (kind, words.next()) {
        (CLEAR, None) => {
            let key = Key::new(stored.try_into().ok()?);
            Some(Found::Open(Vault::new(dir, key, Wish { revision, unlock: None })))
        }
        (WRAPPED, None) => Some(Found::Locked(Locked { dir: dir.to_owned(), revision, wrapped: stored })),
        _ => None,
    }
}

impl Locked {
    pub fn unlock(&self, with: &UnlockKey) -> Result<Vault, VaultError> {
        let key = with.key().open(PLACE, &self.wrapped).map_err(|_| VaultError::WrongKey)?;
        let key: [u8; 32] =
            key.try_into().map_err(|_| VaultError::Form { file: self.dir.join(FILE).display().to_string() })?;
        let wish = Wish { revision: self.revision, unlock: Some(with.clone()) };
        Ok(Vault::new(&self.dir, Key::new(key), wish))
    }
}

impl Vault {
    fn new(dir: &Path, key: Key, kept: Wish) -> Self {
        Self(Arc::new(Inner { dir: dir.to_owned(), key, kept: Mutex::new(kept) }))
    }

    /// What is kept in the directory of the node's credentials.
    pub fn find(dir: &Path) -> Result<Found, VaultError> {
        let text = match fs::read_to_string(dir.join(FILE)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            read => read.map_err(file_error(dir))?,
        };
        parse(dir, &text).ok_or_else(|| VaultError::Form { file: dir.join(FILE).display().to_string() })
    }

    /// A new state key, wrapped from the start if there is an unlock key.
    pub fn make(dir: &Path, unlock: Option<UnlockKey>) -> Result<Self, VaultError> {
        let vault = Self::new(dir, Key::new(ambient::random()), Wish { revision: Version(0), unlock });
        fs::create_dir_all(dir).map_err(file_error(dir))?;
        vault.write(&vault.kept())?;
        Ok(vault)
    }

    /// The state key of a manager that need not be unlocked; a new one if there is none yet.
    pub fn open_or_make(dir: &Path) -> Result<Self, VaultError> {
        match Self::find(dir)? {
            Found::Open(vault) => Ok(vault),
            Found::Nothing => Self::make(dir, None),
            Found::Locked(_) => Err(VaultError::Locked),
        }
    }

    /// Of a node that is no manager any more.
    pub fn forget(dir: &Path) -> io::Result<()> {
        match fs::remove_file(dir.join(FILE)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    pub fn key(&self) -> &Key {
        &self.0.key
    }

    /// Keeps the node's credentials: a manager's key encrypted while autolock is on, since who has it gets everything from the
    /// other managers.
    pub fn save(&self, credentials: &Credentials) -> Result<(), CredentialsError> {
        let kept = self.kept();
        self.save_as(&kept, credentials)
    }

    fn save_as(&self, wish: &Wish, credentials: &Credentials) -> Result<(), CredentialsError> {
        match wish.unlock.is_some() && credentials.identity().role == Role::Manager {
            true => credentials.save_sealed(&self.0.dir, self.key(), ambient::random()),
            false => credentials.save(&self.0.dir),
        }
    }

    /// Makes the files as the cluster wishes since this revision. What is older than the wish before, as when the log is applied
    /// anew after a start, changes nothing. Whether something changed.
    fn obey(&self, wish: Wish, credentials: &Credentials) -> Result<bool, VaultError> {
        let mut kept = self.kept();
        if wish.revision <= kept.revision || wish.unlock == kept.unlock {
            return Ok(false);
        }
        // At every moment between, the node's key can be read by whoever can read the state key.
        match wish.unlock {
            Some(_) => {
                self.save_as(&wish, credentials)?;
                self.write(&wish)?;
            }
            None => {
                self.write(&wish)?;
                self.save_as(&wish, credentials)?;
            }
        }
        *kept = wish;
        Ok(true)
    }

    fn write(&self, wish: &Wish) -> Result<(), VaultError> {
        let (kind, stored) = match &wish.unlock {
            None => (CLEAR, self.key().bytes().to_vec()),
            Some(unlock) => (WRAPPED, unlock.key().seal(ambient::random(), PLACE, self.key().bytes())),
        };
        let text = format!("{kind} {} {}\n", wish.revision, BASE64_STANDARD.encode(stored));
        let dir = &self.0.dir;
        write_private(&dir.join(FILE), text.as_bytes())
            .and_then(|()| File::open(dir)?.sync_all())
            .map_err(file_error(dir))
    }

    fn kept(&self) -> MutexGuard<'_, Wish> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
