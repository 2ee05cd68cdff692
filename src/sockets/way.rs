//! What a socket has carried one way.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

/// What went one way. One writer at a time: a tunnel's own thread, or whoever has the lock of the session's pin. Then a
/// relaxed load and store do; where an upgrade begins while a poll is still open, a count may be lost, and nothing else.
#[derive(Debug, Default)]
pub struct Way {
    bytes: AtomicU64,
    messages: AtomicU64,
    /// The second behind the last of it ([`crate::clock::now_s`]); 0: none yet.
    last_s: AtomicU32,
    /// Of the Close frame; 0: none yet.
    code: AtomicU16,
}

impl Way {
    /// More went this way. The second is never 0: a process has no session in its first.
    #[inline]
    pub fn moved(&self, bytes: u64, messages: u32, now_s: u32) {
        if !super::KEPT {
            return;
        }
        self.bytes.store(self.bytes.load(Relaxed).wrapping_add(bytes), Relaxed);
        if messages > 0 {
            self.messages.store(self.messages.load(Relaxed).wrapping_add(messages.into()), Relaxed);
        }
        self.last_s.store(now_s.saturating_add(1), Relaxed);
    }

    /// A Close frame went this way; 1005: one without a code.
    pub fn close_said(&self, code: u16) {
        self.code.store(code, Relaxed);
    }

    /// Bytes so far: of a tunnel all, of requests and answers their bodies.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Data messages so far; of a polling session bodies.
    pub fn messages(&self) -> u64 {
        self.messages.load(Relaxed)
    }

    /// Seconds ([`crate::clock::now_s`]) of the last of it.
    pub fn last_s(&self) -> Option<u32> {
        self.last_s.load(Relaxed).checked_sub(1)
    }

    /// The code of its Close frame.
    pub fn code(&self) -> Option<u16> {
        Some(self.code.load(Relaxed)).filter(|code| *code != 0)
    }
}
