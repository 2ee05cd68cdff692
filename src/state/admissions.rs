//! What guards remember of sessions: their clients ([`Person`]), what is due for them, and refusals.
//!
//! A client is remembered while its session polls, and otherwise for [`KEPT`]. Sockets that have to end at a known time
//! (a token that expires, a CONNECT packet that never comes) wait in one heap, which the control thread looks at.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::Shared;
use super::mail_users;
use super::told::{ToldReason, ToldTable};
use crate::affinity::pins::Pins;
use crate::client::{Client, address_key};
use crate::clock::{self, Millis};
use crate::config::guards::{Refuse, UserSource};
use crate::config::{CloseNotice, Limits};
use crate::keys::Key;
use crate::locks::lock;
use crate::route::guard::RouteGuard;
use crate::route::live_keys;
use crate::route::person::{Person, PersonRefusal};
use crate::sockets::{EndReason, Socket, Transport};
use crate::websocket::frames::CloseCode;

/// How long a client is remembered without a request of its session.
const KEPT: Duration = Duration::from_secs(300);

/// Time in which a CONNECT packet with a good token has to come.
const CONNECTS_WITHIN: Duration = Duration::from_secs(10);

/// Maximum number of sockets that wait for their end: as many as sockets are listed by default.
const MOST_DUE: usize = 1 << 20;

/// What guards remember of sessions.
pub(crate) struct Admissions {
    persons: Pins<Arc<Person>>,
    /// Sessions that are refused in their own protocol.
    pub(crate) told: Arc<ToldTable>,
    due: Mutex<BinaryHeap<Reverse<Due>>>,
}

/// A socket that has to end at a time.
struct Due {
    at: Millis,
    socket: Weak<Socket>,
    why: DueReason,
}

enum DueReason {
    /// The token of its client expires.
    Expiry,
    /// Its client must have been admitted by then.
    Admission(Arc<Person>),
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl Admissions {
    /// Nothing is remembered yet.
    pub(crate) fn new(limits: &Limits) -> Self {
        let persons = Pins::new(limits.pins, limits.pins_per_address, Instant::now());
        Self { persons, told: Arc::default(), due: Mutex::default() }
    }

    /// Remembers the client of a session that has just begun, in place of the client of an earlier session with the
    /// same id: applications may make their own ids, and use them again.
    pub(crate) fn begin(&self, shared: &Shared, key: Key, client: Client, person: Arc<Person>) {
        drop(self.persons.remove(key));
        self.remember(shared, key, client, person);
    }

    /// Remembers the client of a session, unless one is known.
    pub(crate) fn remember(&self, shared: &Shared, key: Key, client: Client, person: Arc<Person>) {
        let address = shared.sessions.keys.address(client.key());
        let _ = self.persons.insert(key, person, address, KEPT, Instant::now());
    }

    /// Returns the client of a session, if it is remembered.
    pub(crate) fn person(&self, key: Key) -> Option<Arc<Person>> {
        self.persons.touch(key, Instant::now(), Arc::clone)
    }

    fn wait_until(&self, at: Millis, socket: &Arc<Socket>, why: DueReason) {
        let mut due = lock(&self.due);
        if due.len() >= MOST_DUE {
            due.retain(|Reverse(one)| one.socket.strong_count() > 0);
        }
        if due.len() < MOST_DUE {
            due.push(Reverse(Due { at, socket: Arc::downgrade(socket), why }));
        }
    }

    /// Forgets what is over, in one part of the tables; called in turn for each part.
    pub(crate) fn sweep(&self, turn: usize) {
        self.persons.sweep(turn % crate::affinity::pins::SHARDS, Instant::now());
        self.told.sweep(clock::now_ms());
    }
}

/// Applies to a new socket what its route's guard knows of its client: labels, the limit of its user, and the time at
/// which it has to end. Applied again, it changes nothing of this.
pub(crate) fn settle(shared: &Shared, watch: &RouteGuard, person: Option<&Arc<Person>>, socket: &Arc<Socket>) {
    if let Some(person) = person {
        if person.is_admitted() {
            socket.learn_claims(&|name| person.claim(name));
            mail_users::of_token(shared, person, socket);
            end_when_expired(shared, watch, person, socket);
        } else if !person.is_found() {
            let at = person.set_deadline(clock::now_ms().saturating_add(CONNECTS_WITHIN));
            shared.admissions.wait_until(at, socket, DueReason::Admission(person.clone()));
        }
    }
    let Some(users) = &watch.users else { return };
    let user = match &users.limit().by {
        UserSource::Claim(name) => person.and_then(|person| person.claim(name)),
        UserSource::Label(name) => socket.with_texts(|_, labels| {
            labels.iter().find(|(label, _)| label == name).and_then(|(_, value)| value.map(str::to_owned))
        }),
    };
    let Some(user) = user else { return };
    for over in users.join(&user, socket) {
        if let Some(upstream) = shared.snapshot.load().upstream(&over.worker().upstream) {
            upstream.series().turned(crate::metrics::GuardLabel::Users);
        }
        let is_new = Arc::ptr_eq(&over, socket);
        if is_new && users.limit().refuse == Refuse::Told {
            tell_too_many(shared, person, &over);
        }
        close(shared, &over, 4409, ToldReason::TooMany.code());
    }
}

/// Lets the next answer to a new socket tell its client that its user has too many.
fn tell_too_many(shared: &Shared, person: Option<&Arc<Person>>, socket: &Arc<Socket>) {
    let reason = ToldReason::TooMany;
    if let Some(person) = person {
        person.refuse(PersonRefusal { message: reason.message(), code: reason.code(), namespace: String::new() });
    }
    if socket.transport() == Transport::Polling {
        let name = &socket.worker().upstream;
        let key = socket.with_texts(|sid, _| shared.sessions.keys.key(name, sid));
        let client = address_key(socket.address());
        let _ = shared.admissions.told.say(key, client, reason, String::new(), clock::now_ms());
    }
}

fn end_when_expired(shared: &Shared, watch: &RouteGuard, person: &Arc<Person>, socket: &Arc<Socket>) {
    let Some(jwt) = watch.jwt.as_ref().filter(|jwt| jwt.config.closes_expired) else { return };
    let Some(expires_s) = person.expires_s().filter(|at| person.take_expiry(*at)) else { return };
    let now = live_keys::now();
    // A token that was accepted thanks to the leeway is good until the leeway ends.
    let left = match expires_s.saturating_sub(now.unix_s) {
        0 => expires_s.saturating_add(jwt.config.terms.leeway_s).saturating_sub(now.unix_s).max(1),
        left => left,
    };
    let at = now.ms.saturating_add(Duration::from_secs(left));
    shared.admissions.wait_until(at, socket, DueReason::Expiry);
}

/// Closes the sockets whose time has come.
pub(crate) fn close_due(shared: &Shared, now: Millis) {
    loop {
        let due = {
            let mut all = lock(&shared.admissions.due);
            if all.peek().is_none_or(|Reverse(first)| first.at > now) {
                return;
            }
            all.pop()
        };
        let Some(Reverse(due)) = due else { return };
        let Some(socket) = due.socket.upgrade().filter(|socket| socket.has_begun()) else { continue };
        match due.why {
            DueReason::Expiry => close(shared, &socket, 4401, "token_expired"),
            DueReason::Admission(person) if !person.is_admitted() => close(shared, &socket, 1008, "token_missing"),
            DueReason::Admission(_) => {}
        }
    }
}

/// Closes a socket on behalf of a guard: its tunnel with this code, or its polling session.
pub(crate) fn close(shared: &Shared, socket: &Arc<Socket>, code: u16, reason: &str) {
    let code = CloseCode::new(code).unwrap_or(CloseCode::NORMAL);
    socket.set_end_reason(EndReason::Guard);
    let _ = socket.order(&Arc::new(CloseNotice { code, reason: reason.to_owned() }));
    let _ = shared.sessions.close(socket);
}
