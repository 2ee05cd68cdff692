//! What the pin table holds of a session: its worker, and what an operator's drain has to know of it.
//!
//! An operator may end a session (invariant 2). Its pin stays then, without a worker, until the session could not have lived
//! on: what asks for it is refused, and not looked for at the worker that still knows it.
//!
//! A session is on the list of sockets from its first request behind the handshake on. Until then its pin is all it costs:
//! who asks for handshakes only cannot fill the list, and the memory of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::clock;
use crate::sockets::{End, Listed};
use crate::upstream::ending::Slot;
use crate::upstream::worker::{Session, Worker};

/// What the pin table holds of a session; dropping it takes the session off its worker's count, and off the list of sockets.
pub struct Pin(Held);

/// Flat, so that the marks fill what the choice leaves of eight bytes: the table holds a million of them.
enum Held {
    /// An operator ended it.
    Ended(Marks),
    /// No request has named it yet.
    Fresh(Session, Marks),
    Listed(Listed, Marks),
}

/// What is known whoever holds it.
struct Marks {
    /// Seconds, wrapping after 18 hours: for the warning about workers that refuse what they just made.
    born_s: u16,
    /// Seconds a tunnel of this session may be silent; 18 hours at most, 0: not known.
    ttl_s: u16,
    /// Requests that found it, up to 127; and whether it has a tunnel.
    uses: AtomicU8,
    /// Its place in the time of its worker's drain.
    slot: Slot,
}

/// In `uses`: a tunnel is open.
const TUNNEL: u8 = 0x80;

/// A session refused within its first requests and seconds was never known where it went: later its worker may have
/// ended it.
const FRESH_REQUESTS: u8 = 3;
const FRESH_SECONDS: u16 = 10;

/// What a request needs to know of the pin it found.
pub(super) struct Used {
    /// `None`: an operator ended it.
    pub(super) worker: Option<Arc<Worker>>,
    pub(super) ttl_s: u32,
    pub(super) slot: Slot,
    pub(super) has_tunnel: bool,
    /// It is not on the list of sockets yet.
    pub(super) is_fresh: bool,
}

impl Marks {
    fn new(ttl_s: u16, slot: Slot) -> Self {
        Self { born_s: low(clock::now_s()), ttl_s, uses: AtomicU8::new(0), slot }
    }

    fn copy(&self) -> Self {
        Self { uses: AtomicU8::new(self.uses.load(Relaxed)), ..*self }
    }
}

/// The low half.
fn low(seconds: u32) -> u16 {
    let [a, b, ..] = seconds.to_le_bytes();
    u16::from_le_bytes([a, b])
}

impl Pin {
    /// Of a session that nobody has asked for yet.
    pub(super) fn fresh(session: Session, ttl_s: u16, slot: Slot) -> Self {
        Self(Held::Fresh(session, Marks::new(ttl_s, slot)))
    }

    pub(super) fn new(session: Listed, ttl_s: u16, slot: Slot) -> Self {
        Self(Held::Listed(session, Marks::new(ttl_s, slot)))
    }

    fn marks(&self) -> &Marks {
        match &self.0 {
            Held::Ended(marks) | Held::Fresh(_, marks) | Held::Listed(_, marks) => marks,
        }
    }

    fn marks_mut(&mut self) -> &mut Marks {
        match &mut self.0 {
            Held::Ended(marks) | Held::Fresh(_, marks) | Held::Listed(_, marks) => marks,
        }
    }

    /// For one more request.
    pub(super) fn used(&self, now_s: u32) -> Used {
        if let Some(session) = self.listed() {
            session.socket().up.moved(0, 0, now_s);
        }
        let marks = self.marks();
        // Only ever under the table's lock.
        let uses = marks.uses.load(Relaxed);
        if uses & !TUNNEL != !TUNNEL {
            marks.uses.store(uses + 1, Relaxed);
        }
        Used {
            worker: self.worker().cloned(),
            ttl_s: marks.ttl_s.into(),
            slot: marks.slot,
            has_tunnel: self.has_tunnel(),
            is_fresh: matches!(self.0, Held::Fresh(..)),
        }
    }

    /// Its first request is here: what `open` makes of it is on the list of sockets from now on. Nothing where it is already.
    pub(super) fn enlist(&mut self, open: impl FnOnce(Session) -> Listed) {
        let ended = Held::Ended(self.marks().copy());
        self.0 = match std::mem::replace(&mut self.0, ended) {
            Held::Fresh(session, marks) => Held::Listed(open(session), marks),
            held => held,
        };
    }

    pub(super) fn is_fresh(&self) -> bool {
        let marks = self.marks();
        let uses = marks.uses.load(Relaxed) & !TUNNEL;
        uses <= FRESH_REQUESTS && low(clock::now_s()).wrapping_sub(marks.born_s) < FRESH_SECONDS
    }

    /// The session's worker; `None` once an operator has ended it.
    pub fn worker(&self) -> Option<&Arc<Worker>> {
        match &self.0 {
            Held::Ended(_) => None,
            Held::Fresh(session, _) => Some(session.worker()),
            Held::Listed(listed, _) => Some(listed.socket().worker()),
        }
    }

    /// Seconds since the session was pinned here; of one that is not on the list, of the last 18 hours.
    pub fn age_s(&self, now_s: u32) -> u32 {
        match self.listed() {
            Some(listed) => now_s.saturating_sub(listed.socket().since_s()),
            None => low(now_s).wrapping_sub(self.marks().born_s).into(),
        }
    }

    /// Seconds a tunnel of this session may be silent; 0: not known.
    pub(super) fn ttl_s(&self) -> u32 {
        self.marks().ttl_s.into()
    }

    /// Its place in the time of its worker's drain.
    pub fn slot(&self) -> Slot {
        self.marks().slot
    }

    /// Its place in the time of a drain that has begun.
    pub fn set_slot(&mut self, slot: Slot) {
        self.marks_mut().slot = slot;
    }

    /// Whether it is a live session of this worker, and no tunnel ends it.
    pub fn is_polling_at(&self, worker: &Arc<Worker>) -> bool {
        !self.has_tunnel() && self.worker().is_some_and(|own| Arc::ptr_eq(own, worker))
    }

    /// Its place on the list of sockets; `None` before its first request, and once an operator has ended it.
    pub fn listed(&self) -> Option<&Listed> {
        match &self.0 {
            Held::Listed(listed, _) => Some(listed),
            Held::Ended(_) | Held::Fresh(..) => None,
        }
    }

    /// Ends it, for good. What it gives back takes it off its worker's count.
    pub fn end(&mut self) -> Option<Self> {
        if let Some(listed) = self.listed() {
            listed.socket().ends(End::Drained);
        }
        let ended = Self(Held::Ended(self.marks().copy()));
        self.worker().is_some().then_some(())?;
        Some(std::mem::replace(self, ended))
    }

    /// A tunnel of the session is open.
    pub fn has_tunnel(&self) -> bool {
        self.marks().uses.load(Relaxed) & TUNNEL != 0
    }

    /// A tunnel of it opened, or ended.
    pub(super) fn set_tunnel(&mut self, open: bool) {
        let uses = self.marks_mut().uses.get_mut();
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
