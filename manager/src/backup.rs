//! A cluster as one file: what kind of file it is, its version, its length and a SHA-256 of all that; then all objects in
//! MessagePack, compressed by zstd. It has the root's key and the join tokens, so it is a secret.

use crate::{
    raft::{decode, encode},
    store::Snapshot,
};
use heddle_model::{Object, Timestamp, Version, cluster::Cluster};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    io::{self, Read},
    sync::Arc,
};

const MAGIC: &[u8; 16] = b"heddle backup\r\n\0";
/// Goes up when a program of today could not read what is written.
const VERSION: u32 = 2;
/// Of a cluster without secrets and configs, which programs that know none can read.
const PLAIN: u32 = 1;
/// Magic, version, length of the payload.
const HEAD: usize = 16 + 4 + 8;
const DIGEST: usize = 32;
/// Bytes of the objects: far more than the largest cluster has.
const LARGEST: u64 = 4 << 30;

/// Fields may be added; a program that does not know them leaves them out.
#[derive(Serialize, Deserialize)]
struct Body {
    made_at: Timestamp,
    /// Of the program that made it.
    program: String,
    revision: Version,
    objects: Vec<Object>,
}

#[derive(Debug)]
pub struct Backup {
    pub made_at: Timestamp,
    pub program: String,
    pub cluster: Arc<Cluster>,
    pub state: Snapshot,
}

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("this is no backup of a Heddle cluster: use a file that `heddle cluster backup` made")]
    Kind,
    #[error("the backup is of version {found}, and this program reads versions up to {VERSION}: use a newer heddle")]
    Newer { found: u32 },
    #[error("the backup is cut short: {have} of {of} bytes are there")]
    Short { have: u64, of: u64 },
    #[error("the backup is damaged: it does not match its checksum")]
    Checksum,
    #[error("the backup cannot be read")]
    Body(#[source] io::Error),
    #[error("the backup has no cluster in it")]
    Empty,
}

pub fn write(state: &Snapshot, made_at: Timestamp) -> io::Result<Vec<u8>> {
    let program = env!("CARGO_PKG_VERSION").to_owned();
    let body = Body { made_at, program, revision: state.version, objects: state.objects().collect() };
    let payload = zstd::encode_all(encode(&body)?.as_slice(), zstd::DEFAULT_COMPRESSION_LEVEL)?;
    let mut file = Vec::with_capacity(HEAD + DIGEST + payload.len());
    file.extend(MAGIC);
    let version = if state.payloads.is_empty() { PLAIN } else { VERSION };
    file.extend(version.to_be_bytes());
    file.extend((payload.len() as u64).to_be_bytes());
    let digest = Sha256::new().chain_update(&file).chain_update(&payload).finalize();
    file.extend(digest);
    file.extend(payload);
    Ok(file)
}

pub fn read(file: &[u8]) -> Result<Backup, BackupError> {
    let have = file.len() as u64;
    if !file.starts_with(MAGIC) {
        // A file that ends within the first words may still have been one.
        let begun = !file.is_empty() && MAGIC.starts_with(file);
        return Err(if begun { BackupError::Short { have, of: (HEAD + DIGEST) as u64 } } else { BackupError::Kind });
    }
    let number = |at: usize, to: usize| file.get(at..to).map(|b| b.iter().fold(0, |n, b| n << 8 | u64::from(*b)));
    let short = BackupError::Short { have, of: (HEAD + DIGEST) as u64 };
    let Some(version) = number(MAGIC.len(), MAGIC.len() + 4) else { return Err(short) };
    if !(u64::from(PLAIN)..=u64::from(VERSION)).contains(&version) {
        return Err(BackupError::Newer { found: version as u32 });
    }
    let (Some(length), Some(digest)) = (number(MAGIC.len() + 4, HEAD), file.get(HEAD..HEAD + DIGEST)) else {
        return Err(short);
    };
    let of = length.saturating_add((HEAD + DIGEST) as u64);
    if have < of {
        return Err(BackupError::Short { have, of });
    }
    let payload = &file[HEAD + DIGEST..];
    if *Sha256::new().chain_update(&file[..HEAD]).chain_update(payload).finalize() != *digest {
        return Err(BackupError::Checksum);
    }
    let mut bytes = Vec::new();
    let unpacked = zstd::Decoder::new(payload).and_then(|d| d.take(LARGEST).read_to_end(&mut bytes));
    let body: Body = unpacked.and_then(|_| decode(&bytes)).map_err(BackupError::Body)?;
    let state = Snapshot::from_objects(body.revision, body.objects);
    let cluster = state.cluster.clone().ok_or(BackupError::Empty)?;
    Ok(Backup { made_at: body.made_at, program: body.program, cluster, state })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{store::Mutation, world::World};
    use heddle_model::payload::PayloadKind;
    use proptest::prelude::*;

    fn file() -> (Snapshot, Vec<u8>) {
        let mut world = World::new();
        world.ready_nodes(3);
        let file = write(&world.state, Timestamp(7)).unwrap();
        (world.state, file)
    }

    #[test]
    fn what_is_written_is_read() {
        let (state, file) = file();
        let backup = read(&file).unwrap();
        assert_eq!((file[19], backup.state, backup.made_at), (1, state, Timestamp(7)));
    }

    #[test]
    fn one_with_secrets_is_for_programs_that_know_them() {
        let mut world = World::new();
        world.ready_nodes(1);
        let secret = world.payload(PayloadKind::Secret, "key", 3);
        world.write(vec![Mutation::Create(secret.into())]);
        let file = write(&world.state, Timestamp(7)).unwrap();
        assert_eq!((file[19], read(&file).unwrap().state), (2, world.state));
    }

    #[test]
    fn each_refusal_says_what_is_wrong() {
        let (_, file) = file();
        let mut newer = file.clone();
        newer[19] = 3;
        let mut damaged = file.clone();
        *damaged.last_mut().unwrap() ^= 1;
        let longer = [&file[..], b"x"].concat();
        let short = format!("the backup is cut short: 70 of {} bytes are there", file.len());
        let empty = write(&Snapshot::default(), Timestamp(7)).unwrap();
        for (file, said) in [
            (&b""[..], "this is no backup of a Heddle cluster: use a file that `heddle cluster backup` made"),
            (b"PK\x03\x04", "this is no backup of a Heddle cluster: use a file that `heddle cluster backup` made"),
            (&newer, "the backup is of version 3, and this program reads versions up to 2: use a newer heddle"),
            (&file[..70], &short),
            (&file[..10], "the backup is cut short: 10 of 60 bytes are there"),
            (&file[..40], "the backup is cut short: 40 of 60 bytes are there"),
            (&damaged, "the backup is damaged: it does not match its checksum"),
            (&longer, "the backup is damaged: it does not match its checksum"),
            (&empty, "the backup has no cluster in it"),
        ] {
            assert_eq!(read(file).unwrap_err().to_string(), said);
        }
    }

    proptest! {
        #[test]
        fn no_change_of_a_byte_goes_unnoticed(at: prop::sample::Index, change in 1u8..) {
            let (_, mut file) = file();
            let at = at.index(file.len());
            file[at] ^= change;
            prop_assert!(read(&file).is_err());
        }

        #[test]
        fn any_bytes_are_refused(bytes: Vec<u8>) {
            prop_assert!(read(&bytes).is_err());
            prop_assert!(read(&[MAGIC, &bytes[..]].concat()).is_err());
        }
    }
}
