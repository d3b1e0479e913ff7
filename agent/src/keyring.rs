//! This host's private keys of the tunnel between hosts, one for each epoch: made here, kept in files that only root reads,
//! and told to nobody. Others see public keys alone.

use heddle_model::tunnel::{Backend, Epoch, PublicKey, TunnelEnd};
use rand::TryRng;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;
use x25519_dalek::StaticSecret;

const PREFIX: &str = "epoch-";
const SUFFIX: &str = ".key";
const LENGTH: usize = 32;

/// Empty outside of a cluster.
#[derive(Default)]
pub struct Keyring {
    backend: Option<Backend>,
    held: Mutex<Held>,
    /// Rings when there are other keys than before.
    pub changed: Arc<Notify>,
}

#[derive(Default)]
struct Held {
    dir: Option<PathBuf>,
    secrets: BTreeMap<Epoch, StaticSecret>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("end", &self.end()).finish()
    }
}

impl Keyring {
    /// Of a host that encrypts by this means. None: it cannot encrypt, and needs no keys.
    pub fn new(backend: Option<Backend>) -> Self {
        Self { backend, ..Self::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up the keys in a folder, which is made if it is not there.
    pub fn open(&self, dir: &Path) -> io::Result<()> {
        let mut secrets = BTreeMap::new();
        if self.backend.is_some() {
            fs::create_dir_all(dir)?;
            for entry in fs::read_dir(dir)? {
                let path = entry?.path();
                match epoch_of(&path).map(|epoch| (epoch, read(&path))) {
                    Some((epoch, Ok(secret))) => drop(secrets.insert(epoch, secret)),
                    Some((epoch, Err(error))) => {
                        tracing::warn!(%epoch, %error, "a key of the tunnel cannot be read, and is made anew");
                    }
                    None => {}
                }
            }
        }
        *self.held() = Held { dir: Some(dir.to_owned()), secrets };
        Ok(())
    }

    /// From now on there are keys of these epochs and of no other.
    pub fn hold(&self, epochs: impl IntoIterator<Item = Epoch>) -> io::Result<()> {
        let mut held = self.held();
        let Some(dir) = held.dir.clone().filter(|_| self.backend.is_some()) else { return Ok(()) };
        let wanted: BTreeSet<Epoch> = epochs.into_iter().collect();
        let gone: Vec<Epoch> = held.secrets.keys().filter(|e| !wanted.contains(e)).copied().collect();
        let new: Vec<Epoch> = wanted.into_iter().filter(|e| !held.secrets.contains_key(e)).collect();
        let changed = !gone.is_empty() || !new.is_empty();
        for epoch in gone {
            match fs::remove_file(path(&dir, epoch)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => drop(held.secrets.remove(&epoch)),
            }
        }
        for epoch in new {
            let mut bytes = [0; LENGTH];
            rand::rngs::SysRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
            let secret = StaticSecret::from(bytes);
            write(&path(&dir, epoch), &secret)?;
            held.secrets.insert(epoch, secret);
        }
        drop(held);
        if changed {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Out of the cluster again. The files go with the cluster's folder.
    pub fn forget(&self) {
        *self.held() = Held::default();
    }

    /// What others are told. None: this host cannot encrypt.
    pub fn end(&self) -> Option<TunnelEnd> {
        let keys = self.held().secrets.iter().map(|(epoch, secret)| (*epoch, public(secret))).collect();
        self.backend.map(|backend| TunnelEnd { backend, keys })
    }

    /// For whoever does the encryption.
    pub fn secret(&self, of: &PublicKey) -> Option<StaticSecret> {
        self.held().secrets.values().find(|secret| public(secret) == *of).cloned()
    }
}

fn public(secret: &StaticSecret) -> PublicKey {
    PublicKey(x25519_dalek::PublicKey::from(secret).to_bytes())
}

fn path(dir: &Path, epoch: Epoch) -> PathBuf {
    dir.join(format!("{PREFIX}{epoch}{SUFFIX}"))
}

fn epoch_of(path: &Path) -> Option<Epoch> {
    let name = path.file_name()?.to_str()?;
    Some(Epoch(name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()?))
}

fn read(path: &Path) -> io::Result<StaticSecret> {
    let bytes = fs::read(path)?;
    let bytes = <[u8; LENGTH]>::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(StaticSecret::from(bytes))
}

/// Whole or not at all, and for root alone from the first moment.
fn write(path: &Path, secret: &StaticSecret) -> io::Result<()> {
    let draft = path.with_extension("new");
    match fs::remove_file(&draft) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(secret.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn ring(dir: &Path) -> Keyring {
        let ring = Keyring::new(Some(Backend::Kernel));
        ring.open(dir).unwrap();
        ring
    }

    #[test]
    fn keys_are_kept_for_as_long_as_their_epoch_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let first = ring(dir.path());
        first.hold([Epoch(1)]).unwrap();
        let told = first.end().unwrap().keys;
        let again = ring(dir.path());
        again.hold([Epoch(1), Epoch(2)]).unwrap();
        let both = again.end().unwrap().keys;
        assert_eq!((both[&Epoch(1)], both.len()), (told[&Epoch(1)], 2));
        assert_ne!(both[&Epoch(1)], both[&Epoch(2)]);
        assert!(again.secret(&both[&Epoch(2)]).is_some() && again.secret(&PublicKey([1; 32])).is_none());
        again.hold([Epoch(2)]).unwrap();
        assert_eq!(again.end().unwrap().keys.keys().collect::<Vec<_>>(), [&Epoch(2)]);
        let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap()).collect();
        assert_eq!(files.iter().map(|f| f.file_name()).collect::<Vec<_>>(), ["epoch-2.key"]);
        assert!(files.iter().all(|f| f.metadata().unwrap().permissions().mode() & 0o777 == 0o600));
    }

    #[test]
    fn a_file_that_is_no_key_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("epoch-1.key"), "short").unwrap();
        let ring = ring(dir.path());
        ring.hold([Epoch(1)]).unwrap();
        assert_eq!(ring.end().unwrap().keys.len(), 1);
        assert_eq!(fs::read(dir.path().join("epoch-1.key")).unwrap().len(), LENGTH);
    }

    #[test]
    fn nobody_prints_a_secret() {
        let dir = tempfile::tempdir().unwrap();
        let ring = ring(dir.path());
        ring.hold([Epoch(1)]).unwrap();
        let public = ring.end().unwrap().keys[&Epoch(1)];
        assert_eq!(
            format!("{ring:?}"),
            format!(
                "Keyring {{ end: Some(TunnelEnd {{ backend: Kernel, keys: {{Epoch(1): PublicKey({public})}} }}) }}"
            )
        );
    }

    #[test]
    fn who_cannot_encrypt_has_no_keys() {
        let dir = tempfile::tempdir().unwrap();
        let ring = Keyring::new(None);
        ring.open(&dir.path().join("tunnel")).unwrap();
        ring.hold([Epoch(1)]).unwrap();
        assert_eq!(ring.end(), None);
        assert!(!dir.path().join("tunnel").exists());
    }
}
