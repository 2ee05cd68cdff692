//! Limits what made-up sids may cost: token buckets per client address and in total, and the memory of recent misses.
//! Pure: time is an argument.
//!
//! A discovery takes a token for each worker before it asks that worker, and gets all of them back if the session is
//! found. Only discoveries that find no owner therefore cost tokens, as many as they cost the workers requests, and a
//! burst of made-up sids is limited before the first of them has ended.

use std::collections::HashMap;

use crate::clock::Millis;
use crate::keys::AddressHash;
use crate::rate_limit::{Bucket, Buckets, Price, TokenRate};

/// Maximum number of addresses with a bucket; beyond it, the fullest bucket is forgotten for a new address.
const ADDRESSES: usize = 16_384;

/// Maximum number of misses remembered at once.
const MISSES: usize = 65_536;

/// How long a miss is remembered, in milliseconds (docs/reference/routing.md §1).
const MISS_MS: u64 = 1_000;

/// Token buckets for discoveries: one per client address and one in total.
pub(crate) struct Budget {
    all: Bucket,
    total: TokenRate,
    addresses: Buckets,
}

/// When a full table was last cleaned. Cleaning visits every entry, so that a flood must not cause it for each new
/// entry.
#[derive(Default)]
pub(super) struct Cleaned(Option<Millis>);

impl Cleaned {
    /// Minimum interval between two cleanings, in milliseconds.
    const EVERY_MS: u64 = 250;

    pub(super) fn take_due(&mut self, now_ms: Millis) -> bool {
        let due = self.0.is_none_or(|last| now_ms.since(last) >= Self::EVERY_MS);
        if due {
            self.0 = Some(now_ms);
        }
        due
    }
}

impl Budget {
    /// Sets the tokens per second for one address and in total; a bucket holds the tokens of one second.
    pub(crate) fn new(per_address: u32, total: u32) -> Self {
        Self {
            all: Bucket::default(),
            total: TokenRate::per_second(total),
            addresses: Buckets::new(TokenRate::per_second(per_address), ADDRESSES),
        }
    }

    /// Sets new limits; what was spent under the old ones stays spent.
    pub(crate) fn set(&mut self, per_address: u32, total: u32, now_ms: Millis) {
        let (old, new) = (self.total, TokenRate::per_second(total));
        self.total = new;
        self.all.change_rate(old, new, now_ms);
        self.addresses.set_rate(TokenRate::per_second(per_address), now_ms);
    }

    /// Pays a price with tokens of `address`; `taken` is false if the address or the total has none left. If one is
    /// left, the others may become a debt: a pool may have more workers than an address has tokens.
    pub(crate) fn take(&mut self, address: AddressHash, price: Price, now_ms: Millis) -> BudgetTake {
        if self.all.wait(self.total, price, now_ms).is_some() {
            return BudgetTake { taken: false, crowded: false };
        }
        let own = self.addresses.pay(address.get(), price, now_ms);
        let taken = own.wait.is_none() && self.all.take(self.total, price, now_ms).is_ok();
        BudgetTake { taken, crowded: own.crowded }
    }

    /// Gives tokens back, because the session was found.
    pub(crate) fn give_back(&mut self, address: AddressHash, count: u32) {
        self.all.give_back(self.total, count);
        self.addresses.give_back(address.get(), count);
    }
}

/// Result of taking a token.
#[derive(Clone, Copy)]
pub(crate) struct BudgetTake {
    pub(crate) taken: bool,
    /// Whether an address that had spent tokens was forgotten to make room for this one.
    pub(crate) crowded: bool,
}

/// Sids that every worker refused less than a second ago.
pub(crate) struct Misses<K> {
    until_ms: HashMap<K, Millis>,
    cleaned: Cleaned,
}

impl<K> Default for Misses<K> {
    fn default() -> Self {
        Self { until_ms: HashMap::new(), cleaned: Cleaned::default() }
    }
}

impl<K: std::hash::Hash + Eq> Misses<K> {
    /// Remembers a miss; `false` if there is no room, which only costs a repeated search.
    pub(crate) fn remember(&mut self, key: K, now_ms: Millis) -> bool {
        if self.until_ms.len() >= MISSES && self.cleaned.take_due(now_ms) {
            self.until_ms.retain(|_, until| *until > now_ms);
        }
        let room = self.until_ms.len() < MISSES;
        if room {
            self.until_ms.insert(key, now_ms.plus_ms(MISS_MS));
        }
        room
    }

    /// Whether a miss of this key is remembered.
    pub(crate) fn recall(&mut self, key: &K, now_ms: Millis) -> bool {
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
            self.take(AddressHash::new(address), Price::ONE, Millis::new(now_ms)).taken
        }
    }

    #[test]
    fn a_burst_is_followed_by_the_rate() {
        let mut budget = Budget::new(10, 1_000);
        let taken = (0..50).filter(|_| budget.gives(7, 0)).count();
        assert_eq!(taken, 10, "the tokens of one second at once");
        let over_a_second = (1..=1_000).filter(|&ms| budget.gives(7, ms)).count();
        assert!((9..=10).contains(&over_a_second), "{over_a_second}");
    }

    #[test]
    fn found_sessions_cost_nothing() {
        let mut budget = Budget::new(10, 20);
        for _ in 0..1_000 {
            assert!(budget.gives(7, 0));
            budget.give_back(AddressHash::new(7), 1);
        }
    }

    #[test]
    fn one_address_cannot_spend_the_tokens_of_another() {
        let mut budget = Budget::new(10, 1_000);
        while budget.gives(1, 0) {}
        assert!(budget.gives(2, 0));
    }

    #[test]
    fn a_search_costs_as_many_tokens_as_it_asks_workers() {
        let mut budget = Budget::new(20, 1_000);
        let price = Price { count: 8, on_credit: false };
        let searches = (0..50).filter(|_| budget.take(AddressHash::new(7), price, Millis::new(0)).taken).count();
        assert_eq!(searches, 3, "the third one leaves a debt");
        assert!(!budget.gives(7, 200), "of four tokens");
        assert!(budget.gives(7, 250));
    }

    #[test]
    fn new_limits_do_not_refill_the_buckets() {
        let mut budget = Budget::new(10, 1_000);
        while budget.gives(7, 0) {}
        budget.set(10, 2_000, Millis::new(0));
        assert!(!budget.gives(7, 0), "only the total has changed");
        budget.set(20, 2_000, Millis::new(0));
        assert_eq!((0..50).filter(|_| budget.gives(7, 0)).count(), 10);
    }

    #[test]
    fn the_total_is_bounded() {
        let mut budget = Budget::new(10, 25);
        let taken = (0..100).filter(|&address| budget.gives(address, 0)).count();
        assert_eq!(taken, 25);
    }

    #[test]
    fn misses_are_forgotten_after_a_second_and_bounded() {
        let mut misses = Misses::default();
        assert!(misses.remember(1, Millis::new(0)));
        assert!(misses.recall(&1, Millis::new(999)));
        assert!(!misses.recall(&1, Millis::new(1_000)));
        for key in 0..MISSES * 2 {
            misses.remember(key, Millis::new(0));
        }
        assert_eq!(misses.until_ms.len(), MISSES);
        assert!(!misses.remember(MISSES * 3, Millis::new(0)), "no room is left");
        assert!(misses.remember(MISSES * 3, Millis::new(2_000)), "old misses were removed");
    }
}
