//! Limits what all streams of a connection together hand over before its socket has taken it.
//!
//! A client may open its windows as wide as it likes, on all streams, and h2 holds what every stream was allowed to
//! send: a client that then does not read its socket would make us keep one buffer per stream. [`WriteGate`] limits the
//! sum. It also knows whether a stream waits for what all of them wait for: the client is then as fast as all of its
//! streams together (`crate::pace`).

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

use crate::min_rate::HeldUpBy;

/// Maximum bytes of all streams that wait for the socket (docs/reference/threats.md §2.6: a slow reader).
const MOST: usize = 32 * 1024;

/// Send window with which every connection begins, in bytes (RFC 9113 §6.9.2); no SETTINGS changes it.
const WINDOW: i64 = 65_535;

/// Bytes on their way to the socket, and the streams that wait for room.
pub(crate) struct WriteGate {
    queued: Cell<usize>,
    /// Total bytes of DATA handed over by all streams so far.
    handed: Cell<u64>,
    /// Bytes left in the client's window for the whole connection.
    window: Cell<i64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Default for WriteGate {
    fn default() -> Self {
        let (queued, handed, window) = (Cell::default(), Cell::default(), Cell::new(WINDOW));
        Self { queued, handed, window, waiting: RefCell::default() }
    }
}

impl WriteGate {
    /// Returns whether all streams wait together, and the total of bytes that they have handed over.
    pub(crate) fn state(&self) -> (HeldUpBy, u64) {
        let together = self.queued.get() >= MOST || self.window.get() <= 0;
        (if together { HeldUpBy::Together } else { HeldUpBy::Alone }, self.handed.get())
    }

    /// Notes that the client has opened the connection's window by this many bytes.
    pub(crate) fn opened(&self, bytes: u64) {
        self.window.set(self.window.get().saturating_add_unsigned(bytes));
    }

    /// Ready when there is room for more; how much more, the stream's own buffer decides.
    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.queued.get() < MOST {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|one| one.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Notes that a stream has handed over this many bytes.
    pub(crate) fn queued(&self, bytes: usize) {
        self.queued.set(self.queued.get().saturating_add(bytes));
        self.handed.set(self.handed.get().saturating_add(bytes as u64));
        self.window.set(self.window.get().saturating_sub_unsigned(bytes as u64));
    }

    /// Notes that the socket has taken this many bytes, frame headers included.
    pub(crate) fn written(&self, bytes: usize) {
        self.queued.set(self.queued.get().saturating_sub(bytes));
        if self.queued.get() < MOST / 2 {
            self.wake();
        }
    }

    /// Corrects the count once h2 has nothing left to write and the socket has taken everything: bytes still counted
    /// were handed over by streams that were reset.
    pub(crate) fn settle(&self) {
        if self.queued.get() > 0 {
            // Their part of the window is free for other streams.
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
    fn streams_wait_together_for_the_socket_or_the_window() {
        let pace = WriteGate::default();
        for _ in 0..2 {
            pace.queued(30_000);
            assert_eq!(pace.state().0, HeldUpBy::Alone);
            pace.written(30_000);
        }
        pace.queued(5_535);
        assert_eq!(pace.state(), (HeldUpBy::Together, 65_535), "the window");
        pace.opened(1_000_000);
        assert_eq!(pace.state().0, HeldUpBy::Alone);
        pace.queued(MOST);
        assert_eq!(pace.state().0, HeldUpBy::Together, "the socket");
        pace.settle();
        assert_eq!(pace.state().0, HeldUpBy::Alone);
    }

    #[test]
    fn streams_that_wait_for_the_socket_are_woken_once() {
        let (pace, woken) = (WriteGate::default(), Arc::<Woken>::default());
        let waker = Waker::from(woken.clone());
        let cx = Context::from_waker(&waker);
        pace.queued(MOST - 1);
        assert_eq!(pace.poll_room(&cx), Poll::Ready(()));
        pace.queued(1);
        for _ in 0..3 {
            assert_eq!(pace.poll_room(&cx), Poll::Pending);
        }
        pace.written(MOST / 2);
        assert_eq!(woken.0.load(Ordering::SeqCst), 0, "streams are not woken for every byte");
        pace.written(1);
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        pace.queued(MOST);
        assert_eq!(pace.poll_room(&cx), Poll::Pending);
        pace.settle();
        assert_eq!((woken.0.load(Ordering::SeqCst), pace.poll_room(&cx)), (2, Poll::Ready(())));
    }
}
