//! What Redis gets to see: hashed names and sealed values. Left out: where they are stored.
//!
//! A value is sealed by AES-256-GCM-SIV with a random nonce, and bound to the name it is stored under: a program
//! that can write to the Redis can neither make a value, nor move one to another name. A replayed value was right once.

use std::hash::Hasher;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;
use siphasher::sip128::{Hasher128, SipHasher24};

use crate::keys::derive::{derive, first};

/// Seals and opens values under the secret of the fleet, and hashes names.
pub(crate) struct Seals {
    key: RandomizedNonceKey,
    names: [u8; 16],
    fingerprint: [u8; 8],
}

impl Seals {
    /// Derives the keys from the secret.
    pub(crate) fn new(secret: &[u8]) -> Result<Self, Unspecified> {
        let key = RandomizedNonceKey::new(&AES_256_GCM_SIV, &derive(secret, "fleet values", &[]))?;
        let names = first(&derive(secret, "fleet names", &[]));
        Ok(Self { key, names, fingerprint: first(&derive(secret, "fleet fingerprint", &[])) })
    }

    /// Tells two secrets apart, and reveals nothing of them.
    pub(crate) fn fingerprint(&self) -> [u8; 8] {
        self.fingerprint
    }

    /// Hash of a text as 22 characters, for names of keys and channels.
    pub(crate) fn name(&self, text: &str) -> String {
        base64url(&self.hash(text))
    }

    /// Hash of a text, of which [`Self::name`] is the readable form.
    pub(crate) fn hash(&self, text: &str) -> [u8; 16] {
        let mut hasher = SipHasher24::new_with_key(&self.names);
        hasher.write(text.as_bytes());
        hasher.finish128().as_bytes()
    }

    /// Seals a value that belongs to `name`: nonce, ciphertext, tag, 28 bytes more than the value. `None` only if the
    /// library fails.
    pub(crate) fn seal(&self, name: &str, value: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = value.to_vec();
        let nonce = self.key.seal_in_place_append_tag(Aad::from(name.as_bytes()), &mut sealed).ok()?;
        Some([nonce.as_ref().as_slice(), &sealed].concat())
    }

    /// Opens a value found under `name`; `None` if it was not sealed for this name with this secret.
    pub(crate) fn open(&self, name: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let opened = self.key.open_in_place(nonce, Aad::from(name.as_bytes()), &mut sealed).ok()?;
        Some(opened.to_vec())
    }
}

/// Encodes bytes in the alphabet of RFC 4648 §5, without padding.
pub(crate) fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().chain([0, 0].iter()).take(3).fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        for place in 0..=three.len() {
            let six = bits >> (18 - 6 * place) & 63;
            text.push(ALPHABET.get(six as usize).copied().unwrap_or(b'A').into());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_opens_only_under_its_name_and_secret() {
        let seals = Seals::new(b"the secret of the fleet").unwrap();
        let sealed = seals.seal("a", b"sixteen bytes ok").unwrap();
        assert_eq!(sealed.len(), 44);
        assert_eq!(seals.open("a", &sealed).as_deref(), Some(&b"sixteen bytes ok"[..]));
        assert_eq!(seals.open("b", &sealed), None, "moved to another name");
        assert_eq!(Seals::new(b"another secret...").unwrap().open("a", &sealed), None);
        for cut in 0..sealed.len() {
            assert_eq!(seals.open("a", &sealed[..cut]), None);
            let mut flipped = sealed.clone();
            flipped[cut] ^= 1;
            assert_eq!(seals.open("a", &flipped), None);
        }
        assert_ne!(seals.seal("a", b"x"), seals.seal("a", b"x"), "nonces are random");
    }

    #[test]
    fn names_are_written_as_in_the_rfc() {
        // RFC 4648 §10.
        for (plain, text) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64url(plain.as_bytes()), text);
        }
        assert_eq!(base64url(&[0xff, 0xfe]), "__4");
        assert_eq!(Seals::new(b"secret").unwrap().name("room").len(), 22);
    }
}
