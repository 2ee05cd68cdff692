//! Minimum rates: a client that owes body bytes, or does not take an answer that waits for it, has to be this fast.
//!
//! Nothing of it is on the clock of a request: a [`Pace`] counts bytes, and the thread's tick charges those that wait for
//! their client one second's worth each. What a client moved beyond the rate is kept for it (for as long as `CREDIT_S`),
//! so that a train in a tunnel is no slow client. Waiting for a worker, in either direction, costs nothing.
//!
//! An answer is judged by what the kernel takes from us, which it does in lumps of up to a third of its send buffer: a reader
//! of a few hundred bytes a second, for which a lump lasts longer than the credit, may be cut though it is at the minimum.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use crate::thread::Thread;

/// Seconds of nothing that earlier speed can pay for at most.
const CREDIT_S: i64 = 60;

/// Why a transfer is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Below the minimum rate.
    Slow,
    /// A body over the upstream's `max_body`.
    TooLarge,
}

/// What a transfer shares with others of its connection (HTTP/2), and whether that is what holds it up.
pub trait Lane {
    /// As of now.
    fn state(&self) -> (Held, u64);
}

/// By what a transfer is held up; beside it, the bytes the client moved over what is shared, ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// By itself: its own bytes count.
    Alone,
    /// By what all of them share and their client has to move: each of their bytes counts for all.
    Together,
    /// By others, which wait for their workers: it is not the client's turn.
    Excused,
}

/// One transfer between a client and us.
#[derive(Default)]
pub struct Pace {
    lane: Option<Rc<dyn Lane>>,
    /// Moved over the lane up to the last tick.
    over_lane: Cell<u64>,
    waiting: Cell<bool>,
    /// Moved since the last tick.
    bytes: Cell<u64>,
    /// Bytes it is ahead of the minimum.
    ahead: Cell<i64>,
    verdict: Cell<Option<Verdict>>,
    /// The answer to what is sent has begun.
    answering: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Pace {
    /// The client has to move now; `waker` is told of a verdict.
    pub fn waits(&self, waker: &Waker) {
        self.waiting.set(true);
        let mut slot = self.waker.borrow_mut();
        if !slot.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *slot = Some(waker.clone());
        }
    }

    /// The client moved so many bytes; it is not waited for any more.
    pub fn moved(&self, bytes: usize) {
        self.waiting.set(false);
        self.bytes.set(self.bytes.get().saturating_add(bytes as u64));
    }

    /// What has become of it.
    pub fn verdict(&self) -> Option<Verdict> {
        self.verdict.get()
    }

    /// The answer begins, and cannot be another any more.
    pub fn answers(&self) {
        self.answering.set(true);
    }

    /// Whether it has begun.
    pub fn is_answering(&self) -> bool {
        self.answering.get()
    }

    /// It is given up.
    pub fn give_up(&self, verdict: Verdict) {
        self.verdict.set(Some(verdict));
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// A second has passed; `rate` is not 0.
    fn second(&self, rate: i64) {
        let (held, all) = self.lane.as_ref().map_or((Held::Alone, 0), |lane| lane.state());
        let others = all.saturating_sub(self.over_lane.replace(all));
        let own = self.bytes.take();
        let moved = if held == Held::Together { own.max(others) } else { own };
        let moved = i64::try_from(moved).unwrap_or(i64::MAX);
        let charge = if self.waiting.get() && held != Held::Excused { rate } else { 0 };
        let ahead = self.ahead.get().saturating_add(moved).saturating_sub(charge);
        self.ahead.set(ahead.min(rate.saturating_mul(CREDIT_S)));
        if ahead < 0 && self.verdict.get().is_none() {
            self.give_up(Verdict::Slow);
        }
    }
}

/// The transfers of a thread.
pub struct Paces {
    rate: Cell<i64>,
    grace: Cell<i64>,
    all: RefCell<slab::Slab<Rc<Pace>>>,
}

impl Paces {
    /// `rate` in bytes a second, 0 for none; `grace`: what each transfer begins with.
    pub fn new(rate: u32, grace: Duration) -> Self {
        let new = Self { rate: Cell::default(), grace: Cell::default(), all: RefCell::default() };
        new.set(rate, grace);
        new
    }

    /// The same from now on: the rate for all there are, the grace for those that begin.
    pub fn set(&self, rate: u32, grace: Duration) {
        let rate = i64::from(rate);
        self.rate.set(rate);
        self.grace.set(rate.saturating_mul(i64::try_from(grace.as_secs()).unwrap_or(i64::MAX)));
    }

    /// Charges what waits for its client; once a second. A thread that was too busy for a tick charges less, never more.
    pub fn second(&self) {
        let rate = self.rate.get();
        if rate != 0 {
            self.all.borrow().iter().for_each(|(_, pace)| pace.second(rate));
        }
    }
}

/// A transfer on its thread's list, until it is dropped.
pub struct Paced {
    pace: Rc<Pace>,
    thread: Rc<Thread>,
    index: usize,
}

impl Paced {
    /// A transfer begins; `lane`: what it shares with others.
    pub fn begin(thread: &Rc<Thread>, lane: Option<Rc<dyn Lane>>) -> Self {
        let over_lane = lane.as_ref().map_or(0, |lane| lane.state().1);
        let pace = Pace {
            ahead: Cell::new(thread.paces.grace.get()),
            lane,
            over_lane: Cell::new(over_lane),
            ..Pace::default()
        };
        let pace = Rc::new(pace);
        let index = thread.paces.all.borrow_mut().insert(pace.clone());
        Self { pace, thread: thread.clone(), index }
    }

    /// For who waits for the verdict.
    pub fn pace(&self) -> &Rc<Pace> {
        &self.pace
    }
}

impl std::ops::Deref for Paced {
    type Target = Pace;

    fn deref(&self) -> &Pace {
        &self.pace
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.thread.paces.all.borrow_mut().try_remove(self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RATE: i64 = 240;

    fn begun() -> Pace {
        Pace { ahead: Cell::new(5 * RATE), ..Pace::default() }
    }

    #[test]
    fn one_byte_a_second_lasts_for_the_grace() {
        let pace = begun();
        let seconds = (1..).find(|_| {
            pace.moved(1);
            pace.waits(Waker::noop());
            pace.second(RATE);
            pace.verdict().is_some()
        });
        assert_eq!((seconds, pace.verdict()), (Some(6), Some(Verdict::Slow)));
    }

    #[test]
    fn who_was_fast_may_stop_for_a_minute_and_no_longer() {
        let pace = begun();
        pace.moved(100_000_000);
        pace.second(RATE);
        pace.waits(Waker::noop());
        (0..CREDIT_S).for_each(|_| pace.second(RATE));
        assert_eq!(pace.verdict(), None);
        pace.second(RATE);
        assert_eq!(pace.verdict(), Some(Verdict::Slow));
    }

    /// A lane in this state.
    struct Shared(Cell<(Held, u64)>);

    impl Lane for Shared {
        fn state(&self) -> (Held, u64) {
            self.0.get()
        }
    }

    fn sharing(held: Held) -> (Rc<Shared>, Pace) {
        let lane = Rc::new(Shared(Cell::new((held, 0))));
        let pace = Pace { lane: Some(lane.clone()), ..begun() };
        pace.waits(Waker::noop());
        (lane, pace)
    }

    #[test]
    fn what_all_move_counts_for_each_only_while_what_they_share_holds_them_up() {
        for (held, bytes, is_cut) in [
            (Held::Together, 240, false),
            (Held::Together, 0, true),
            (Held::Alone, 1_000_000, true),
            (Held::Excused, 0, false),
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
    fn what_others_moved_before_is_no_credit() {
        let (lane, pace) = sharing(Held::Alone);
        (0..5).for_each(|_| {
            lane.0.set((Held::Alone, lane.0.get().1 + 1_000_000));
            pace.second(RATE);
        });
        assert_eq!(pace.verdict(), None);
        lane.0.set((Held::Together, lane.0.get().1));
        pace.second(RATE);
        assert_eq!(pace.verdict(), Some(Verdict::Slow));
    }

    proptest! {
        #[test]
        fn at_the_minimum_or_while_nobody_waits_none_is_cut(seconds in prop::collection::vec((240_usize..10_000, any::<bool>()), 0..200)) {
            let pace = begun();
            for (bytes, owes) in seconds {
                // Who is not waited for owes nothing, even if it moves nothing.
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
