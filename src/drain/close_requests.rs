//! Sockets that an operator closes: one, many at once, or many spread over a period.
//!
//! A tunnel sends the given Close frame at its next frame boundary and ends as in a drain (`tunnel::relay`). A polling
//! session's pin turns into the record of its end, as in `super::sessions`. Over a period they are closed one by one,
//! at the moments [`Spread`] gives, in random order. Left out: which sockets are selected, and authorization.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::spread::Spread;
use super::tunnels::{chance, now_us, random_index};
use crate::clock::{self, Millis};
use crate::locks::lock;
use crate::sockets::{CloseOrder, Id, Socket};
use crate::state::Shared;

/// Number of closings remembered; a new one replaces the oldest that is complete.
const KEPT: usize = 16;

/// Closes one socket; returns `false` if it is ending already.
pub(crate) fn close(shared: &Shared, socket: &Arc<Socket>, order: &CloseOrder) -> bool {
    let tunnel = socket.order(order);
    shared.sessions.close(socket) || tunnel
}

/// One closing: an operator's order to close a set of sockets.
#[derive(Debug)]
pub(crate) struct Closing {
    /// Number of the closing, by which it is queried.
    pub number: u64,
    /// Number of sockets selected.
    pub matched: usize,
    /// Number of sockets ordered to close so far.
    told: AtomicUsize,
    /// Number of sockets that ended on their own before their turn.
    gone: AtomicUsize,
    /// Time at which the last socket is due ([`clock::now_ms`]).
    until_ms: Millis,
}

impl Closing {
    /// Number of sockets ordered to close so far.
    pub(crate) fn told(&self) -> usize {
        self.told.load(Relaxed)
    }

    /// Number of sockets that had ended on their own, or were ending already, before their turn came.
    pub(crate) fn gone(&self) -> usize {
        self.gone.load(Relaxed)
    }

    /// Number of sockets whose turn is still to come.
    pub(crate) fn left(&self) -> usize {
        self.matched.saturating_sub(self.told()).saturating_sub(self.gone())
    }

    /// Milliseconds until the last socket is due.
    pub(crate) fn left_ms(&self) -> u64 {
        self.until_ms.since(clock::now_ms())
    }

    fn close(&self, shared: &Shared, socket: Option<&Arc<Socket>>, order: &CloseOrder) {
        let told = socket.is_some_and(|socket| close(shared, socket, order));
        (if told { &self.told } else { &self.gone }).fetch_add(1, Relaxed);
    }
}

/// The most recent closings of this process, running or complete.
#[derive(Debug, Default)]
pub(crate) struct Closings {
    all: Mutex<VecDeque<Arc<Closing>>>,
    last: AtomicU64,
}

impl Closings {
    /// Registers a closing that lasts `over`; returns `None` if sixteen others are under way.
    pub(crate) fn begin(&self, matched: usize, over: Duration) -> Option<Arc<Closing>> {
        let mut all = lock(&self.all);
        if all.len() >= KEPT {
            let over = all.iter().position(|one| one.left() == 0)?;
            all.remove(over);
        }
        let closing = Arc::new(Closing {
            number: self.last.fetch_add(1, Relaxed) + 1,
            matched,
            told: AtomicUsize::new(0),
            gone: AtomicUsize::new(0),
            until_ms: clock::now_ms().saturating_add(over),
        });
        all.push_back(closing.clone());
        Some(closing)
    }

    /// Returns the remembered closings, the oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Closing>> {
        lock(&self.all).iter().cloned().collect()
    }
}

/// Closes all sockets at once, yielding to other tasks now and then.
pub(crate) async fn at_once(shared: Arc<Shared>, closing: Arc<Closing>, sockets: Vec<Arc<Socket>>, order: CloseOrder) {
    for (count, socket) in sockets.iter().enumerate() {
        closing.close(&shared, Some(socket), &order);
        if count % 256 == 255 {
            tokio::task::yield_now().await;
        }
    }
}

/// Closes the sockets one after the other until the closing's end. Each socket that ends on its own leaves its slot
/// empty.
pub(crate) async fn spread(shared: Arc<Shared>, closing: Arc<Closing>, mut sockets: Vec<Id>, order: CloseOrder) {
    let until_us = now_us().saturating_add(closing.left_ms().saturating_mul(1_000));
    let mut spread = Spread::new(now_us(), until_us, sockets.len(), chance());
    while let Some(next) = spread.next_us() {
        tokio::time::sleep(Duration::from_micros(next.saturating_sub(now_us()))).await;
        if !sockets.is_empty() {
            let id = sockets.swap_remove(random_index(sockets.len()));
            closing.close(&shared, shared.sessions.sockets.get(id).as_ref(), &order);
        }
        spread.closed(chance());
    }
}
