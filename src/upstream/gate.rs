//! The limit of connections in use to one worker, and the queue before it.
//!
//! A connection is in use from the moment it is wanted for a request until the answer's last byte, and as a tunnel for its
//! whole life; an open poll holds one as well. Idle ones kept for the next request do not count, nor do health checks and
//! probes. Whoever finds the worker full waits in order of arrival, in a queue of bounded length and for a bounded time.
//! Without a limit (the default) this costs one load a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::worker::Worker;
use crate::telemetry::say_full;

/// Stands for no limit: more connections than a machine has ports.
const UNLIMITED: u32 = 1 << 24;

/// The gate before a worker.
#[derive(Debug)]
pub struct Gate {
    /// Connections in use at most, as of the last config.
    limit: AtomicU32,
    /// In use beyond a limit that was lowered: so many that end make no room.
    excess: AtomicU32,
    waiting: AtomicU32,
    /// First come, first served; whoever leaves the queue passes its turn on.
    free: Semaphore,
}

/// A connection in use; the next in the queue gets it when this is dropped.
pub struct Slot(Option<Arc<Worker>>);

/// Why there is no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// So many wait already.
    Queue,
    /// None got free in time.
    TimedOut,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(worker) = &self.0 {
            worker.gate.release();
        }
    }
}

/// One more in the queue.
struct Waiter<'a>(&'a Gate);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            limit: AtomicU32::new(UNLIMITED),
            excess: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            free: Semaphore::new(UNLIMITED as usize),
        }
    }
}

impl Gate {
    /// Takes over the configured limit (one reload at a time). What is in use stays; where there was no limit before, it
    /// was not counted and is not now.
    pub fn set_limit(&self, limit: Option<u32>) {
        let new = limit.unwrap_or(UNLIMITED);
        let old = self.limit.swap(new, Relaxed);
        // Raised: what is in use beyond the old limit is within the new one now.
        let more = new.saturating_sub(old);
        let repaid = self.excess.fetch_update(Relaxed, Relaxed, |excess| Some(excess.saturating_sub(more)));
        let repaid = repaid.unwrap_or_else(|excess| excess).min(more);
        self.free.add_permits((more - repaid) as usize);
        let fewer = old.saturating_sub(new) as usize;
        let excess = fewer - self.free.forget_permits(fewer);
        self.excess.fetch_add(u32::try_from(excess).unwrap_or(u32::MAX), Relaxed);
    }

    /// Nobody would have to wait.
    pub fn is_open(&self) -> bool {
        self.limit.load(Relaxed) == UNLIMITED || self.free.available_permits() > 0
    }

    /// Connections in use; counted only where there is a limit.
    pub fn in_use(&self) -> u32 {
        let free = u32::try_from(self.free.available_permits()).unwrap_or(u32::MAX);
        self.limit.load(Relaxed).saturating_sub(free) + self.excess.load(Relaxed)
    }

    /// Requests that wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }

    fn release(&self) {
        let repaid = self.excess.fetch_update(Relaxed, Relaxed, |excess| excess.checked_sub(1));
        if repaid.is_err() {
            self.free.add_permits(1);
        }
    }

    /// `None`: so many wait already.
    fn queue(&self, length: u32) -> Option<Waiter<'_>> {
        let queued = self.waiting.fetch_update(Relaxed, Relaxed, |waiting| (waiting < length).then_some(waiting + 1));
        queued.is_ok().then(|| Waiter(self))
    }
}

/// A connection's place at `worker`, at once or after its turn in a queue of `length`, for `patience` at most.
///
/// # Errors
/// See [`Full`]; counted and said.
pub async fn enter(worker: &Arc<Worker>, length: u32, patience: Duration) -> Result<Slot, Full> {
    let gate = &worker.gate;
    if gate.limit.load(Relaxed) == UNLIMITED {
        return Ok(Slot(None));
    }
    // Where others wait, what gets free is theirs: this fails then.
    if let Ok(permit) = gate.free.try_acquire() {
        permit.forget();
        return Ok(Slot(Some(worker.clone())));
    }
    // Boxed: the future of a request moves, and few wait.
    Box::pin(wait(worker, length, patience)).await
}

async fn wait(worker: &Arc<Worker>, length: u32, patience: Duration) -> Result<Slot, Full> {
    let Some(_waiter) = worker.gate.queue(length) else {
        worker.series.queue_full.inc();
        say_full!(upstream = %worker.upstream, worker = %worker.name, waiting = length,
            "all connections to a worker are in use, and its queue is full (max_connections, queue)");
        return Err(Full::Queue);
    };
    match tokio::time::timeout(patience, worker.gate.free.acquire()).await {
        Ok(Ok(permit)) => {
            permit.forget();
            worker.series.queue_waited.inc();
            Ok(Slot(Some(worker.clone())))
        }
        // It is never closed.
        Ok(Err(_)) | Err(_) => {
            worker.series.queue_timeouts.inc();
            say_full!(upstream = %worker.upstream, worker = %worker.name,
                "a request waited in vain for a connection to its worker (max_connections, queue_timeout)");
            Err(Full::TimedOut)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::affinity::cookie::WorkerId;
    use crate::config::Address;
    use crate::metrics::Metrics;

    const LONG: Duration = Duration::from_secs(60);

    fn worker(limit: Option<u32>) -> Arc<Worker> {
        let series = Metrics::new().worker("u", "w");
        let worker = Worker::new("u", Address::Unix("/w".into()), "w".to_owned(), WorkerId(1), series);
        worker.gate.set_limit(limit);
        worker
    }

    #[tokio::test]
    async fn who_comes_first_is_served_first_and_who_leaves_passes_its_turn_on() {
        let worker = worker(Some(1));
        let slot = enter(&worker, 3, LONG).await.unwrap();
        assert!(!worker.gate.is_open());
        let mut cx = Context::from_waker(Waker::noop());
        let mut first = Box::pin(enter(&worker, 3, LONG));
        let mut second = pin!(enter(&worker, 3, LONG));
        let mut third = pin!(enter(&worker, 3, LONG));
        assert!(first.as_mut().poll(&mut cx).is_pending());
        assert!(second.as_mut().poll(&mut cx).is_pending());
        assert!(third.as_mut().poll(&mut cx).is_pending());
        assert_eq!(enter(&worker, 3, LONG).await.err(), Some(Full::Queue));
        drop(slot);
        // Its turn, but it has left.
        drop(first);
        assert!(third.as_mut().poll(&mut cx).is_pending(), "not before the second");
        let Poll::Ready(Ok(slot)) = second.as_mut().poll(&mut cx) else { panic!("the second is next") };
        assert_eq!((worker.gate.in_use(), worker.gate.waiting()), (1, 1));
        drop(slot);
        assert!(third.as_mut().poll(&mut cx).is_ready());
        assert_eq!((worker.gate.in_use(), worker.gate.waiting()), (0, 0), "its slot was dropped with it");
        assert!(worker.gate.is_open());
    }

    #[tokio::test]
    async fn a_wait_has_its_end_and_a_larger_limit_ends_it_sooner() {
        let worker = worker(Some(1));
        let _slot = enter(&worker, 3, LONG).await.unwrap();
        assert_eq!(enter(&worker, 3, Duration::from_millis(10)).await.err(), Some(Full::TimedOut));
        assert_eq!(worker.gate.waiting(), 0);
        let waiting = enter(&worker, 3, LONG);
        let (entered, ()) = tokio::join!(waiting, async {
            tokio::task::yield_now().await;
            worker.gate.set_limit(Some(2));
        });
        assert!(entered.is_ok() && worker.gate.in_use() == 2, "{}", worker.gate.in_use());
    }

    #[tokio::test]
    async fn a_smaller_limit_is_reached_as_connections_end() {
        let worker = worker(Some(3));
        let mut slots = Vec::new();
        for _ in 0..3 {
            slots.push(enter(&worker, 0, LONG).await.unwrap());
        }
        worker.gate.set_limit(Some(1));
        assert_eq!(worker.gate.in_use(), 3);
        for left in [2, 1] {
            slots.pop();
            assert_eq!((worker.gate.in_use(), worker.gate.is_open()), (left, false));
            assert_eq!(enter(&worker, 0, LONG).await.err(), Some(Full::Queue));
        }
        slots.pop();
        assert!(worker.gate.is_open());
        worker.gate.set_limit(None);
        worker.gate.set_limit(Some(2));
        assert_eq!((worker.gate.in_use(), worker.gate.free.available_permits()), (0, 2));
    }

    #[tokio::test]
    async fn without_a_limit_nothing_is_counted() {
        let worker = worker(None);
        let _slots = [enter(&worker, 0, LONG).await.unwrap(), enter(&worker, 0, LONG).await.unwrap()];
        assert_eq!((worker.gate.in_use(), worker.gate.is_open()), (0, true));
    }
}
