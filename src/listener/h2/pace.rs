//! What all streams of a connection together hand over before its socket has taken it.
//!
//! Windows are the client's to open, all of them as wide as it likes, and h2 holds what every stream was allowed to send: a
//! client that then does not read its socket would have us keep a buffer a stream. [`Pace`] bounds their sum.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

/// Bytes of all streams that wait for the socket (threats §2: a slow reader).
const MOST: usize = 128 * 1024;

/// Bytes on their way, and who waits for room.
#[derive(Default)]
pub(super) struct Pace {
    queued: Cell<usize>,
    waiting: RefCell<Vec<Waker>>,
}

impl Pace {
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
            self.queued.set(0);
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
