//! Requests that have waited long at one worker, and the clients that sent them: a page that is slow for one client
//! must not make its worker count as hung.
//!
//! Bounded by the number of requests in flight. The lock is taken only when a request becomes slow and when it ends;
//! the two counts are read at each placement.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::eject::ClientKey;
use super::worker::Worker;
use crate::locks::lock;

/// Number of clients whose requests must be slow at once for the worker to count as hung. A single client easily has
/// two addresses: IPv4 and IPv6.
const SEVERAL: u32 = 3;

/// The slow requests of one worker.
#[derive(Debug, Default)]
pub(crate) struct SlowRequests {
    total: AtomicU32,
    /// Number of entries in `by_client`, to be read without the lock.
    clients: AtomicU32,
    by_client: Mutex<HashMap<ClientKey, u32>>,
}

impl SlowRequests {
    /// Returns the number of slow requests.
    pub(crate) fn total(&self) -> u32 {
        self.total.load(Relaxed)
    }

    /// Returns the number of clients with slow requests.
    pub(crate) fn clients(&self) -> u32 {
        self.clients.load(Relaxed)
    }

    /// Whether requests of several clients are slow at the same time.
    pub(crate) fn are_of_several(&self) -> bool {
        self.clients() >= SEVERAL
    }

    fn add(&self, client: ClientKey) {
        let mut by_client = lock(&self.by_client);
        *by_client.entry(client).or_default() += 1;
        self.clients.store(u32::try_from(by_client.len()).unwrap_or(u32::MAX), Relaxed);
        self.total.fetch_add(1, Relaxed);
    }

    fn remove(&self, client: &ClientKey) {
        let mut by_client = lock(&self.by_client);
        if let Some(count) = by_client.get_mut(client) {
            *count -= 1;
            if *count == 0 {
                by_client.remove(client);
            }
        }
        self.clients.store(u32::try_from(by_client.len()).unwrap_or(u32::MAX), Relaxed);
        self.total.fetch_sub(1, Relaxed);
    }
}

/// A guard that counts one slow request at its worker until it is dropped.
pub(crate) struct SlowRequest {
    worker: Arc<Worker>,
    client: ClientKey,
}

impl Drop for SlowRequest {
    fn drop(&mut self) {
        self.worker.slow.remove(&self.client);
    }
}

impl Worker {
    /// Counts a request of `client` that has waited for longer than [`super::worker::SLOW_MS`] until the returned guard
    /// is dropped.
    pub(crate) fn slow_request(self: &Arc<Self>, client: ClientKey) -> SlowRequest {
        self.slow.add(client);
        SlowRequest { worker: self.clone(), client }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Address;
    use crate::cookie::WorkerId;
    use crate::metrics::Metrics;

    #[test]
    fn slow_requests_of_one_client_do_not_make_a_worker_hung() {
        let series = Metrics::new().worker("app", "w");
        let worker = Worker::new("app", Address::Unix("/w".into()), "w".to_owned(), WorkerId(1), series);
        let mut slow: Vec<_> = (0..50).map(|_| worker.slow_request([1; 16])).collect();
        assert_eq!((worker.slow.total(), worker.slow.clients()), (50, 1));
        assert!(worker.has_slow() && !worker.slow.are_of_several());
        slow.push(worker.slow_request([2; 16]));
        assert!(!worker.slow.are_of_several(), "a client may have two addresses");
        slow.push(worker.slow_request([3; 16]));
        assert!(worker.slow.are_of_several());
        slow.pop();
        assert!(worker.slow.clients() == 2 && !worker.slow.are_of_several());
        slow.clear();
        assert_eq!((worker.slow.total(), worker.slow.clients()), (0, 0));
        assert!(!worker.has_slow() && lock(&worker.slow.by_client).is_empty());
    }
}
