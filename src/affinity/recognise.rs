//! What a request is in the eyes of its upstream's rules: the session it names, or the one it opens.
//!
//! The rules are walked in order. An upstream whose only rule is `socket.io` pays for a loop of one, and nothing is
//! allocated for it. Pure, except for a look at whether a second id is pinned. Left out: what a response teaches
//! (`rules`).

use hyper::header;
use hyper::{Method, Request};

use super::ask::RequestKind;
use super::sessions::Sessions;
use crate::config::rules::{self, Protocol};
use crate::engine_io::{self, RequestTransport, Sid};
use crate::keys::Key;
use crate::rules::{LiveRule, RuleFacts, at, bit, fits, id};
use crate::upstream::Upstream;

/// Reads a request: its place in the life of a session, and what else the rules find in it.
pub(crate) fn read<B>(
    sessions: &Sessions,
    upstream: &Upstream,
    request: &Request<B>,
    upgrade: bool,
) -> (RequestKind, Option<Box<RuleFacts>>) {
    let preflight =
        *request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    // With `socket.io` as the only rule there is nothing to compare and nothing to note.
    if let ([live], true) = (&*upstream.rules, upstream.config.follow.is_empty())
        && live.is_socket_io()
    {
        return (engine_io(sessions, upstream, request, upgrade, preflight, 0), None);
    }
    let mut kind = if preflight { RequestKind::Preflight(None) } else { RequestKind::Ordinary };
    let mut facts = RuleFacts::default();
    for (index, live) in upstream.rules.iter().enumerate() {
        let number = u8::try_from(index).unwrap_or(u8::MAX);
        if live.is_socket_io() {
            let seen = engine_io(sessions, upstream, request, upgrade, preflight, number);
            if outranks(sessions, kind, seen) {
                (kind, facts) = (seen, RuleFacts { births: facts.births, plain: facts.plain, ..RuleFacts::default() });
            }
        } else if !preflight {
            let (seen, of_rule) = other(sessions, upstream, live, number, request, upgrade);
            let (births, plain) = (facts.births | of_rule.births, facts.plain | of_rule.plain);
            if outranks(sessions, kind, seen) {
                (kind, facts) = (seen, of_rule);
            }
            (facts.births, facts.plain) = (births, plain);
        }
    }
    if matches!(kind, RequestKind::Ordinary | RequestKind::Birth) && !upstream.config.follow.is_empty() {
        facts.follows = followed(sessions, upstream, request);
    }
    let facts = facts.is_something().then(|| Box::new(facts));
    (kind, facts)
}

/// Whether the finding of a later rule replaces that of earlier ones: an id replaces no id, a pinned id replaces one
/// that is not pinned, and a handshake replaces a request whose response merely may contain an id.
fn outranks(sessions: &Sessions, before: RequestKind, seen: RequestKind) -> bool {
    let is_pinned = |key: Key| sessions.pins.peek(key, std::time::Instant::now(), |_| ()).is_some();
    match (before, seen) {
        (RequestKind::Session { key, .. }, RequestKind::Session { key: other, .. }) => {
            !is_pinned(key) && is_pinned(other)
        }
        (RequestKind::Session { .. }, _)
        | (_, RequestKind::Ordinary)
        | (RequestKind::Handshake, RequestKind::Birth) => false,
        (RequestKind::Preflight(known), RequestKind::Preflight(seen)) => known.is_none() && seen.is_some(),
        (
            RequestKind::Ordinary
            | RequestKind::Birth
            | RequestKind::Handshake
            | RequestKind::UnknownSid
            | RequestKind::Preflight(_),
            RequestKind::Session { .. }
            | RequestKind::Handshake
            | RequestKind::Birth
            | RequestKind::UnknownSid
            | RequestKind::Preflight(_),
        ) => true,
    }
}

/// Classifies a request as the `socket.io` rule sees it.
fn engine_io<B>(
    sessions: &Sessions,
    upstream: &Upstream,
    request: &Request<B>,
    upgrade: bool,
    preflight: bool,
    rule: u8,
) -> RequestKind {
    let Some(engine) = engine_io::recognise(request.uri().query()) else {
        return if preflight { RequestKind::Preflight(None) } else { RequestKind::Ordinary };
    };
    let key = match &engine.sid {
        Sid::Given(sid) => Some(sessions.keys.key(&upstream.config.name, sid)),
        Sid::None => None,
        Sid::TooLong => return RequestKind::UnknownSid,
    };
    if preflight {
        return RequestKind::Preflight(key);
    }
    let get = request.method() == Method::GET;
    match (key, engine.transport) {
        (Some(key), _) => RequestKind::Session { key, poll: get && !upgrade, rule },
        (None, RequestTransport::Polling) if get && !upgrade => RequestKind::Handshake,
        (None, RequestTransport::WebSocket) if upgrade => RequestKind::Handshake,
        (None, _) => RequestKind::Ordinary,
    }
}

/// Classifies a request as a rule other than `socket.io` sees it.
fn other<B>(
    sessions: &Sessions,
    upstream: &Upstream,
    live: &LiveRule,
    number: u8,
    request: &Request<B>,
    upgrade: bool,
) -> (RequestKind, RuleFacts) {
    let rule = &*live.rule;
    let id = rule.lookup.iter().find_map(|lookup| id(lookup, request));
    let creates = rule.creates.iter().any(|on| fits(on, request));
    let mut facts = RuleFacts { creates: creates && id.is_some(), ..RuleFacts::default() };
    // The response to a session's own request contains no new id, unless the request may create a session.
    if id.is_none() || creates {
        for (i, learn) in rule.learn.iter().enumerate().filter(|(_, learn)| fits(&learn.on, request)) {
            facts.births |= bit(live.first + i);
            facts.plain |= learn.from.is_in_body();
        }
        // The time to live may be in the response body.
        facts.plain |= facts.births != 0 && rule.ttl_from.as_ref().is_some_and(rules::AnswerPlace::is_in_body);
    }
    let Some(id) = id else {
        return (if facts.births == 0 { RequestKind::Ordinary } else { RequestKind::Birth }, facts);
    };
    for (i, _) in rule.ends.iter().enumerate().filter(|(_, end)| fits(&end.on, request)) {
        facts.ends |= bit(i);
    }
    facts.hash = rule.client_made.then(|| crate::keys::plain_hash(&id));
    let get = request.method() == Method::GET && !upgrade;
    let poll = get || (creates && !upgrade) || (rule.protocol == Protocol::CometD && !upgrade);
    (RequestKind::Session { key: live.key(&sessions.keys, &upstream.config.name, &id), poll, rule: number }, facts)
}

/// Returns the Socket.IO session that an ordinary request names, by an Engine.IO sid or by a Socket.IO socket id that
/// was seen here.
fn followed<B>(sessions: &Sessions, upstream: &Upstream, request: &Request<B>) -> Option<Key> {
    let now = std::time::Instant::now();
    let live = |key: Key| sessions.pins.peek(key, now, |pin| pin.worker().is_some()).unwrap_or(false);
    let find = |id: &[u8]| {
        let sid = sessions.keys.key(&upstream.config.name, id);
        if live(sid) {
            return Some(sid);
        }
        let key = sessions.aliases.touch(sessions.keys.of_rule(&upstream.config.name, FOLLOW, id), now, |key| *key)?;
        live(key).then_some(key)
    };
    upstream.config.follow.iter().filter_map(|spot| at(spot, request)).find_map(|id| {
        // In version 2 the id of a socket in a namespace is `/chat#<sid>`.
        let behind =
            id.iter().rposition(|b| *b == b'#').and_then(|hash| id.get(hash + 1..)).filter(|id| !id.is_empty());
        find(&id).or_else(|| find(behind?))
    })
}

/// Sets Socket.IO socket ids apart from the ids of rules; no rule can have this name.
pub(crate) const FOLLOW: &str = "socket.io/follow";
