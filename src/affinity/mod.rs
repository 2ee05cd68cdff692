//! Which worker a request belongs to: the sources of that knowledge, in order (design.md §3).
//!
//! [`resolve`] decides without asking anybody; what it cannot decide goes to [`discover`]. A pin never moves (invariant
//! 2): nothing here overrides one but its worker's death.

pub mod cookie;
mod derive;
pub mod discover;
pub mod pins;
pub mod ring;
pub mod session;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::clock;
use crate::metrics::Source;
use crate::proxy::ask::{Ask, Kind};
use crate::proxy::headers::Client;
use crate::state::Shared;
use crate::telemetry::{say_full, say_rarely};
use crate::tunnel::whole_seconds;
use crate::upstream::Upstream;
use crate::upstream::worker::{Session, Worker};
use cookie::Cookie;
use pins::{Inserted, Key};

/// What the pin table holds of a session; dropping it takes the session off its worker's count.
pub struct Pin {
    session: Session,
    /// Seconds, for the warning about workers that refuse what they just made.
    born_s: u32,
    /// Seconds a tunnel of this session may be silent; 18 hours at most.
    ttl_s: u16,
    /// Requests that found it, up to 255.
    uses: AtomicU8,
}

/// A session refused within its first requests and seconds was never known where it went: later its worker may have
/// ended it.
const FRESH_REQUESTS: u8 = 3;
const FRESH_SECONDS: u32 = 10;

impl Pin {
    /// Its worker, for one more request.
    fn used(&self) -> &Arc<Worker> {
        // Only ever under the table's lock.
        self.uses.store(self.uses.load(Relaxed).saturating_add(1), Relaxed);
        self.worker()
    }

    fn is_fresh(&self) -> bool {
        self.uses.load(Relaxed) <= FRESH_REQUESTS && clock::now_s().saturating_sub(self.born_s) < FRESH_SECONDS
    }

    /// The session's worker.
    pub fn worker(&self) -> &Arc<Worker> {
        self.session.worker()
    }
}

/// Keeps a pin alive while a poll or tunnel is open.
pub struct Hold {
    shared: Arc<Shared>,
    key: Key,
    open: pins::Hold,
    shorten: Option<Duration>,
    /// Silence a tunnel of this session is allowed, seconds.
    pub ttl_s: u32,
}

impl Hold {
    /// This hold is a tunnel's: when it ends, the session most likely has ended too (protocols §5.9), so its pin is kept
    /// only for as long as a failed upgrade needs to be noticed by the client's next poll.
    pub fn of_tunnel(mut self) -> Self {
        self.shorten = Some(Duration::from_secs(5));
        self
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.pins.close(self.key, self.open, Instant::now(), self.shorten);
    }
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
    /// Nobody has pinned this session.
    Unpinned(Key),
    /// The session's worker is gone (its pin is dropped), or the sid was refused by all a moment ago.
    Ended,
    /// No worker may take it.
    Nobody,
}

/// Decides, if that is possible. `tried`: serials of workers that could not be reached for this request.
pub fn resolve(shared: &Arc<Shared>, upstream: &Upstream, ask: &Ask, client: Client, tried: &[u64]) -> Resolved {
    let placed = match ask.kind {
        Kind::UnknownSid => return Resolved::Ended,
        Kind::Session { key, .. } => return pinned(shared, key),
        Kind::Preflight(Some(key)) => return preflight(shared, upstream, key, ask, client, tried),
        Kind::Preflight(None) | Kind::Ordinary => ordinary(upstream, ask, client, tried),
        Kind::Handshake => handshake(upstream, ask, client, tried),
    };
    placed.map_or(Resolved::Nobody, Resolved::Worker)
}

/// The pinned worker, whatever it is; its death ends the pin.
fn pinned(shared: &Arc<Shared>, key: Key) -> Resolved {
    let now = Instant::now();
    let Some((open, (worker, ttl_s))) = shared.pins.open(key, now, |pin| (pin.used().clone(), pin.ttl_s.into())) else {
        return Resolved::Unpinned(key);
    };
    let hold = Hold { shared: shared.clone(), key, open, shorten: None, ttl_s };
    if !worker.serves() {
        drop(hold);
        forget(shared, key);
        return Resolved::Ended;
    }
    Resolved::Worker(Choice { worker, why: Source::Sid, seat: None, hold: Some(hold), cookie: None })
}

/// Follows the session's pin without touching it; the pin of a worker that is gone or was not reached leads to any.
fn preflight(
    shared: &Arc<Shared>,
    upstream: &Upstream,
    key: Key,
    ask: &Ask,
    client: Client,
    tried: &[u64],
) -> Resolved {
    let Some(worker) = shared.pins.peek(key, Instant::now(), |pin| pin.worker().clone()) else {
        return Resolved::Unpinned(key);
    };
    if worker.serves() && !tried.contains(&worker.serial) {
        return Resolved::Worker(Choice { worker, why: Source::Sid, seat: None, hold: None, cookie: None });
    }
    ordinary(upstream, ask, client, tried).map_or(Resolved::Nobody, Resolved::Worker)
}

/// Our cookie's worker while it serves, else the hash.
fn ordinary(upstream: &Upstream, ask: &Ask, client: Client, tried: &[u64]) -> Option<Choice> {
    if let Some(worker) = cookie_worker(upstream, ask, tried).filter(|worker| worker.serves()) {
        return Some(Choice { worker: worker.clone(), why: Source::Cookie, seat: None, hold: None, cookie: None });
    }
    let (key, why, id) = hash_key(upstream, ask, client);
    let worker = upstream.hash(&key, tried)?.clone();
    Some(Choice { cookie: cookie_for(upstream, ask, id, &worker), worker, why, seat: None, hold: None })
}

/// Our cookie's worker while it takes new sessions, else bounded load on the ring.
fn handshake(upstream: &Upstream, ask: &Ask, client: Client, tried: &[u64]) -> Option<Choice> {
    if let Some(worker) = cookie_worker(upstream, ask, tried).filter(|worker| worker.takes_new()) {
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
pub fn pin(shared: &Shared, key: Key, client: Client, session: Session, ttl: Duration) -> bool {
    let ttl_s = u16::try_from(whole_seconds(ttl)).unwrap_or(u16::MAX);
    let pin = Pin { session, born_s: clock::now_s(), ttl_s, uses: AtomicU8::new(0) };
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
    let (open, ttl_s) = shared.pins.open(key, Instant::now(), |pin| pin.ttl_s.into())?;
    Some(Hold { shared: shared.clone(), key, open, shorten: None, ttl_s })
}

/// Ends a pin: its worker died, or lost the session and says so.
pub fn forget(shared: &Shared, key: Key) {
    drop(shared.pins.remove(key));
}

/// The pin's worker refused its own session: the pin goes, and fresh refusals are counted against shared addresses.
pub fn refused_by_owner(shared: &Shared, key: Key) {
    if let Some(pin) = shared.pins.remove(key)
        && pin.is_fresh()
    {
        pin.worker().fresh_refusal(clock::now_ms());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table's own 86 bytes a pin (its header) are with an owner of 8: with this one a pin stays below 100.
    #[test]
    fn a_pin_is_small() {
        assert_eq!(size_of::<Pin>(), 16);
    }
}
