//! The whole state as raft keeps and sends it: its objects one after the other, each in MessagePack with field names, compressed.
//!
//! Nothing but the compressed bytes is held while they are written or read: of a million tasks, the rest is more than a gigabyte.
//! Programs of before wrote one list of all objects, as it is; that is read still.

use super::{RaftSnapshot, decode};
use crate::store::Snapshot;
use heddle_model::{Object, Version};
use rmp_serde::encode::write_named;
use serde::Deserialize;
use std::io::{self, BufRead, BufReader, BufWriter};

/// Of a zstd frame; no MessagePack list begins so.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Fast, and what tasks have in common goes all the same.
const LEVEL: i32 = 1;
const BUFFER: usize = 64 << 10;

pub fn pack(state: &Snapshot) -> io::Result<RaftSnapshot> {
    let mut frame = zstd::Encoder::new(Vec::new(), LEVEL)?;
    frame.include_checksum(true)?;
    let mut out = BufWriter::with_capacity(BUFFER, frame);
    for object in state.stored() {
        write_named(&mut out, &object).map_err(io::Error::other)?;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?.finish()
}

/// Fails with `InvalidData` at anything that stands for no state.
pub fn unpack(version: Version, data: &[u8]) -> io::Result<Snapshot> {
    if !data.starts_with(&MAGIC) {
        return Ok(Snapshot::from_objects(version, decode::<Vec<Object>>(data)?));
    }
    let damaged = |e| io::Error::new(io::ErrorKind::InvalidData, e);
    let mut read = BufReader::with_capacity(BUFFER, zstd::Decoder::with_buffer(data)?.single_frame());
    let next = || match read.fill_buf() {
        Ok([]) => None,
        Ok(_) => Some(Object::deserialize(&mut rmp_serde::Deserializer::new(&mut read)).map_err(io::Error::other)),
        Err(e) => Some(Err(e)),
    };
    Snapshot::try_from_objects(version, std::iter::from_fn(next)).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{raft::encode, world::World};
    use heddle_model::task::Task;

    fn state() -> Snapshot {
        let mut world = World::new();
        world.ready_nodes(3);
        world.run(20, |_| {});
        world.settle();
        world.state
    }

    #[test]
    fn what_is_packed_is_unpacked_and_small() {
        let state = state();
        let packed = pack(&state).unwrap();
        assert_eq!(unpack(state.version, &packed).unwrap(), state);
        let before = encode(&state.objects().collect::<Vec<_>>()).unwrap();
        assert_eq!(unpack(state.version, &before).unwrap(), state, "as programs of before wrote it");
        assert!(packed.len() * 4 < before.len(), "{} of {}", packed.len(), before.len());
    }

    #[test]
    fn tasks_that_were_stored_apart_hold_one_spec() {
        let state = state();
        let back = unpack(state.version, &pack(&state).unwrap()).unwrap();
        let tasks: Vec<&Task> = back.tasks.values().map(|t| &**t).collect();
        assert_eq!(tasks.len(), 20);
        assert!(tasks.iter().all(|t| t.spec.is_same(&tasks[0].spec)));
    }

    #[test]
    fn what_is_cut_short_is_refused_and_what_is_changed_or_the_same() {
        let state = state();
        let packed = pack(&state).unwrap();
        // The head of a frame is not in its checksum: what is changed there may stand for the same.
        for wrong in 0..packed.len() {
            let error = unpack(Version(1), &packed[..wrong]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{wrong}");
            let mut changed = packed.clone();
            changed[wrong] ^= 1;
            match unpack(state.version, &changed) {
                Ok(read) => assert_eq!(read, state, "{wrong}"),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{wrong}"),
            }
        }
    }
}
