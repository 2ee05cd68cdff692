//! What the pin table holds of a session: its worker, and what an operator's drain has to know of it.
//!
//! An operator may end a session (invariant 2). Its pin stays then, without a worker, until the session could not have lived
//! on: what asks for it is refused, and not looked for at the worker that still knows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::clock;
use crate::sockets::{End, Listed};
use crate::upstream::ending::Slot;
use crate::upstream::worker::Worker;

/// What the pin table holds of a session; dropping it takes the session off its worker's count, and off the list of sockets.
pub struct Pin {
    /// `None`: an operator ended it.
    session: Option<Listed>,
    /// Seconds, for the warning about workers that refuse what they just made.
    born_s: u32,
    /// Seconds a tunnel of this session may be silent; 18 hours at most, 0: not known.
    pub(super) ttl_s: u16,
    /// Requests that found it, up to 127; and whether it has a tunnel.
    uses: AtomicU8,
    /// Its place in the time of its worker's drain.
    pub slot: Slot,
}

/// In `uses`: a tunnel is open.
const TUNNEL: u8 = 0x80;

/// A session refused within its first requests and seconds was never known where it went: later its worker may have
/// ended it.
const FRESH_REQUESTS: u8 = 3;
const FRESH_SECONDS: u32 = 10;

/// What a request needs to know of the pin it found.
pub(super) struct Used {
    /// `None`: an operator ended it.
    pub(super) worker: Option<Arc<Worker>>,
    pub(super) ttl_s: u32,
    pub(super) slot: Slot,
    pub(super) has_tunnel: bool,
}

impl Pin {
    pub(super) fn new(session: Listed, ttl_s: u16, slot: Slot) -> Self {
        Self { session: Some(session), born_s: clock::now_s(), ttl_s, uses: AtomicU8::new(0), slot }
    }

    /// For one more request.
    pub(super) fn used(&self, now_s: u32) -> Used {
        if let Some(session) = &self.session {
            session.socket().up.moved(0, 0, now_s);
        }
        // Only ever under the table's lock.
        let uses = self.uses.load(Relaxed);
        if uses & !TUNNEL != !TUNNEL {
            self.uses.store(uses + 1, Relaxed);
        }
        let worker = self.worker().cloned();
        Used { worker, ttl_s: self.ttl_s.into(), slot: self.slot, has_tunnel: self.has_tunnel() }
    }

    pub(super) fn is_fresh(&self) -> bool {
        let uses = self.uses.load(Relaxed) & !TUNNEL;
        uses <= FRESH_REQUESTS && clock::now_s().saturating_sub(self.born_s) < FRESH_SECONDS
    }

    /// The session's worker; `None` once an operator has ended it.
    pub fn worker(&self) -> Option<&Arc<Worker>> {
        self.session.as_ref().map(|session| session.socket().worker())
    }

    /// Seconds since the session was pinned here.
    pub fn age_s(&self, now_s: u32) -> u32 {
        now_s.saturating_sub(self.born_s)
    }

    /// Whether it is a live session of this worker, and no tunnel ends it.
    pub fn is_polling_at(&self, worker: &Arc<Worker>) -> bool {
        !self.has_tunnel() && self.worker().is_some_and(|own| Arc::ptr_eq(own, worker))
    }

    /// Its place on the list of sockets; `None` once an operator has ended it.
    pub fn listed(&self) -> Option<&Listed> {
        self.session.as_ref()
    }

    /// Ends it, for good. What it gives back takes it off its worker's count.
    pub fn end(&mut self) -> Option<Listed> {
        let ended = self.session.take();
        if let Some(ended) = &ended {
            ended.socket().ends(End::Drained);
        }
        ended
    }

    /// A tunnel of the session is open.
    pub fn has_tunnel(&self) -> bool {
        self.uses.load(Relaxed) & TUNNEL != 0
    }

    /// A tunnel of it opened, or ended.
    pub(super) fn set_tunnel(&mut self, open: bool) {
        let uses = self.uses.get_mut();
        *uses = if open { *uses | TUNNEL } else { *uses & !TUNNEL };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table's own 86 bytes a pin (its header) are with an owner of 8: with this one a pin stays below 100.
    #[test]
    fn a_pin_is_small() {
        assert_eq!((size_of::<Pin>(), size_of::<Option<Pin>>()), (16, 16));
    }
}
