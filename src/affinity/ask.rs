//! What a request asks for, as far as it decides the worker. It is read once, before the head is rewritten.

use std::borrow::Cow;

use hyper::body::Body;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Version};

use super::recognise::RequestReader;
use super::sessions::Sessions;
use crate::config::rules::Protocol;
use crate::cookie::{Cookie, SeenCookie};
use crate::engine_io::{EngineQuery, Sid};
use crate::fleet::lookups::FollowNames;
use crate::header_list::list_has;
use crate::keys::Key;
use crate::rules::{FollowedSession, LiveRule, RuleFacts};
use crate::upstream::Upstream;
use crate::websocket::upgrade::{self, Accept};

/// What a request asks for.
pub struct RequestFacts {
    /// The part that the request plays in the life of a session.
    pub kind: RequestKind,
    /// What the affinity rules other than `socket.io` found in the request; `None` for most requests.
    pub facts: Option<Box<RuleFacts>>,
    /// For a WebSocket upgrade, the `Sec-WebSocket-Accept` value that the worker must answer with.
    pub upgrade: Option<Accept>,
    /// The request's `Origin`, echoed in stickyd's own refusals so that a browser page can read them.
    pub origin: Option<HeaderValue>,
    /// stickyd's own affinity cookie, if the request carries a valid one.
    pub cookie: Option<Cookie>,
    /// The Engine.IO part of the request's query, whether or not the upstream has the rule `socket.io`.
    pub engine: Option<EngineQuery>,
}

/// The part that a request plays in the life of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// An ordinary request, which belongs to no session.
    Ordinary,
    /// Opens an Engine.IO session: a polling GET, or a WebSocket-first upgrade, without a sid.
    Handshake,
    /// May begin a session of another protocol; only the response shows whether it did.
    Birth,
    /// Carries a session id.
    Session {
        /// The pin table's key, made of the upstream, the rule and the session id.
        key: Key,
        /// Whether the request is a poll, which the worker may leave unanswered until it has data.
        poll: bool,
        /// Index of the upstream's affinity rule that recognised the id.
        rule: u8,
    },
    /// Carries a sid that no worker can have issued.
    UnknownSid,
    /// A CORS preflight, with the key of the session if its URL names one.
    Preflight(Option<Key>),
}

impl RequestFacts {
    /// Reads a request's head. The upstream configures which sources count; `seen` caches the connection's last cookie.
    pub fn read<B: Body>(sessions: &Sessions, upstream: &Upstream, request: &Request<B>, seen: &SeenCookie) -> Self {
        let headers = request.headers();
        let cookie = upstream
            .jar
            .as_ref()
            .and_then(|jar| jar.read(headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes), seen));
        let upgrade = asks_upgrade(request);
        let engine = EngineQuery::read(request.uri().query());
        let (kind, facts) = RequestReader::new(sessions, upstream, request, upgrade.is_some(), engine).read();
        let origin = match kind {
            RequestKind::Session { .. } | RequestKind::UnknownSid => headers.get(header::ORIGIN).cloned(),
            RequestKind::Ordinary | RequestKind::Handshake | RequestKind::Birth | RequestKind::Preflight(_) => None,
        };
        Self { kind, facts, upgrade, origin, cookie, engine }
    }

    /// Whether this is a poll, which a worker may leave unanswered for a whole pingInterval.
    pub fn is_poll(&self) -> bool {
        matches!(self.kind, RequestKind::Session { poll: true, .. })
    }

    /// The affinity rule that recognised the request's session id; `None` without a session.
    pub fn rule<'u>(&self, upstream: &'u Upstream) -> Option<&'u LiveRule> {
        match self.kind {
            RequestKind::Session { rule, .. } => upstream.rules.get(usize::from(rule)),
            RequestKind::Ordinary
            | RequestKind::Handshake
            | RequestKind::Birth
            | RequestKind::UnknownSid
            | RequestKind::Preflight(_) => None,
        }
    }

    /// The decoded Engine.IO sid in the request's query, which the caller still has; empty if there is none.
    pub fn engine_sid<'q>(&self, query: Option<&'q str>) -> Cow<'q, [u8]> {
        match self.engine.map(|engine| engine.sid(query)) {
            Some(Sid::Given(sid)) => sid,
            Some(Sid::None | Sid::TooLong) | None => Cow::Borrowed(&[]),
        }
    }

    /// The Socket.IO session that an ordinary request names, if it names one (`follow`).
    pub fn follows(&self) -> Option<FollowedSession> {
        self.facts.as_ref()?.follows
    }

    /// Whether an ordinary request names ids that only another stickyd of the fleet may know.
    pub(crate) fn has_unknown_follows(&self) -> bool {
        self.facts.as_ref().is_some_and(|facts| !facts.unknown_follows.is_empty())
    }

    /// Takes the ids that only another stickyd may know.
    pub(crate) fn take_unknown_follows(&mut self) -> Vec<FollowNames> {
        self.facts.as_mut().map(|facts| std::mem::take(&mut facts.unknown_follows)).unwrap_or_default()
    }

    /// Notes the session that the request names.
    pub(crate) fn set_follows(&mut self, session: FollowedSession) {
        self.facts.get_or_insert_default().follows = Some(session);
    }

    /// Whether the request's session is Engine.IO's; also true for a request without a session.
    pub fn is_engine_io(&self, upstream: &Upstream) -> bool {
        self.rule(upstream).is_none_or(|live| live.rule.protocol == Protocol::SocketIo)
    }
}

/// Recognises a WebSocket upgrade that may become a tunnel: a GET over HTTP/1.1 without a body, with the fields that
/// RFC 6455 §4.1 requires. Anything less is forwarded as an ordinary request without its `Upgrade`
/// (ARCHITECTURE.md, invariant 6).
fn asks_upgrade<B: Body>(request: &Request<B>) -> Option<Accept> {
    let headers = request.headers();
    // Nearly all requests have none; for them this is the whole cost.
    headers.get(header::UPGRADE)?;
    if !list_has(headers, &header::UPGRADE, b"websocket")
        || !list_has(headers, &header::CONNECTION, b"upgrade")
        || request.method() != Method::GET
        || request.version() != Version::HTTP_11
        || !request.body().is_end_stream()
    {
        return None;
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let accept = upgrade::accept_for(keys.next()?.as_bytes());
    // With two keys the worker might answer the other one.
    accept.filter(|_| keys.next().is_none())
}
