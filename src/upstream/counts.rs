//! What a worker carries, as guards: each counts while it lives and undoes itself when it goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::life::Loss;
use super::worker::Worker;
use crate::clock;

/// A count that undoes itself.
pub struct Count {
    worker: Arc<Worker>,
    which: fn(&Worker) -> &AtomicU32,
}

impl Count {
    /// The worker counted.
    pub fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        (self.which)(&self.worker).fetch_sub(1, Relaxed);
    }
}

/// An established connection's place in its worker's count.
pub struct Established {
    worker: Arc<Worker>,
    number: u32,
    loss: Loss,
}

impl Established {
    /// The worker it leads to.
    pub fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }

    /// It has ended, and nothing had called for that: perhaps its worker has, too.
    pub fn lost(mut self, loss: Loss) {
        self.loss = loss;
    }

    /// An answer came over it.
    pub fn spoke(&self, now_ms: u64) {
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

/// A session's place in its worker's count. A [`Count`] in half the room: the pin table holds a million of them.
pub struct Session(Arc<Worker>);

impl Session {
    /// The worker counted.
    pub fn worker(&self) -> &Arc<Worker> {
        &self.0
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Relaxed);
    }
}

impl Worker {
    /// Counts a session until the guard goes.
    pub fn session(self: &Arc<Self>) -> Session {
        self.sessions.fetch_add(1, Relaxed);
        Session(self.clone())
    }

    /// Counts a tunnel until the guard goes.
    pub fn tunnel(self: &Arc<Self>) -> Count {
        self.count(|w| &w.tunnels)
    }

    /// Counts a request until the guard goes.
    pub fn request(self: &Arc<Self>) -> Count {
        self.count(|w| &w.in_flight)
    }

    /// Counts an established connection until the guard goes.
    pub fn connection(self: &Arc<Self>) -> Established {
        Established { number: self.life.opened(), worker: self.clone(), loss: Loss::None }
    }

    /// Counts a request that waits for longer than [`super::worker::SLOW_MS`] until the guard goes.
    pub fn slow_request(self: &Arc<Self>) -> Count {
        self.count(|w| &w.slow)
    }

    fn count(self: &Arc<Self>, which: fn(&Self) -> &AtomicU32) -> Count {
        which(self).fetch_add(1, Relaxed);
        Count { worker: self.clone(), which }
    }
}
