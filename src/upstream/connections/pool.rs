//! Idle connections to workers, one pool per thread and worker.
//!
//! No task polls idle connections: they are checked when one is taken, and by a [`sweep`] at every tick of the thread.
//! How a connection is made and what it carries is not part of this module (see `connect`).

use std::time::Duration;

use super::WorkerConnections;
use super::connect::Lease;
use super::own;
use crate::clock::Millis;
use crate::metrics::Metrics;
use crate::telemetry::say_full;
use crate::upstream::worker::Worker;

/// Interval at which idle limits and idle pools are checked.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// Maximum number of idle connections kept per thread and worker; further ones are closed.
const POOL_SIZE: usize = 128;

/// Time within which the [`sweep`] of every thread has noticed that a worker refuses connects, and has closed the dead
/// connections to it.
pub(crate) const FINDS_DEAD: Duration = TICK.saturating_mul(2);

/// Idle connections to one worker; the most recently used one is last.
#[derive(Default)]
#[allow(clippy::vec_box, reason = "a lease is lent in its box; without it, every loan would move a kilobyte twice")]
pub(crate) struct IdlePool(Vec<Box<Lease>>);

impl IdlePool {
    /// Takes the most recently used connection that is alive and was idle for less than `max_idle_ms`.
    pub(crate) fn take(&mut self, max_idle_ms: u64, now_ms: Millis) -> Option<Box<Lease>> {
        // The last one was used most recently: if it has been idle for too long, so have all others.
        while self.0.last().is_some_and(|lease| lease.idle_for(now_ms) < lease.idle_limit_ms().min(max_idle_ms)) {
            let mut lease = self.0.pop()?;
            if lease.check_alive() {
                return Some(lease);
            }
            lease.found_dead(now_ms);
        }
        None
    }

    /// Keeps a connection for later, or closes it if the pool is full.
    pub(crate) fn put(&mut self, lease: Box<Lease>, metrics: &Metrics) {
        if self.0.len() < POOL_SIZE {
            self.0.push(lease);
        } else {
            metrics.pool_full.inc();
            say_full!(upstream = %lease.worker().upstream, worker = %lease.worker().name, limit = POOL_SIZE,
                "idle connection to worker closed: the pool of this thread is full");
        }
    }

    /// Closes the connections that have ended.
    pub(crate) fn drop_dead(&mut self, now_ms: Millis) {
        for dead in self.0.extract_if(.., |lease| !lease.check_alive()) {
            dead.found_dead(now_ms);
        }
    }

    /// Whether the connection that has been idle for longest has ended: a worker that died has ended all of them.
    fn check_first_dead(&mut self) -> bool {
        self.0.first_mut().is_some_and(|lease| !lease.check_alive())
    }

    fn drop_old(&mut self, now_ms: Millis) {
        self.0.retain(|lease| lease.idle_for(now_ms) < lease.idle_limit_ms());
    }
}

/// Closes connections that were idle for too long, and dead ones of workers that may be gone or were restarted, because
/// they would keep a gone worker looking alive. One check per pool and tick decides whether all of its connections are
/// checked.
pub(crate) fn sweep(connections: &WorkerConnections, now: Millis) {
    own::sweep(&mut connections.own.borrow_mut(), now);
    connections.pools.borrow_mut().retain(|_, pool| {
        pool.drop_old(now);
        let has_reason = |worker: &Worker| worker.refuses_connects() || worker.has_losses(now);
        if pool.0.first().is_some_and(|lease| has_reason(lease.worker())) || pool.check_first_dead() {
            pool.drop_dead(now);
        }
        !pool.0.is_empty()
    });
}
