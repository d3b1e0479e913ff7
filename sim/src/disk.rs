//! A disk that forgets what was not synced when its host crashes, or half of it, and can crash the host amid any write.

use rand::{RngExt, rngs::SmallRng};
use redb::StorageBackend;
use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;

#[derive(Debug)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Length(usize),
}

#[derive(Debug, Default)]
struct State {
    /// What reads see.
    seen: Vec<u8>,
    /// What a crash leaves for certain.
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    /// Counts crashes: who opened the disk before one has no part in it any more.
    life: u64,
    /// Changes and syncs until the host crashes.
    fuse: Option<u64>,
    blown: bool,
}

/// Cheap to clone; clones are one disk.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As a program sees it that starts now.
    pub fn open(&self) -> Opened {
        let mut state = self.state();
        state.life += 1;
        Opened { life: state.life, disk: self.clone() }
    }

    /// The host crashes at the `changes`th change or sync from now, before it takes effect.
    pub fn arm(&self, changes: u64) {
        self.state().fuse = Some(changes);
    }

    /// Whether the host was to crash amid a write.
    pub fn blown(&self) -> bool {
        self.state().blown
    }

    /// The power is gone: of what was not synced any sectors may have been written, in any order.
    pub fn crash(&self, rng: &mut SmallRng) {
        let mut state = self.state();
        let unsynced = std::mem::take(&mut state.unsynced);
        for change in unsynced {
            match change {
                Change::Length(length) if rng.random_bool(0.5) => state.durable.resize(length, 0),
                Change::Length(_) => {}
                Change::Write { offset, data } => {
                    for (n, sector) in data.chunks(SECTOR).enumerate().filter(|_| rng.random_bool(0.5)) {
                        put(&mut state.durable, offset + n * SECTOR, sector);
                    }
                }
            }
        }
        state.seen = state.durable.clone();
        (state.fuse, state.blown) = (None, false);
        state.life += 1;
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}

/// The disk for as long as its host runs.
#[derive(Debug)]
pub struct Opened {
    life: u64,
    disk: Disk,
}

type Answer<T> = io::Result<T>;

impl Opened {
    /// The disk, unless the host has crashed.
    fn alive(&self) -> Answer<MutexGuard<'_, State>> {
        let state = self.disk.state();
        let gone = state.blown || state.life != self.life;
        if gone { Err(io::Error::other("the host has crashed")) } else { Ok(state) }
    }

    /// The same, for what changes something.
    fn changing(&self) -> Answer<MutexGuard<'_, State>> {
        let mut state = self.alive()?;
        match state.fuse.as_mut() {
            Some(0) => {
                state.blown = true;
                Err(io::Error::other("the host crashes amid a write"))
            }
            Some(left) => {
                *left -= 1;
                Ok(state)
            }
            None => Ok(state),
        }
    }
}

impl StorageBackend for Opened {
    fn len(&self) -> Answer<u64> {
        Ok(self.alive()?.seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Answer<()> {
        let (state, start) = (self.alive()?, offset as usize);
        let stored = state.seen.get(start..start + out.len());
        out.copy_from_slice(stored.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Answer<()> {
        let mut state = self.changing()?;
        state.seen.resize(len as usize, 0);
        state.unsynced.push(Change::Length(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> Answer<()> {
        let mut state = self.changing()?;
        state.unsynced.clear();
        state.durable = state.seen.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Answer<()> {
        let mut state = self.changing()?;
        put(&mut state.seen, offset as usize, data);
        state.unsynced.push(Change::Write { offset: offset as usize, data: data.to_vec() });
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn what_was_synced_outlives_a_crash_and_the_old_life_does_not() {
        let (disk, mut rng) = (Disk::default(), SmallRng::seed_from_u64(1));
        let first = disk.open();
        first.set_len(2048).unwrap();
        first.write(0, &[1; 2048]).unwrap();
        first.sync_data().unwrap();
        first.write(0, &[2; 2048]).unwrap();
        disk.crash(&mut rng);
        assert!(first.write(0, &[3]).is_err());
        let mut found = [0; 2048];
        disk.open().read(0, &mut found).unwrap();
        assert!(found.chunks(SECTOR).all(|s| s.iter().all(|b| *b == s[0])), "sectors are whole");
        assert!(found.contains(&1) || found.contains(&2));
    }

    #[test]
    fn a_host_crashes_amid_its_writes() {
        let disk = Disk::default();
        let opened = disk.open();
        disk.arm(1);
        opened.write(0, &[1]).unwrap();
        assert!(!disk.blown() && opened.sync_data().is_err() && disk.blown());
        assert!(opened.len().is_err());
    }
}
