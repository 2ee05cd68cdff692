//! One engine for every protocol (docs/reference/routing.md §7): what a request means to the rules of an upstream, and
//! what a response teaches. Rules are data (`config::rules`), and `socket.io` is one of them; what data cannot express
//! about `socket.io` is in `session`.
//!
//! Reading a request visits the rules in order and allocates only if a rule other than `socket.io` finds something; an
//! upstream without such rules pays for a loop of one step. The code is pure, except for the check whether a second id
//! is pinned.

pub mod answer;
pub mod extract;

use std::borrow::Cow;
use std::sync::Arc;

use hyper::header::{self, HeaderMap};
use hyper::{Method, Request};

use crate::affinity::ask::Kind;
use crate::config::rules::{self, Learn, Lookup, On, Protocol, Refusal, Rule, Spot};
use crate::config::{self, Affinity};
use crate::engine_io::{self, Sid, Transport};
use crate::keys::Key;
use crate::metrics::{Metrics, RuleSeries};
use crate::state::Shared;
use crate::upstream::Upstream;

/// A rule of an upstream, with its metrics.
pub struct Live {
    /// The rule as configured.
    pub rule: Arc<Rule>,
    /// Metrics of the rule.
    pub series: RuleSeries,
    /// Bit of the rule's first `learn` entry in `Facts::births`.
    first: usize,
}

/// What the rules other than `socket.io` find in a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// One bit per place where the response may contain a new id, over all rules of the upstream.
    births: u64,
    /// One bit per `ends` entry of the request's rule that this request matches.
    ends: u64,
    /// Whether its rule lets the request create a session for an unknown id.
    pub creates: bool,
    /// Whether a new id may be in the response body, which must then not be compressed.
    pub plain: bool,
    /// Hash of a client-made id, which is the ring key of the session.
    pub hash: Option<[u8; 16]>,
    /// Key of the Socket.IO session that an ordinary request names.
    pub follows: Option<Key>,
}

impl Facts {
    fn is_something(&self) -> bool {
        self.births != 0 || self.ends != 0 || self.creates || self.hash.is_some() || self.follows.is_some()
    }

    /// Whether the response may contain a new id.
    pub fn bears(&self) -> bool {
        self.births != 0
    }
}

/// Returns the rules of an upstream, with their metrics.
pub fn live(config: &config::Upstream, metrics: &Metrics) -> Vec<Live> {
    let mut first = 0;
    let rules = config.affinity.iter().filter_map(|affinity| match affinity {
        Affinity::Rule(rule) => Some(rule),
        Affinity::Cookie | Affinity::Address => None,
    });
    let live = rules.map(|rule| {
        let series = metrics.rule(&config.name, &rule.name);
        let live = Live { rule: rule.clone(), series, first };
        first += rule.learn.len();
        live
    });
    live.collect()
}

impl Live {
    /// Returns the rule's `learn` entries that apply to the response of this request.
    pub fn births(&self, facts: &Facts) -> impl Iterator<Item = &Learn> {
        let all = self.rule.learn.iter().enumerate();
        all.filter(move |(i, _)| facts.births & bit(self.first + i) != 0).map(|(_, learn)| learn)
    }

    /// Whether a response with this status ends the session.
    pub fn ends(&self, facts: &Facts, status: u16) -> bool {
        let all = self.rule.ends.iter().enumerate().filter(|(i, _)| facts.ends & bit(*i) != 0);
        all.into_iter()
            .any(|(_, end)| end.status.map_or_else(|| (200..300).contains(&status), |wanted| wanted == status))
    }

    /// Whether workers are asked for a session that is not pinned.
    pub fn discovers(&self, facts: Option<&Facts>) -> bool {
        !self.rule.refusal.is_empty() && !facts.is_some_and(|facts| facts.creates)
    }

    /// Whether the rule has a refusal that is recognised by its status alone.
    pub fn refuses_by_status(&self) -> bool {
        let by_status =
            |refusal: &Refusal| matches!(refusal, Refusal::Answer { body, header: None, .. } if body.is_empty());
        self.rule.refusal.iter().any(by_status)
    }

    /// Whether the rule has a refusal that is recognised by a text in its body.
    pub fn refuses_in_body(&self) -> bool {
        self.rule.refusal.iter().any(|refusal| matches!(refusal, Refusal::Answer { body, .. } if !body.is_empty()))
    }

    fn is_socket_io(&self) -> bool {
        self.rule.protocol == Protocol::SocketIo
    }

    /// Key of one of the rule's ids in the pin table.
    pub fn key(&self, shared: &Shared, upstream: &str, id: &[u8]) -> Key {
        // The key of an Engine.IO sid does not include the rule, as in admin queries.
        if self.is_socket_io() {
            return shared.keys.key(upstream, id);
        }
        shared.keys.of_rule(upstream, &self.rule.name, id)
    }
}

/// Returns the bit of an index below 64, and no bit otherwise (`config::check` rejects rules with more).
fn bit(index: usize) -> u64 {
    u32::try_from(index).ok().and_then(|index| 1_u64.checked_shl(index)).unwrap_or(0)
}

/// Reads a request: its place in the life of a session, and what else the rules find in it.
pub fn read<B>(
    shared: &Shared,
    upstream: &Upstream,
    request: &Request<B>,
    upgrade: bool,
) -> (Kind, Option<Box<Facts>>) {
    let preflight =
        *request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    // With `socket.io` as the only rule there is nothing to compare and nothing to note.
    if let ([live], true) = (&*upstream.rules, upstream.config.follow.is_empty())
        && live.is_socket_io()
    {
        return (engine_io(shared, upstream, request, upgrade, preflight, 0), None);
    }
    let mut kind = if preflight { Kind::Preflight(None) } else { Kind::Ordinary };
    let mut facts = Facts::default();
    for (index, live) in upstream.rules.iter().enumerate() {
        let number = u8::try_from(index).unwrap_or(u8::MAX);
        if live.is_socket_io() {
            let seen = engine_io(shared, upstream, request, upgrade, preflight, number);
            if outranks(shared, kind, seen) {
                (kind, facts) = (seen, Facts { births: facts.births, plain: facts.plain, ..Facts::default() });
            }
        } else if !preflight {
            let (seen, of_rule) = other(shared, upstream, live, number, request, upgrade);
            let (births, plain) = (facts.births | of_rule.births, facts.plain | of_rule.plain);
            if outranks(shared, kind, seen) {
                (kind, facts) = (seen, of_rule);
            }
            (facts.births, facts.plain) = (births, plain);
        }
    }
    if matches!(kind, Kind::Ordinary | Kind::Birth) && !upstream.config.follow.is_empty() {
        facts.follows = followed(shared, upstream, request);
    }
    let facts = facts.is_something().then(|| Box::new(facts));
    (kind, facts)
}

/// Whether the finding of a later rule replaces that of earlier ones: an id replaces no id, a pinned id replaces one
/// that is not pinned, and a handshake replaces a request whose response merely may contain an id.
fn outranks(shared: &Shared, before: Kind, seen: Kind) -> bool {
    let is_pinned = |key: Key| shared.pins.peek(key, std::time::Instant::now(), |_| ()).is_some();
    match (before, seen) {
        (Kind::Session { key, .. }, Kind::Session { key: other, .. }) => !is_pinned(key) && is_pinned(other),
        (Kind::Session { .. }, _) | (_, Kind::Ordinary) | (Kind::Handshake, Kind::Birth) => false,
        (Kind::Preflight(known), Kind::Preflight(seen)) => known.is_none() && seen.is_some(),
        (
            Kind::Ordinary | Kind::Birth | Kind::Handshake | Kind::UnknownSid | Kind::Preflight(_),
            Kind::Session { .. } | Kind::Handshake | Kind::Birth | Kind::UnknownSid | Kind::Preflight(_),
        ) => true,
    }
}

/// Classifies a request as the `socket.io` rule sees it.
fn engine_io<B>(
    shared: &Shared,
    upstream: &Upstream,
    request: &Request<B>,
    upgrade: bool,
    preflight: bool,
    rule: u8,
) -> Kind {
    let Some(engine) = engine_io::recognise(request.uri().query()) else {
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
    let get = request.method() == Method::GET;
    match (key, engine.transport) {
        (Some(key), _) => Kind::Session { key, poll: get && !upgrade, rule },
        (None, Transport::Polling) if get && !upgrade => Kind::Handshake,
        (None, Transport::WebSocket) if upgrade => Kind::Handshake,
        (None, _) => Kind::Ordinary,
    }
}

/// Classifies a request as a rule other than `socket.io` sees it.
fn other<B>(
    shared: &Shared,
    upstream: &Upstream,
    live: &Live,
    number: u8,
    request: &Request<B>,
    upgrade: bool,
) -> (Kind, Facts) {
    let rule = &*live.rule;
    let id = rule.lookup.iter().find_map(|lookup| id(lookup, request));
    let creates = rule.creates.iter().any(|on| fits(on, request));
    let mut facts = Facts { creates: creates && id.is_some(), ..Facts::default() };
    // The response to a session's own request contains no new id, unless the request may create a session.
    if id.is_none() || creates {
        for (i, learn) in rule.learn.iter().enumerate().filter(|(_, learn)| fits(&learn.on, request)) {
            facts.births |= bit(live.first + i);
            facts.plain |= learn.from.is_in_body();
        }
        // The time to live may be in the response body.
        facts.plain |= facts.births != 0 && rule.ttl_from.as_ref().is_some_and(rules::Place::is_in_body);
    }
    let Some(id) = id else {
        return (if facts.births == 0 { Kind::Ordinary } else { Kind::Birth }, facts);
    };
    for (i, _) in rule.ends.iter().enumerate().filter(|(_, end)| fits(&end.on, request)) {
        facts.ends |= bit(i);
    }
    facts.hash = rule.client_made.then(|| crate::keys::plain_hash(&id));
    let get = request.method() == Method::GET && !upgrade;
    let poll = get || (creates && !upgrade) || (rule.protocol == Protocol::CometD && !upgrade);
    (Kind::Session { key: live.key(shared, &upstream.config.name, &id), poll, rule: number }, facts)
}

/// Whether a request meets the conditions `on`.
pub fn fits<B>(on: &On, request: &Request<B>) -> bool {
    (on.methods.is_empty() || on.methods.contains(request.method()))
        && on.header.as_ref().is_none_or(|(name, part)| {
            request.headers().get_all(name).iter().any(|value| contains(value.as_bytes(), part.as_bytes()))
        })
        && on.path.as_ref().is_none_or(|path| path.fits(request.uri().path()))
}

/// Whether `bytes` contains `part`.
pub(crate) fn contains(bytes: &[u8], part: &[u8]) -> bool {
    part.is_empty() || bytes.windows(part.len()).any(|window| window == part)
}

/// Returns the id that `lookup` finds in a request, decoded.
fn id<'r, B>(lookup: &Lookup, request: &'r Request<B>) -> Option<Cow<'r, [u8]>> {
    let id = at(&lookup.at, request)?;
    (id.len() >= lookup.min && fits(&lookup.on, request)).then_some(id)
}

fn at<'r, B>(spot: &Spot, request: &'r Request<B>) -> Option<Cow<'r, [u8]>> {
    match spot {
        Spot::Header(name) => {
            let value = request.headers().get(name)?.as_bytes().trim_ascii();
            (1..=engine_io::MAX_ID).contains(&value.len()).then_some(Cow::Borrowed(value))
        }
        Spot::Query(name) => engine_io::decode(engine_io::parameter(request.uri().query()?, name)?, b' '),
        Spot::Cookie(name) => engine_io::decode(cookie(request.headers(), name)?, b'+'),
        Spot::Path(path) => engine_io::decode(path.id(request.uri().path())?.as_bytes(), b'+'),
        Spot::EngineIo => None,
    }
}

/// Value of a client's cookie; if several have this name, the first (RFC 6265 §5.4: the one with the longest path).
fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    let pairs = headers.get_all(header::COOKIE).iter().flat_map(|value| value.as_bytes().split(|b| *b == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// Returns the Socket.IO session that an ordinary request names, by an Engine.IO sid or by a Socket.IO socket id that
/// was seen here.
fn followed<B>(shared: &Shared, upstream: &Upstream, request: &Request<B>) -> Option<Key> {
    let now = std::time::Instant::now();
    let live = |key: Key| shared.pins.peek(key, now, |pin| pin.worker().is_some()).unwrap_or(false);
    let find = |id: &[u8]| {
        let sid = shared.keys.key(&upstream.config.name, id);
        if live(sid) {
            return Some(sid);
        }
        let key = shared.aliases.touch(shared.keys.of_rule(&upstream.config.name, FOLLOW, id), now, |key| *key)?;
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
pub const FOLLOW: &str = "socket.io/follow";
