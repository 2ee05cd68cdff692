//! How many messages a sender may send per second, so that a loop in one backend does not cost clients their traffic.
//!
//! Each sender has a bucket of its own: each bearer of a token, and each user of this machine at the unix socket.
//! Pure: time is an argument.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Mutex;
use std::time::Duration;

use crate::clock::Millis;
use crate::locks::lock;
use crate::rate_limit::{Buckets, TokenRate};

/// Messages per second of one sender, and how many it may send at once after a pause.
pub(crate) const PER_SECOND: u32 = 1_000;
const BURST: u32 = 2_000;

/// Senders that are told apart: three tokens, and users of this machine.
const SENDERS: usize = 64;

/// The rates of all senders.
pub struct EmitRates {
    buckets: Mutex<Buckets>,
    keys: RandomState,
}

impl Default for EmitRates {
    fn default() -> Self {
        let rate = TokenRate::new(PER_SECOND, Duration::from_secs(1), BURST);
        Self { buckets: Mutex::new(Buckets::new(rate, SENDERS)), keys: RandomState::new() }
    }
}

impl EmitRates {
    /// Counts a message of a sender.
    ///
    /// # Errors
    /// The sender has sent too many; returns the time until it may send the next.
    pub fn admit(&self, sender: &str, now: Millis) -> Result<(), Duration> {
        let taken = lock(&self.buckets).take(self.keys.hash_one(sender), now);
        taken.wait.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sender_has_its_own_rate() {
        let rates = EmitRates::default();
        let sent = |sender: &str, ms: u64| (0..10_000).filter(|_| rates.admit(sender, Millis::new(ms)).is_ok()).count();
        assert_eq!(sent("the bearer of the token", 0), 2_000, "at once after a pause");
        assert_eq!(sent("user id 7", 0), 2_000);
        assert_eq!(rates.admit("user id 7", Millis::new(0)), Err(Duration::from_millis(1)));
        assert_eq!(sent("user id 7", 1_000), 1_000, "of the second that has passed");
        assert_eq!(sent("user id 7", 1_500), 500);
        assert_eq!(sent("user id 7", 60_000), 2_000, "never more than this");
    }
}
