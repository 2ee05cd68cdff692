//! Which requests open something at a worker: an Engine.IO session, or a WebSocket of its own. Only these count for the
//! rates of handshakes and for the limits of users.

use hyper::Request;

use crate::affinity::ask::{RequestFacts, RequestKind};
use crate::engine_io::EngineQuery;
use crate::upstream::Upstream;

/// Whether the request is a handshake or an upgrade.
pub(crate) fn is_opening<B>(upstream: &Upstream, request: &Request<B>, ask: &RequestFacts) -> bool {
    ask.upgrade.is_some() || opens(upstream, request, ask)
}

/// Whether the request opens an Engine.IO session, or a WebSocket that belongs to no Engine.IO session.
pub(super) fn opens<B>(upstream: &Upstream, request: &Request<B>, ask: &RequestFacts) -> bool {
    // A server that takes the first of several sids, which may be empty, may open a session.
    let may_open = || request.method() == hyper::Method::GET && ask.engine.is_some_and(EngineQuery::contradicts_itself);
    match ask.kind {
        RequestKind::Handshake => true,
        // The sid counts even if sids are not among the upstream's affinity rules.
        RequestKind::Ordinary | RequestKind::Birth => {
            let with_sid = ask.engine.is_some_and(|engine| engine.has_sid() && !engine.contradicts_itself());
            !with_sid && (ask.upgrade.is_some() || (ask.engine.is_some() && request.method() == hyper::Method::GET))
        }
        // A client can invent an id of another protocol, so its WebSocket counts. An Engine.IO sid is checked by the
        // worker before it opens anything.
        RequestKind::Session { .. } if ask.is_engine_io(upstream) => may_open(),
        RequestKind::Session { .. } => ask.upgrade.is_some(),
        RequestKind::UnknownSid => may_open(),
        RequestKind::Preflight(_) => false,
    }
}
