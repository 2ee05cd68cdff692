//! The limit on connections in use to one worker, and the queue of requests that wait for a free one.
//!
//! A connection is in use from the moment a request needs it until the last byte of the response; as a tunnel, for its
//! whole life. An open poll holds a connection as well, and so does a probe of discovery, which never waits for one.
//! Idle connections in a pool do not count, nor do health checks. Requests that find the worker full wait in order of
//! arrival, in a queue of bounded length and for a bounded time. Without a limit, which is the default, this costs one
//! load per request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::telemetry::say_full;
use crate::upstream::worker::Worker;

/// The value that stands for no limit: more connections than a machine has ports.
const UNLIMITED: u32 = 1 << 24;

/// The gate in front of one worker, with its limit and queue.
#[derive(Debug)]
pub struct ConnectionGate {
    /// Maximum number of connections in use, from the current configuration.
    limit: AtomicU32,
    /// Number of connections in use beyond a limit that was lowered. As many must end before a slot becomes free.
    excess: AtomicU32,
    waiting: AtomicU32,
    /// The free slots, given out in order of arrival; a request that leaves the queue passes its turn on.
    free: Semaphore,
}

/// A place among the connections in use. The next request in the queue gets it when it is dropped.
pub struct ConnectionSlot(Option<Arc<Worker>>);

/// Why a request got no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoConnection {
    /// The queue of waiting requests is full.
    Queue,
    /// No slot became free in time.
    TimedOut,
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        if let Some(worker) = &self.0 {
            let was_open = worker.gate.is_open();
            worker.gate.release();
            if !was_open {
                worker.mark_moved();
            }
        }
    }
}

/// A place in the queue, which is given up when this is dropped.
struct Waiter<'a>(&'a ConnectionGate);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

impl Default for ConnectionGate {
    fn default() -> Self {
        Self {
            limit: AtomicU32::new(UNLIMITED),
            excess: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            free: Semaphore::new(UNLIMITED as usize),
        }
    }
}

impl ConnectionGate {
    /// Sets the configured limit; reloads must not call this concurrently. Connections in use stay. Those that were
    /// opened without a limit were not counted, and are not counted now.
    pub fn set_limit(&self, limit: Option<u32>) {
        let new = limit.unwrap_or(UNLIMITED);
        let old = self.limit.swap(new, Relaxed);
        // The limit was raised: connections in use beyond the old limit are now within the new one.
        let more = new.saturating_sub(old);
        let repaid = self.excess.fetch_update(Relaxed, Relaxed, |excess| Some(excess.saturating_sub(more)));
        let repaid = repaid.unwrap_or_else(|excess| excess).min(more);
        self.free.add_permits((more - repaid) as usize);
        let fewer = old.saturating_sub(new) as usize;
        let excess = fewer - self.free.forget_permits(fewer);
        self.excess.fetch_add(u32::try_from(excess).unwrap_or(u32::MAX), Relaxed);
    }

    /// Whether a request would get a slot without waiting.
    pub fn is_open(&self) -> bool {
        self.limit.load(Relaxed) == UNLIMITED || self.free.available_permits() > 0
    }

    /// Returns the number of connections in use, which are counted only if there is a limit.
    pub fn in_use(&self) -> u32 {
        let free = u32::try_from(self.free.available_permits()).unwrap_or(u32::MAX);
        self.limit.load(Relaxed).saturating_sub(free) + self.excess.load(Relaxed)
    }

    /// Returns the number of requests that wait for a slot.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }

    fn release(&self) {
        let repaid = self.excess.fetch_update(Relaxed, Relaxed, |excess| excess.checked_sub(1));
        if repaid.is_err() {
            self.free.add_permits(1);
        }
    }

    /// Joins the queue; `None` if it has `length` requests already.
    fn queue(&self, length: u32) -> Option<Waiter<'_>> {
        let queued = self.waiting.fetch_update(Relaxed, Relaxed, |waiting| (waiting < length).then_some(waiting + 1));
        queued.is_ok().then(|| Waiter(self))
    }
}

/// Takes a slot at `worker`, at once or after waiting in a queue of at most `length` requests for at most `patience`.
///
/// # Errors
/// See [`NoConnection`]; each failure is counted and logged.
pub(crate) async fn enter(
    worker: &Arc<Worker>,
    length: u32,
    patience: Duration,
) -> Result<ConnectionSlot, NoConnection> {
    let gate = &worker.gate;
    if gate.limit.load(Relaxed) == UNLIMITED {
        return Ok(ConnectionSlot(None));
    }
    // This fails while others wait, because free slots go to them first.
    if let Ok(permit) = gate.free.try_acquire() {
        permit.forget();
        if !gate.is_open() {
            worker.mark_moved();
        }
        return Ok(ConnectionSlot(Some(worker.clone())));
    }
    // Boxed, because the future of a request is moved and few requests wait.
    Box::pin(wait(worker, length, patience)).await
}

/// Takes a slot at `worker` if one is free and no request waits for it.
pub(crate) fn try_enter(worker: &Arc<Worker>) -> Option<ConnectionSlot> {
    let gate = &worker.gate;
    if gate.limit.load(Relaxed) == UNLIMITED {
        return Some(ConnectionSlot(None));
    }
    let permit = gate.free.try_acquire().ok()?;
    permit.forget();
    Some(ConnectionSlot(Some(worker.clone())))
}

async fn wait(worker: &Arc<Worker>, length: u32, patience: Duration) -> Result<ConnectionSlot, NoConnection> {
    let Some(_waiter) = worker.gate.queue(length) else {
        worker.series.queue_full.inc();
        say_full!(upstream = %worker.upstream, worker = %worker.name, waiting = length,
            "request rejected: the worker's connections are in use and its queue is full (max_connections, queue)");
        return Err(NoConnection::Queue);
    };
    match tokio::time::timeout(patience, worker.gate.free.acquire()).await {
        Ok(Ok(permit)) => {
            permit.forget();
            worker.series.queue_waited.inc();
            Ok(ConnectionSlot(Some(worker.clone())))
        }
        // The semaphore is never closed, so this is the time-out.
        Ok(Err(_)) | Err(_) => {
            worker.series.queue_timeouts.inc();
            say_full!(upstream = %worker.upstream, worker = %worker.name,
                "request timed out waiting for a free connection to its worker (max_connections, queue_timeout)");
            Err(NoConnection::TimedOut)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::config::Address;
    use crate::cookie::WorkerId;
    use crate::metrics::Metrics;

    const LONG: Duration = Duration::from_secs(60);

    fn worker(limit: Option<u32>) -> Arc<Worker> {
        let series = Metrics::new().worker("u", "w");
        let worker = Worker::new("u", Address::Unix("/w".into()), "w".to_owned(), WorkerId(1), series);
        worker.gate.set_limit(limit);
        worker
    }

    #[tokio::test]
    async fn requests_are_served_in_order_and_leaving_passes_the_turn() {
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
        assert_eq!(enter(&worker, 3, LONG).await.err(), Some(NoConnection::Queue));
        drop(slot);
        // The first request has its turn now, but leaves.
        drop(first);
        assert!(third.as_mut().poll(&mut cx).is_pending(), "the second is served first");
        let Poll::Ready(Ok(slot)) = second.as_mut().poll(&mut cx) else { panic!("the second has its turn") };
        assert_eq!((worker.gate.in_use(), worker.gate.waiting()), (1, 1));
        drop(slot);
        assert!(third.as_mut().poll(&mut cx).is_ready());
        assert_eq!((worker.gate.in_use(), worker.gate.waiting()), (0, 0), "its slot was dropped with the result");
        assert!(worker.gate.is_open());
    }

    #[tokio::test]
    async fn a_wait_times_out_and_a_larger_limit_ends_it() {
        let worker = worker(Some(1));
        let _slot = enter(&worker, 3, LONG).await.unwrap();
        assert_eq!(enter(&worker, 3, Duration::from_millis(10)).await.err(), Some(NoConnection::TimedOut));
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
            assert_eq!(enter(&worker, 0, LONG).await.err(), Some(NoConnection::Queue));
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
