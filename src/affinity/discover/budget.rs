//! What made-up sids may cost: token buckets per client address and in all, and the memory of recent misses. Pure; time
//! is an argument.
//!
//! A discovery takes its token when it begins and gets it back when the session is found, so that only discoveries that
//! end in "nobody knows it" cost, and a burst of made-up sids cannot be under way before the first has ended.

use std::collections::HashMap;

/// Addresses with a bucket of their own; past that, those that come share one.
const ADDRESSES: usize = 16_384;

/// Misses remembered at once.
const MISSES: usize = 65_536;

/// How long a miss is remembered (design.md §3.1).
const MISS_MS: u64 = 1_000;

/// Tokens for discoveries.
pub(super) struct Budget {
    per_address: f64,
    all: Bucket,
    total: f64,
    addresses: HashMap<u64, Bucket>,
    cleaned: Cleaned,
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

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    at_ms: u64,
}

impl Bucket {
    /// Holds at most one second's worth.
    fn refill(&mut self, rate: f64, now_ms: u64) {
        #[allow(clippy::cast_precision_loss, reason = "milliseconds since start stay far below 2^52")]
        let passed = now_ms.saturating_sub(self.at_ms) as f64 / 1_000.0;
        self.tokens = (self.tokens + passed * rate).min(rate);
        self.at_ms = now_ms;
    }
}

impl Budget {
    /// Tokens a second for one address, and for all together.
    pub(super) fn new(per_address: u32, total: u32) -> Self {
        let (per_address, total) = (f64::from(per_address), f64::from(total));
        Self {
            per_address,
            total,
            all: Bucket { tokens: total, at_ms: 0 },
            addresses: HashMap::new(),
            cleaned: Cleaned::default(),
        }
    }

    /// Takes a token of `address`; `false` when it or all together have none.
    pub(super) fn take(&mut self, address: u64, now_ms: u64) -> bool {
        let rate = self.per_address;
        self.all.refill(self.total, now_ms);
        let bucket = self.bucket(address, now_ms);
        bucket.refill(rate, now_ms);
        if bucket.tokens < 1.0 {
            return false;
        }
        if self.all.tokens < 1.0 {
            return false;
        }
        self.all.tokens -= 1.0;
        self.bucket(address, now_ms).tokens -= 1.0;
        true
    }

    /// Every address has had to be given a bucket: newcomers share one.
    pub(super) fn is_crowded(&self) -> bool {
        self.addresses.len() >= ADDRESSES
    }

    /// Gives a token back: the session was found.
    pub(super) fn give_back(&mut self, address: u64, now_ms: u64) {
        self.all.tokens = (self.all.tokens + 1.0).min(self.total);
        let rate = self.per_address;
        let bucket = self.bucket(address, now_ms);
        bucket.tokens = (bucket.tokens + 1.0).min(rate);
    }

    fn bucket(&mut self, address: u64, now_ms: u64) -> &mut Bucket {
        let rate = self.per_address;
        let known = self.addresses.contains_key(&address);
        if self.addresses.len() >= ADDRESSES && !known && self.cleaned.is_due(now_ms) {
            self.addresses.retain(|_, bucket| {
                bucket.refill(rate, now_ms);
                bucket.tokens < rate
            });
        }
        let shared = self.addresses.len() >= ADDRESSES && !known;
        let key = if shared { 0 } else { address };
        self.addresses.entry(key).or_insert(Bucket { tokens: rate, at_ms: now_ms })
    }
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

    #[test]
    fn a_burst_then_the_rate() {
        let mut budget = Budget::new(10, 1_000);
        let taken = (0..50).filter(|_| budget.take(7, 0)).count();
        assert_eq!(taken, 10, "one second's worth at once");
        let over_a_second = (1..=1_000).filter(|&ms| budget.take(7, ms)).count();
        assert!((9..=10).contains(&over_a_second), "{over_a_second}");
    }

    #[test]
    fn found_sessions_cost_nothing() {
        let mut budget = Budget::new(10, 20);
        for _ in 0..1_000 {
            assert!(budget.take(7, 0));
            budget.give_back(7, 0);
        }
    }

    #[test]
    fn one_address_cannot_spend_anothers() {
        let mut budget = Budget::new(10, 1_000);
        while budget.take(1, 0) {}
        assert!(budget.take(2, 0));
    }

    #[test]
    fn all_together_are_bounded() {
        let mut budget = Budget::new(10, 25);
        let taken = (0..100).filter(|&address| budget.take(address, 0)).count();
        assert_eq!(taken, 25);
    }

    #[test]
    fn the_table_of_addresses_is_bounded() {
        let mut budget = Budget::new(2, u32::MAX);
        for address in 0..(ADDRESSES as u64 * 2) {
            budget.take(address, 0);
        }
        assert!(budget.addresses.len() <= ADDRESSES + 1);
        // Full buckets make room again.
        budget.take(u64::MAX, 10_000);
        assert!(budget.addresses.len() < 3);
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
