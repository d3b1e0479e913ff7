//! Authenticated encryption of what is kept on disk: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha). Its nonces are long enough to
//! be drawn at random: no two are alike by chance, however often a key is used.
//!
//! What is sealed is the nonce (24 bytes), the encrypted text and a tag (16 bytes).

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, AeadInPlace, Payload},
};
use std::fmt;

const NONCE: usize = 24;
const TAG: usize = 16;

pub type Nonce = [u8; NONCE];

/// 256 random bits. `Debug` prints nothing of them.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// What does not open is of another key or another place, or was changed: which of these cannot be told.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it was sealed with another key or for another place, or was changed since")]
pub struct Unopened;

impl Key {
    pub fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// As secret as what they seal.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// `place` is not stored; only who names the same place opens it again.
    pub fn seal(&self, nonce: Nonce, place: &[u8], text: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(NONCE + text.len() + TAG);
        sealed.extend(nonce);
        sealed.extend(text);
        let tag = self
            .cipher()
            .encrypt_in_place_detached(&XNonce::from(nonce), place, &mut sealed[NONCE..])
            .expect("what fits into memory is shorter than the cipher's 256 GiB");
        sealed.extend(tag);
        sealed
    }

    pub fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Unopened> {
        let (nonce, msg) = sealed.split_first_chunk::<NONCE>().ok_or(Unopened)?;
        let payload = Payload { msg, aad: place };
        self.cipher().decrypt(&XNonce::from(*nonce), payload).map_err(|_| Unopened)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&self.0.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// XChaCha20-Poly1305 of draft-irtf-cfrg-xchacha-03, A.3.1.
    #[test]
    fn it_is_the_cipher_of_the_draft() {
        let key = Key::new(std::array::from_fn(|n| 0x80 + n as u8));
        let nonce = std::array::from_fn(|n| 0x40 + n as u8);
        let place = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
        let text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
        let sealed = key.seal(nonce, &place, text);
        assert_eq!(sealed[..24], nonce);
        assert_eq!(sealed[24..32], [0xbd, 0x6d, 0x17, 0x9d, 0x3e, 0x83, 0xd4, 0x3b]);
        let tag = [0xc0, 0x87, 0x59, 0x24, 0xc1, 0xc7, 0x98, 0x79, 0x47, 0xde, 0xaf, 0xd8, 0x78, 0x0a, 0xcf, 0x49];
        assert_eq!(sealed[sealed.len() - 16..], tag);
        assert_eq!(key.open(&place, &sealed).unwrap(), text);
    }

    #[test]
    fn only_the_same_key_place_and_bytes_open_it() {
        let key = Key::new([1; 32]);
        let sealed = key.seal([9; 24], b"here", b"text");
        assert_eq!(key.open(b"here", &sealed).unwrap(), b"text");
        assert_eq!(key.open(b"there", &sealed), Err(Unopened));
        assert_eq!(Key::new([2; 32]).open(b"here", &sealed), Err(Unopened));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(key.open(b"here", &changed), Err(Unopened), "byte {at}");
            assert_eq!(key.open(b"here", &sealed[..at]), Err(Unopened), "cut at {at}");
        }
    }

    #[test]
    fn a_key_does_not_reach_a_log() {
        assert_eq!(format!("{:?}", Key::new([65; 32])), "Key(..)");
    }
}
