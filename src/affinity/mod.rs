//! Which worker a request belongs to: the sources of that knowledge, in order (design.md §3).
//!
//! [`resolve`] decides without asking anybody; what it cannot decide goes to [`discover`]. A pin never moves (invariant
//! 2): nothing here overrides one but its worker's death, or an operator's word.

pub mod cookie;
mod derive;
pub mod discover;
pub mod explain;
mod pin;
pub mod pins;
pub mod ring;
pub mod rule;
pub mod session;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::clock;
use crate::config::AdminState;
use crate::config::rules::Protocol;
use crate::metrics::Source;
use crate::proxy::ask::{Ask, Kind};
use crate::proxy::headers::Client;
use crate::sockets::{End, Listed, New, Socket, Transport, Tunnelled};
use crate::state::Shared;
use crate::telemetry::{say_full, say_rarely};
use crate::tunnel::whole_seconds;
use crate::upstream::Upstream;
use crate::upstream::ending::Slot;
use crate::upstream::worker::{Session, Worker};
use cookie::Cookie;
pub use pin::Pin;
use pin::Used;
use pins::{Inserted, Key};
use rule::Facts;

/// How long a socket's id is remembered that no request names. It leads nowhere once its session is over.
const ALIAS: Duration = Duration::from_secs(24 * 3_600);

/// Keeps a pin alive while a poll or tunnel is open.
pub struct Hold {
    shared: Arc<Shared>,
    key: Key,
    open: pins::Hold,
    tunnel: bool,
    shorten: Option<Duration>,
    /// The session is not on the list of sockets yet.
    is_fresh: bool,
    /// Body bytes of the request that holds it, and of its answer.
    moved: (u64, u64),
    /// Silence a tunnel of this session is allowed, seconds; 0: not known.
    pub ttl_s: u32,
}

impl Hold {
    fn new(shared: &Arc<Shared>, key: Key, open: pins::Hold, ttl_s: u32) -> Self {
        let shared = shared.clone();
        Self { shared, key, open, tunnel: false, shorten: None, is_fresh: false, moved: (0, 0), ttl_s }
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

    /// What the request carried that holds it, and its answer: bytes of their bodies.
    pub fn moved(&mut self, up: u64, down: u64) {
        self.moved = (up, down);
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
        let (moved, is_request) = (self.moved, !self.tunnel);
        self.shared.pins.close_with(self.key, self.open, Instant::now(), self.shorten, |pin| {
            if let Some(listed) = pin.listed().filter(|_| is_request) {
                carried(listed.socket(), moved);
            }
        });
    }
}

/// A request of a session is over. A body is a message, whatever number of packets is in it.
fn carried(socket: &Socket, (up, down): (u64, u64)) {
    let now_s = clock::now_s();
    if up > 0 {
        socket.up.moved(up, 1, now_s);
    }
    socket.down.moved(down, u32::from(down > 0), now_s);
}

/// A decision.
pub struct Choice {
    /// Where to.
    pub worker: Arc<Worker>,
    /// What decided.
    pub why: Source,
    /// The seat of a new session, to be handed to its pin or tunnel.
    pub seat: Option<Session>,
    /// Keeps the session's pin.
    pub hold: Option<Hold>,
    /// To be set with the answer.
    pub cookie: Option<Cookie>,
}

/// What can be said without asking a worker.
pub enum Resolved {
    /// This worker.
    Worker(Choice),
    /// This worker, if none of them says that it has the session: the request makes a session of any id.
    Made(Choice),
    /// Nobody has pinned this session.
    Unpinned(Key),
    /// The session's worker is gone (its pin is dropped), or an operator ended it, or no worker can have made this sid.
    Ended,
    /// No worker may take it.
    Nobody,
}

/// Decides, if that is possible. `tried`: serials of workers that could not be reached for this request.
pub fn resolve(shared: &Arc<Shared>, upstream: &Upstream, ask: &Ask, client: Client, tried: &[u64]) -> Resolved {
    let placed = match ask.kind {
        Kind::UnknownSid => return Resolved::Ended,
        Kind::Session { key, .. } => return session(shared, upstream, key, ask, client, tried),
        Kind::Preflight(Some(key)) => return preflight(shared, upstream, key, ask, client, tried),
        Kind::Ordinary | Kind::Birth if ask.follows().is_some() => followed(shared, upstream, ask, client, tried),
        Kind::Preflight(None) | Kind::Ordinary => ordinary(upstream, ask, client, tried),
        Kind::Handshake | Kind::Birth => handshake(upstream, ask, client, tried),
    };
    placed.map_or(Resolved::Nobody, Resolved::Worker)
}

/// The session's pin; without one its rule says who may have it.
fn session(shared: &Arc<Shared>, upstream: &Upstream, key: Key, ask: &Ask, client: Client, tried: &[u64]) -> Resolved {
    let (live, facts) = (ask.rule(upstream), ask.facts.as_deref());
    let client_made = live.is_some_and(|live| live.rule.client_made);
    match pinned(shared, upstream, key) {
        // Its words fit a message that stickyd does not read, and its id outlives a session: another worker has them.
        Resolved::Ended if live.is_some_and(|live| live.rule.protocol == Protocol::CometD) => {
            forget(shared, key, End::WorkerGone);
            Resolved::Unpinned(key)
        }
        // What an operator ended stays ended; of a gone worker no pin is left.
        Resolved::Ended if client_made && facts.is_some_and(|facts| facts.creates) => {
            match shared.pins.peek(key, Instant::now(), |_| ()) {
                Some(()) => Resolved::Ended,
                None => made(upstream, facts, tried),
            }
        }
        Resolved::Unpinned(_) if live.is_none_or(|live| live.discovers(facts)) => Resolved::Unpinned(key),
        Resolved::Unpinned(_) if client_made => made(upstream, facts, tried),
        Resolved::Unpinned(_) => ordinary(upstream, ask, client, tried).map_or(Resolved::Nobody, Resolved::Made),
        decided => decided,
    }
}

/// The id's own hash: the same worker in every stickyd that sees the same workers.
fn made(upstream: &Upstream, facts: Option<&Facts>, tried: &[u64]) -> Resolved {
    let hash = facts.and_then(|facts| facts.hash).unwrap_or_default();
    let Some(worker) = upstream.hash(&hash, tried).cloned() else { return Resolved::Nobody };
    let seat = Some(worker.session());
    Resolved::Made(Choice { worker, why: Source::New, seat, hold: None, cookie: None })
}

/// The worker of the Socket.IO session that an ordinary request names, while it serves; its pin is not touched.
fn followed(shared: &Shared, upstream: &Upstream, ask: &Ask, client: Client, tried: &[u64]) -> Option<Choice> {
    let worker = ask.follows().and_then(|key| shared.pins.peek(key, Instant::now(), |pin| pin.worker().cloned()));
    match worker.flatten().filter(|worker| worker.serves() && !tried.contains(&worker.serial)) {
        Some(worker) => Some(Choice { worker, why: Source::Follow, seat: None, hold: None, cookie: None }),
        None => ordinary(upstream, ask, client, tried),
    }
}

/// The pinned worker, whatever it is; its death ends the pin.
fn pinned(shared: &Arc<Shared>, upstream: &Upstream, key: Key) -> Resolved {
    let Some((open, used)) = shared.pins.open(key, Instant::now(), |pin| pin.used(clock::now_s())) else {
        return Resolved::Unpinned(key);
    };
    let Used { worker, ttl_s, slot, has_tunnel, is_fresh } = used;
    let mut hold = Hold::new(shared, key, open, ttl_s);
    hold.is_fresh = is_fresh;
    let Some(worker) = worker else { return Resolved::Ended };
    if worker.gone() {
        drop(hold);
        forget(shared, key, End::WorkerGone);
        return Resolved::Ended;
    }
    // A session with a tunnel ends with that.
    let is_due = || !has_tunnel && due_at(&worker, slot, key).is_some_and(|due| due <= clock::now_ms());
    if !worker.serves() || (worker.admin.ends() && is_due()) {
        drop(hold);
        end(shared, upstream, key);
        return Resolved::Ended;
    }
    Resolved::Worker(Choice { worker, why: Source::Sid, seat: None, hold: Some(hold), cookie: None })
}

/// Follows the session's pin without touching it; the pin of a worker that is gone or was not reached, or of an ended
/// session, leads to any.
fn preflight(
    shared: &Arc<Shared>,
    upstream: &Upstream,
    key: Key,
    ask: &Ask,
    client: Client,
    tried: &[u64],
) -> Resolved {
    let Some(worker) = shared.pins.peek(key, Instant::now(), |pin| pin.worker().cloned()) else {
        return Resolved::Unpinned(key);
    };
    if let Some(worker) = worker.filter(|worker| worker.serves() && !tried.contains(&worker.serial)) {
        return Resolved::Worker(Choice { worker, why: Source::Sid, seat: None, hold: None, cookie: None });
    }
    ordinary(upstream, ask, client, tried).map_or(Resolved::Nobody, Resolved::Worker)
}

/// Our cookie's worker while it serves, else the hash. A WebSocket that is no Engine.IO session begins one all the same: none
/// goes to a worker that is drained, least of all the one its drain has just closed.
fn ordinary(upstream: &Upstream, ask: &Ask, client: Client, tried: &[u64]) -> Option<Choice> {
    let may = |worker: &Worker| worker.serves() && (ask.upgrade.is_none() || worker.admin() == AdminState::Ready);
    if let Some(worker) = cookie_worker(upstream, ask, tried).filter(|worker| may(worker)) {
        return Some(Choice { worker: worker.clone(), why: Source::Cookie, seat: None, hold: None, cookie: None });
    }
    let (key, why, id) = hash_key(upstream, ask, client);
    let worker = upstream.hash(&key, tried)?.clone();
    Some(Choice { cookie: cookie_for(upstream, ask, id, &worker), worker, why, seat: None, hold: None })
}

/// Our cookie's worker while it takes new sessions and cookies have not brought it too many, else bounded load on the ring.
fn handshake(upstream: &Upstream, ask: &Ask, client: Client, tried: &[u64]) -> Option<Choice> {
    if let Some(worker) =
        cookie_worker(upstream, ask, tried).filter(|worker| worker.takes_new() && upstream.may_return(worker))
    {
        let seat = Some(worker.session());
        return Some(Choice { worker: worker.clone(), why: Source::Cookie, seat, hold: None, cookie: None });
    }
    let (key, _, id) = hash_key(upstream, ask, client);
    let seat = upstream.place(&key, tried)?;
    let worker = seat.worker().clone();
    Some(Choice {
        cookie: cookie_for(upstream, ask, id, &worker),
        worker,
        why: Source::New,
        seat: Some(seat),
        hold: None,
    })
}

fn cookie_worker<'a>(upstream: &'a Upstream, ask: &Ask, tried: &[u64]) -> Option<&'a Arc<Worker>> {
    upstream.worker(ask.cookie.as_ref()?.worker).filter(|worker| !tried.contains(&worker.serial))
}

/// The ring's key: the cookie's id, else the client's address, else chance; and the id a new cookie would get.
fn hash_key(upstream: &Upstream, ask: &Ask, client: Client) -> ([u8; 16], Source, [u8; 12]) {
    // Looked for where it would have been placed.
    if let Some(hash) = ask.facts.as_ref().and_then(|facts| facts.hash) {
        return (hash, Source::Any, [0; 12]);
    }
    let from_id = |id: &[u8; 12]| derive::first(id);
    if let Some(cookie) = &ask.cookie {
        return (from_id(&cookie.client), Source::Address, cookie.client);
    }
    let id = if upstream.jar.is_some() || !upstream.by_address { crate::random::bytes() } else { [0; 12] };
    if upstream.by_address { (client.key(), Source::Address, id) } else { (from_id(&id), Source::Any, id) }
}

/// Never on a preflight (design.md §3): a browser would store what it did not ask for.
fn cookie_for(upstream: &Upstream, ask: &Ask, client: [u8; 12], worker: &Worker) -> Option<Cookie> {
    let wanted = upstream.jar.is_some() && !matches!(ask.kind, Kind::Preflight(_));
    wanted.then_some(Cookie { client, worker: worker.id })
}

/// Where discovery looks first: the cookie's worker, else the ring's.
pub fn first_guess(upstream: &Upstream, ask: &Ask, client: Client) -> Option<Arc<Worker>> {
    let (key, _, _) = hash_key(upstream, ask, client);
    cookie_worker(upstream, ask, &[]).or_else(|| upstream.hash(&key, &[])).cloned()
}

/// Pins a session to a worker: the one whose answer named it (invariant 3: before that answer is released), or the one
/// that accepted its sid. `true`: it was not pinned before.
///
/// `paced`: the session has said how long it may be silent, its tunnels included.
pub fn pin(shared: &Shared, key: Key, client: Client, new: New<'_>, ttl: Duration, paced: bool) -> bool {
    // Known already: nothing new begins.
    if shared.pins.touch(key, Instant::now(), |_| ()).is_some() {
        return false;
    }
    pin_listed(shared, key, client, shared.sockets.open(new), ttl, paced)
}

/// The same of a session that is on the list of sockets.
pub fn pin_listed(shared: &Shared, key: Key, client: Client, listed: Listed, ttl: Duration, paced: bool) -> bool {
    let socket = listed.socket().clone();
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

/// Every hundredth new session: if its address alone holds most of them, the address key says little.
pub fn watch_one_address(shared: &Shared, upstream: &Upstream, client: Client) {
    if !(upstream.carried.learned.fetch_add(1, Relaxed) + 1).is_multiple_of(100) {
        return;
    }
    let (here, all) = (shared.pins.of_address(shared.keys.address(client.key())), shared.pins.len());
    if here * 2 > all {
        say_rarely!(upstream = %upstream.config.name, address = %client.address, sessions = here, of = all,
            "one client address holds most sessions: if a proxy or NAT in front hides the clients, \
             name it in the listener's trusted_proxies");
    }
}

/// Opens a session just pinned, for the request that found it.
pub fn hold(shared: &Arc<Shared>, key: Key) -> Option<Hold> {
    let (open, ttl_s) = shared.pins.open(key, Instant::now(), Pin::ttl_s)?;
    Some(Hold::new(shared, key, open, ttl_s))
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
    let key = socket.with_texts(|sid, _| shared.keys.key(&socket.worker().upstream, sid));
    // Dropped outside of the table's lock.
    let ended = close_pin(shared, key, socket).or_else(|| close_pin(shared, find(shared, socket)?, socket)).is_some();
    if ended {
        shared.sockets.one_ended();
    }
    ended
}

fn close_pin(shared: &Shared, key: Key, socket: &Arc<Socket>) -> Option<Pin> {
    let end = |pin: &mut Pin| {
        pin.listed().filter(|listed| Arc::ptr_eq(listed.socket(), socket))?;
        socket.ends(End::Operator);
        pin.end()
    };
    shared.pins.update(key, Instant::now(), end)?
}

/// The pin of a session whose id its socket does not tell, as those of other protocols than Socket.IO: by looking at all.
fn find(shared: &Shared, socket: &Arc<Socket>) -> Option<Key> {
    (0..pins::SHARDS).find_map(|shard| {
        let mut found = None;
        shared.pins.each(shard, |key, pin| {
            if pin.listed().is_some_and(|listed| Arc::ptr_eq(listed.socket(), socket)) {
                found = Some(key);
            }
        });
        found
    })
}

fn due_at(worker: &Worker, slot: Slot, key: Key) -> Option<u64> {
    worker.admin.ending()?.due_ms(slot, key.jitter())
}

/// Remembers that an id of Socket.IO's own is a name of this session, for requests that `follow` it.
pub fn alias(shared: &Shared, upstream: &str, id: &[u8], key: Key, client: Client) {
    let name = shared.keys.of_rule(upstream, rule::FOLLOW, id);
    let address = shared.keys.address(client.key());
    let now = Instant::now();
    // A socket that was recovered has its id in another session.
    if shared.aliases.update(name, now, |session| *session = key).is_some() {
        return;
    }
    match shared.aliases.insert(name, key, address, ALIAS, now) {
        Inserted::New { evicted: 0 } | Inserted::Kept(_) => {}
        Inserted::New { .. } => shared.metrics.pins_evicted.inc(),
        Inserted::Refused(..) => {
            shared.metrics.pins_refused.inc();
            say_full!("a socket's id was not remembered: the table or its address's quota is full ([limits] pins)");
        }
    }
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
