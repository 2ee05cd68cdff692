//! Minimum rates: a client that owes body bytes, or does not take a response that waits for it, must be at least this
//! fast.
//!
//! Requests do not read a clock for this: a [`Transfer`] counts bytes, and the thread's tick charges each transfer that
//! waits for its client one second's worth of bytes. Bytes that a client moved above the rate are kept as its credit
//! (for at most `CREDIT_S`), so that a client on a train in a tunnel is not cut as slow. Waiting for a worker, in
//! either direction, costs nothing.
//!
//! A response is judged by what the kernel takes from us, in pieces of up to a third of its send buffer: a client that
//! reads a few hundred bytes per second, for which a piece lasts longer than its credit, may be cut although it reads
//! at the minimum rate.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

/// Maximum credit for earlier speed, in seconds without any progress.
const CREDIT_S: i64 = 60;

/// Reason why a transfer is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RateVerdict {
    /// The client is below the minimum rate.
    Slow,
    /// The body is larger than the upstream's `max_body`.
    TooLarge,
}

/// What a transfer shares with the others of its connection (HTTP/2), and whether that holds it up.
pub(crate) trait Lane {
    /// Returns what holds the transfer up now, and the total of bytes that the client has moved over what is shared.
    fn state(&self) -> (HeldUpBy, u64);
}

/// What holds a transfer up, and so whose bytes count for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeldUpBy {
    /// Only itself: its own bytes count.
    Alone,
    /// What all transfers share and the client has to move: each of their bytes counts for all.
    Together,
    /// Other transfers, which wait for their workers: it is not the client's turn.
    Excused,
}

/// Rate accounting of one transfer between a client and stickyd.
#[derive(Default)]
pub(crate) struct Transfer {
    lane: Option<Rc<dyn Lane>>,
    /// Bytes moved over the lane up to the last tick.
    over_lane: Cell<u64>,
    waiting: Cell<bool>,
    /// Bytes of this transfer moved since the last tick.
    bytes: Cell<u64>,
    /// All bytes of this transfer.
    total: Cell<u64>,
    /// Credit: bytes by which the transfer is ahead of the minimum rate.
    ahead: Cell<i64>,
    verdict: Cell<Option<RateVerdict>>,
    /// Whether the response to the body that is being sent has begun.
    answering: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Transfer {
    /// Notes that the client has to move now; `waker` is woken on a verdict.
    pub(crate) fn waits(&self, waker: &Waker) {
        self.waiting.set(true);
        let mut slot = self.waker.borrow_mut();
        if !slot.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *slot = Some(waker.clone());
        }
    }

    /// Counts bytes that the client moved; the transfer does not wait for it any more.
    pub(crate) fn moved(&self, bytes: usize) {
        self.waiting.set(false);
        self.bytes.set(self.bytes.get().saturating_add(bytes as u64));
        self.total.set(self.total.get().saturating_add(bytes as u64));
    }

    /// Returns the number of bytes that the client has moved so far.
    pub(crate) fn total(&self) -> u64 {
        self.total.get()
    }

    /// Returns the reason why the transfer was given up, if it was.
    pub(crate) fn verdict(&self) -> Option<RateVerdict> {
        self.verdict.get()
    }

    /// Notes that the response has begun, and so cannot be replaced by another one.
    pub(crate) fn answers(&self) {
        self.answering.set(true);
    }

    /// Returns whether the response has begun.
    pub(crate) fn is_answering(&self) -> bool {
        self.answering.get()
    }

    /// Gives the transfer up and wakes its task.
    pub(crate) fn give_up(&self, verdict: RateVerdict) {
        self.verdict.set(Some(verdict));
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Accounts for one second that has passed; `rate` is not 0.
    fn second(&self, rate: i64) {
        let (held, all) = self.lane.as_ref().map_or((HeldUpBy::Alone, 0), |lane| lane.state());
        let others = all.saturating_sub(self.over_lane.replace(all));
        let own = self.bytes.take();
        let moved = if held == HeldUpBy::Together { own.max(others) } else { own };
        let moved = i64::try_from(moved).unwrap_or(i64::MAX);
        let charge = if self.waiting.get() && held != HeldUpBy::Excused { rate } else { 0 };
        let ahead = self.ahead.get().saturating_add(moved).saturating_sub(charge);
        self.ahead.set(ahead.min(rate.saturating_mul(CREDIT_S)));
        if ahead < 0 && self.verdict.get().is_none() {
            self.give_up(RateVerdict::Slow);
        }
    }
}

/// All transfers of one thread, with the minimum rate that applies to them.
pub struct Transfers {
    rate: Cell<i64>,
    grace: Cell<i64>,
    all: RefCell<slab::Slab<Rc<Transfer>>>,
}

impl Transfers {
    /// Creates an empty list. `rate` is in bytes per second, 0 for no minimum; `grace` is how long each transfer may
    /// move nothing at its beginning.
    pub fn new(rate: u32, grace: Duration) -> Self {
        let new = Self { rate: Cell::default(), grace: Cell::default(), all: RefCell::default() };
        new.set(rate, grace);
        new
    }

    /// Replaces the settings: the rate for all transfers, the grace for those that begin later.
    pub fn set(&self, rate: u32, grace: Duration) {
        let rate = i64::from(rate);
        self.rate.set(rate);
        self.grace.set(rate.saturating_mul(i64::try_from(grace.as_secs()).unwrap_or(i64::MAX)));
    }

    /// Charges the transfers that wait for their clients; called once a second. A thread that was too busy for a tick
    /// charges less, never more.
    pub fn second(&self) {
        let rate = self.rate.get();
        if rate != 0 {
            self.all.borrow().iter().for_each(|(_, pace)| pace.second(rate));
        }
    }
}

/// A transfer on its thread's list, from which dropping this removes it.
pub(crate) struct TransferGuard {
    pace: Rc<Transfer>,
    paces: Rc<Transfers>,
    index: usize,
}

impl TransferGuard {
    /// Begins a transfer; `lane` is what it shares with others.
    pub(crate) fn begin(paces: &Rc<Transfers>, lane: Option<Rc<dyn Lane>>) -> Self {
        let over_lane = lane.as_ref().map_or(0, |lane| lane.state().1);
        let pace = Transfer {
            ahead: Cell::new(paces.grace.get()),
            lane,
            over_lane: Cell::new(over_lane),
            ..Transfer::default()
        };
        let pace = Rc::new(pace);
        let index = paces.all.borrow_mut().insert(pace.clone());
        Self { pace, paces: paces.clone(), index }
    }

    /// Returns the accounting, for tasks that wait for the verdict.
    pub(crate) fn pace(&self) -> &Rc<Transfer> {
        &self.pace
    }
}

impl std::ops::Deref for TransferGuard {
    type Target = Transfer;

    fn deref(&self) -> &Transfer {
        &self.pace
    }
}

impl Drop for TransferGuard {
    fn drop(&mut self) {
        self.paces.all.borrow_mut().try_remove(self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RATE: i64 = 240;

    fn begun() -> Transfer {
        Transfer { ahead: Cell::new(5 * RATE), ..Transfer::default() }
    }

    #[test]
    fn one_byte_per_second_lasts_for_the_grace() {
        let pace = begun();
        let seconds = (1..).find(|_| {
            pace.moved(1);
            pace.waits(Waker::noop());
            pace.second(RATE);
            pace.verdict().is_some()
        });
        assert_eq!((seconds, pace.verdict()), (Some(6), Some(RateVerdict::Slow)));
    }

    #[test]
    fn a_fast_client_may_pause_for_a_minute_and_no_longer() {
        let pace = begun();
        pace.moved(100_000_000);
        pace.second(RATE);
        pace.waits(Waker::noop());
        (0..CREDIT_S).for_each(|_| pace.second(RATE));
        assert_eq!(pace.verdict(), None);
        pace.second(RATE);
        assert_eq!(pace.verdict(), Some(RateVerdict::Slow));
    }

    /// A lane whose state the test sets.
    struct Shared(Cell<(HeldUpBy, u64)>);

    impl Lane for Shared {
        fn state(&self) -> (HeldUpBy, u64) {
            self.0.get()
        }
    }

    fn sharing(held: HeldUpBy) -> (Rc<Shared>, Transfer) {
        let lane = Rc::new(Shared(Cell::new((held, 0))));
        let pace = Transfer { lane: Some(lane.clone()), ..begun() };
        pace.waits(Waker::noop());
        (lane, pace)
    }

    #[test]
    fn shared_bytes_count_only_while_the_lane_is_the_bottleneck() {
        for (held, bytes, is_cut) in [
            (HeldUpBy::Together, 240, false),
            (HeldUpBy::Together, 0, true),
            (HeldUpBy::Alone, 1_000_000, true),
            (HeldUpBy::Excused, 0, false),
        ] {
            let (lane, pace) = sharing(held);
            for _ in 0..100 {
                lane.0.set((held, lane.0.get().1 + bytes));
                pace.second(RATE);
            }
            assert_eq!(pace.verdict().is_some(), is_cut, "{held:?} {bytes}");
        }
    }

    #[test]
    fn bytes_that_others_moved_earlier_give_no_credit() {
        let (lane, pace) = sharing(HeldUpBy::Alone);
        (0..5).for_each(|_| {
            lane.0.set((HeldUpBy::Alone, lane.0.get().1 + 1_000_000));
            pace.second(RATE);
        });
        assert_eq!(pace.verdict(), None);
        lane.0.set((HeldUpBy::Together, lane.0.get().1));
        pace.second(RATE);
        assert_eq!(pace.verdict(), Some(RateVerdict::Slow));
    }

    proptest! {
        #[test]
        fn the_minimum_rate_is_enough(seconds in prop::collection::vec((240_usize..10_000, any::<bool>()), 0..200)) {
            let pace = begun();
            for (bytes, owes) in seconds {
                // A client that is not waited for owes nothing, even if it moves nothing.
                pace.moved(if owes { bytes } else { 0 });
                if owes {
                    pace.waits(Waker::noop());
                }
                pace.second(RATE);
                prop_assert_eq!(pace.verdict(), None);
            }
        }
    }
}
