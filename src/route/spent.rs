//! What users have spent of the rates of a route since the other stickyds of a fleet were told: they charge it to their
//! own buckets, so that a user has one rate and not one per stickyd.
//!
//! Bounded: what finds no room counts on this stickyd only.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::keys::AddressHash;
use crate::locks::lock;

/// Number of locks, so that threads rarely wait for each other.
const SHARDS: usize = 16;

/// Maximum number of users per lock.
const USERS: usize = 256;

/// Tokens that were taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SpentTokens {
    pub(crate) requests: u32,
    pub(crate) handshakes: u32,
}

/// What users have spent, by the hash of the user.
#[derive(Debug, Default)]
pub(crate) struct SpentRates([Mutex<HashMap<u64, SpentTokens>>; SHARDS]);

impl SpentRates {
    /// Notes one request of a user.
    pub(crate) fn note(&self, user: AddressHash, handshake: bool) {
        let place = usize::try_from(user.get() % SHARDS as u64).unwrap_or(0);
        let Some(shard) = self.0.get(place) else { return };
        let mut shard = lock(shard);
        if shard.len() < USERS || shard.contains_key(&user.get()) {
            let spent = shard.entry(user.get()).or_default();
            spent.requests = spent.requests.saturating_add(1);
            spent.handshakes = spent.handshakes.saturating_add(handshake.into());
        }
    }

    /// Takes everything that was noted.
    pub(crate) fn take(&self) -> Vec<(AddressHash, SpentTokens)> {
        let all = self.0.iter().flat_map(|shard| std::mem::take(&mut *lock(shard)));
        all.map(|(user, spent)| (AddressHash::new(user), spent)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spent_is_taken_once_and_bounded() {
        let spent = SpentRates::default();
        spent.note(AddressHash::new(7), true);
        spent.note(AddressHash::new(7), false);
        assert_eq!(spent.take(), [(AddressHash::new(7), SpentTokens { requests: 2, handshakes: 1 })]);
        assert_eq!(spent.take(), []);
        (1..100_000).for_each(|user| spent.note(AddressHash::new(user), false));
        assert_eq!(spent.take().len(), SHARDS * USERS);
    }
}
