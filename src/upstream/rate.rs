//! The live `rate` limits of a route (per client address) and of an upstream (all clients together): token buckets
//! under locks. Left out: which requests they apply to (`guard`).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clock::Millis;
use crate::config::guards::{self, Rates};
use crate::keys::AddressHash;
use crate::locks::lock;
use crate::rate_limit::{BucketTake, Buckets, Price, TokenRate};
use crate::telemetry::say_full;

/// The live rate limits of a route (per client address) or of an upstream (in total).
pub struct RateLimits {
    rates: Rates,
    requests: Option<SharedBuckets>,
    handshakes: Option<SharedBuckets>,
}

/// One rate limit: token buckets in locked shards. A lock is never held across an await.
struct SharedBuckets(Box<[Mutex<Buckets>]>);

impl RateLimits {
    /// Creates the total limits of an upstream, or `None` if it has none. The previous counts are kept if the rates are
    /// the same.
    pub fn follow(rates: Rates, before: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        let same = before.filter(|before| before.rates == rates).cloned();
        same.or_else(|| (rates != Rates::default()).then(|| Arc::new(Self::new(rates, 1, 1))))
    }

    pub(crate) fn new(rates: Rates, shards: usize, buckets: usize) -> Self {
        let limit = |rate: guards::ConfiguredRate| {
            let rate = TokenRate::new(rate.count, rate.per, rate.burst);
            SharedBuckets((0..shards).map(|_| Mutex::new(Buckets::new(rate, buckets / shards))).collect())
        };
        Self { rates, requests: rates.requests.map(limit), handshakes: rates.handshakes.map(limit) }
    }

    /// Takes the tokens of requests and handshakes that were made elsewhere.
    pub(crate) fn charge(&self, user: AddressHash, [requests, handshakes]: [u32; 2], now_ms: Millis) {
        for (limit, count) in [(&self.requests, requests), (&self.handshakes, handshakes)] {
            if let Some(limit) = limit.as_ref().filter(|_| count > 0) {
                limit.charge(user, count, now_ms);
            }
        }
    }

    /// Takes the tokens that the request costs; the handshake's token first, because it is the scarcer one.
    pub(crate) fn take(
        &self,
        address: AddressHash,
        handshake: bool,
        now_ms: Millis,
    ) -> Result<(), (RateKind, Duration)> {
        let limits = [
            (RateKind::Handshakes, self.handshakes.as_ref().filter(|_| handshake)),
            (RateKind::Requests, self.requests.as_ref()),
        ];
        for (what, limit) in limits {
            if let Some(wait) = limit.and_then(|limit| limit.take(address, now_ms)) {
                return Err((what, wait));
            }
        }
        Ok(())
    }
}

/// Which of the two limits was reached.
#[derive(Clone, Copy)]
pub(crate) enum RateKind {
    Requests,
    Handshakes,
}

impl SharedBuckets {
    /// Takes tokens even if there are none: up to a debt as large as the bucket, more is not charged.
    fn charge(&self, user: AddressHash, count: u32, now_ms: Millis) {
        let shard = usize::try_from(user.get() % self.0.len().max(1) as u64).unwrap_or(0);
        if let Some(shard) = self.0.get(shard) {
            let _ = lock(shard).pay(user.get(), Price { count, on_credit: true }, now_ms);
        }
    }

    fn take(&self, address: AddressHash, now_ms: Millis) -> Option<Duration> {
        let shard = usize::try_from(address.get() % self.0.len().max(1) as u64).unwrap_or(0);
        let mut buckets = lock(self.0.get(shard)?);
        let BucketTake { wait, crowded } = buckets.take(address.get(), now_ms);
        drop(buckets);
        if crowded {
            say_full!(
                addresses = ADDRESSES,
                "rate limit table is full: addresses with the fewest recent requests are forgotten"
            );
        }
        wait
    }
}

/// Client addresses that one rate limit tracks at once, 16 bytes each. Beyond that, the addresses with the fewest
/// recent requests are forgotten.
pub(crate) const ADDRESSES: usize = 16_384;

/// Number of locks per table, so that threads rarely wait for each other.
pub(crate) const SHARDS: usize = 16;
