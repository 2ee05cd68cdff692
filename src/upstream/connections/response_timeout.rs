//! What the exchanges of a thread share: their waits for a response, and two buffers that they use in turn, so that an
//! idle connection owns none.
//!
//! A timer per request would cost an entry in tokio's wheel and a reading of the clock each time. Instead the thread's
//! tick checks all waits, and the time of a wait counts from the first tick that sees it. A wait is therefore never
//! over too early, however busy the thread is, and at most two ticks late.

use std::cell::{Cell, RefCell};
use std::num::NonZeroU64;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use crate::clock::Millis;
use crate::upstream::eject::ClientKey;
use crate::upstream::worker::SLOW_MS;

/// Size in bytes of the shared read buffer; larger reads use a buffer of their own.
pub(crate) const READ_PIECE_BYTES: usize = 16 * 1024;

/// The waits and buffers that all exchanges of a thread share.
pub(crate) struct ResponseWaits {
    all: RefCell<slab::Slab<Rc<Wait>>>,
    /// The buffer that exchanges read into, borrowed for one poll only and never across an await.
    pub(crate) reading: RefCell<Box<[u8]>>,
    /// The buffer that exchanges write from, borrowed for one poll only and never across an await.
    pub(crate) writing: RefCell<Vec<u8>>,
}

/// The wait of one connection for a response, if there is one.
#[derive(Default)]
pub(crate) struct Wait {
    /// Maximum length of the wait in milliseconds; `None` if no exchange waits.
    patience_ms: Cell<Option<NonZeroU64>>,
    /// Time of the first tick that saw the wait; `None` if no tick has.
    seen: Cell<Option<Millis>>,
    /// The client that sent the request, or the last one.
    client: Cell<ClientKey>,
    kind: Cell<WaitKind>,
    stage: Cell<Stage>,
    waker: Cell<Option<Waker>>,
}

/// What the response of a wait depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum WaitKind {
    /// On the worker alone; a long wait means that the worker is slow.
    #[default]
    Worker,
    /// On the client, whose body is still being sent.
    Upload,
    /// On an event: the request is an open poll, which may wait long by design.
    Poll,
}

/// How long a wait has lasted in relation to its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Stage {
    /// The wait has not reached any limit.
    #[default]
    Early,
    /// The wait has lasted longer than [`SLOW_MS`].
    Slow,
    /// The wait has reached its maximum length.
    Over,
}

impl ResponseWaits {
    /// Creates the shared state of a thread on which no exchange waits.
    pub(crate) fn new() -> Rc<Self> {
        let reading = RefCell::new(vec![0; READ_PIECE_BYTES].into_boxed_slice());
        Rc::new(Self { all: RefCell::default(), reading, writing: RefCell::default() })
    }

    /// Checks all waits; called at every tick of the thread.
    pub(crate) fn tick(&self, now_ms: Millis) {
        self.all.borrow().iter().for_each(|(_, wait)| wait.tick(now_ms));
    }
}

impl Wait {
    /// Begins a wait of at most `patience` for the response to a request of `client`. A wait for the worker alone
    /// becomes [`Stage::Slow`] after [`SLOW_MS`].
    pub(crate) fn begin(&self, client: ClientKey, patience: Duration, kind: WaitKind) {
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        self.patience_ms.set(Some(NonZeroU64::new(patience_ms).unwrap_or(NonZeroU64::MIN)));
        self.seen.set(None);
        self.client.set(client);
        self.kind.set(kind);
        self.stage.set(Stage::Early);
    }

    /// Restarts the time of the wait from zero.
    pub(crate) fn again(&self) {
        self.seen.set(None);
        self.stage.set(Stage::Early);
    }

    /// Ends the wait, as no exchange waits any more.
    pub(crate) fn end(&self) {
        self.patience_ms.set(None);
        self.waker.set(None);
    }

    /// Returns the client of the present request, or of the last one.
    pub(crate) fn client(&self) -> ClientKey {
        self.client.get()
    }

    /// Returns what the response depends on.
    pub(crate) fn kind(&self) -> WaitKind {
        self.kind.get()
    }

    /// Returns the stage of the wait; `waker` is woken when the stage changes.
    pub(crate) fn stage(&self, waker: &Waker) -> Stage {
        let known = self.waker.take().filter(|known| known.will_wake(waker));
        self.waker.set(Some(known.unwrap_or_else(|| waker.clone())));
        self.stage.get()
    }

    /// Returns how long the wait has lasted in milliseconds, without the time before the first tick that saw it.
    pub(crate) fn lasted_ms(&self, now_ms: Millis) -> u64 {
        self.seen.get().map_or(0, |seen| now_ms.since(seen))
    }

    fn tick(&self, now_ms: Millis) {
        let Some(patience) = self.patience_ms.get() else { return };
        let Some(seen) = self.seen.get() else { return self.seen.set(Some(now_ms)) };
        let lasted = now_ms.since(seen);
        let stage = match () {
            () if lasted >= patience.get() => Stage::Over,
            () if lasted >= SLOW_MS && self.kind.get() == WaitKind::Worker => Stage::Slow,
            () => Stage::Early,
        };
        if stage != self.stage.replace(stage)
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }
}

/// The registration of a connection among the waits of its thread, until this is dropped.
pub(crate) struct ResponseWait {
    wait: Rc<Wait>,
    waits: Rc<ResponseWaits>,
    index: usize,
}

impl ResponseWait {
    /// Registers a connection that does not wait yet.
    pub(crate) fn new(waits: &Rc<ResponseWaits>) -> Self {
        let wait = Rc::new(Wait::default());
        let index = waits.all.borrow_mut().insert(wait.clone());
        Self { wait, waits: waits.clone(), index }
    }

    /// Returns the state that the exchanges of the thread share.
    pub(crate) fn waits(&self) -> &Rc<ResponseWaits> {
        &self.waits
    }
}

impl std::ops::Deref for ResponseWait {
    type Target = Wait;

    fn deref(&self) -> &Wait {
        &self.wait
    }
}

impl Drop for ResponseWait {
    fn drop(&mut self) {
        self.waits.all.borrow_mut().try_remove(self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_wait_becomes_slow_then_over_and_can_restart() {
        let waits = ResponseWaits::new();
        let wait = ResponseWait::new(&waits);
        wait.begin([1; 16], Duration::from_secs(30), WaitKind::Worker);
        let after = |now_ms| {
            waits.tick(Millis::new(now_ms));
            wait.stage(Waker::noop())
        };
        assert_eq!([1_000, 2_999, 3_000].map(after), [Stage::Early, Stage::Early, Stage::Slow]);
        wait.again();
        assert_eq!([20_000, 49_999, 50_000].map(after), [Stage::Early, Stage::Slow, Stage::Over]);
        wait.begin([1; 16], Duration::from_secs(1), WaitKind::Worker);
        assert_eq!([0, 999, 1_001].map(after), [Stage::Early, Stage::Early, Stage::Over], "over before it is slow");
        wait.end();
        waits.tick(Millis::new(90_000));
        drop(wait);
        assert!(waits.all.borrow().is_empty());
    }

    proptest! {
        #[test]
        fn no_wait_is_over_too_early_or_much_too_late(
            patience in 1_u64..100_000, began in 0_u64..1_000, pauses in prop::collection::vec(1_u64..5_000, 1..200),
        ) {
            let (waits, mut now) = (ResponseWaits::new(), began);
            let wait = ResponseWait::new(&waits);
            wait.begin([1; 16], Duration::from_millis(patience), WaitKind::Poll);
            let mut before = [began, began];
            for pause in pauses {
                now += pause;
                waits.tick(Millis::new(now));
                if wait.stage(Waker::noop()) == Stage::Over {
                    prop_assert!(now - began >= patience, "early");
                    break;
                }
                before = [before[1], now];
                // It is not over at this tick, so it has lasted less than its patience since the first tick.
                prop_assert!(wait.lasted_ms(Millis::new(now)) < patience, "late");
            }
        }
    }
}
