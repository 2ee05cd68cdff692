//! Binds sessions to workers: makes pins, holds them open, lists, closes and ends them (ARCHITECTURE.md, invariant 2).
//!
//! `pin` defines a pin and `pins` the table of pins; the parent module decides which worker a request belongs to.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::pin::Pin;
use super::pins::{Inserted, PinHold, Pins};
use crate::client::Client;
use crate::clock::Seconds;
use crate::clock::{self, Millis};
use crate::config::Limits;
use crate::fleet::Fleet;
use crate::keys::{Key, Keys};
use crate::metrics::{Metrics, SocketCarrier, Way};
use crate::sockets::{EndReason, Listed, New, Socket, SocketKind, Sockets, Transport, Tunnelled};
use crate::telemetry::say_full;
use crate::upstream::Upstream;
use crate::upstream::session_ends::EndSlot;
use crate::upstream::worker::{SessionSeat, Worker};

/// Keeps a pin alive while a poll or tunnel is open.
pub struct SessionHold {
    sessions: Arc<Sessions>,
    key: Key,
    open: PinHold,
    tunnel: bool,
    shorten: Option<Duration>,
    /// Whether the session is not on the list of sockets yet.
    is_fresh: bool,
    /// Body bytes of the request that holds the pin and of its response, and when the request ended.
    moved: Option<(u64, u64, Instant)>,
    /// Silence in seconds that a tunnel of this session may keep; 0 if unknown.
    pub ttl_s: u32,
    /// When the hold began.
    pub(crate) since: Instant,
}

impl SessionHold {
    /// A hold that was `opened` at that time.
    pub(super) fn new(sessions: &Arc<Sessions>, key: Key, opened: (PinHold, Instant), ttl_s: u32, fresh: bool) -> Self {
        let (sessions, (open, since)) = (sessions.clone(), opened);
        Self { sessions, key, open, tunnel: false, shorten: None, is_fresh: fresh, moved: None, ttl_s, since }
    }

    /// Key of the session whose pin is held.
    pub fn key(&self) -> Key {
        self.key
    }

    /// Turns this hold into that of a tunnel. `ends`: whether the session's protocol makes it end, most likely, with
    /// its tunnel (docs/reference/protocols.md §5.9); its pin is then kept only until the client's next poll would
    /// reveal a failed upgrade. The returned socket is `None` if an operator has just ended the session, or if the
    /// session's socket belongs to another tunnel already.
    pub fn of_tunnel(mut self, ends: bool) -> (Self, Option<Tunnelled>) {
        let socket = self.becomes_tunnel(ends);
        (self, socket.and_then(Tunnelled::try_new))
    }

    /// As `of_tunnel`, for a tunnel that already has its socket.
    pub fn of_known_tunnel(mut self, ends: bool) -> Self {
        self.becomes_tunnel(ends);
        self
    }

    fn becomes_tunnel(&mut self, ends: bool) -> Option<Arc<Socket>> {
        self.tunnel = true;
        self.shorten = ends.then_some(Duration::from_secs(5));
        let socket = self.sessions.pins.update(self.key, Instant::now(), |pin| {
            pin.tunnel_opened();
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

impl Drop for SessionHold {
    fn drop(&mut self) {
        if self.tunnel {
            // Dropped after the table's lock is released.
            let _ended = self.sessions.pins.update(self.key, Instant::now(), |pin| {
                pin.tunnel_ended();
                // On a draining worker the session ends with its last tunnel.
                let ends = !pin.has_tunnel() && pin.worker().is_some_and(|worker| worker.admin.ends());
                if ends { pin.end() } else { None }
            });
        }
        let (up, down, now) = self.moved.unwrap_or_else(|| (0, 0, Instant::now()));
        let is_request = !self.tunnel;
        self.sessions.pins.close_with(self.key, self.open, now, self.shorten, |pin| {
            if let Some(listed) = pin.listed().filter(|_| is_request) {
                carried(listed.socket(), (up, down), clock::s_at(now));
            }
        });
    }
}

/// Counts a finished request of a session. A body counts as one message, however many packets it contains.
fn carried(socket: &Socket, (up, down): (u64, u64), now_s: Seconds) {
    if up > 0 {
        socket.moved(Way::Up, SocketCarrier::Bodies, (up, 1), now_s);
    }
    socket.moved(Way::Down, SocketCarrier::Bodies, (down, u32::from(down > 0)), now_s);
}

pub(crate) fn due_at(worker: &Worker, slot: EndSlot, key: Key) -> Option<Millis> {
    worker.admin.ending()?.due_ms(slot, key.jitter())
}

/// Every session that this stickyd knows: its pin, the other ids that lead to it, and the list of live sockets.
pub struct Sessions {
    /// Sessions and their workers.
    pub pins: Pins<Pin>,
    /// Socket.IO's own socket ids, of upstreams that `follow` them, each with the session it belongs to. The bound is
    /// that of the pins.
    pub aliases: Pins<Key>,
    /// The registry of live sockets.
    pub sockets: Arc<Sockets>,
    /// Turns sids and addresses into keys that cannot be predicted from outside.
    pub keys: Keys,
    pub(crate) metrics: Arc<Metrics>,
    /// The other stickyds, which learn of each pin; set once, before the first request.
    fleet: OnceLock<Arc<Fleet>>,
}

/// How long a session lives after its last activity, and how that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// A time from the configuration. It says nothing about how long a tunnel of the session may be silent.
    Configured(Duration),
    /// The ping interval and time-out that the worker announced, plus a margin. Tunnels of the session may be silent
    /// for as long.
    Announced(Duration),
}

impl Ttl {
    /// The time to live, however it is known.
    pub fn time(self) -> Duration {
        match self {
            Self::Configured(ttl) | Self::Announced(ttl) => ttl,
        }
    }
}

impl Sessions {
    /// No session yet. The tables have the bounds of `limits`, which only a restart changes.
    pub fn new(limits: &Limits, keys: Keys, metrics: Arc<Metrics>) -> Arc<Self> {
        let (pins, aliases) = (table(limits), table(limits));
        let sockets = Sockets::new(limits.sockets);
        Arc::new(Self { pins, aliases, sockets, keys, metrics, fleet: OnceLock::new() })
    }

    /// Shares the pins with other stickyds from now on.
    pub(crate) fn join(&self, fleet: Arc<Fleet>) {
        let _ = self.fleet.set(fleet);
    }

    /// The other stickyds, if this one is in a fleet.
    pub(crate) fn fleet(&self) -> Option<&Arc<Fleet>> {
        self.fleet.get()
    }

    /// Pins a session to a worker: to the one whose response named it (before that response is released,
    /// ARCHITECTURE.md, invariant 3), or to the one that accepted its sid. Returns `true` if the session was not pinned
    /// before.
    ///
    pub fn pin(&self, key: Key, client: Client, mut new: New<'_>, ttl: Ttl) -> bool {
        // Already pinned: nothing new begins. But a session that was only learned is listed from this request on, or
        // the tunnel of a WebSocket would make an entry of its own.
        let is_here =
            |pin: &Pin| pin.listed().is_none() && pin.worker().is_some_and(|own| Arc::ptr_eq(own, new.worker));
        if let Some(enlists) = self.pins.touch(key, Instant::now(), is_here) {
            drop(new.session.take());
            if enlists {
                self.enlist(key, |session| New { session: Some(session), ..new });
            }
            return false;
        }
        self.pin_listed(key, client, self.sockets.open(new), ttl)
    }

    /// As `pin`, for a session that is already on the list of sockets.
    pub fn pin_listed(&self, key: Key, client: Client, listed: Listed, ttl: Ttl) -> bool {
        let socket = listed.socket().clone();
        if socket.kind() == SocketKind::Plain {
            // A session of another protocol: the sid that it shows, if any, gives a different key.
            socket.keep_key(key);
        }
        let (ttl_s, slot) = marks(key, socket.worker(), ttl);
        let is_new = self.insert(key, client, Pin::new(listed, ttl_s, slot), ttl.time());
        if is_new {
            socket.begins();
        }
        is_new
    }

    /// As `pin`, for a session that was just made: its first request puts it on the list of sockets ([`enlist`]).
    pub fn pin_fresh(&self, key: Key, client: Client, session: SessionSeat, ttl: Ttl) -> bool {
        let (ttl_s, slot) = marks(key, session.worker(), ttl);
        self.insert(key, client, Pin::fresh(session, ttl_s, slot), ttl.time())
    }

    /// Puts a session on the list of sockets, at its first request after the handshake.
    pub fn enlist<'n>(&self, key: Key, new: impl FnOnce(SessionSeat) -> New<'n>) {
        self.pins.update(key, Instant::now(), |pin| {
            pin.enlist(|session| {
                let listed = self.sockets.open(new(session));
                listed.socket().begins();
                listed
            });
        });
    }

    /// Holds open a session that was just pinned, for the request that found it.
    pub fn hold(self: &Arc<Self>, key: Key) -> Option<SessionHold> {
        let now = Instant::now();
        let (open, ttl_s) = self.pins.open(key, now, Pin::ttl_s)?;
        Some(SessionHold::new(self, key, (open, now), ttl_s, false))
    }

    /// Ends a session at an operator's command, or because its worker is replaced; its pin stays, so that the end is
    /// remembered.
    pub fn end(&self, upstream: &Upstream, key: Key) {
        let is_gentle = upstream.config.spawn.is_some();
        let end = |pin: &mut Pin| (pin.has_tunnel(), if is_gentle { pin.end_gently() } else { pin.end() });
        // Sessions with a tunnel are counted where the tunnel is closed. The session is dropped after the table's lock
        // is released.
        if let Some((false, Some(_ended))) = self.pins.update(key, Instant::now(), end) {
            upstream.series().drained_polling.inc();
        }
        self.tell_end(key);
    }

    /// Whether the session is pinned here, and has a worker.
    pub(crate) fn leads(&self, key: Key) -> bool {
        self.pins.peek(key, Instant::now(), |pin| pin.worker().is_some()) == Some(true)
    }

    /// Whether an operator, or the replacement of its worker, has ended the session.
    pub fn is_ended(&self, key: Key) -> bool {
        self.pins.peek(key, Instant::now(), |pin| pin.worker().is_none()) == Some(true)
    }

    /// Whether the session has just ended because its worker is replaced, and the worker takes its last requests.
    pub(crate) fn is_late(&self, key: Key) -> bool {
        let now = Instant::now();
        self.pins.peek(key, now, |pin| pin.late_worker(clock::s_at(now)).is_some()) == Some(true)
    }

    /// Time at which the drain of `worker` ends the session that polls there: the start of the clock if it has ended
    /// already; `None` while only its tunnel or the session itself can end it.
    pub fn ends_at(&self, key: Key, worker: &Worker) -> Option<Millis> {
        let found = self.pins.peek(key, Instant::now(), |pin| (pin.worker().is_some(), pin.has_tunnel(), pin.slot()));
        match found {
            Some((false, ..)) => Some(Millis::START),
            Some((true, true, _)) => None,
            Some((true, false, slot)) => due_at(worker, slot, key),
            // The session is being discovered.
            None => due_at(worker, EndSlot::NONE, key),
        }
    }

    /// Ends the polling session of a socket at an operator's command; `false` if the socket has none or it is over.
    pub fn close(&self, socket: &Arc<Socket>) -> bool {
        if socket.transport() != Transport::Polling {
            return false;
        }
        let key = self.key_of(socket);
        let end = |pin: &mut Pin| {
            pin.listed().filter(|listed| Arc::ptr_eq(listed.socket(), socket))?;
            socket.set_end_reason(EndReason::Operator);
            pin.end()
        };
        // Dropped after the table's lock is released.
        let ended = self.pins.update(key, Instant::now(), end).flatten();
        if ended.is_some() {
            self.sockets.one_ended();
            self.tell_end(key);
        }
        ended.is_some()
    }

    /// Key of a socket's session.
    pub(crate) fn key_of(&self, socket: &Socket) -> Key {
        let of_sid = || socket.with_texts(|sid, _| self.keys.key(&socket.worker().upstream, sid));
        socket.key().unwrap_or_else(of_sid)
    }

    /// Tells the fleet that an operator ended a session.
    fn tell_end(&self, key: Key) {
        if let Some(fleet) = self.fleet.get()
            && let Some((view, ())) = self.pins.inspect(key, Instant::now(), |_| ())
        {
            fleet.ended(key, view.ttl);
        }
    }

    /// Returns the socket of a session, if it is on the list.
    pub(crate) fn socket(&self, key: Key) -> Option<Arc<Socket>> {
        self.pins.peek(key, Instant::now(), |pin| pin.listed().map(|listed| listed.socket().clone())).flatten()
    }

    /// Ends a session on behalf of a guard; its pin stays, so that the end is remembered.
    pub(crate) fn end_by_guard(&self, key: Key) {
        let end = |pin: &mut Pin| {
            if let Some(listed) = pin.listed() {
                listed.socket().set_end_reason(EndReason::Guard);
            }
            pin.end()
        };
        // Dropped after the table's lock is released.
        let ended = self.pins.update(key, Instant::now(), end).flatten();
        if ended.is_some() {
            self.sockets.one_ended();
            self.tell_end(key);
        }
    }

    /// Removes a pin: its worker died or refused the session, or the client ended the session.
    pub fn forget(&self, key: Key, why: EndReason) {
        if let Some(fleet) = self.fleet.get() {
            fleet.forget(key);
        }
        if let Some(pin) = self.pins.remove(key)
            && let Some(listed) = pin.listed()
        {
            listed.socket().set_end_reason(why);
        }
    }

    /// Removes the pin of a session that its own worker refused. Refusals of fresh sessions are counted, to detect
    /// processes that share an address.
    pub fn refused_by_owner(&self, key: Key) {
        let Some(pin) = self.pins.remove(key) else { return };
        if let Some(fleet) = self.fleet.get() {
            fleet.forget(key);
        }
        if let Some(listed) = pin.listed() {
            listed.socket().set_end_reason(EndReason::Refused);
        }
        if pin.is_fresh()
            && let Some(worker) = pin.worker()
        {
            worker.fresh_refusal(clock::now_ms());
        }
    }

    fn insert(&self, key: Key, client: Client, pin: Pin, ttl: Duration) -> bool {
        if let Some(fleet) = self.fleet.get()
            && let Some(worker) = pin.worker()
        {
            fleet.learned(key, worker.id.0, ttl);
        }
        match self.pins.insert(key, pin, self.keys.address(client.key()), ttl, Instant::now()) {
            Inserted::New { evicted: 0 } => true,
            Inserted::Kept(_) => false,
            Inserted::New { evicted } => {
                self.metrics.pins_evicted.inc_by(evicted as u64);
                say_full!("an idle pin was evicted: the pin table or an address's quota is full ([limits] pins)");
                true
            }
            Inserted::Refused(..) => {
                self.metrics.pins_refused.inc();
                say_full!("session was not pinned: the pin table or an address's quota is full ([limits] pins)");
                false
            }
        }
    }
}

fn table<E>(limits: &Limits) -> Pins<E> {
    Pins::new(limits.pins, limits.pins_per_address, Instant::now())
}

/// Returns the silence in seconds that the session's tunnels may keep (0 if unknown), and its slot in a drain of its
/// worker.
fn marks(key: Key, worker: &Worker, ttl: Ttl) -> (u16, EndSlot) {
    let ttl_s = match ttl {
        Ttl::Announced(ttl) => u16::try_from(clock::whole_seconds(ttl)).unwrap_or(u16::MAX),
        Ttl::Configured(_) => 0,
    };
    // A session that is pinned during a drain of its worker gets a slot in the time left.
    let ending = if worker.admin.ends() { worker.admin.ending() } else { None };
    (ttl_s, ending.map_or(EndSlot::NONE, |ending| ending.late_slot(clock::now_ms(), key.chance())))
}

#[cfg(test)]
mod tests;
