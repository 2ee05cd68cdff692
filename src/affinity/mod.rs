//! Decides which worker a request belongs to, from several sources in order (docs/reference/routing.md).
//!
//! [`resolve`] decides without contacting workers; [`discover`] handles what it cannot decide. A pin never moves
//! (ARCHITECTURE.md, invariant 2): nothing here overrides a pin except the death of its worker or an operator's
//! command.

pub(crate) mod ask;
pub(crate) mod discoveries;
pub(crate) mod explain;
mod pin;
pub(crate) mod pins;
pub(crate) mod recognise;
pub(crate) mod sessions;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::clock;
use crate::config::AdminState;
use crate::config::rules::Protocol;
use crate::cookie::Cookie;
use crate::keys::Key;
use crate::keys::derive;
use crate::metrics::SourceLabel;
use crate::rules::{FollowedSession, RuleFacts};
use crate::sockets::EndReason;
use crate::telemetry::{say_full, say_rarely};
use crate::upstream::Upstream;
use crate::upstream::serial::WorkerSerial;
use crate::upstream::worker::{SessionSeat, Worker};
use ask::{RequestFacts, RequestKind};
use pin::Used;
use pins::Inserted;
use sessions::due_at;
pub(crate) use sessions::{SessionHold, Sessions, Ttl};

/// How long a Socket.IO socket id is remembered if no request names it. The id leads nowhere once its session is over.
const ALIAS: Duration = Duration::from_secs(24 * 3_600);

/// The worker chosen for a request, and what belongs to the choice.
pub struct Choice {
    /// Worker that gets the request.
    pub worker: Arc<Worker>,
    /// Source that decided the choice.
    pub why: SourceLabel,
    /// The new session's place in the worker's session count, to be handed to its pin or tunnel.
    pub seat: Option<SessionSeat>,
    /// Keeps the session's pin alive while the request is open.
    pub hold: Option<SessionHold>,
    /// Cookie to be set with the response.
    pub cookie: Option<Cookie>,
}

/// What [`resolve`] decided for a request.
pub enum Resolved {
    /// The request goes to this worker.
    Worker(Choice),
    /// The request creates a session for whatever id it carries: it goes to this worker unless another one claims the
    /// session when probed.
    Made(Choice),
    /// The session is not pinned.
    Unpinned(Key),
    /// The session is over: its worker is gone (and its pin dropped), an operator ended it, or no worker can have made
    /// this sid.
    Ended,
    /// No worker can take the request.
    NoWorker,
}

impl Sessions {
    /// Decides which worker gets the request, as far as possible without contacting workers. `tried` holds the serials
    /// of workers that could not be reached for this request.
    pub fn resolve(
        self: &Arc<Self>,
        upstream: &Upstream,
        ask: &RequestFacts,
        client: Client,
        tried: &[WorkerSerial],
    ) -> Resolved {
        let seeking = Seeking { upstream, ask, client, tried };
        let placed = match ask.kind {
            RequestKind::UnknownSid => return Resolved::Ended,
            RequestKind::Session { key, .. } => return self.session(seeking, key),
            RequestKind::Preflight(Some(key)) => return self.preflight(seeking, key),
            RequestKind::Ordinary | RequestKind::Birth if ask.follows().is_some() => self.followed(seeking),
            RequestKind::Preflight(None) | RequestKind::Ordinary => ordinary(seeking),
            RequestKind::Handshake | RequestKind::Birth => handshake(seeking),
        };
        placed.map_or(Resolved::NoWorker, Resolved::Worker)
    }

    /// Resolves a request with a session id: by the session's pin, or without a pin by the rule that found the id.
    fn session(self: &Arc<Self>, seeking: Seeking<'_>, key: Key) -> Resolved {
        let Seeking { upstream, ask, tried, .. } = seeking;
        let (live, facts) = (ask.rule(upstream), ask.facts.as_deref());
        let client_made = live.is_some_and(|live| live.rule.client_made);
        match self.pinned(upstream, ask, key) {
            // A CometD refusal has to fit the client's message, which stickyd does not read, and the id outlives a
            // session. Another worker has to answer.
            Resolved::Ended if live.is_some_and(|live| live.rule.protocol == Protocol::CometD) => {
                self.forget(key, EndReason::WorkerGone);
                Resolved::Unpinned(key)
            }
            // A session that an operator ended stays ended. If its worker is gone, no pin is left and the id may be
            // used again.
            Resolved::Ended if client_made && facts.is_some_and(|facts| facts.creates) => {
                match self.pins.peek(key, Instant::now(), |_| ()) {
                    Some(()) => Resolved::Ended,
                    None => made(upstream, facts, tried),
                }
            }
            Resolved::Unpinned(_) if live.is_none_or(|live| live.discovers(facts)) => Resolved::Unpinned(key),
            Resolved::Unpinned(_) if client_made => made(upstream, facts, tried),
            Resolved::Unpinned(_) => ordinary(seeking).map_or(Resolved::NoWorker, Resolved::Made),
            decided => decided,
        }
    }

    /// Chooses the worker of the Socket.IO session that an ordinary request names, while it serves; the session's pin
    /// is not refreshed.
    fn followed(&self, seeking: Seeking<'_>) -> Option<Choice> {
        let worker = match seeking.ask.follows() {
            Some(FollowedSession::Pinned(key)) => self.pins.peek(key, Instant::now(), |pin| pin.worker().cloned()),
            Some(FollowedSession::At(id)) => Some(seeking.upstream.worker(id).cloned()),
            None => None,
        };
        match worker.flatten().filter(|worker| worker.serves() && !seeking.tried.contains(&worker.serial)) {
            Some(worker) => Some(Choice { worker, why: SourceLabel::Follow, seat: None, hold: None, cookie: None }),
            None => ordinary(seeking),
        }
    }

    /// Resolves a session by its pin, whatever the state of the worker; only the worker's death or an operator ends the
    /// pin.
    fn pinned(self: &Arc<Self>, upstream: &Upstream, ask: &RequestFacts, key: Key) -> Resolved {
        let now = Instant::now();
        let Some((open, used)) = self.pins.open(key, now, |pin| pin.used(clock::s_at(now))) else {
            return Resolved::Unpinned(key);
        };
        let Used { worker, late, ttl_s, slot, has_tunnel, is_fresh } = used;
        let hold = SessionHold::new(self, key, (open, now), ttl_s, is_fresh);
        let Some(worker) = worker else { return last_request(upstream, ask, late, hold) };
        if worker.gone() {
            drop(hold);
            self.forget(key, EndReason::WorkerGone);
            return Resolved::Ended;
        }
        // A session with a tunnel ends with the tunnel.
        let is_due = || !has_tunnel && due_at(&worker, slot, key).is_some_and(|due| due <= clock::ms_at(now));
        if !worker.serves() || (worker.admin.ends() && is_due()) {
            self.end(upstream, key);
            let late = self.pins.peek(key, now, |pin| pin.late_worker(clock::s_at(now)).cloned());
            return last_request(upstream, ask, late.flatten(), hold);
        }
        Resolved::Worker(Choice { worker, why: SourceLabel::Sid, seat: None, hold: Some(hold), cookie: None })
    }

    /// Resolves a preflight by the session's pin without refreshing the pin. If the worker is gone or could not be
    /// reached, or the session has ended, any worker may answer.
    fn preflight(self: &Arc<Self>, seeking: Seeking<'_>, key: Key) -> Resolved {
        let Some(worker) = self.pins.peek(key, Instant::now(), |pin| pin.worker().cloned()) else {
            return Resolved::Unpinned(key);
        };
        if let Some(worker) = worker.filter(|worker| worker.serves() && !seeking.tried.contains(&worker.serial)) {
            return Resolved::Worker(Choice { worker, why: SourceLabel::Sid, seat: None, hold: None, cookie: None });
        }
        ordinary(seeking).map_or(Resolved::NoWorker, Resolved::Worker)
    }

    /// Checks at every hundredth new session whether its client address holds most sessions, and warns: the address
    /// then does not tell clients apart.
    pub fn watch_one_address(&self, upstream: &Upstream, client: Client) {
        if !(upstream.carried.learned.fetch_add(1, Relaxed) + 1).is_multiple_of(100) {
            return;
        }
        let (here, all) = (self.pins.of_address(self.keys.address(client.key())), self.pins.len());
        if here * 2 > all {
            say_rarely!(upstream = %upstream.config.name, address = %client.address, sessions = here, of = all,
                "one client address holds most sessions: if a proxy or NAT in front hides the clients, \
                 name it in the listener's trusted_proxies");
        }
    }

    /// Remembers a Socket.IO socket id as another name of this session, for requests that `follow` it.
    pub fn alias(&self, upstream: &str, id: &[u8], key: Key, client: Client) {
        let name = self.keys.of_rule(upstream, recognise::FOLLOW, id);
        if let Some(fleet) = self.fleet() {
            match self.pins.inspect(key, Instant::now(), |pin| pin.worker().is_some()) {
                Some((view, true)) => fleet.learned_name(name, key, view.ttl),
                // A session that was just found is pinned after this, and renewals take the time from its pin.
                None => fleet.learned_name(name, key, Duration::ZERO),
                Some((_, false)) => {}
            }
        }
        self.remember_name(upstream, name, key, client);
    }

    /// As [`Self::alias`], for the key of an id that the fleet knows already.
    pub(crate) fn remember_name(&self, upstream: &str, name: Key, key: Key, client: Client) {
        let address = self.keys.address(client.key());
        let now = Instant::now();
        // A recovered socket keeps its id in a new session.
        if self.aliases.update(name, now, |session| *session = key).is_some() {
            return;
        }
        match self.aliases.insert(name, key, address, ALIAS, now) {
            Inserted::New { evicted: 0 } | Inserted::Kept(_) => {}
            Inserted::New { .. } => self.metrics.pins_evicted.inc(),
            Inserted::Refused(..) => {
                self.metrics.pins_refused.inc();
                say_full!(upstream = %upstream,
                    "socket id was not remembered: the table or the quota of its address is full ([limits] pins)");
            }
        }
    }
}

/// Resolves a request of a session that has ended because its worker is replaced. A poll learns of the end; what the
/// client sent before it knew still reaches the worker.
fn last_request(upstream: &Upstream, ask: &RequestFacts, late: Option<Arc<Worker>>, hold: SessionHold) -> Resolved {
    let takes = |worker: &Arc<Worker>| worker.admin() != AdminState::Maint && !worker.gone();
    match late.filter(takes) {
        Some(worker) if !ask.is_poll() && ask.is_engine_io(upstream) => {
            Resolved::Worker(Choice { worker, why: SourceLabel::Sid, seat: None, hold: Some(hold), cookie: None })
        }
        _ => Resolved::Ended,
    }
}

/// A request that seeks its worker.
#[derive(Clone, Copy)]
struct Seeking<'a> {
    upstream: &'a Upstream,
    ask: &'a RequestFacts,
    client: Client,
    /// Workers that could not be reached for this request.
    tried: &'a [WorkerSerial],
}

/// Chooses the worker by the hash of the id: the same one in every stickyd that sees the same workers.
fn made(upstream: &Upstream, facts: Option<&RuleFacts>, tried: &[WorkerSerial]) -> Resolved {
    let hash = facts.and_then(|facts| facts.hash).unwrap_or_default();
    let Some(worker) = upstream.hash(&hash, tried).cloned() else { return Resolved::NoWorker };
    let seat = Some(worker.session());
    Resolved::Made(Choice { worker, why: SourceLabel::New, seat, hold: None, cookie: None })
}

/// Chooses the worker that the cookie names while it serves, else the worker of the hash. A WebSocket outside Engine.IO
/// starts a session, too: the cookie never leads it to a draining worker, least of all back to the one whose drain has
/// just closed it.
fn ordinary(seeking: Seeking<'_>) -> Option<Choice> {
    let Seeking { upstream, ask, client, tried } = seeking;
    let may = |worker: &Worker| worker.serves() && (ask.upgrade.is_none() || worker.admin() == AdminState::Ready);
    if let Some(worker) = cookie_worker(upstream, ask, tried).filter(|worker| may(worker)) {
        return Some(Choice { worker: worker.clone(), why: SourceLabel::Cookie, seat: None, hold: None, cookie: None });
    }
    let key = HashKey::of(upstream, ask, client);
    let worker = upstream.hash(&key.hash, tried)?.clone();
    Some(Choice {
        cookie: cookie_for(upstream, ask, key.client, &worker),
        worker,
        why: key.why,
        seat: None,
        hold: None,
    })
}

/// Places a new session: on the worker that the cookie names, if it takes new sessions and cookies have not brought it
/// too many, else by bounded load on the ring.
fn handshake(seeking: Seeking<'_>) -> Option<Choice> {
    let Seeking { upstream, ask, client, tried } = seeking;
    if let Some(worker) =
        cookie_worker(upstream, ask, tried).filter(|worker| worker.takes_new() && upstream.may_return(worker))
    {
        let seat = Some(worker.session());
        return Some(Choice { worker: worker.clone(), why: SourceLabel::Cookie, seat, hold: None, cookie: None });
    }
    let key = HashKey::of(upstream, ask, client);
    let seat = upstream.place(&key.hash, tried)?;
    let worker = seat.worker().clone();
    Some(Choice {
        cookie: cookie_for(upstream, ask, key.client, &worker),
        worker,
        why: SourceLabel::New,
        seat: Some(seat),
        hold: None,
    })
}

fn cookie_worker<'a>(upstream: &'a Upstream, ask: &RequestFacts, tried: &[WorkerSerial]) -> Option<&'a Arc<Worker>> {
    upstream.worker(ask.cookie.as_ref()?.worker).filter(|worker| !tried.contains(&worker.serial))
}

/// What places a request on the ring.
struct HashKey {
    /// Position on the ring, made of the cookie's id, else of the client's address, else of chance.
    hash: [u8; 16],
    /// Source of the position.
    why: SourceLabel,
    /// Id of the client for a new cookie; all zeros if the upstream sets none.
    client: [u8; 12],
}

impl HashKey {
    fn of(upstream: &Upstream, ask: &RequestFacts, client: Client) -> Self {
        // A session with a client-made id is looked for where it would have been placed.
        if let Some(hash) = ask.facts.as_ref().and_then(|facts| facts.hash) {
            return Self { hash, why: SourceLabel::Any, client: [0; 12] };
        }
        if let Some(cookie) = &ask.cookie {
            return Self { hash: derive::first(&cookie.client), why: SourceLabel::Address, client: cookie.client };
        }
        let id = if upstream.jar.is_some() || !upstream.by_address { crate::random::bytes() } else { [0; 12] };
        if upstream.by_address {
            Self { hash: client.key(), why: SourceLabel::Address, client: id }
        } else {
            Self { hash: derive::first(&id), why: SourceLabel::Any, client: id }
        }
    }
}

/// Returns the cookie to set, if the upstream uses cookies. A preflight gets none (docs/reference/routing.md §4): the
/// browser would store a cookie that it did not ask for.
fn cookie_for(upstream: &Upstream, ask: &RequestFacts, client: [u8; 12], worker: &Worker) -> Option<Cookie> {
    let wanted = upstream.jar.is_some() && !matches!(ask.kind, RequestKind::Preflight(_));
    wanted.then_some(Cookie { client, worker: worker.id })
}

/// Worker that discovery asks first: the one that the cookie names, else the ring's.
pub(crate) fn first_guess(upstream: &Upstream, ask: &RequestFacts, client: Client) -> Option<Arc<Worker>> {
    let key = HashKey::of(upstream, ask, client);
    cookie_worker(upstream, ask, &[]).or_else(|| upstream.hash(&key.hash, &[])).cloned()
}
