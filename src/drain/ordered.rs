//! Sockets an operator has closed: one, or many at once, or many over a time.
//!
//! A tunnel says the Close it is given at its next boundary and ends as in a drain (`tunnel::relay`); a polling session's pin
//! becomes the memory of its end, as in `super::sessions`. Over a time they go one by one, at the moments [`Spread`] gives,
//! in any order. Left out: which sockets are meant, and who may ask.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::closing::{chance, now_us, random_index};
use super::spread::Spread;
use crate::affinity;
use crate::clock;
use crate::sockets::{Id, Order, Socket};
use crate::state::Shared;

/// Closings remembered; the oldest that is over is forgotten for a new one.
const KEPT: usize = 16;

/// Has one socket end; `false`: it is ending already.
pub fn close(shared: &Shared, socket: &Arc<Socket>, order: &Order) -> bool {
    let tunnel = socket.order(order);
    affinity::close(shared, socket) || tunnel
}

/// One order for many sockets.
#[derive(Debug)]
pub struct Closing {
    /// What it is asked about by.
    pub number: u64,
    /// Sockets meant.
    pub matched: usize,
    /// Told to close so far.
    told: AtomicUsize,
    /// Gone by themselves before their turn.
    gone: AtomicUsize,
    /// When the last one is due ([`clock::now_ms`]).
    until_ms: u64,
}

impl Closing {
    /// Told to close so far.
    pub fn told(&self) -> usize {
        self.told.load(Relaxed)
    }

    /// Gone by themselves, or ending already, before their turn came.
    pub fn gone(&self) -> usize {
        self.gone.load(Relaxed)
    }

    /// Those whose turn is still to come.
    pub fn left(&self) -> usize {
        self.matched.saturating_sub(self.told()).saturating_sub(self.gone())
    }

    /// Milliseconds until the last one is due.
    pub fn left_ms(&self) -> u64 {
        self.until_ms.saturating_sub(clock::now_ms())
    }

    fn close(&self, shared: &Shared, socket: Option<&Arc<Socket>>, order: &Order) {
        let told = socket.is_some_and(|socket| close(shared, socket, order));
        (if told { &self.told } else { &self.gone }).fetch_add(1, Relaxed);
    }
}

/// The orders of this process's life that are remembered.
#[derive(Debug, Default)]
pub struct Closings {
    all: Mutex<VecDeque<Arc<Closing>>>,
    last: AtomicU64,
}

impl Closings {
    /// A new order over so long a time; `None`: sixteen others are under way.
    pub fn begin(&self, matched: usize, over: Duration) -> Option<Arc<Closing>> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= KEPT {
            let over = all.iter().position(|one| one.left() == 0)?;
            all.remove(over);
        }
        let over_ms = u64::try_from(over.as_millis()).unwrap_or(u64::MAX);
        let closing = Arc::new(Closing {
            number: self.last.fetch_add(1, Relaxed) + 1,
            matched,
            told: AtomicUsize::new(0),
            gone: AtomicUsize::new(0),
            until_ms: clock::now_ms().saturating_add(over_ms),
        });
        all.push_back(closing.clone());
        Some(closing)
    }

    /// Those remembered, the oldest first.
    pub fn all(&self) -> Vec<Arc<Closing>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// Closes all at once, with a pause for others now and then.
pub async fn at_once(shared: Arc<Shared>, closing: Arc<Closing>, sockets: Vec<Arc<Socket>>, order: Order) {
    for (count, socket) in sockets.iter().enumerate() {
        closing.close(&shared, Some(socket), &order);
        if count % 256 == 255 {
            tokio::task::yield_now().await;
        }
    }
}

/// Closes one after the other until the closing's end. Those that leave meanwhile make the pauses of the others longer.
pub async fn spread(shared: Arc<Shared>, closing: Arc<Closing>, mut sockets: Vec<Id>, order: Order) {
    let until_us = now_us().saturating_add(closing.left_ms().saturating_mul(1_000));
    let mut spread = Spread::new(now_us(), until_us, sockets.len(), chance());
    while let Some(next) = spread.next_us() {
        tokio::time::sleep(Duration::from_micros(next.saturating_sub(now_us()))).await;
        if !sockets.is_empty() {
            let id = sockets.swap_remove(random_index(sockets.len()));
            closing.close(&shared, shared.sockets.get(id).as_ref(), &order);
        }
        spread.closed(chance());
    }
}
