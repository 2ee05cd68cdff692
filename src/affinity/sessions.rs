//! Binds sessions to workers: makes pins, holds them open, lists, closes and ends them (ARCHITECTURE.md, invariant 2).
//!
//! `pin` defines a pin and `pins` the table of pins; the parent module decides which worker a request belongs to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pin::Pin;
use super::pins::{self, Inserted};
use crate::client::Client;
use crate::clock;
use crate::keys::Key;
use crate::sockets::{End, Kind, Listed, New, Socket, Transport, Tunnelled};
use crate::state::Shared;
use crate::telemetry::say_full;
use crate::upstream::Upstream;
use crate::upstream::session_ends::Slot;
use crate::upstream::worker::{Session, Worker};

/// Keeps a pin alive while a poll or tunnel is open.
pub struct Hold {
    shared: Arc<Shared>,
    key: Key,
    open: pins::Hold,
    tunnel: bool,
    shorten: Option<Duration>,
    /// Whether the session is not on the list of sockets yet.
    is_fresh: bool,
    /// Body bytes of the request that holds the pin and of its response, and when the request ended.
    moved: Option<(u64, u64, Instant)>,
    /// Silence in seconds that a tunnel of this session may keep; 0 if unknown.
    pub ttl_s: u32,
}

impl Hold {
    pub(crate) fn new(shared: &Arc<Shared>, key: Key, open: pins::Hold, ttl_s: u32, is_fresh: bool) -> Self {
        let shared = shared.clone();
        Self { shared, key, open, tunnel: false, shorten: None, is_fresh, moved: None, ttl_s }
    }

    /// Key of the session whose pin is held.
    pub fn key(&self) -> Key {
        self.key
    }

    /// Turns this hold into that of a tunnel. `ends`: whether the session's protocol makes it end, most likely, with
    /// its tunnel (docs/reference/protocols.md §5.9); its pin is then kept only until the client's next poll would
    /// reveal a failed upgrade. The returned socket is `None` if an operator has just ended the session.
    pub fn of_tunnel(mut self, ends: bool) -> (Self, Option<Tunnelled>) {
        let socket = self.becomes_tunnel(ends);
        (self, socket.map(Tunnelled::new))
    }

    /// As `of_tunnel`, for a tunnel that already has its socket.
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

    /// Whether the session still has to be put on the list of sockets ([`enlist`]).
    pub fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Records the body bytes of the request that holds the pin (`up`) and of its response (`down`). The request ended
    /// at `now`.
    pub fn moved(&mut self, up: u64, down: u64, now: Instant) {
        self.moved = Some((up, down, now));
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.tunnel {
            // Dropped after the table's lock is released.
            let _ended = self.shared.pins.update(self.key, Instant::now(), |pin| {
                pin.set_tunnel(false);
                // On a draining worker the session ends with its tunnel.
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

/// Counts a finished request of a session. A body counts as one message, however many packets it contains.
fn carried(socket: &Socket, (up, down): (u64, u64), now_s: u32) {
    if up > 0 {
        socket.up.moved(up, 1, now_s);
    }
    socket.down.moved(down, u32::from(down > 0), now_s);
}

/// Pins a session to a worker: to the one whose response named it (before that response is released,
/// ARCHITECTURE.md, invariant 3), or to the one that accepted its sid. Returns `true` if the session was not pinned
/// before.
///
/// `paced`: `ttl` comes from the session's own handshake, and its tunnels may not be silent for longer either.
pub fn pin(shared: &Shared, key: Key, client: Client, mut new: New<'_>, ttl: Duration, paced: bool) -> bool {
    // Already pinned: nothing new begins. But a session that was only learned is listed from this request on, or the
    // tunnel of a WebSocket would make an entry of its own.
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

/// As `pin`, for a session that is already on the list of sockets.
pub fn pin_listed(shared: &Shared, key: Key, client: Client, listed: Listed, ttl: Duration, paced: bool) -> bool {
    let socket = listed.socket().clone();
    if socket.kind() == Kind::Plain {
        // A session of another protocol: the sid that it shows, if any, gives a different key.
        socket.keep_key(key);
    }
    let (ttl_s, slot) = marks(key, socket.worker(), ttl, paced);
    let is_new = insert(shared, key, client, Pin::new(listed, ttl_s, slot), ttl);
    if is_new {
        socket.begins();
    }
    is_new
}

/// As `pin`, for a session that was just made: its first request puts it on the list of sockets ([`enlist`]).
pub fn pin_fresh(shared: &Shared, key: Key, client: Client, session: Session, ttl: Duration, paced: bool) -> bool {
    let (ttl_s, slot) = marks(key, session.worker(), ttl, paced);
    insert(shared, key, client, Pin::fresh(session, ttl_s, slot), ttl)
}

/// Puts a session on the list of sockets, at its first request after the handshake.
pub fn enlist<'n>(shared: &Shared, key: Key, new: impl FnOnce(Session) -> New<'n>) {
    shared.pins.update(key, Instant::now(), |pin| {
        pin.enlist(|session| {
            let listed = shared.sockets.open(new(session));
            listed.socket().begins();
            listed
        });
    });
}

/// Returns the silence in seconds that the session's tunnels may keep (0 if unknown), and its slot in a drain of its
/// worker.
fn marks(key: Key, worker: &Worker, ttl: Duration, paced: bool) -> (u16, Slot) {
    let ttl_s = if paced { u16::try_from(clock::whole_seconds(ttl)).unwrap_or(u16::MAX) } else { 0 };
    // A session that is pinned during a drain of its worker gets a slot in the time left.
    let ending = if worker.admin.ends() { worker.admin.ending() } else { None };
    (ttl_s, ending.map_or(Slot::NONE, |ending| ending.late_slot(clock::now_ms(), key.chance())))
}

fn insert(shared: &Shared, key: Key, client: Client, pin: Pin, ttl: Duration) -> bool {
    match shared.pins.insert(key, pin, shared.keys.address(client.key()), ttl, Instant::now()) {
        Inserted::New { evicted: 0 } => true,
        Inserted::Kept(_) => false,
        Inserted::New { evicted } => {
            shared.metrics.pins_evicted.inc_by(evicted as u64);
            say_full!("an idle pin was evicted: the pin table or an address's quota is full ([limits] pins)");
            true
        }
        Inserted::Refused(..) => {
            shared.metrics.pins_refused.inc();
            say_full!("session was not pinned: the pin table or an address's quota is full ([limits] pins)");
            false
        }
    }
}

/// Holds open a session that was just pinned, for the request that found it.
pub fn hold(shared: &Arc<Shared>, key: Key) -> Option<Hold> {
    let (open, ttl_s) = shared.pins.open(key, Instant::now(), Pin::ttl_s)?;
    Some(Hold::new(shared, key, open, ttl_s, false))
}

/// Ends a session at an operator's command; its pin stays, so that the end is remembered.
pub fn end(shared: &Shared, upstream: &Upstream, key: Key) {
    let end = |pin: &mut Pin| (pin.has_tunnel(), pin.end());
    // Sessions with a tunnel are counted where the tunnel is closed. The session is dropped after the table's lock is
    // released.
    if let Some((false, Some(_ended))) = shared.pins.update(key, Instant::now(), end) {
        upstream.series().drained_polling.inc();
    }
}

/// Time ([`clock::now_ms`]) at which the drain of `worker` ends the session that polls there: 0 if it has been ended
/// already; `None` while only its tunnel or the session itself can end it.
pub fn ends_at(shared: &Shared, key: Key, worker: &Worker) -> Option<u64> {
    let found = shared.pins.peek(key, Instant::now(), |pin| (pin.worker().is_some(), pin.has_tunnel(), pin.slot()));
    match found {
        Some((false, ..)) => Some(0),
        Some((true, true, _)) => None,
        Some((true, false, slot)) => due_at(worker, slot, key),
        // The session is being discovered.
        None => due_at(worker, Slot::NONE, key),
    }
}

/// Ends the polling session of a socket at an operator's command; `false` if the socket has none or it is over.
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
    // Dropped after the table's lock is released.
    let ended = shared.pins.update(key, Instant::now(), end).flatten();
    if ended.is_some() {
        shared.sockets.one_ended();
    }
    ended.is_some()
}

pub(crate) fn due_at(worker: &Worker, slot: Slot, key: Key) -> Option<u64> {
    worker.admin.ending()?.due_ms(slot, key.jitter())
}

/// Removes a pin: its worker died or refused the session, or the client ended the session.
pub fn forget(shared: &Shared, key: Key, why: End) {
    if let Some(pin) = shared.pins.remove(key)
        && let Some(listed) = pin.listed()
    {
        listed.socket().ends(why);
    }
}

/// Removes the pin of a session that its own worker refused. Refusals of fresh sessions are counted, to detect
/// processes that share an address.
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
