//! What made-up sids may cost: token buckets per client address and in all, and the memory of recent misses. Pure; time
//! is an argument.
//!
//! A discovery takes its token when it begins and gets it back when the session is found, so that only discoveries that
//! end in "nobody knows it" cost, and a burst of made-up sids cannot be under way before the first has ended.

use std::collections::HashMap;

use crate::bucket::{Bucket, Buckets, Rate};

/// Addresses with a bucket; past that, the fullest is forgotten for one that comes.
const ADDRESSES: usize = 16_384;

/// Misses remembered at once.
const MISSES: usize = 65_536;

/// How long a miss is remembered (design.md §3.1).
const MISS_MS: u64 = 1_000;

/// Tokens for discoveries.
pub(super) struct Budget {
    all: Bucket,
    total: Rate,
    addresses: Buckets,
}

/// When a full table was last cleaned. Cleaning looks at every entry, so that a flood must not make each newcomer do it.
#[derive(Default)]
struct Cleaned(Option<u64>);

impl Cleaned {
    /// Not more often than this.
    const EVERY_MS: u64 = 250;

    fn is_due(&mut self, now_ms: u64) -> bool {
        let due = self.0.is_none_or(|last| now_ms.saturating_sub(last) >= Self::EVERY_MS);
        if due {
            self.0 = Some(now_ms);
        }
        due
    }
}

impl Budget {
    /// Tokens a second for one address, and for all together; one second's worth is kept.
    pub(super) fn new(per_address: u32, total: u32) -> Self {
        Self {
            all: Bucket::default(),
            total: Rate::per_second(total),
            addresses: Buckets::new(Rate::per_second(per_address), ADDRESSES),
        }
    }

    /// Another budget from now on; what each address has spent is forgotten where its own has changed.
    pub(super) fn set(&mut self, per_address: u32, total: u32) {
        self.total = Rate::per_second(total);
        self.addresses = Buckets::new(Rate::per_second(per_address), ADDRESSES);
    }

    /// Takes a token of `address`; not `taken` when it or all together have none.
    pub(super) fn take(&mut self, address: u64, now_ms: u64) -> Taken {
        if self.all.wait(self.total, now_ms).is_some() {
            return Taken { taken: false, crowded: false };
        }
        let own = self.addresses.take(address, now_ms);
        let taken = own.wait.is_none() && self.all.take(self.total, now_ms).is_ok();
        Taken { taken, crowded: own.crowded }
    }

    /// Gives a token back: the session was found.
    pub(super) fn give_back(&mut self, address: u64) {
        self.all.give_back(self.total);
        self.addresses.give_back(address);
    }
}

/// What came of asking for a token.
#[derive(Clone, Copy)]
pub(super) struct Taken {
    pub(super) taken: bool,
    /// An address that had spent tokens was forgotten for this one.
    pub(super) crowded: bool,
}

/// Sids every worker refused less than a second ago.
pub(super) struct Misses<K> {
    until_ms: HashMap<K, u64>,
    cleaned: Cleaned,
}

impl<K> Default for Misses<K> {
    fn default() -> Self {
        Self { until_ms: HashMap::new(), cleaned: Cleaned::default() }
    }
}

impl<K: std::hash::Hash + Eq> Misses<K> {
    /// Remembers a miss; `false` when there is no room, which costs a repeated search and nothing else.
    pub(super) fn remember(&mut self, key: K, now_ms: u64) -> bool {
        if self.until_ms.len() >= MISSES && self.cleaned.is_due(now_ms) {
            self.until_ms.retain(|_, until| *until > now_ms);
        }
        let room = self.until_ms.len() < MISSES;
        if room {
            self.until_ms.insert(key, now_ms + MISS_MS);
        }
        room
    }

    /// Whether a miss is remembered.
    pub(super) fn knows(&mut self, key: &K, now_ms: u64) -> bool {
        match self.until_ms.get(key) {
            Some(until) if *until > now_ms => true,
            Some(_) => {
                self.until_ms.remove(key);
                false
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Budget {
        fn gives(&mut self, address: u64, now_ms: u64) -> bool {
            self.take(address, now_ms).taken
        }
    }

    #[test]
    fn a_burst_then_the_rate() {
        let mut budget = Budget::new(10, 1_000);
        let taken = (0..50).filter(|_| budget.gives(7, 0)).count();
        assert_eq!(taken, 10, "one second's worth at once");
        let over_a_second = (1..=1_000).filter(|&ms| budget.gives(7, ms)).count();
        assert!((9..=10).contains(&over_a_second), "{over_a_second}");
    }

    #[test]
    fn found_sessions_cost_nothing() {
        let mut budget = Budget::new(10, 20);
        for _ in 0..1_000 {
            assert!(budget.gives(7, 0));
            budget.give_back(7);
        }
    }

    #[test]
    fn one_address_cannot_spend_anothers() {
        let mut budget = Budget::new(10, 1_000);
        while budget.gives(1, 0) {}
        assert!(budget.gives(2, 0));
    }

    #[test]
    fn all_together_are_bounded() {
        let mut budget = Budget::new(10, 25);
        let taken = (0..100).filter(|&address| budget.gives(address, 0)).count();
        assert_eq!(taken, 25);
    }

    #[test]
    fn misses_are_forgotten_after_a_second_and_bounded() {
        let mut misses = Misses::default();
        assert!(misses.remember(1, 0));
        assert!(misses.knows(&1, 999));
        assert!(!misses.knows(&1, 1_000));
        for key in 0..MISSES * 2 {
            misses.remember(key, 0);
        }
        assert_eq!(misses.until_ms.len(), MISSES);
        assert!(!misses.remember(MISSES * 3, 0), "full, and says so");
        assert!(misses.remember(MISSES * 3, 2_000), "the old ones made room");
    }
}
