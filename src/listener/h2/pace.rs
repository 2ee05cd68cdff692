//! What all streams of a connection together hand over before its socket has taken it.
//!
//! Windows are the client's to open, all of them as wide as it likes, and h2 holds what every stream was allowed to send: a
//! client that then does not read its socket would have us keep a buffer a stream. [`Pace`] bounds their sum, and knows
//! whether a stream that waits does so for all of them: then its client is as fast as all of it is (`crate::pace`).

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

use crate::pace::Held;

/// Bytes of all streams that wait for the socket (threats §2: a slow reader).
const MOST: usize = 32 * 1024;

/// The window every connection begins with (RFC 9113 §6.9.2); no SETTINGS changes it.
const WINDOW: i64 = 65_535;

/// Bytes on their way, and who waits for room.
pub(super) struct Pace {
    queued: Cell<usize>,
    /// DATA handed over, ever.
    handed: Cell<u64>,
    /// What the client's window for all of it has left.
    window: Cell<i64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Default for Pace {
    fn default() -> Self {
        let (queued, handed, window) = (Cell::default(), Cell::default(), Cell::new(WINDOW));
        Self { queued, handed, window, waiting: RefCell::default() }
    }
}

impl Pace {
    /// Whether all streams wait together, and what they have handed over.
    pub(super) fn state(&self) -> (Held, u64) {
        let together = self.queued.get() >= MOST || self.window.get() <= 0;
        (if together { Held::Together } else { Held::Alone }, self.handed.get())
    }

    /// The client has opened the connection's window.
    pub(super) fn opened(&self, bytes: u64) {
        self.window.set(self.window.get().saturating_add_unsigned(bytes));
    }

    /// Ready when there is room for more; how much is the stream's buffer to say.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.queued.get() < MOST {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|one| one.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// A stream has handed over this many bytes.
    pub(super) fn queued(&self, bytes: usize) {
        self.queued.set(self.queued.get().saturating_add(bytes));
        self.handed.set(self.handed.get().saturating_add(bytes as u64));
        self.window.set(self.window.get().saturating_sub_unsigned(bytes as u64));
    }

    /// The socket took this many, frame heads included.
    pub(super) fn written(&self, bytes: usize) {
        self.queued.set(self.queued.get().saturating_sub(bytes));
        if self.queued.get() < MOST / 2 {
            self.wake();
        }
    }

    /// h2 has done all it can, and the socket has it all: what is still counted was handed over by streams that were reset.
    pub(super) fn settle(&self) {
        if self.queued.get() > 0 {
            // Their part of the window goes to others.
            self.opened(self.queued.take() as u64);
            self.wake();
        }
    }

    fn wake(&self) {
        for one in self.waiting.take() {
            one.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn all_wait_together_for_the_socket_and_for_the_connections_window() {
        let pace = Pace::default();
        for _ in 0..2 {
            pace.queued(30_000);
            assert_eq!(pace.state().0, Held::Alone);
            pace.written(30_000);
        }
        pace.queued(5_535);
        assert_eq!(pace.state(), (Held::Together, 65_535), "the window");
        pace.opened(1_000_000);
        assert_eq!(pace.state().0, Held::Alone);
        pace.queued(MOST);
        assert_eq!(pace.state().0, Held::Together, "the socket");
        pace.settle();
        assert_eq!(pace.state().0, Held::Alone);
    }

    #[test]
    fn streams_wait_while_the_socket_takes_nothing_and_are_woken_once() {
        let (pace, woken) = (Pace::default(), Arc::<Woken>::default());
        let waker = Waker::from(woken.clone());
        let cx = Context::from_waker(&waker);
        pace.queued(MOST - 1);
        assert_eq!(pace.poll_room(&cx), Poll::Ready(()));
        pace.queued(1);
        for _ in 0..3 {
            assert_eq!(pace.poll_room(&cx), Poll::Pending);
        }
        pace.written(MOST / 2);
        assert_eq!(woken.0.load(Ordering::SeqCst), 0, "not for every byte");
        pace.written(1);
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        pace.queued(MOST);
        assert_eq!(pace.poll_room(&cx), Poll::Pending);
        pace.settle();
        assert_eq!((woken.0.load(Ordering::SeqCst), pace.poll_room(&cx)), (2, Poll::Ready(())));
    }
}
