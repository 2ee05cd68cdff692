//! One request in progress, with what every later step needs to know of it, and what it tells the list of sockets.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use hyper::Request;

use super::forward::SessionGoodbye;
use super::{admission, discover};
use crate::affinity::Choice;
use crate::affinity::ask::{RequestFacts, RequestKind};
use crate::body::Outgoing;
use crate::client::Client;
use crate::clock;
use crate::keys::Key;
use crate::listener::conn::Conn;
use crate::route::access::AccessGuard;
use crate::route::guard::{Passed, RouteGuard};
use crate::route::person::Person;
use crate::sockets::{self, New, OpeningRequest, SocketFacts, Transport};
use crate::state::{GlobalRules, ReplayRoom, admissions, mail_users};
use crate::traces::RequestTrace;
use crate::upstream::Upstream;
use crate::upstream::worker::{SessionSeat, Worker};

/// One request in progress: the values that every later step needs.
pub struct Job {
    /// The client's connection that carries the request.
    pub conn: Rc<Conn>,
    /// The upstream that the request is routed to.
    pub upstream: Arc<Upstream>,
    /// What the request asks for, as read from its head.
    pub ask: RequestFacts,
    /// The client: its address, and whether it came over TLS.
    pub client: Client,
    /// Set for a POST that ends its Engine.IO session; dropping it ends the session's pin.
    pub goodbye: Option<SessionGoodbye>,
    /// The number of sessions ended without their client, as of before this request's session is looked up: an end
    /// after that is noticed by a poll, however long it takes to reach its worker.
    pub(crate) ended: u32,
    /// Whether the request was already sent a second time; it is never sent a third time.
    pub resent: Cell<bool>,
    /// How long the request's session may be silent, in seconds; 0 if that is not known.
    pub(super) ttl_s: u32,
    /// When the request was tied to its session, if nothing has been waited for since: a clock that need not be read.
    pub(super) tied_at: Cell<Option<Instant>>,
    /// Where the session of this request lives, if this is its first request after the handshake.
    pub(super) first_path: Option<Key>,
    /// Index of the matching route in the snapshot; `None` if the config has no routes.
    pub(super) route: Option<usize>,
    /// Facts about the socket that this request may open; read only for requests that can open one.
    pub(super) facts: Option<Box<SocketFacts>>,
    /// The guard of the request's route, if it concerns tokens or users.
    pub(super) watch: Option<Arc<RouteGuard>>,
    /// What the request has shown to that guard.
    pub(super) passed: Option<Box<Passed>>,
    /// The rules of which claims go to workers, if any route has such.
    pub(super) claim_rules: Option<Arc<GlobalRules>>,
    /// Guards that have yet to be asked, because their verdict takes time; empty for nearly every request.
    pub(super) gates: Vec<Arc<AccessGuard>>,
    /// Whether the request is a handshake or an upgrade; known if there are such guards.
    pub(super) is_opening: bool,
    /// The trace of the request.
    pub(super) trace: RequestTrace,
    /// Memory of a body that was read to be judged.
    pub(super) room: Option<ReplayRoom>,
}

impl Job {
    /// The client of the request's session, as far as its token tells; `None` if the route asks for none.
    pub(super) fn person(&self) -> Option<Arc<Person>> {
        let passed = self.passed.as_ref()?;
        match (&passed.person, passed.packets, self.ask.kind) {
            (Some(person), ..) => Some(person.clone()),
            (None, Some(key), _) => Some(admission::person(self, key)),
            (None, None, RequestKind::Session { key, .. }) => self.conn.thread.shared.admissions.person(key),
            (None, None, _) => None,
        }
    }

    /// Applies what is known of the client to the socket of a session, if it is on the list: by the guard, and from its
    /// certificate.
    pub(super) fn settle(&self, key: Key) {
        let shared = &self.conn.thread.shared;
        if let Some(certificate) = self.conn.certificate()
            && let Some(socket) = shared.sessions.socket(key)
        {
            mail_users::of_certificate(shared, certificate, &socket);
        }
        if let Some(watch) = &self.watch
            && let Some(socket) = shared.sessions.socket(key)
        {
            admissions::settle(shared, watch, self.person().as_ref(), &socket);
        }
    }

    /// Describes the polling session that this request begins or belongs to, for the list of sockets.
    pub fn session<'a>(&'a self, worker: &'a Arc<Worker>, seat: SessionSeat, sid: &'a [u8]) -> New<'a> {
        let engine = matches!(self.ask.kind, RequestKind::Handshake | RequestKind::Session { .. })
            && self.ask.is_engine_io(&self.upstream);
        let kind = if engine { sockets::SocketKind::EngineIo } else { sockets::SocketKind::Plain };
        let transport = Transport::Polling;
        New { worker, session: Some(seat), transport, kind, sid, facts: self.facts.as_deref() }
    }

    /// Describes the tunnel that this request opens, for the list of sockets. It is used only if the tunnel's session
    /// has no socket on that list yet, which it has if it was polling before.
    pub fn tunnel<'a>(&'a self, worker: &'a Arc<Worker>, seat: Option<SessionSeat>) -> New<'a> {
        let transport = if self.conn.http2 { Transport::WebSocketH2 } else { Transport::WebSocket };
        let engine = matches!(self.ask.kind, RequestKind::Handshake | RequestKind::Session { .. })
            && self.ask.is_engine_io(&self.upstream);
        let kind = if engine || self.facts.as_deref().is_some_and(SocketFacts::engine_io) {
            sockets::SocketKind::EngineIo
        } else {
            sockets::SocketKind::Plain
        };
        New { worker, session: seat, transport, kind, sid: &[], facts: self.facts.as_deref() }
    }

    /// Puts a session on the list of sockets at its first request after the handshake.
    pub(super) fn enlist(&mut self, choice: &Choice, request: &Request<Outgoing>) {
        let Some(hold) = choice.hold.as_ref().filter(|hold| hold.is_fresh()) else { return };
        if self.facts.is_none() {
            self.look(request);
        }
        let sid = self.ask.engine_sid(request.uri().query());
        if !sid.is_empty() {
            let new = |seat| self.session(&choice.worker, seat, &sid);
            self.conn.thread.shared.sessions.enlist(hold.key(), new);
            self.settle(hold.key());
            self.first_path = Some(discover::session_path(self, request.uri()));
        }
    }

    /// Learns from a session that its worker has accepted at its first request after the handshake: its numbers, and
    /// the path at which sessions live.
    pub(super) fn came_back(&self, choice: &Choice) {
        if let (Some(path), Some(hold)) = (self.first_path, &choice.hold) {
            self.upstream.carried.numbers.came_back(hold.key(), clock::now_ms());
            self.upstream.carried.paths.learn(path);
        }
    }

    /// Reads the facts about the request's socket (labels, user agent, route) from its head.
    pub(super) fn look(&mut self, request: &Request<Outgoing>) {
        let snapshot = self.conn.thread.shared.snapshot.load();
        let route = self.route.and_then(|place| snapshot.rules.routes.get(place)).map(|guarded| guarded.name.clone());
        let person = self.person();
        let claim = |name: &str| person.as_ref().and_then(|person| person.claim(name));
        self.facts = Some(Box::new(SocketFacts::read(OpeningRequest {
            claims: &claim,
            certificate: self.conn.certificate(),
            headers: request.headers(),
            query: request.uri().query(),
            is_engine_io: self.ask.engine.is_some(),
            client: self.client,
            route,
            labels: &self.upstream.config.labels,
            jar: self.upstream.jar.as_ref(),
        })));
    }
}
