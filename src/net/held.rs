//! The amount of response data held for one client connection that carries many responses (HTTP/2).
//!
//! Each response is read at its client's pace, one piece at a time; but a client may request a hundred responses and
//! read none. Once a few full pieces are held, all responses are read in small pieces, so that a connection holds about
//! `FULL` + streams × `SMALL` instead of one full piece per stream. No response is blocked by the others. What counts
//! as held is decided in `listener::h2::send`.
//!
//! Response heads are not subject to the client's windows: they wait only for its socket, until they are written. While
//! many do, no further head is read from a worker.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

/// Number of held bytes from which on pieces are small: two large pieces (docs/reference/threats.md §2.6: 128 KB per
/// connection, including what is in flight).
const FULL: usize = 64 * 1024;

/// Size of a small piece in bytes. Most response heads fit, and a client that reads what it requested still gets at
/// least a third of the speed.
const SMALL: usize = 4 * 1024;

/// Number of bytes of response heads that may wait for the socket before another head is read: as many as the bodies of
/// all streams together (docs/reference/threats.md §2.6).
const HEADS: usize = 32 * 1024;

/// Number of bytes that were read from workers and not yet taken by the client of one connection.
#[derive(Debug, Default)]
pub struct UnsentBytes {
    /// Number of bytes of bodies.
    bodies: Cell<usize>,
    heads: Cell<UnsentHeads>,
    /// Tasks that wait to read a head.
    waiting: RefCell<Vec<Waker>>,
}

/// Response heads that wait for the socket.
#[derive(Debug, Default, Clone, Copy)]
struct UnsentHeads {
    count: usize,
    bytes: usize,
}

impl UnsentBytes {
    /// Adds bytes that were read and wait for the client.
    pub fn more(&self, bytes: usize) {
        self.bodies.set(self.bodies.get().saturating_add(bytes));
    }

    /// Subtracts bytes that no longer wait for the client.
    pub fn less(&self, bytes: usize) {
        self.bodies.set(self.bodies.get().saturating_sub(bytes));
    }

    /// Ready when a response's head may be read.
    pub(crate) fn poll_head_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.heads.get().bytes < HEADS {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|one| one.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Notes that a head of this size, or trailers, waits for the socket.
    pub(crate) fn head_waits(&self, bytes: usize) {
        let UnsentHeads { count, bytes: before } = self.heads.get();
        self.heads.set(UnsentHeads { count: count.saturating_add(1), bytes: before.saturating_add(bytes) });
    }

    /// Notes that one head was written. Which one is not known, so that it counts as one of average size.
    pub(crate) fn head_written(&self) {
        let UnsentHeads { count, bytes } = self.heads.get();
        let Some(one) = bytes.checked_div(count) else { return };
        self.set_heads(UnsentHeads { count: count - 1, bytes: bytes - one });
    }

    /// Notes that no head waits any more: those still counted were of streams that were reset.
    pub(crate) fn all_heads_written(&self) {
        self.set_heads(UnsentHeads::default());
    }

    fn set_heads(&self, heads: UnsentHeads) {
        self.heads.set(heads);
        if heads.bytes < HEADS {
            self.waiting.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Returns how many bytes to read at once, at most `most`: fewer while much is held.
    pub(crate) fn piece(&self, most: usize) -> usize {
        if self.bodies.get() < FULL { most } else { most.min(SMALL) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_small_while_much_is_held() {
        let held = UnsentBytes::default();
        held.more(FULL - 1);
        assert_eq!(held.piece(100_000), 100_000);
        held.more(1);
        assert_eq!((held.piece(100_000), held.piece(10)), (SMALL, 10));
        held.less(1);
        assert_eq!(held.piece(100_000), 100_000);
    }

    #[test]
    fn heads_wait_until_others_are_written() {
        let held = UnsentBytes::default();
        let room = || held.poll_head_room(&Context::from_waker(Waker::noop())).is_ready();
        held.head_waits(HEADS - 1);
        assert!(room());
        held.head_waits(HEADS + 1);
        assert!(!room());
        held.head_written();
        assert!(!room(), "one of average size is left");
        held.head_written();
        held.head_written();
        assert!(room());
        held.head_waits(HEADS);
        held.all_heads_written();
        assert!(room());
    }
}
