//! Token buckets, and a bounded table of them by key. Pure: time is an argument.
//!
//! A bucket is one number, the moment at which it is full again: taking a token moves that moment on by the time in
//! which one token comes back (the generic cell rate algorithm, ATM Forum TM 4.0). A full bucket contains no
//! information, so it may be dropped.
//!
//! The table is eight-way set-associative: a key, which its creator hashes under a secret, belongs to one set of eight.
//! A new key in a full set takes the place of its fullest bucket, which loses the least information: an address cannot
//! regain spent tokens by flooding the table, and no address is refused because of others. Memory is fixed (16 bytes
//! per bucket), and no operation walks the whole table.

use std::time::Duration;

use crate::clock::Millis;

/// Number of buckets in one set.
const WAYS: usize = 8;

/// How fast tokens come back, and how many a bucket holds at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenRate {
    every_ns: u64,
    burst: u64,
}

impl TokenRate {
    /// Creates a rate of `count` tokens in each `per`, with at most `burst` tokens kept. Zeros count as one.
    pub(crate) fn new(count: u32, per: Duration, burst: u32) -> Self {
        let per_ns = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX);
        Self { every_ns: (per_ns / u64::from(count.max(1))).max(1), burst: u64::from(burst.max(1)) }
    }

    /// Creates a rate of `count` tokens per second, with at most one second's worth kept.
    pub(crate) fn per_second(count: u32) -> Self {
        Self::new(count, Duration::from_secs(1), count)
    }
}

/// What has to be paid in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Price {
    /// Number of tokens that are taken.
    pub count: u32,
    /// Whether a debt as large as the bucket counts as empty: something that was begun can then be ended before others
    /// begin.
    pub on_credit: bool,
}

impl Price {
    /// The usual price: one token.
    pub(crate) const ONE: Self = Self { count: 1, on_credit: false };
}

/// One token bucket; the default is a full one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bucket {
    full_at_ns: u64,
}

impl Bucket {
    /// Returns the time until a token is available; `None` if one is available now.
    pub(crate) fn wait(&self, rate: TokenRate, price: Price, now_ms: Millis) -> Option<Duration> {
        let now = nanoseconds(now_ms);
        let then = self.full_at_ns.max(now).saturating_add(rate.every_ns);
        let tokens = if price.on_credit { rate.burst.saturating_mul(2) } else { rate.burst };
        let latest = now.saturating_add(rate.every_ns.saturating_mul(tokens));
        (then > latest).then(|| Duration::from_nanos(then - latest))
    }

    /// Pays a price, if a token is available; the other tokens may become a debt, so that a price above the size of the
    /// bucket can be paid at all.
    ///
    /// # Errors
    /// The time until a token is available.
    pub(crate) fn take(&mut self, rate: TokenRate, price: Price, now_ms: Millis) -> Result<(), Duration> {
        match self.wait(rate, price, now_ms) {
            Some(wait) => Err(wait),
            None => {
                let price_ns = rate.every_ns.saturating_mul(price.count.into());
                self.full_at_ns = self.full_at_ns.max(nanoseconds(now_ms)).saturating_add(price_ns);
                Ok(())
            }
        }
    }

    /// Puts `count` tokens back.
    pub(crate) fn give_back(&mut self, rate: TokenRate, count: u32) {
        self.full_at_ns = self.full_at_ns.saturating_sub(rate.every_ns.saturating_mul(count.into()));
    }

    /// Keeps the number of tokens that are missing when the rate changes from `old` to `new`.
    pub(crate) fn change_rate(&mut self, old: TokenRate, new: TokenRate, now_ms: Millis) {
        let now_ns = nanoseconds(now_ms);
        let missing = self.full_at_ns.saturating_sub(now_ns).div_ceil(old.every_ns);
        if missing > 0 {
            self.full_at_ns = now_ns.saturating_add(missing.saturating_mul(new.every_ns));
        }
    }
}

fn nanoseconds(time: Millis) -> u64 {
    time.get().saturating_mul(1_000_000)
}

/// A bucket and its key. An unused slot has a full bucket.
#[derive(Clone, Copy, Default)]
struct BucketSlot {
    key: u64,
    bucket: Bucket,
}

/// A bounded table of buckets that share a rate.
pub(crate) struct Buckets {
    rate: TokenRate,
    slots: Vec<BucketSlot>,
}

/// Result of taking a token from a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BucketTake {
    /// Time until a token is available; `None` if one was taken.
    pub wait: Option<Duration>,
    /// Whether the bucket of another key was dropped although it was not full: the table is too small for the number of
    /// keys.
    pub crowded: bool,
}

impl Buckets {
    /// Creates a table of `count` full buckets, rounded up to whole sets.
    pub(crate) fn new(rate: TokenRate, count: usize) -> Self {
        Self { rate, slots: vec![BucketSlot::default(); count.max(1).next_multiple_of(WAYS)] }
    }

    /// Sets a new rate. What each key has spent stays spent.
    pub(crate) fn set_rate(&mut self, rate: TokenRate, now_ms: Millis) {
        let old = std::mem::replace(&mut self.rate, rate);
        for slot in &mut self.slots {
            slot.bucket.change_rate(old, rate, now_ms);
        }
    }

    /// Takes a token of `key`, which must be a hash that outsiders cannot predict.
    pub(crate) fn take(&mut self, key: u64, now_ms: Millis) -> BucketTake {
        self.pay(key, Price::ONE, now_ms)
    }

    /// Pays a price with tokens of `key`; see [`Bucket::take`].
    pub(crate) fn pay(&mut self, key: u64, price: Price, now_ms: Millis) -> BucketTake {
        let rate = self.rate;
        let now = nanoseconds(now_ms);
        let set = self.set(key);
        if let Some(slot) = set.iter_mut().find(|slot| slot.key == key) {
            return BucketTake { wait: slot.bucket.take(rate, price, now_ms).err(), crowded: false };
        }
        let Some(slot) = set.iter_mut().min_by_key(|slot| slot.bucket.full_at_ns) else {
            return BucketTake { wait: None, crowded: true };
        };
        let crowded = slot.bucket.full_at_ns > now;
        *slot = BucketSlot { key, bucket: Bucket::default() };
        BucketTake { wait: slot.bucket.take(rate, price, now_ms).err(), crowded }
    }

    /// Puts `count` tokens of `key` back. A key whose bucket was dropped has a full one anyway.
    pub(crate) fn give_back(&mut self, key: u64, count: u32) {
        let rate = self.rate;
        if let Some(slot) = self.set(key).iter_mut().find(|slot| slot.key == key) {
            slot.bucket.give_back(rate, count);
        }
    }

    fn set(&mut self, key: u64) -> &mut [BucketSlot] {
        let sets = (self.slots.len() / WAYS) as u64;
        // The set is chosen by the upper half of the hash, because callers may shard by the lower half.
        let set = usize::try_from(((key >> 32) * sets) >> 32).unwrap_or(0);
        self.slots.chunks_exact_mut(WAYS).nth(set).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Spreads numbers as the hashes of real keys are spread.
    fn hash(n: u64) -> u64 {
        (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }

    proptest! {
        /// In any window, no more tokens are taken than the burst and those that come back in it; and after the
        /// reported wait a token is available.
        #[test]
        fn the_rate_is_never_exceeded(
            count in 1_u32..2_000, per_s in 1_u64..100, burst in 1_u32..300,
            steps in prop::collection::vec(0_u64..400, 1..400),
        ) {
            let rate = TokenRate::new(count, Duration::from_secs(per_s), burst);
            let mut buckets = Buckets::new(rate, 8);
            let (mut now, mut taken) = (1_000, Vec::new());
            for step in steps {
                now += step;
                match buckets.take(hash(1), Millis::new(now)).wait {
                    None => taken.push(now),
                    Some(wait) => {
                        prop_assert!(wait > Duration::ZERO && wait <= Duration::from_secs(per_s));
                        let after = now + u64::try_from(wait.as_millis()).unwrap() + 1;
                        let set = buckets.set(hash(1));
                        let slot = *set.iter().find(|slot| slot.key == hash(1)).unwrap();
                        prop_assert_eq!(slot.bucket.wait(rate, Price::ONE, Millis::new(after)), None);
                    }
                }
            }
            for (i, first) in taken.iter().enumerate() {
                for (more, last) in taken.iter().enumerate().skip(i) {
                    // Because of rounding, a token comes back at most 1 ns early.
                    let back = (last - first) as f64 / 1_000.0 * f64::from(count) / per_s as f64 * 1.001;
                    prop_assert!((more - i + 1) as f64 <= f64::from(burst) + back + 1e-6);
                }
            }
        }

        /// A key that has spent its tokens stays known, however many other keys come and spend a token each.
        #[test]
        fn other_keys_do_not_displace_a_spent_bucket(others in prop::collection::vec(any::<u64>(), 0..4_000)) {
            let mut buckets = Buckets::new(TokenRate::new(5, Duration::from_secs(60), 5), 64);
            while buckets.take(hash(0), Millis::new(10)).wait.is_none() {}
            for other in others {
                buckets.take(hash(other >> 1 | 2), Millis::new(20));
            }
            prop_assert!(buckets.take(hash(0), Millis::new(20)).wait.is_some());
        }
    }

    #[test]
    fn no_key_is_refused_because_of_others() {
        let mut buckets = Buckets::new(TokenRate::new(2, Duration::from_secs(60), 2), 64);
        let crowded = (0..10_000).filter(|n| {
            let taken = buckets.take(hash(*n), Millis::new(0));
            assert_eq!(taken.wait, None, "{n}");
            taken.crowded
        });
        assert!(crowded.count() >= 9_000, "crowding is reported");
        assert_eq!(buckets.slots.len(), 64);
    }

    fn price(count: u32) -> Price {
        Price { count, on_credit: false }
    }

    #[test]
    fn a_debt_as_large_as_the_bucket_is_credit() {
        let mut buckets = Buckets::new(TokenRate::per_second(10), 8);
        assert_eq!(buckets.pay(7, price(10), Millis::new(0)).wait, None);
        assert!(buckets.pay(7, price(1), Millis::new(0)).wait.is_some());
        let on_credit = Price { count: 4, on_credit: true };
        let paid = (0..9).filter(|_| buckets.pay(7, on_credit, Millis::new(0)).wait.is_none()).count();
        assert_eq!(paid, 3, "until the debt is as large as the bucket");
        assert!(buckets.pay(7, price(1), Millis::new(1_200)).wait.is_some(), "a debt of twelve tokens");
        assert!(buckets.pay(7, price(1), Millis::new(1_300)).wait.is_none());
    }

    #[test]
    fn a_debt_is_paid_before_the_next_token() {
        let mut buckets = Buckets::new(TokenRate::per_second(10), 8);
        assert_eq!(buckets.pay(7, price(25), Millis::new(0)).wait, None, "more than the bucket holds");
        assert_eq!(buckets.take(7, Millis::new(0)).wait, Some(Duration::from_millis(1_600)));
        assert_eq!(buckets.take(7, Millis::new(1_599)).wait, Some(Duration::from_millis(1)));
        assert_eq!(buckets.take(7, Millis::new(1_600)).wait, None);
        buckets.give_back(7, 25);
        assert_eq!(buckets.pay(7, price(9), Millis::new(1_600)).wait, None);
    }

    #[test]
    fn a_new_rate_keeps_what_was_spent() {
        let mut buckets = Buckets::new(TokenRate::per_second(10), 8);
        assert_eq!(buckets.pay(7, price(10), Millis::new(0)).wait, None);
        buckets.set_rate(TokenRate::per_second(20), Millis::new(0));
        let taken = (0..50).filter(|_| buckets.take(7, Millis::new(0)).wait.is_none()).count();
        assert_eq!(taken, 10, "ten of twenty were spent before");
        let full = (0..50).filter(|_| buckets.take(8, Millis::new(0)).wait.is_none()).count();
        assert_eq!(full, 20);
    }

    #[test]
    fn a_returned_token_is_available_within_the_burst() {
        let mut buckets = Buckets::new(TokenRate::per_second(3), 8);
        for _ in 0..3 {
            assert_eq!(buckets.take(7, Millis::new(0)).wait, None);
        }
        assert_eq!(buckets.take(7, Millis::new(0)).wait, Some(Duration::from_nanos(333_333_333)));
        buckets.give_back(7, 1);
        assert_eq!(buckets.take(7, Millis::new(0)).wait, None);
        for _ in 0..50 {
            buckets.give_back(7, 1);
        }
        assert_eq!((0..50).filter(|_| buckets.take(7, Millis::new(5_000)).wait.is_none()).count(), 3);
    }
}
