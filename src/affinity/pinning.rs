//! Sessions bound to workers: pins made, held open, listed, closed and ended (invariant 2).
//!
//! What a pin is stands in `pin`, the table of them in `pins`; which worker a request belongs to is decided next door.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pin::Pin;
use super::pins::{self, Inserted, Key};
use crate::clock;
use crate::proxy::headers::Client;
use crate::sockets::{End, Kind, Listed, New, Socket, Transport, Tunnelled};
use crate::state::Shared;
use crate::telemetry::say_full;
use crate::tunnel::whole_seconds;
use crate::upstream::Upstream;
use crate::upstream::ending::Slot;
use crate::upstream::worker::{Session, Worker};

/// Keeps a pin alive while a poll or tunnel is open.
pub struct Hold {
    shared: Arc<Shared>,
    key: Key,
    open: pins::Hold,
    tunnel: bool,
    shorten: Option<Duration>,
    /// The session is not on the list of sockets yet.
    is_fresh: bool,
    /// Body bytes of the request that holds it, and of its answer; and when that was over.
    moved: Option<(u64, u64, Instant)>,
    /// Silence a tunnel of this session is allowed, seconds; 0: not known.
    pub ttl_s: u32,
}

impl Hold {
    pub(super) fn new(shared: &Arc<Shared>, key: Key, open: pins::Hold, ttl_s: u32, is_fresh: bool) -> Self {
        let shared = shared.clone();
        Self { shared, key, open, tunnel: false, shorten: None, is_fresh, moved: None, ttl_s }
    }

    /// The session it keeps.
    pub fn key(&self) -> Key {
        self.key
    }

    /// This hold is a tunnel's: when it ends, the session most likely has ended too (protocols §5.9), so its pin is kept
    /// only for as long as a failed upgrade needs to be noticed by the client's next poll.
    /// `None` for the session's socket: an operator has just ended it. `ends`: so it is in its protocol.
    pub fn of_tunnel(mut self, ends: bool) -> (Self, Option<Tunnelled>) {
        let socket = self.becomes_tunnel(ends);
        (self, socket.map(Tunnelled::new))
    }

    /// The same of a tunnel that has its socket.
    pub fn of_known_tunnel(mut self, ends: bool) -> Self {
        self.becomes_tunnel(ends);
        self
    }

    fn becomes_tunnel(&mut self, ends: bool) -> Option<Arc<Socket>> {
        self.tunnel = true;
        self.shorten = ends.then_some(Duration::from_secs(5));
        let socket = self.shared.pins.update(self.key, Instant::now(), |pin| {
            pin.set_tunnel(true);
            pin.listed().map(|listed| listed.socket().clone())
        });
        socket.flatten()
    }

    /// Whether the session has to be put on the list of sockets ([`enlist`]).
    pub fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// What the request carried that holds it, and its answer: bytes of their bodies. It is over `now`.
    pub fn moved(&mut self, up: u64, down: u64, now: Instant) {
        self.moved = Some((up, down, now));
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.tunnel {
            // Dropped outside of the table's lock.
            let _ended = self.shared.pins.update(self.key, Instant::now(), |pin| {
                pin.set_tunnel(false);
                // On a drained worker the session ends with its tunnel.
                if pin.worker().is_some_and(|worker| worker.admin.ends()) { pin.end() } else { None }
            });
        }
        let (up, down, now) = self.moved.unwrap_or_else(|| (0, 0, Instant::now()));
        let is_request = !self.tunnel;
        self.shared.pins.close_with(self.key, self.open, now, self.shorten, |pin| {
            if let Some(listed) = pin.listed().filter(|_| is_request) {
                carried(listed.socket(), (up, down), clock::s_at(now));
            }
        });
    }
}

/// A request of a session is over. A body is a message, whatever number of packets is in it.
fn carried(socket: &Socket, (up, down): (u64, u64), now_s: u32) {
    if up > 0 {
        socket.up.moved(up, 1, now_s);
    }
    socket.down.moved(down, u32::from(down > 0), now_s);
}

/// Pins a session to a worker: the one whose answer named it (invariant 3: before that answer is released), or the one
/// that accepted its sid. `true`: it was not pinned before.
///
/// `paced`: the session has said how long it may be silent, its tunnels included.
pub fn pin(shared: &Shared, key: Key, client: Client, mut new: New<'_>, ttl: Duration, paced: bool) -> bool {
    // Known already: nothing new begins. But a session just learned is on the list from this request on: where it is a
    // WebSocket's, its tunnel would make an entry of its own.
    let is_here = |pin: &Pin| pin.listed().is_none() && pin.worker().is_some_and(|own| Arc::ptr_eq(own, new.worker));
    if let Some(enlists) = shared.pins.touch(key, Instant::now(), is_here) {
        drop(new.session.take());
        if enlists {
            enlist(shared, key, |session| New { session: Some(session), ..new });
        }
        return false;
    }
    pin_listed(shared, key, client, shared.sockets.open(new), ttl, paced)
}

/// The same of a session that is on the list of sockets.
pub fn pin_listed(shared: &Shared, key: Key, client: Client, listed: Listed, ttl: Duration, paced: bool) -> bool {
    let socket = listed.socket().clone();
    if socket.kind() == Kind::Plain {
        // Of another protocol: the sid it shows, if any, makes another key.
        socket.keep_key(key);
    }
    let (ttl_s, slot) = marks(key, socket.worker(), ttl, paced);
    let is_new = insert(shared, key, client, Pin::new(listed, ttl_s, slot), ttl);
    if is_new {
        socket.begins();
    }
    is_new
}

/// The same of a session that was just made: it comes on the list with its first request ([`enlist`]).
pub fn pin_fresh(shared: &Shared, key: Key, client: Client, session: Session, ttl: Duration, paced: bool) -> bool {
    let (ttl_s, slot) = marks(key, session.worker(), ttl, paced);
    insert(shared, key, client, Pin::fresh(session, ttl_s, slot), ttl)
}

/// A session's first request behind its handshake: it is on the list of sockets from now on.
pub fn enlist<'n>(shared: &Shared, key: Key, new: impl FnOnce(Session) -> New<'n>) {
    shared.pins.update(key, Instant::now(), |pin| {
        pin.enlist(|session| {
            let listed = shared.sockets.open(new(session));
            listed.socket().begins();
            listed
        });
    });
}

/// The silence its tunnels are allowed, and its place in what is left of a drain.
fn marks(key: Key, worker: &Worker, ttl: Duration, paced: bool) -> (u16, Slot) {
    let ttl_s = if paced { u16::try_from(whole_seconds(ttl)).unwrap_or(u16::MAX) } else { 0 };
    // Known while its worker is drained: it gets a place in the time left.
    let ending = if worker.admin.ends() { worker.admin.ending() } else { None };
    (ttl_s, ending.map_or(Slot::NONE, |ending| ending.late_slot(clock::now_ms(), key.chance())))
}

fn insert(shared: &Shared, key: Key, client: Client, pin: Pin, ttl: Duration) -> bool {
    match shared.pins.insert(key, pin, shared.keys.address(client.key()), ttl, Instant::now()) {
        Inserted::New { evicted: 0 } => true,
        Inserted::Kept(_) => false,
        Inserted::New { evicted } => {
            shared.metrics.pins_evicted.inc_by(evicted as u64);
            say_full!("the pin table is full: the oldest idle pin made room ([limits] pins)");
            true
        }
        Inserted::Refused(..) => {
            shared.metrics.pins_refused.inc();
            say_full!("a session was not pinned: the table or its address's quota is full ([limits] pins)");
            false
        }
    }
}

/// Opens a session just pinned, for the request that found it.
pub fn hold(shared: &Arc<Shared>, key: Key) -> Option<Hold> {
    let (open, ttl_s) = shared.pins.open(key, Instant::now(), Pin::ttl_s)?;
    Some(Hold::new(shared, key, open, ttl_s, false))
}

/// Ends a session because an operator says so; its pin stays as the end's memory.
pub fn end(shared: &Shared, upstream: &Upstream, key: Key) {
    let end = |pin: &mut Pin| (pin.has_tunnel(), pin.end());
    // Tunnels are counted where they are closed. The session is dropped outside of the table's lock.
    if let Some((false, Some(_ended))) = shared.pins.update(key, Instant::now(), end) {
        upstream.series().drained_polling.inc();
    }
}

/// When the drain of `worker` ends the session that polls there ([`clock::now_ms`]): at once if it has been ended; `None`
/// while nothing ends it but its tunnel or itself.
pub fn ends_at(shared: &Shared, key: Key, worker: &Worker) -> Option<u64> {
    let found = shared.pins.peek(key, Instant::now(), |pin| (pin.worker().is_some(), pin.has_tunnel(), pin.slot()));
    match found {
        Some((false, ..)) => Some(0),
        Some((true, true, _)) => None,
        Some((true, false, slot)) => due_at(worker, slot, key),
        // Being discovered.
        None => due_at(worker, Slot::NONE, key),
    }
}

/// Ends the polling session of a socket because an operator says so; `false`: it has none, or it is over.
pub fn close(shared: &Shared, socket: &Arc<Socket>) -> bool {
    if socket.transport() != Transport::Polling {
        return false;
    }
    let of_sid = || socket.with_texts(|sid, _| shared.keys.key(&socket.worker().upstream, sid));
    let key = socket.key().unwrap_or_else(of_sid);
    let end = |pin: &mut Pin| {
        pin.listed().filter(|listed| Arc::ptr_eq(listed.socket(), socket))?;
        socket.ends(End::Operator);
        pin.end()
    };
    // Dropped outside of the table's lock.
    let ended = shared.pins.update(key, Instant::now(), end).flatten();
    if ended.is_some() {
        shared.sockets.one_ended();
    }
    ended.is_some()
}

pub(super) fn due_at(worker: &Worker, slot: Slot, key: Key) -> Option<u64> {
    worker.admin.ending()?.due_ms(slot, key.jitter())
}

/// Ends a pin: its worker died, or lost the session and says so, or its client said goodbye.
pub fn forget(shared: &Shared, key: Key, why: End) {
    if let Some(pin) = shared.pins.remove(key)
        && let Some(listed) = pin.listed()
    {
        listed.socket().ends(why);
    }
}

/// The pin's worker refused its own session: the pin goes, and fresh refusals are counted against shared addresses.
pub fn refused_by_owner(shared: &Shared, key: Key) {
    let Some(pin) = shared.pins.remove(key) else { return };
    if let Some(listed) = pin.listed() {
        listed.socket().ends(End::Refused);
    }
    if pin.is_fresh()
        && let Some(worker) = pin.worker()
    {
        worker.fresh_refusal(clock::now_ms());
    }
}

#[cfg(test)]
mod tests;
