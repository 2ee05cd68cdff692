//! An entry of the pin table: a session's worker, and what an operator's drain needs to know of the session.
//!
//! An operator may end a session (ARCHITECTURE.md, invariant 2). Its pin then stays, without a worker, for as long as
//! the session could have lived: requests of the session are refused instead of being discovered at the worker that
//! still knows it.
//!
//! A session is on the list of sockets from its first request after the handshake. Until then it costs only its pin, so
//! that clients which send nothing but handshakes cannot fill the list or its memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::clock::{self, Seconds};
use crate::sockets::{EndReason, Listed};
use crate::upstream::session_ends::{EndSlot, LATE_REQUESTS};
use crate::upstream::worker::{SessionSeat, Worker};

/// An entry of the pin table; dropping it removes the session from its worker's count and from the list of sockets.
pub struct Pin(PinOwner);

/// State of a pin. Each variant holds the marks itself, so that they share eight bytes with the tag: the table holds a
/// million pins.
enum PinOwner {
    /// An operator ended the session, or its worker was replaced. That worker still takes the requests that were on
    /// their way.
    Ended(Option<Arc<Worker>>, Marks),
    /// No request has named the session yet.
    Fresh(SessionSeat, Marks),
    Listed(Listed, Marks),
}

/// Facts of a session that every state of its pin keeps.
struct Marks {
    /// Second at which the session was pinned, wrapping after 18 hours; for the warning about workers that refuse
    /// sessions they just made. Once the session has ended: second of its end.
    born_s: u16,
    /// Silence in seconds that a tunnel of this session may keep, at most 18 hours; 0 if unknown.
    ttl_s: u16,
    /// Number of requests that found the pin, up to [`USES`]; and, in steps of [`TUNNEL`], the number of open tunnels.
    /// A second tunnel is rare, and mostly ended by the worker at once (docs/reference/protocols.md §1.3). The number
    /// stays at [`TUNNELS`]; from there on the session is taken to have a tunnel for good.
    uses: AtomicU8,
    /// The session's slot in the drain of its worker.
    slot: EndSlot,
}

/// Bits of `uses`: what is left below one tunnel counts requests.
const USES: u8 = 0b111;
const TUNNEL: u8 = USES + 1;
const TUNNELS: u8 = !USES;

/// Limit in requests up to which a session counts as fresh, together with [`FRESH_SECONDS`]. A fresh session that is
/// refused was never known at its worker; later, the worker may have ended it.
const FRESH_REQUESTS: u8 = 3;
const FRESH_SECONDS: u16 = 10;

/// Facts that a request needs about the pin it found.
pub(crate) struct Used {
    /// Worker of the session; `None` if an operator ended it.
    pub(crate) worker: Option<Arc<Worker>>,
    /// Worker that takes the last requests of a session that has just ended.
    pub(crate) late: Option<Arc<Worker>>,
    pub(crate) ttl_s: u32,
    pub(crate) slot: EndSlot,
    pub(crate) has_tunnel: bool,
    /// Whether the session is not on the list of sockets yet.
    pub(crate) is_fresh: bool,
}

impl Marks {
    fn new(ttl_s: u16, slot: EndSlot) -> Self {
        Self { born_s: low(clock::now_s()), ttl_s, uses: AtomicU8::new(0), slot }
    }

    fn copy(&self) -> Self {
        Self { uses: AtomicU8::new(self.uses.load(Relaxed)), ..*self }
    }
}

/// Returns the low 16 bits of a time in seconds.
fn low(time: Seconds) -> u16 {
    let [a, b, ..] = time.get().to_le_bytes();
    u16::from_le_bytes([a, b])
}

impl Pin {
    /// Makes the pin of a session that no request has named yet.
    pub(crate) fn fresh(session: SessionSeat, ttl_s: u16, slot: EndSlot) -> Self {
        Self(PinOwner::Fresh(session, Marks::new(ttl_s, slot)))
    }

    pub(crate) fn new(session: Listed, ttl_s: u16, slot: EndSlot) -> Self {
        Self(PinOwner::Listed(session, Marks::new(ttl_s, slot)))
    }

    fn marks(&self) -> &Marks {
        match &self.0 {
            PinOwner::Ended(_, marks) | PinOwner::Fresh(_, marks) | PinOwner::Listed(_, marks) => marks,
        }
    }

    fn marks_mut(&mut self) -> &mut Marks {
        match &mut self.0 {
            PinOwner::Ended(_, marks) | PinOwner::Fresh(_, marks) | PinOwner::Listed(_, marks) => marks,
        }
    }

    /// Counts one more request of the session, and returns what the request needs to know.
    pub(crate) fn used(&self, now_s: Seconds) -> Used {
        if let Some(session) = self.listed() {
            session.socket().up.moved(0, 0, now_s);
        }
        let marks = self.marks();
        // Every access holds the table's lock.
        let uses = marks.uses.load(Relaxed);
        if uses & USES != USES {
            marks.uses.store(uses + 1, Relaxed);
        }
        Used {
            worker: self.worker().cloned(),
            late: self.late_worker(now_s).cloned(),
            ttl_s: marks.ttl_s.into(),
            slot: marks.slot,
            has_tunnel: self.has_tunnel(),
            is_fresh: matches!(self.0, PinOwner::Fresh(..)),
        }
    }

    /// Puts the session on the list of sockets at its first request, as the entry that `open` makes; no effect if it is
    /// listed already.
    pub(crate) fn enlist(&mut self, open: impl FnOnce(SessionSeat) -> Listed) {
        let ended = PinOwner::Ended(None, self.marks().copy());
        self.0 = match std::mem::replace(&mut self.0, ended) {
            PinOwner::Fresh(session, marks) => PinOwner::Listed(open(session), marks),
            held => held,
        };
    }

    pub(crate) fn is_fresh(&self) -> bool {
        let marks = self.marks();
        let uses = marks.uses.load(Relaxed) & USES;
        uses <= FRESH_REQUESTS && low(clock::now_s()).wrapping_sub(marks.born_s) < FRESH_SECONDS
    }

    /// Worker of the session; `None` once an operator has ended it.
    pub fn worker(&self) -> Option<&Arc<Worker>> {
        match &self.0 {
            PinOwner::Ended(..) => None,
            PinOwner::Fresh(session, _) => Some(session.worker()),
            PinOwner::Listed(listed, _) => Some(listed.socket().worker()),
        }
    }

    /// The worker of a session that has ended so recently that a request of its client may be on the way.
    pub(crate) fn late_worker(&self, now_s: Seconds) -> Option<&Arc<Worker>> {
        let PinOwner::Ended(worker, marks) = &self.0 else { return None };
        let since = low(now_s).wrapping_sub(marks.born_s);
        worker.as_ref().filter(|_| u64::from(since) < LATE_REQUESTS.as_secs())
    }

    /// Seconds since the session was pinned here, or since it has ended; wraps after 18 hours while the session is not
    /// on the list of sockets.
    pub fn age_s(&self, now_s: Seconds) -> u32 {
        match self.listed() {
            Some(listed) => now_s.since(listed.socket().since_s()),
            None => low(now_s).wrapping_sub(self.marks().born_s).into(),
        }
    }

    /// Silence in seconds that a tunnel of this session may keep; 0 if unknown.
    pub(crate) fn ttl_s(&self) -> u32 {
        self.marks().ttl_s.into()
    }

    /// The session's slot in the drain of its worker.
    pub fn slot(&self) -> EndSlot {
        self.marks().slot
    }

    /// Sets the session's slot in a drain that has begun.
    pub fn set_slot(&mut self, slot: EndSlot) {
        self.marks_mut().slot = slot;
    }

    /// Whether this is a live session of `worker` without an open tunnel.
    pub fn is_polling_at(&self, worker: &Arc<Worker>) -> bool {
        !self.has_tunnel() && self.worker().is_some_and(|own| Arc::ptr_eq(own, worker))
    }

    /// The session's entry on the list of sockets; `None` before its first request and once an operator has ended it.
    pub fn listed(&self) -> Option<&Listed> {
        match &self.0 {
            PinOwner::Listed(listed, _) => Some(listed),
            PinOwner::Ended(..) | PinOwner::Fresh(..) => None,
        }
    }

    /// Ends the session for good. Dropping the returned pin removes the session from its worker's count; `None` if it
    /// had ended before.
    pub fn end(&mut self) -> Option<Self> {
        self.end_with(None)
    }

    /// As `end`, for a session whose worker is replaced: until its client has learned of the end, the worker takes what
    /// the client sends.
    pub(crate) fn end_gently(&mut self) -> Option<Self> {
        let worker = self.worker()?.clone();
        worker.await_late_requests();
        self.end_with(Some(worker))
    }

    fn end_with(&mut self, late: Option<Arc<Worker>>) -> Option<Self> {
        self.worker()?;
        if let Some(listed) = self.listed() {
            listed.socket().set_end_reason(EndReason::Drained);
        }
        let marks = Marks { born_s: low(clock::now_s()), ..self.marks().copy() };
        Some(std::mem::replace(self, Self(PinOwner::Ended(late, marks))))
    }

    /// Whether a tunnel of the session is open.
    pub fn has_tunnel(&self) -> bool {
        self.marks().uses.load(Relaxed) & TUNNELS != 0
    }

    /// Records that a tunnel of the session has opened.
    pub(crate) fn tunnel_opened(&mut self) {
        let uses = self.marks_mut().uses.get_mut();
        if *uses & TUNNELS != TUNNELS {
            *uses += TUNNEL;
        }
    }

    /// Records that a tunnel of the session has ended.
    pub(crate) fn tunnel_ended(&mut self) {
        let uses = self.marks_mut().uses.get_mut();
        if !matches!(*uses & TUNNELS, 0 | TUNNELS) {
            *uses -= TUNNEL;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table itself takes 86 bytes per pin with an 8-byte owner (see the docs of `pins`); with this owner it stays
    /// below 100.
    #[test]
    fn a_pin_is_small() {
        assert_eq!((size_of::<Pin>(), size_of::<Option<Pin>>()), (16, 16));
    }
}
