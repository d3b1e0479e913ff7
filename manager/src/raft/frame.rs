//! A stored row with its checksum. Rows of before have none and are read as they are.

use std::{borrow::Cow, io};

/// No MessagePack value begins with this byte, so no row without a checksum does.
const MARK: u8 = 0xc1;
/// The mark, and the CRC-32 of the rest, little-endian.
const HEAD: usize = 5;

pub fn seal(payload: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(HEAD + payload.len());
    row.push(MARK);
    row.extend(crc32fast::hash(payload).to_le_bytes());
    row.extend(payload);
    row
}

/// What was sealed.
pub fn open(row: &[u8]) -> io::Result<Cow<'_, [u8]>> {
    if row.first() != Some(&MARK) {
        return Ok(row.into());
    }
    match row.split_at_checked(HEAD) {
        Some((head, payload)) if head[1..] == crc32fast::hash(payload).to_le_bytes() => Ok(payload.into()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a stored row does not match its checksum")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_row_with_one_wrong_bit_is_refused(payload: Vec<u8>, at: prop::sample::Index, bit in 0u32..8) {
            let row = seal(&payload);
            prop_assert_eq!(open(&row).unwrap(), payload);
            let at = at.index(row.len() - 1) + 1;
            let mut wrong = row.clone();
            wrong[at] ^= 1u8 << bit;
            prop_assert!(open(&wrong).is_err());
            prop_assert!(open(&row[..at]).is_err());
        }
    }

    #[test]
    fn rows_of_before_are_read() {
        let old = super::super::encode(&Some(7u64)).unwrap();
        assert_eq!(open(&old).unwrap(), old);
        assert_eq!(open(&[]).unwrap(), [0u8; 0].as_slice());
    }
}
