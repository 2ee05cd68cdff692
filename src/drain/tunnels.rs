//! A data thread's part in a drain: it closes its tunnels to drained workers, evenly over the time left, and wakes the
//! polls that wait there, so that each checks whether its session is due.
//!
//! Runs only while there is something to end; [`start`] checks for it on every tick. The thread's list is walked every
//! `WALK_INTERVAL`; in between, tunnels are closed at the moments [`Spread`] gives, in random order. Left out: what a
//! tunnel sends when it closes (`tunnel::relay`), polling sessions (`super::sessions`).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::spread::Spread;
use crate::clock;
use crate::state::Shared;
use crate::thread::Thread;
use crate::upstream::Upstream;
use crate::upstream::worker::Worker;

/// Interval between two walks over the thread's connections.
const WALK_INTERVAL: Duration = Duration::from_millis(250);

/// A worker whose tunnels on this thread are being closed.
struct DrainingTunnels {
    upstream: Arc<Upstream>,
    worker: Arc<Worker>,
    until_us: u64,
    spread: Spread,
    /// Indices into the thread's list, as of the last walk.
    tunnels: Vec<usize>,
}

/// Starts the closing task if a worker of this thread is being drained and no such task runs yet.
pub(crate) fn start(thread: &Rc<Thread>) {
    if !thread.is_stopping() && is_wanted(&thread.shared) && thread.begin_closing() {
        thread.tasks.spawn_local(run(thread.clone()));
    }
}

/// Whether a worker is being drained. Workers are few, so a check four times a second is cheaper than a notification.
fn is_wanted(shared: &Shared) -> bool {
    shared.snapshot.load().workers().any(|worker| is_under(worker))
}

fn is_under(worker: &Worker) -> bool {
    worker.admin.ends() && (worker.sessions() > 0 || worker.tunnels() > 0 || worker.in_flight() > 0)
}

async fn run(thread: Rc<Thread>) {
    let mut under: Vec<DrainingTunnels> = Vec::new();
    while !thread.is_stopping() {
        follow(&thread, &mut under);
        if under.is_empty() {
            break;
        }
        let walk_again = now_us() + micros(WALK_INTERVAL);
        while let Some(next) = close_due(&thread, &mut under).filter(|next| *next < walk_again) {
            tokio::time::sleep(Duration::from_micros(next.saturating_sub(now_us()))).await;
        }
        tokio::time::sleep(Duration::from_micros(walk_again.saturating_sub(now_us()))).await;
    }
    thread.end_closing();
}

/// Updates the list of drained workers and their tunnels: drains that began or ended, tunnels that came or went.
fn follow(thread: &Thread, under: &mut Vec<DrainingTunnels>) {
    let snapshot = thread.shared.snapshot.load();
    let mut before = std::mem::take(under);
    for upstream in &snapshot.upstreams {
        for worker in upstream.members.iter().map(|member| &member.worker).filter(|worker| is_under(worker)) {
            let Some(until) = worker.admin.ending().and_then(|ending| ending.until_ms) else { continue };
            let until_us = until.get().saturating_mul(1_000);
            let tunnels = thread.tunnels_of(worker.serial);
            let known = before.iter().position(|one| one.worker.serial == worker.serial && one.until_us == until_us);
            under.push(match known.map(|index| before.swap_remove(index)) {
                Some(mut one) => {
                    one.spread.recount(now_us(), tunnels.len(), chance());
                    DrainingTunnels { tunnels, ..one }
                }
                None => {
                    let spread = Spread::new(now_us(), until_us, tunnels.len(), chance());
                    DrainingTunnels { upstream: upstream.clone(), worker: worker.clone(), until_us, spread, tunnels }
                }
            });
            thread.wake_polls_of(worker.serial);
        }
    }
}

/// Closes the tunnels that are due now, and returns when the next one is due.
fn close_due(thread: &Thread, under: &mut [DrainingTunnels]) -> Option<u64> {
    let now = now_us();
    for one in &mut *under {
        while one.spread.next_us().is_some_and(|next| next <= now) {
            one.spread.closed(chance());
            if !one.tunnels.is_empty() {
                let index = one.tunnels.swap_remove(random_index(one.tunnels.len()));
                // A tunnel that ended on its own meanwhile leaves its slot empty.
                if thread.close_tunnel(index, one.worker.serial) {
                    one.upstream.series().drained_tunnels.inc();
                }
            }
        }
    }
    under.iter().filter_map(|one| one.spread.next_us()).min()
}

pub(crate) fn now_us() -> u64 {
    clock::now_us()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[allow(clippy::cast_precision_loss, reason = "53 bits are all the chance a moment needs")]
pub(crate) fn chance() -> f64 {
    (crate::random::u64() >> 11) as f64 / (1u64 << 53) as f64
}

pub(crate) fn random_index(below: usize) -> usize {
    let below = u64::try_from(below).unwrap_or(u64::MAX).max(1);
    usize::try_from(crate::random::u64() % below).unwrap_or(0)
}
