//! Idle connections to workers, one pool a thread and worker.
//!
//! Nobody polls them: they are looked at when one is taken, and by a [`sweep`] with every tick of the thread. Left out: how
//! one is made, and what it carries (`connect`).

use std::time::Duration;

use super::connect::Lease;
use super::worker::Worker;
use crate::clock;
use crate::telemetry::say_full;
use crate::thread::{TICK, Thread};

/// Idle connections kept per thread and worker; more are closed.
const POOL_SIZE: usize = 128;

/// Within this time every thread's [`sweep`] has seen that a worker refuses connects, and closed the dead ones.
pub const FINDS_DEAD: Duration = TICK.saturating_mul(2);

/// Idle connections to one worker; the most recently used last.
#[derive(Default)]
#[allow(clippy::vec_box, reason = "a lease is on loan in its box; out of it, every loan would move a kilobyte twice")]
pub struct Pool(Vec<Box<Lease>>);

impl Pool {
    /// One that lives and has been idle for less than `max_idle_ms`: the freshest.
    pub(super) fn take(&mut self, max_idle_ms: u64, now_ms: u64) -> Option<Box<Lease>> {
        // The last one is the freshest: if it has been idle for too long, so have all.
        while self.0.last().is_some_and(|lease| lease.idle_for(now_ms) < lease.idle_limit_ms().min(max_idle_ms)) {
            let mut lease = self.0.pop()?;
            if lease.alive() {
                return Some(lease);
            }
            lease.found_dead(now_ms);
        }
        None
    }

    /// Keeps one for later; closes it where there is no room.
    pub(super) fn put(&mut self, lease: Box<Lease>, thread: &Thread) {
        if self.0.len() < POOL_SIZE {
            self.0.push(lease);
        } else {
            thread.shared.metrics.pool_full.inc();
            say_full!("more than {POOL_SIZE} idle connections to one worker on one thread: the others are closed");
        }
    }

    /// Closes those that have ended.
    pub(super) fn drop_dead(&mut self, now_ms: u64) {
        for dead in self.0.extract_if(.., |lease| !lease.alive()) {
            dead.found_dead(now_ms);
        }
    }

    /// Whether its longest idle connection has ended: a worker that died has ended them all.
    fn begins_dead(&mut self) -> bool {
        self.0.first_mut().is_some_and(|lease| !lease.alive())
    }

    fn drop_old(&mut self, now_ms: u64) {
        self.0.retain(|lease| lease.idle_for(now_ms) < lease.idle_limit_ms());
    }
}

/// Closes connections that were idle for too long, and the dead ones of workers that may be gone or were restarted: they
/// must not keep a gone worker looking alive. One look a pool and tick tells whether there is a reason for more.
pub fn sweep(thread: &Thread) {
    let now = clock::now_ms();
    thread.waits.tick(now);
    thread.pools.borrow_mut().retain(|_, pool| {
        pool.drop_old(now);
        let has_reason = |worker: &Worker| worker.refuses_connects() || worker.has_losses(now);
        if pool.0.first().is_some_and(|lease| has_reason(lease.worker())) || pool.begins_dead() {
            pool.drop_dead(now);
        }
        !pool.0.is_empty()
    });
}
