//! What a request asks for, as far as it decides the worker: read once from the head, before the head is rewritten.

use hyper::body::Body;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Version};

use super::headers::has_token;
use crate::affinity::cookie::{Cookie, Seen};
use crate::affinity::pins::Key;
use crate::affinity::session::{self, Sid, Transport};
use crate::state::Shared;
use crate::tunnel::upgrade::{self, Accept};
use crate::upstream::Upstream;

/// What a request asks for.
pub struct Ask {
    /// Its place in the life of a session.
    pub kind: Kind,
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
    /// Carries the sid behind this key. `poll`: a GET the worker answers when it has something to say.
    Session {
        /// Of (upstream, sid).
        key: Key,
        /// Silence is normal.
        poll: bool,
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
        let kind =
            if upstream.socket_io { read_kind(shared, upstream, request, upgrade.is_some()) } else { Kind::Ordinary };
        let origin = match kind {
            Kind::Session { .. } | Kind::UnknownSid => headers.get(header::ORIGIN).cloned(),
            Kind::Ordinary | Kind::Handshake | Kind::Preflight(_) => None,
        };
        Self { kind, upgrade, origin, cookie }
    }

    /// A poll a worker may leave unanswered for a pingInterval.
    pub fn is_poll(&self) -> bool {
        matches!(self.kind, Kind::Session { poll: true, .. })
    }
}

fn read_kind<B>(shared: &Shared, upstream: &Upstream, request: &Request<B>, upgrade: bool) -> Kind {
    let method = request.method();
    let preflight = method == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let Some(engine) = session::recognise(request.uri().query()) else {
        return if preflight { Kind::Preflight(None) } else { Kind::Ordinary };
    };
    let key = match &engine.sid {
        Sid::Given(sid) => Some(shared.keys.key(&upstream.config.name, sid)),
        Sid::None => None,
        Sid::TooLong => return Kind::UnknownSid,
    };
    if preflight {
        return Kind::Preflight(key);
    }
    match (key, engine.transport) {
        (Some(key), _) => Kind::Session { key, poll: method == Method::GET && !upgrade },
        (None, Transport::Polling) if method == Method::GET && !upgrade => Kind::Handshake,
        (None, Transport::WebSocket) if upgrade => Kind::Handshake,
        (None, _) => Kind::Ordinary,
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
