//! What may befall an input.

use proptest::{collection::vec, prelude::*, sample::Index};
use std::ops::Range;

/// Numbers at which parsers go wrong, as they stand in inputs.
const NUMBERS: &[&[u8]] = &[
    &[0; 4],
    &[0xff; 2],
    &[0xff; 4],
    &[0xff; 8],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0x7f],
    // The longest number of protobuf, and one just beyond 32 bits.
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
    &[0x80, 0x80, 0x80, 0x80, 0x10],
    // The largest lengths of MessagePack.
    &[0xdd, 0xff, 0xff, 0xff, 0xff],
    &[0xdb, 0xff, 0xff, 0xff, 0xff],
    b"-1",
    b"99999999999999999999",
    b"\"\\u0000\"",
];

#[derive(Debug, Clone)]
pub enum Damage {
    Flip(Index, u8),
    Set(Index, u8),
    Cut(Index),
    Leave(Index, Index),
    Double(Index, Index, u8),
    Insert(Index, Vec<u8>),
    Overwrite(Index, Vec<u8>),
    /// Copies a piece to somewhere else.
    Move(Index, Index, Index),
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![prop::sample::select(NUMBERS).prop_map(<[u8]>::to_vec), vec(any::<u8>(), 1..8)]
}

/// Between two places, in either order.
fn between(bytes: &[u8], a: Index, b: Index) -> Range<usize> {
    let (a, b) = (a.index(bytes.len() + 1), b.index(bytes.len() + 1));
    a.min(b)..a.max(b)
}

impl Damage {
    pub fn any() -> impl Strategy<Value = Damage> {
        let at = any::<Index>;
        prop_oneof![
            4 => (at(), 0u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
            2 => (at(), any::<u8>()).prop_map(|(at, to)| Damage::Set(at, to)),
            1 => at().prop_map(Damage::Cut),
            1 => (at(), at()).prop_map(|(a, b)| Damage::Leave(a, b)),
            1 => (at(), at(), 1u8..8).prop_map(|(a, b, times)| Damage::Double(a, b, times)),
            2 => (at(), bytes()).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
            2 => (at(), bytes()).prop_map(|(at, bytes)| Damage::Overwrite(at, bytes)),
            1 => (at(), at(), at()).prop_map(|(a, b, to)| Damage::Move(a, b, to)),
        ]
    }

    pub fn inflict(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            if let Damage::Insert(_, new) = self {
                bytes.extend(new);
            }
            return;
        }
        let length = bytes.len();
        match self {
            Damage::Flip(at, bit) => bytes[at.index(length)] ^= 1u8 << *bit,
            Damage::Set(at, to) => bytes[at.index(length)] = *to,
            Damage::Cut(at) => bytes.truncate(at.index(length)),
            Damage::Leave(a, b) => drop(bytes.drain(between(bytes, *a, *b))),
            Damage::Double(a, b, times) => {
                let piece = between(bytes, *a, *b);
                let more = bytes[piece.clone()].repeat(usize::from(*times));
                drop(bytes.splice(piece.end..piece.end, more));
            }
            Damage::Insert(at, new) => {
                let at = at.index(bytes.len() + 1);
                drop(bytes.splice(at..at, new.iter().copied()));
            }
            Damage::Overwrite(at, new) => {
                let at = at.index(bytes.len());
                bytes.iter_mut().skip(at).zip(new).for_each(|(old, new)| *old = *new);
            }
            Damage::Move(a, b, to) => {
                let piece = bytes[between(bytes, *a, *b)].to_vec();
                let to = to.index(bytes.len() + 1);
                drop(bytes.splice(to..to, piece));
            }
        }
    }
}
