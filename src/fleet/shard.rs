//! One Redis of the fleet as all threads see it: what waits for it, how it does, and whether requests may wait for it.
//!
//! While its circuit is open, requests do not wait. Left out: the connection (`driver`).

mod driver;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::circuit::Circuit;
use super::queue::Queue;
use crate::locks::lock;
pub(crate) use driver::Driver;

/// Number of latencies kept for the percentiles.
const LATENCIES: usize = 512;

/// State of one Redis, for operators.
#[derive(Debug, Clone, Default)]
pub(crate) struct ShardHealth {
    /// Word of a closed set: `up`, `slow`, `open`, `connecting`, or the kind of the error.
    pub(crate) state: &'static str,
    /// Last error in words, with what to do.
    pub(crate) error: Option<String>,
    /// Number of keys that the Redis has evicted since its start, as of the last look; `None` before the first one.
    pub(crate) evicted: Option<u64>,
    /// Latencies of batches in microseconds, the newest overwriting the oldest.
    latencies: Vec<u32>,
    next: usize,
}

impl ShardHealth {
    fn took(&mut self, time: Duration) {
        let us = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        match self.latencies.get_mut(self.next) {
            Some(place) => *place = us,
            None => self.latencies.push(us),
        }
        self.next = (self.next + 1) % LATENCIES;
    }

    /// Latency that this share of the recent batches did not exceed, in milliseconds.
    pub(crate) fn latency_ms(&self, percent: usize) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let place = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        sorted.get(place).map_or(0.0, |us| f64::from(*us) / 1_000.0)
    }
}

/// One Redis as all threads see it.
pub(crate) struct Shard {
    /// Address, shown without credentials.
    pub(crate) shown: String,
    pub(crate) user: Option<String>,
    pub(crate) queue: Mutex<Queue>,
    pub(crate) health: Mutex<ShardHealth>,
    wake: Notify,
    /// Whether requests may wait for it: there is a connection, and the circuit is closed.
    usable: AtomicBool,
    circuit: Mutex<Circuit>,
}

impl Shard {
    pub(crate) fn new(shown: String, user: Option<String>) -> Self {
        let health = ShardHealth { state: "connecting", ..ShardHealth::default() };
        Self {
            shown,
            user,
            queue: Mutex::default(),
            health: Mutex::new(health),
            wake: Notify::new(),
            usable: AtomicBool::new(false),
            circuit: Mutex::default(),
        }
    }

    pub(crate) fn is_usable(&self) -> bool {
        self.usable.load(Relaxed)
    }

    /// Changes the queue, and wakes the fleet's thread if it may be asleep.
    pub(crate) fn add<R>(&self, change: impl FnOnce(&mut Queue) -> R) -> R {
        let (changed, was_empty) = {
            let mut queue = lock(&self.queue);
            let was_empty = queue.is_empty();
            (change(&mut queue), was_empty)
        };
        // A wake-up costs a system call; of many changes only the first one pays it.
        if was_empty {
            self.wake.notify_one();
        }
        changed
    }

    /// Counts a use of this Redis: whether a request or a batch got its reply in time.
    pub(crate) fn used(&self, failed: bool) {
        if lock(&self.circuit).count(failed, Instant::now()) && self.usable.swap(false, Relaxed) {
            let mut health = lock(&self.health);
            // A refused right is the reason, and says more.
            if health.state != "auth" {
                health.state = "open";
            }
            drop(health);
            tracing::warn!(redis = %self.shown, "the fleet's Redis does not answer in time: requests go on without it");
            self.wake.notify_one();
        }
    }
}
