//! A stored row as it is on the disk: encrypted and bound to its place, so that no row can be read, changed, or put where another
//! was, without the key.
//!
//! ```text
//! now      0xc7, and what `Key::seal` makes of the payload
//! before   0xc1, the CRC-32 of the rest (little-endian), and the payload; or the payload alone, which is MessagePack
//! ```
//!
//! No payload begins with either byte: 0xc1 is no MessagePack, and 0xc7 an extension of it, which is not in use here. Rows of
//! before are read only to be written anew (see `plain`).

use heddle_plumbing::seal::{Key, Nonce};
use std::{borrow::Cow, io};

const SEALED: u8 = 0xc7;
const CHECKED: u8 = 0xc1;
/// The mark and the checksum.
const CHECKED_HEAD: usize = 5;

/// Where a row is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// Of the log, by index.
    Entry(u64),
    /// Of what is stored beside the log, by name.
    Meta(&'a str),
}

impl Place<'_> {
    fn bytes(self) -> Vec<u8> {
        match self {
            Place::Entry(index) => [&b"log/"[..], &index.to_be_bytes()].concat(),
            Place::Meta(name) => [&b"meta/"[..], name.as_bytes()].concat(),
        }
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

pub fn is_sealed(row: &[u8]) -> bool {
    row.first() == Some(&SEALED)
}

pub fn seal(key: &Key, nonce: Nonce, place: Place, payload: &[u8]) -> Vec<u8> {
    let mut row = vec![SEALED];
    row.extend(key.seal(nonce, &place.bytes(), payload));
    row
}

/// What was sealed for this place.
pub fn open(key: &Key, place: Place, row: &[u8]) -> io::Result<Vec<u8>> {
    let sealed = row.strip_prefix(&[SEALED]).ok_or_else(|| damaged("a stored row is not encrypted"))?;
    key.open(&place.bytes(), sealed).map_err(|_| damaged("a stored row does not decrypt"))
}

/// The payload of a row of before.
pub fn open_plain(row: &[u8]) -> io::Result<Cow<'_, [u8]>> {
    match row.first() {
        Some(&CHECKED) => {}
        Some(&SEALED) => return Err(damaged("a stored row is encrypted and others are not")),
        _ => return Ok(row.into()),
    }
    match row.split_at_checked(CHECKED_HEAD) {
        Some((head, payload)) if head[1..] == crc32fast::hash(payload).to_le_bytes() => Ok(payload.into()),
        _ => Err(damaged("a stored row does not match its checksum")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A row as it was written before rows were encrypted.
    pub fn checked(payload: &[u8]) -> Vec<u8> {
        [&[CHECKED][..], &crc32fast::hash(payload).to_le_bytes(), payload].concat()
    }

    fn key() -> Key {
        Key::new([7; 32])
    }

    proptest! {
        #[test]
        fn a_row_is_read_at_its_place_and_nowhere_else(payload: Vec<u8>, nonce: Nonce, index: u64, other: u64) {
            let row = seal(&key(), nonce, Place::Entry(index), &payload);
            prop_assert_eq!(open(&key(), Place::Entry(index), &row).unwrap(), payload);
            prop_assert_eq!(open(&key(), Place::Entry(other), &row).is_ok(), other == index);
            prop_assert!(open(&key(), Place::Meta("vote"), &row).is_err());
            prop_assert!(open(&Key::new([8; 32]), Place::Entry(index), &row).is_err());
            prop_assert!(open_plain(&row).is_err());
        }

        #[test]
        fn a_row_with_one_wrong_bit_is_damaged(payload: Vec<u8>, at: prop::sample::Index, bit in 0u32..8) {
            let row = seal(&key(), [3; 24], Place::Meta("vote"), &payload);
            let at = at.index(row.len());
            let mut wrong = row.clone();
            wrong[at] ^= 1u8 << bit;
            for wrong in [&wrong[..], &row[..at]] {
                let error = open(&key(), Place::Meta("vote"), wrong).unwrap_err();
                prop_assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            }
        }

        #[test]
        fn a_row_of_before_with_one_wrong_bit_is_refused(payload: Vec<u8>, at: prop::sample::Index, bit in 0u32..8) {
            let row = checked(&payload);
            prop_assert_eq!(open_plain(&row).unwrap(), payload);
            let at = at.index(row.len() - 1) + 1;
            let mut wrong = row.clone();
            wrong[at] ^= 1u8 << bit;
            prop_assert!(open_plain(&wrong).is_err());
            prop_assert!(open_plain(&row[..at]).is_err());
        }
    }

    #[test]
    fn rows_of_before_are_no_rows_of_now() {
        let old = super::super::encode(&Some(7u64)).unwrap();
        assert_eq!(open_plain(&old).unwrap(), old);
        for row in [&old[..], &checked(&old), &[]] {
            assert!(!is_sealed(row));
            let error = open(&key(), Place::Meta("vote"), row).unwrap_err();
            assert_eq!(error.to_string(), "a stored row is not encrypted");
        }
    }
}
