//! Traffic that a socket has carried in one direction.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU16, AtomicU64};

use crate::clock::{AtomicSeconds, Seconds};

/// Traffic in one direction. There is one writer at a time: the tunnel's own thread, or the thread that has the lock of
/// the session's pin. Relaxed loads and stores are then enough; if an upgrade begins while a poll is still open, a
/// count may be lost, and nothing else.
#[derive(Debug, Default)]
pub struct Traffic {
    bytes: AtomicU64,
    messages: AtomicU64,
    /// Time of the last traffic, if there was any.
    last: AtomicSeconds,
    /// Code of the Close frame; 0 if there was none yet.
    code: AtomicU16,
}

impl Traffic {
    /// Counts bytes and messages that passed at this second ([`crate::clock::now_s`]).
    #[inline]
    pub fn moved(&self, bytes: u64, messages: u32, now_s: Seconds) {
        if !super::KEPT {
            return;
        }
        self.bytes.store(self.bytes.load(Relaxed).wrapping_add(bytes), Relaxed);
        if messages > 0 {
            self.messages.store(self.messages.load(Relaxed).wrapping_add(messages.into()), Relaxed);
        }
        self.last.set(now_s);
    }

    /// Records a Close frame in this direction; the code is 1005 if the frame had none.
    pub fn close_said(&self, code: u16) {
        self.code.store(code, Relaxed);
    }

    /// Number of bytes so far: all bytes of a tunnel, or the bodies of requests and responses.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Number of data messages so far; for a polling session, of bodies.
    pub fn messages(&self) -> u64 {
        self.messages.load(Relaxed)
    }

    /// Second of the last traffic ([`crate::clock::now_s`]); `None` if there was none yet.
    pub fn last_s(&self) -> Option<Seconds> {
        self.last.get()
    }

    /// Code of the Close frame, if there was one.
    pub fn code(&self) -> Option<u16> {
        Some(self.code.load(Relaxed)).filter(|code| *code != 0)
    }
}
