//! Guards that count what a worker carries: each adds one when it is created and subtracts it when it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::restarts::Loss;
use super::worker::Worker;
use crate::clock::{self, Millis};

/// A guard that counts one item at a worker until it is dropped.
pub struct Count {
    worker: Arc<Worker>,
    which: fn(&Worker) -> &AtomicU32,
}

impl Count {
    /// Returns the worker at which the item is counted.
    pub fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        (self.which)(&self.worker).fetch_sub(1, Relaxed);
    }
}

/// A guard that counts one established connection at its worker.
pub struct Established {
    worker: Arc<Worker>,
    number: u32,
    loss: Loss,
}

impl Established {
    /// Returns the worker at the other end of the connection.
    pub fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }

    /// Reports that the connection ended unexpectedly: the worker may have ended as well.
    pub fn lost(mut self, loss: Loss) {
        self.loss = loss;
    }

    /// Reports that a response came over the connection.
    pub fn spoke(&self, now_ms: Millis) {
        self.worker.answered(now_ms);
        self.worker.life.spoke(self.number, now_ms);
    }
}

impl Drop for Established {
    fn drop(&mut self) {
        let begun = self.worker.life.ended(self.number, self.loss, clock::now_ms());
        self.worker.restarted(begun);
    }
}

/// A guard that counts one session at its worker. It has half the size of a [`Count`], because the pin table holds a
/// million of them.
pub struct SessionSeat(Arc<Worker>);

impl SessionSeat {
    /// Returns the worker at which the session is counted.
    pub fn worker(&self) -> &Arc<Worker> {
        &self.0
    }
}

impl Drop for SessionSeat {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Relaxed);
        self.0.mark_moved();
    }
}

impl Worker {
    /// Counts a session until the returned guard is dropped.
    pub fn session(self: &Arc<Self>) -> SessionSeat {
        self.sessions.fetch_add(1, Relaxed);
        self.mark_moved();
        SessionSeat(self.clone())
    }

    /// Counts a tunnel until the returned guard is dropped.
    pub fn tunnel(self: &Arc<Self>) -> Count {
        self.count(|w| &w.tunnels)
    }

    /// Counts a request until the returned guard is dropped.
    pub fn request(self: &Arc<Self>) -> Count {
        self.count(|w| &w.in_flight)
    }

    /// Counts an established connection until the returned guard is dropped.
    pub fn connection(self: &Arc<Self>) -> Established {
        Established { number: self.life.opened(), worker: self.clone(), loss: Loss::None }
    }

    fn count(self: &Arc<Self>, which: fn(&Self) -> &AtomicU32) -> Count {
        which(self).fetch_add(1, Relaxed);
        Count { worker: self.clone(), which }
    }
}
