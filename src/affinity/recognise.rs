//! What a request is in the eyes of its upstream's rules: the session it names, or the one it opens.
//!
//! The rules are walked in order. An upstream whose only rule is `socket.io` pays for a loop of one, and nothing is
//! allocated for it. Pure, except for a look at whether a second id is pinned. Left out: what a response teaches
//! (`rules`).

use std::sync::Arc;
use std::time::Instant;

use hyper::header;
use hyper::{Method, Request};

use super::ask::RequestKind;
use super::sessions::Sessions;
use crate::config::rules::{self, Protocol};
use crate::engine_io::{EngineQuery, RequestTransport, Sid};
use crate::fleet::lookups::FollowNames;
use crate::keys::Key;
use crate::rules::{FollowedSession, LiveRule, RuleFacts, at, bit, fits, guard, id};
use crate::upstream::Upstream;
use crate::upstream::worker::Worker;

/// A request on its way to [`RequestKind`], and what it is compared with.
pub(crate) struct RequestReader<'a, B> {
    sessions: &'a Sessions,
    upstream: &'a Upstream,
    request: &'a Request<B>,
    /// Whether the request asks for an upgrade that may become a tunnel.
    is_upgrade: bool,
    is_preflight: bool,
    engine: Option<EngineQuery>,
}

impl<'a, B> RequestReader<'a, B> {
    pub(crate) fn new(
        sessions: &'a Sessions,
        upstream: &'a Upstream,
        request: &'a Request<B>,
        is_upgrade: bool,
        engine: Option<EngineQuery>,
    ) -> Self {
        let is_preflight = *request.method() == Method::OPTIONS
            && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        Self { sessions, upstream, request, is_upgrade, is_preflight, engine }
    }

    /// Reads the request: its place in the life of a session, and what else the rules find in it.
    pub(crate) fn read(&self) -> (RequestKind, Option<Box<RuleFacts>>) {
        // With `socket.io` as the only rule that can apply there is nothing to compare and nothing to note.
        if let ([live, others @ ..], true) = (&*self.upstream.rules, self.upstream.config.follow.is_empty())
            && live.is_socket_io()
            && others.iter().all(|other| other.rule.guard.is_some())
            && (self.engine.is_some() || !others.iter().any(|other| self.may_apply(other)))
        {
            return (self.engine_io(0), None);
        }
        let mut kind = if self.is_preflight { RequestKind::Preflight(None) } else { RequestKind::Ordinary };
        let mut facts = RuleFacts::default();
        for (index, live) in self.upstream.rules.iter().enumerate() {
            let number = u8::try_from(index).unwrap_or(u8::MAX);
            if live.is_socket_io() {
                let seen = self.engine_io(number);
                if self.outranks(kind, seen) {
                    (kind, facts) =
                        (seen, RuleFacts { births: facts.births, plain: facts.plain, ..RuleFacts::default() });
                }
            } else if !self.is_preflight && self.may_apply(live) {
                let (seen, of_rule) = self.other(live, number);
                let (births, plain) = (facts.births | of_rule.births, facts.plain | of_rule.plain);
                if self.outranks(kind, seen) {
                    (kind, facts) = (seen, of_rule);
                }
                (facts.births, facts.plain) = (births, plain);
            }
        }
        if matches!(kind, RequestKind::Ordinary | RequestKind::Birth) && !self.upstream.config.follow.is_empty() {
            (facts.follows, facts.unknown_follows) = self.followed();
        }
        let facts = facts.is_something().then(|| Box::new(facts));
        (kind, facts)
    }

    /// Whether the request shows what the rule asks for.
    fn may_apply(&self, live: &LiveRule) -> bool {
        let Some(guard) = live.rule.guard else { return true };
        guard::holds(guard, self.request, |id| {
            let key = live.key(&self.sessions.keys, &self.upstream.config.name, id);
            self.sessions.pins.peek(key, Instant::now(), |_| ()).is_some()
        })
    }

    /// Whether the finding of a later rule replaces that of earlier ones: an id replaces no id, a pinned id replaces
    /// one that is not pinned, and a handshake replaces a request whose response merely may contain an id.
    fn outranks(&self, before: RequestKind, seen: RequestKind) -> bool {
        let is_pinned = |key: Key| self.sessions.pins.peek(key, Instant::now(), |_| ()).is_some();
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
    fn engine_io(&self, rule: u8) -> RequestKind {
        let Some(engine) = self.engine else {
            return if self.is_preflight { RequestKind::Preflight(None) } else { RequestKind::Ordinary };
        };
        let key = match engine.sid(self.request.uri().query()) {
            Sid::Given(sid) => Some(self.sessions.keys.key(&self.upstream.config.name, &sid)),
            Sid::None => None,
            Sid::TooLong => return RequestKind::UnknownSid,
        };
        if self.is_preflight {
            return RequestKind::Preflight(key);
        }
        let get = self.request.method() == Method::GET;
        match (key, engine.transport) {
            (Some(key), _) => RequestKind::Session { key, poll: get && !self.is_upgrade, rule },
            (None, RequestTransport::Polling) if get && !self.is_upgrade => RequestKind::Handshake,
            (None, RequestTransport::WebSocket) if self.is_upgrade => RequestKind::Handshake,
            (None, _) => RequestKind::Ordinary,
        }
    }

    /// Classifies a request as a rule other than `socket.io` sees it.
    fn other(&self, live: &LiveRule, number: u8) -> (RequestKind, RuleFacts) {
        let rule = &*live.rule;
        let id = rule.lookup.iter().find_map(|lookup| id(lookup, self.request));
        let creates = rule.creates.iter().any(|on| fits(on, self.request));
        let mut facts = RuleFacts { creates: creates && id.is_some(), ..RuleFacts::default() };
        // The response to a session's own request contains no new id, unless the request may create a session.
        if id.is_none() || creates {
            for (i, learn) in rule.learn.iter().enumerate().filter(|(_, learn)| fits(&learn.on, self.request)) {
                facts.births |= bit(live.first + i);
                facts.plain |= learn.from.is_in_body();
            }
            // The time to live may be in the response body.
            facts.plain |= facts.births != 0 && rule.ttl_from.as_ref().is_some_and(rules::AnswerPlace::is_in_body);
        }
        let Some(id) = id else {
            return (if facts.births == 0 { RequestKind::Ordinary } else { RequestKind::Birth }, facts);
        };
        for (i, _) in rule.ends.iter().enumerate().filter(|(_, end)| fits(&end.on, self.request)) {
            facts.ends |= bit(i);
        }
        facts.hash = rule.client_made.then(|| crate::keys::plain_hash(&id));
        let get = self.request.method() == Method::GET && !self.is_upgrade;
        let poll = get || (creates && !self.is_upgrade) || (rule.protocol == Protocol::CometD && !self.is_upgrade);
        (
            RequestKind::Session {
                key: live.key(&self.sessions.keys, &self.upstream.config.name, &id),
                poll,
                rule: number,
            },
            facts,
        )
    }

    /// Returns the Socket.IO session that an ordinary request names, by an Engine.IO sid or by a Socket.IO socket id
    /// that was seen here; in a fleet, else the ids that another stickyd may have seen.
    fn followed(&self) -> (Option<FollowedSession>, Vec<FollowNames>) {
        let now = Instant::now();
        let name = &self.upstream.config.name;
        let asks = self.sessions.fleet().is_some_and(|fleet| fleet.settings().pins);
        let mut unknown = Vec::new();
        let mut find = |id: &[u8]| {
            let sid = self.sessions.keys.key(name, id);
            if self.sessions.leads(sid) {
                return Some(sid);
            }
            let names = self.sessions.follow_names(name, sid, id);
            let session = self.sessions.aliases.touch(names.name, now, |key| *key);
            let found = session.filter(|key| self.sessions.leads(*key));
            if asks && found.is_none() && unknown.len() < MOST_UNKNOWN {
                unknown.push(names);
            }
            found
        };
        let found = self
            .upstream
            .config
            .follow
            .iter()
            .filter_map(|spot| at(spot, self.request))
            .find_map(|id| find(&id).or_else(|| find(sid_in(&id)?)));
        match found {
            Some(key) => (Some(FollowedSession::Pinned(key)), Vec::new()),
            None => (None, unknown),
        }
    }
}

impl Sessions {
    /// The keys that an id may have which an ordinary request names (`follow`); `sid` is its key as a sid.
    pub(crate) fn follow_names(&self, upstream: &str, sid: Key, id: &[u8]) -> FollowNames {
        FollowNames { sid, name: self.keys.of_rule(upstream, FOLLOW, id) }
    }

    /// The worker of the session that an ordinary request names by one of these keys, if it is pinned here. Nothing is
    /// refreshed.
    pub(crate) fn followed_here(&self, names: FollowNames) -> Option<Arc<Worker>> {
        let now = Instant::now();
        let worker = |key: Key| self.pins.peek(key, now, |pin| pin.worker().cloned()).flatten();
        worker(names.sid).or_else(|| worker(self.aliases.peek(names.name, now, |session| *session)?))
    }
}

/// The sid in the id of a socket: in Socket.IO 2 the id of a socket in a namespace is `/chat#<sid>`.
pub(crate) fn sid_in(id: &[u8]) -> Option<&[u8]> {
    let hash = id.iter().rposition(|b| *b == b'#')?;
    id.get(hash + 1..).filter(|id| !id.is_empty())
}

/// Maximum number of ids of one request that the fleet is asked about.
const MOST_UNKNOWN: usize = 4;

/// Sets Socket.IO socket ids apart from the ids of rules; no rule can have this name.
pub(crate) const FOLLOW: &str = "socket.io/follow";
