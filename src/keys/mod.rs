//! Keys of sessions and addresses in the pin table: keyed hashes, which clients cannot predict.

pub(crate) mod derive;

use std::hash::Hasher;
use std::num::NonZeroU64;

use aws_lc_rs::error::Unspecified;
use siphasher::sip128::{Hasher128, SipHasher24};

/// Key of a session in the pin table: a 128-bit keyed hash of (upstream, sid), so that clients cannot make two sids
/// collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(pub(crate) u64, pub(crate) u64);

impl Key {
    /// A fraction of 2³² that is always the same for this session, and as random as the key.
    pub fn jitter(self) -> u32 {
        u32::try_from(self.0 >> 32).unwrap_or(0)
    }

    /// A second fraction of 2³² that is always the same for this session, independent of [`Key::jitter`].
    pub fn chance(self) -> u32 {
        u32::try_from(self.1 >> 32).unwrap_or(0)
    }

    /// Encodes the key for storage; [`Key::from_bytes`] decodes it.
    pub fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.0) << 64 | u128::from(self.1)).to_be_bytes()
    }

    /// Decodes a key that [`Key::to_bytes`] encoded.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p]))
    }
}

/// Keyed hash of a client's address, by which quotas, limits and budgets count. It is never 0, so that an `Option` of
/// it takes no more room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct AddressHash(NonZeroU64);

impl AddressHash {
    /// Stands for all addresses together, in a table that counts them as one.
    pub const ALL: Self = Self(NonZeroU64::MIN);

    /// Takes the 64 bits of a hash; 0 becomes 1.
    #[inline]
    pub fn new(hash: u64) -> Self {
        Self(NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN))
    }

    /// The 64 bits of the hash.
    #[inline]
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

/// Makes [`Key`]s by SipHash-2-4-128 under a random key of this process, or of its fleet.
#[derive(Clone)]
pub struct Keys([u8; 16]);

impl Keys {
    /// Draws a new random key, once per process. Fails only if the system has no randomness.
    pub fn random() -> Result<Self, Unspecified> {
        let mut key = [0; 16];
        aws_lc_rs::rand::fill(&mut key)?;
        Ok(Self(key))
    }

    /// Takes the key from the secret of a fleet, so that all its stickyds name a session alike.
    pub(crate) fn of_fleet(secret: &[u8]) -> Self {
        Self(derive::first(&derive::derive(secret, "fleet pins", &[])))
    }

    /// Key of a session, from the upstream's name and the decoded sid.
    pub fn key(&self, upstream: &str, sid: &[u8]) -> Key {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(&(upstream.len() as u64).to_le_bytes());
        hasher.write(upstream.as_bytes());
        hasher.write(sid);
        let (a, b) = hasher.finish128().as_u64();
        Key(a, b)
    }

    /// Key of an id that a rule found; the same id found by another rule has another key.
    pub fn of_rule(&self, upstream: &str, rule: &str, id: &[u8]) -> Key {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        // No upstream's name is as long as this length, so no sid passed to `key` can produce the same input.
        hasher.write(&(u64::MAX - upstream.len() as u64).to_le_bytes());
        hasher.write(upstream.as_bytes());
        hasher.write(&(rule.len() as u64).to_le_bytes());
        hasher.write(rule.as_bytes());
        hasher.write(id);
        let (a, b) = hasher.finish128().as_u64();
        Key(a, b)
    }

    /// Hash of a client's address ([`crate::client::Client::key`]), by which quotas and budgets count.
    pub fn address(&self, client: [u8; 16]) -> AddressHash {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(&client);
        AddressHash::new(hasher.finish128().as_u64().0)
    }
}

/// Hash of a client-made id, the same in every stickyd: the ring mixes the fleet's secret in.
pub(crate) fn plain_hash(id: &[u8]) -> [u8; 16] {
    let mut hasher = SipHasher24::new();
    hasher.write(id);
    let (a, b) = hasher.finish128().as_u64();
    let mut out = [0; 16];
    for (to, from) in out.iter_mut().zip(a.to_le_bytes().into_iter().chain(b.to_le_bytes())) {
        *to = from;
    }
    out
}
