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
use crate::fleet::users::PlaceHolder;
use crate::keys::Key;
use crate::locks::lock;
use crate::route::guard::RouteGuard;
use crate::route::live_keys;
use crate::route::person::{Person, PersonRefusal};
use crate::route::users::{JoinedUser, Users};
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
pub(crate) fn settle(shared: &Arc<Shared>, watch: &RouteGuard, person: Option<&Arc<Person>>, socket: &Arc<Socket>) {
    if let Some(person) = person {
        if person.is_admitted() {
            socket.learn_claims(&|name| person.claim(name));
            mail_users::of_token(shared, person, socket);
            end_when_expired(shared, watch, person, socket);
            if let Some(fleet) = shared.sessions.fleet().filter(|_| person.take_untold()) {
                fleet.has_come(shared.sessions.key_of(socket));
            }
        } else if !person.is_found() || shared.sessions.fleet().is_some() {
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
    match users.join(&user, socket) {
        None => {}
        Some(JoinedUser::TooMany) => turn_out(shared, users, person, socket, true),
        Some(JoinedUser::In { over }) => {
            over.iter().for_each(|over| turn_out(shared, users, None, over, false));
            enter_fleet(shared, users, &user, person, socket);
        }
    }
}

/// Counts a socket among those that its user has on all stickyds.
fn enter_fleet(
    shared: &Arc<Shared>,
    users: &Arc<Users>,
    user: &str,
    person: Option<&Arc<Person>>,
    socket: &Arc<Socket>,
) {
    let Some(fleet) = shared.sessions.fleet() else { return };
    let (user, terms) = users.in_fleet(fleet, user);
    // Other stickyds may carry the same session. A WebSocket without a session id is on this one only.
    let has_session = socket.key().is_some() || socket.with_texts(|sid, _| !sid.is_empty());
    let session = has_session.then(|| shared.sessions.key_of(socket));
    let (shared, socket_held) = (Arc::downgrade(shared), Arc::downgrade(socket));
    let holder = CountedSocket { shared, users: users.clone(), person: person.cloned(), socket: socket_held };
    if let Some(place) = fleet.enter(user, terms, session, Arc::new(holder)) {
        socket.keep_place(place);
    }
}

/// A socket that counts among those of its user in the fleet.
struct CountedSocket {
    shared: Weak<Shared>,
    users: Arc<Users>,
    person: Option<Arc<Person>>,
    socket: Weak<Socket>,
}

impl PlaceHolder for CountedSocket {
    fn give_way(&self, is_new: bool) {
        if let (Some(shared), Some(socket)) = (self.shared.upgrade(), self.socket.upgrade()) {
            turn_out(&shared, &self.users, self.person.as_ref(), &socket, is_new);
        }
    }
}

/// Closes a socket because its user has one too many. `is_new`: it is the one that came last.
fn turn_out(shared: &Shared, users: &Users, person: Option<&Arc<Person>>, socket: &Arc<Socket>, is_new: bool) {
    if let Some(upstream) = shared.snapshot.load().upstream(&socket.worker().upstream) {
        upstream.series().turned(crate::metrics::GuardLabel::Users);
    }
    if is_new && users.limit().refuse == Refuse::Told {
        tell_too_many(shared, person, socket);
    }
    // It no longer counts, however long its end takes.
    socket.leave_place();
    close(shared, socket, 4409, ToldReason::TooMany.code());
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

/// A socket that has to end unless its client was admitted by another stickyd.
pub(crate) struct OwingSocket {
    socket: Arc<Socket>,
    person: Arc<Person>,
}

impl OwingSocket {
    /// Closes the socket if Redis says that the CONNECT packet has come to no stickyd. Where it says nothing, the
    /// session goes on: nothing of the client passes before that packet.
    pub(crate) async fn close(self, shared: Arc<Shared>) {
        let Some(fleet) = shared.sessions.fleet() else { return };
        let owes = fleet.still_owes_connect(shared.sessions.key_of(&self.socket)).await;
        if owes && !self.person.is_admitted() {
            close(&shared, &self.socket, 1008, "token_missing");
        }
    }
}

/// Closes the sockets whose time has come. Returns those about which the fleet has to be asked.
pub(crate) fn close_due(shared: &Shared, now: Millis) -> Vec<OwingSocket> {
    let mut owing = Vec::new();
    let has_fleet = shared.sessions.fleet().is_some();
    loop {
        let due = {
            let mut all = lock(&shared.admissions.due);
            if all.peek().is_none_or(|Reverse(first)| first.at > now) {
                return owing;
            }
            all.pop()
        };
        let Some(Reverse(due)) = due else { return owing };
        let Some(socket) = due.socket.upgrade().filter(|socket| socket.has_begun()) else { continue };
        match due.why {
            DueReason::Expiry => close(shared, &socket, 4401, "token_expired"),
            DueReason::Admission(person) if !person.is_admitted() && has_fleet && person.is_shared() => {
                owing.push(OwingSocket { socket, person });
            }
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
