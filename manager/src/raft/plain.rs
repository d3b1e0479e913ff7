//! Databases of programs that did not encrypt yet: recognised by their rows, and written anew before anything else is done with
//! them. Files that were put aside as damaged before that stay as they are.

use super::{
    frame::{self, Place},
    log::{LOG, META, failed},
};
use crate::ambient;
use heddle_plumbing::seal::Key;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableError};
use std::{
    fs::{self, File},
    io,
    path::Path,
};

/// Raft writes its vote before anything else, and all rows of a database are of one kind.
pub fn is_plain(database: &Database) -> io::Result<bool> {
    let read = database.begin_read().map_err(failed)?;
    let meta = match read.open_table(META) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(false),
        opened => opened.map_err(failed)?,
    };
    let first = meta.iter().map_err(failed)?.next().transpose().map_err(failed)?;
    Ok(first.is_some_and(|(_, row)| !frame::is_sealed(row.value())))
}

/// The same rows, encrypted, in a new file that takes the place of the old one whole or not at all: within the old one, what was
/// overwritten would still be there in clear.
pub fn rewrite(path: &Path, old: Database, key: &Key) -> io::Result<Database> {
    let draft = path.with_extension("new");
    match fs::remove_file(&draft) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let new = Database::create(&draft).map_err(failed)?;
    copy(&old, &new, key)?;
    fs::rename(&draft, path)?;
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    tracing::info!(file = %path.display(), "the manager's state is encrypted from here on");
    Ok(new)
}

fn copy(old: &Database, new: &Database, key: &Key) -> io::Result<()> {
    let read = old.begin_read().map_err(failed)?;
    let mut write = new.begin_write().map_err(failed)?;
    write.set_durability(Durability::Immediate).map_err(failed)?;
    {
        let sealed = |place: Place, row: &[u8]| -> io::Result<Vec<u8>> {
            Ok(frame::seal(key, ambient::random(), place, &frame::open_plain(row)?))
        };
        let mut log = write.open_table(LOG).map_err(failed)?;
        for row in read.open_table(LOG).map_err(failed)?.iter().map_err(failed)? {
            let (index, row) = row.map_err(failed)?;
            let index = index.value();
            log.insert(index, sealed(Place::Entry(index), row.value())?.as_slice()).map_err(failed)?;
        }
        let mut meta = write.open_table(META).map_err(failed)?;
        for row in read.open_table(META).map_err(failed)?.iter().map_err(failed)? {
            let (name, row) = row.map_err(failed)?;
            let name = name.value();
            meta.insert(name, sealed(Place::Meta(name), row.value())?.as_slice()).map_err(failed)?;
        }
    }
    write.commit().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        raft::{LogStore, encode, frame::tests::checked, recover},
        world::World,
    };
    use heddle_model::Timestamp;

    const MARK: &str = "a-network-of-before";

    fn holds(path: &Path, text: &str) -> bool {
        fs::read(path).unwrap().windows(text.len()).any(|w| w == text.as_bytes())
    }

    /// What was stored before, with the rows of the first program of all, or of the one that added checksums.
    fn made(path: &Path, row: impl Fn(&[u8]) -> Vec<u8>) -> recover::Fresh {
        let mut world = World::new();
        let node = world.ready_nodes(3).pop().unwrap();
        let network = world.network(MARK, false);
        world.write(vec![crate::store::Mutation::Create(network.into())]);
        let mut fresh = recover::alone(&world.state, Vec::new(), Timestamp(1), &node, 1).unwrap();
        // Nothing was compressed then, either.
        fresh.data = encode(&world.state.objects().collect::<Vec<_>>()).unwrap();
        let database = Database::create(path).unwrap();
        let write = database.begin_write().unwrap();
        {
            write.open_table(LOG).unwrap();
            let mut meta = write.open_table(META).unwrap();
            let last = encode(&fresh.meta.last_log_id).unwrap();
            let (vote, about) = (encode(&fresh.vote).unwrap(), encode(&fresh.meta).unwrap());
            let rows: [(&str, &[u8]); 5] = [
                ("vote", &vote),
                ("committed", &last),
                ("purged", &last),
                ("snapshot.meta", &about),
                ("snapshot.data", &fresh.data),
            ];
            for (name, payload) in rows {
                meta.insert(name, row(payload).as_slice()).unwrap();
            }
        }
        write.commit().unwrap();
        fresh
    }

    #[test]
    fn what_was_in_clear_is_read_once_and_then_encrypted() {
        type Row = fn(&[u8]) -> Vec<u8>;
        let rows: [Row; 2] = [|payload| payload.to_vec(), checked];
        for row in rows {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("raft.redb");
            let key = Key::new([7; 32]);
            let fresh = made(&path, row);
            assert!(holds(&path, MARK));
            for _ in 0..2 {
                let log = LogStore::open(&path, &key).unwrap();
                let stored = log.stored().unwrap();
                assert_eq!(stored.vote, Some(fresh.vote));
                assert_eq!(stored.snapshot.map(|(meta, _)| meta), Some(fresh.meta.clone()));
                drop(log);
                closed(&path);
                assert!(!holds(&path, MARK), "it is there in clear");
            }
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left");
            let other = LogStore::open(&path, &Key::new([8; 32])).err().unwrap();
            assert_eq!(other.kind(), io::ErrorKind::InvalidData, "of another key it is damage: {other}");
        }
    }

    /// The writer has its own thread, which ends a moment after the log.
    fn closed(path: &Path) {
        for _ in 0..1000 {
            match Database::open(path) {
                Ok(_) => return,
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
            }
        }
        panic!("the log stays open");
    }

    #[test]
    fn one_plain_row_among_encrypted_ones_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.redb");
        let key = Key::new([7; 32]);
        let old = made(&path, checked);
        drop(LogStore::open(&path, &key).unwrap());
        closed(&path);
        let database = Database::open(&path).unwrap();
        let write = database.begin_write().unwrap();
        write.open_table(META).unwrap().insert("vote", checked(&encode(&old.vote).unwrap()).as_slice()).unwrap();
        write.commit().unwrap();
        drop(database);
        let error = LogStore::open(&path, &key).err().unwrap();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (io::ErrorKind::InvalidData, "a stored row is not encrypted")
        );
    }
}
