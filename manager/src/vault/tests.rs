use super::*;
use crate::ca;
use heddle_model::{ClusterId, NodeId};
use heddle_plumbing::tls::new_key_and_csr;
use std::{os::unix::fs::PermissionsExt, time::Duration};

const PEM: &[u8] = b"-----BEGIN PRIVATE KEY-----";

fn credentials(role: Role) -> Credentials {
    let cluster = ClusterId::from_random([1; 16]);
    let root = ca::new_root(&cluster).unwrap();
    let (key, csr) = new_key_and_csr().unwrap();
    let cert = ca::issue(&root, &cluster, &NodeId::from_random([2; 16]), role, &csr, Duration::from_secs(60)).unwrap();
    Credentials::new(key, cert, root.cert_pem).unwrap()
}

fn unlock(n: u8) -> UnlockKey {
    UnlockKey::new([n; 32])
}

fn wish(revision: u64, key: Option<u8>) -> Wish {
    Wish { revision: Version(revision), unlock: key.map(unlock) }
}

/// Whether a file of the directory has these bytes.
fn holds(dir: &Path, bytes: &[u8]) -> bool {
    let files = fs::read_dir(dir).unwrap().map(|f| fs::read(f.unwrap().path()).unwrap());
    files.into_iter().any(|file| file.windows(bytes.len()).any(|w| w == bytes))
}

fn locked(dir: &Path) -> Locked {
    match Vault::find(dir).unwrap() {
        Found::Locked(locked) => locked,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_key_is_made_once_and_for_root_only() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert!(matches!(Vault::find(dir).unwrap(), Found::Nothing));
    let made = Vault::open_or_make(dir).unwrap();
    assert_eq!(Vault::open_or_make(dir).unwrap().key(), made.key());
    assert_eq!(fs::metadata(dir.join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
    Vault::forget(dir).unwrap();
    Vault::forget(dir).unwrap();
    assert_ne!(Vault::open_or_make(dir).unwrap().key(), made.key());
}

#[test]
fn only_the_unlock_key_opens_what_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (own, made) = (credentials(Role::Manager), Vault::make(dir, Some(unlock(1))).unwrap());
    made.save(&own).unwrap();
    assert!(!holds(dir, PEM));
    assert!(!holds(dir, BASE64_STANDARD.encode(made.key().bytes()).as_bytes()));
    assert!(matches!(Vault::open_or_make(dir), Err(VaultError::Locked)));
    assert!(matches!(locked(dir).unlock(&unlock(2)), Err(VaultError::WrongKey)));
    let opened = locked(dir).unlock(&unlock(1)).unwrap();
    assert_eq!(opened.key(), made.key());
    assert_eq!(Credentials::load(dir, Some(opened.key())).unwrap().key_pem(), own.key_pem());
}

#[test]
fn a_new_wish_is_obeyed_and_an_old_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (own, vault) = (credentials(Role::Manager), Vault::make(dir, None).unwrap());
    vault.save(&own).unwrap();
    let obey = |revision, key| vault.obey(wish(revision, key), &own).unwrap();
    assert!(!obey(5, None), "it is so already");
    assert!(holds(dir, PEM));

    assert!(obey(10, Some(1)));
    assert!(!holds(dir, PEM));
    assert!(obey(20, Some(2)), "rotated");
    assert!(locked(dir).unlock(&unlock(1)).is_err());
    let again = locked(dir).unlock(&unlock(2)).unwrap();
    assert_eq!(again.key(), vault.key(), "what it encrypts need not be written anew");
    // The log is applied anew after a start: what was wished on the way there is past.
    for (revision, key) in [(5, None), (10, Some(1)), (20, Some(2))] {
        assert!(!again.obey(wish(revision, key), &own).unwrap());
    }
    assert!(locked(dir).unlock(&unlock(2)).is_ok());

    assert!(again.obey(wish(30, None), &own).unwrap());
    assert!(holds(dir, PEM));
    assert_eq!(Vault::open_or_make(dir).unwrap().key(), vault.key());
}

#[test]
fn a_worker_is_never_locked() {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::make(dir.path(), Some(unlock(1))).unwrap();
    vault.save(&credentials(Role::Worker)).unwrap();
    assert!(holds(dir.path(), PEM));
}

#[test]
fn a_file_that_is_no_key_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let clear = format!("clear 0 {}", BASE64_STANDARD.encode([0; 32]));
    for bad in
        ["", "clear", "clear 0 AAAA", "clear x AAAA", "open 0 AAAA", &clear[..clear.len() - 2], &format!("{clear} x")]
    {
        fs::write(dir.path().join(FILE), bad).unwrap();
        let error = Vault::find(dir.path()).unwrap_err().to_string();
        assert!(error.contains("state.key is not a manager's state key"), "{bad:?}: {error}");
    }
    fs::write(dir.path().join(FILE), clear).unwrap();
    assert!(matches!(Vault::find(dir.path()).unwrap(), Found::Open(_)));
}
