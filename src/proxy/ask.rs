//! What a request asks for, as far as it decides the worker: read once from the head, before the head is rewritten.

use hyper::body::Body;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Version};

use super::headers::has_token;
use crate::affinity::cookie::{Cookie, Seen};
use crate::affinity::pins::Key;
use crate::affinity::rule::{self, Facts, Live};
use crate::config::rules::Protocol;
use crate::state::Shared;
use crate::tunnel::upgrade::{self, Accept};
use crate::upstream::Upstream;

/// What a request asks for.
pub struct Ask {
    /// Its place in the life of a session.
    pub kind: Kind,
    /// What rules other than `socket.io` see in it; mostly nothing.
    pub facts: Option<Box<Facts>>,
    /// A WebSocket upgrade, and the accept its worker must give.
    pub upgrade: Option<Accept>,
    /// For the CORS of our own refusal.
    pub origin: Option<HeaderValue>,
    /// stickyd's own cookie, verified.
    pub cookie: Option<Cookie>,
}

/// A request's place in the life of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// None: an ordinary request.
    Ordinary,
    /// Opens an Engine.IO session: a polling GET, or a WebSocket-first upgrade, without a sid.
    Handshake,
    /// May begin a session of another protocol: its answer tells.
    Birth,
    /// Carries the id behind this key. `poll`: a request the worker answers when it has something to say.
    Session {
        /// Of (upstream, rule, id).
        key: Key,
        /// Silence is normal.
        poll: bool,
        /// Which of the upstream's rules named it.
        rule: u8,
    },
    /// Carries a sid no worker can have told us.
    UnknownSid,
    /// A CORS preflight, perhaps of a session's request.
    Preflight(Option<Key>),
}

impl Ask {
    /// Reads a head. The upstream says which sources count; `seen` is the connection's.
    pub fn read<B: Body>(shared: &Shared, upstream: &Upstream, request: &Request<B>, seen: &Seen) -> Self {
        let headers = request.headers();
        let cookie = upstream
            .jar
            .as_ref()
            .and_then(|jar| jar.read(headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes), seen));
        let upgrade = asks_upgrade(request);
        let (kind, facts) = rule::read(shared, upstream, request, upgrade.is_some());
        let origin = match kind {
            Kind::Session { .. } | Kind::UnknownSid => headers.get(header::ORIGIN).cloned(),
            Kind::Ordinary | Kind::Handshake | Kind::Birth | Kind::Preflight(_) => None,
        };
        Self { kind, facts, upgrade, origin, cookie }
    }

    /// A poll a worker may leave unanswered for a pingInterval.
    pub fn is_poll(&self) -> bool {
        matches!(self.kind, Kind::Session { poll: true, .. })
    }

    /// The rule that named its session.
    pub fn rule<'u>(&self, upstream: &'u Upstream) -> Option<&'u Live> {
        match self.kind {
            Kind::Session { rule, .. } => upstream.rules.get(usize::from(rule)),
            Kind::Ordinary | Kind::Handshake | Kind::Birth | Kind::UnknownSid | Kind::Preflight(_) => None,
        }
    }

    /// The Socket.IO session an ordinary request names.
    pub fn follows(&self) -> Option<Key> {
        self.facts.as_ref()?.follows
    }

    /// Whether its session, if it has one, is Engine.IO's.
    pub fn is_engine_io(&self, upstream: &Upstream) -> bool {
        self.rule(upstream).is_none_or(|live| live.rule.protocol == Protocol::SocketIo)
    }
}

/// A WebSocket upgrade that may become a tunnel: GET, HTTP/1.1, no body, the fields RFC 6455 §4.1 asks for. Anything less
/// is forwarded as an ordinary request without its `Upgrade` (invariant 6).
fn asks_upgrade<B: Body>(request: &Request<B>) -> Option<Accept> {
    let headers = request.headers();
    let wanted = headers.get(header::UPGRADE)?;
    if !has_token(wanted.as_bytes(), b"websocket")
        || !headers.get_all(header::CONNECTION).iter().any(|value| has_token(value.as_bytes(), b"upgrade"))
        || request.method() != Method::GET
        || request.version() != Version::HTTP_11
        || !request.body().is_end_stream()
    {
        return None;
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let accept = upgrade::accept_for(keys.next()?.as_bytes());
    // Of two keys a worker might answer the other.
    accept.filter(|_| keys.next().is_none())
}
