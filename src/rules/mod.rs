//! One engine for every protocol (docs/reference/routing.md §7): what a request means to the rules of an upstream, and
//! what a response teaches. Rules are data (`config::rules`), and `socket.io` is one of them; what data cannot express
//! about `socket.io` is in `session`.
//!
//! Reading a request visits the rules in order and allocates only if a rule other than `socket.io` finds something; an
//! upstream without such rules pays for a loop of one step. The code is pure, except for the check whether a second id
//! is pinned.

pub(crate) mod answer;
pub(crate) mod extract;
pub(crate) mod guard;
pub(crate) mod proof;

use std::borrow::Cow;
use std::sync::Arc;

use hyper::Request;
use hyper::header::{self, HeaderMap};

use crate::config::rules::{Learn, LookupRule, On, Protocol, RefusalRule, Rule, Spot};
use crate::config::{self, Affinity};
use crate::cookie::WorkerId;
use crate::engine_io;
use crate::fleet::lookups::FollowNames;
use crate::keys::{Key, Keys};
use crate::metrics::{Metrics, RuleSeries};

/// A rule of an upstream, with its metrics.
pub struct LiveRule {
    /// The rule as configured.
    pub rule: Arc<Rule>,
    /// Metrics of the rule.
    pub series: RuleSeries,
    /// Bit of the rule's first `learn` entry in `RuleFacts::births`.
    pub(crate) first: usize,
}

/// The Socket.IO session that an ordinary request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowedSession {
    /// It is pinned here, under this key.
    Pinned(Key),
    /// Another stickyd of the fleet has pinned it to this worker.
    At(WorkerId),
}

/// What the rules other than `socket.io` find in a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RuleFacts {
    /// One bit per place where the response may contain a new id, over all rules of the upstream.
    pub(crate) births: u64,
    /// One bit per `ends` entry of the request's rule that this request matches.
    pub(crate) ends: u64,
    /// Whether its rule lets the request create a session for an unknown id.
    pub creates: bool,
    /// Whether a new id may be in the response body, which must then not be compressed.
    pub plain: bool,
    /// Hash of a client-made id, which is the ring key of the session.
    pub hash: Option<[u8; 16]>,
    /// The Socket.IO session that an ordinary request names.
    pub follows: Option<FollowedSession>,
    /// Ids that an ordinary request names, and that only another stickyd of the fleet may know.
    pub(crate) unknown_follows: Vec<FollowNames>,
}

impl RuleFacts {
    pub(crate) fn is_something(&self) -> bool {
        self.births != 0
            || self.ends != 0
            || self.creates
            || self.hash.is_some()
            || self.follows.is_some()
            || !self.unknown_follows.is_empty()
    }

    /// Whether the response may contain a new id.
    pub fn bears(&self) -> bool {
        self.births != 0
    }
}

/// Returns the rules of an upstream, with their metrics.
pub(crate) fn live(config: &config::Upstream, metrics: &Metrics) -> Vec<LiveRule> {
    let mut first = 0;
    let rules = config.affinity.iter().filter_map(|affinity| match affinity {
        Affinity::Rule(rule) => Some(rule),
        Affinity::Cookie | Affinity::Address => None,
    });
    let live = rules.map(|rule| {
        let series = metrics.rule(&config.name, &rule.name);
        let live = LiveRule { rule: rule.clone(), series, first };
        first += rule.learn.len();
        live
    });
    live.collect()
}

impl LiveRule {
    /// Returns the rule's `learn` entries that apply to the response of this request.
    pub fn births(&self, facts: &RuleFacts) -> impl Iterator<Item = &Learn> {
        let all = self.rule.learn.iter().enumerate();
        all.filter(move |(i, _)| facts.births & bit(self.first + i) != 0).map(|(_, learn)| learn)
    }

    /// Whether a response with this status ends the session.
    pub fn ends(&self, facts: &RuleFacts, status: u16) -> bool {
        let all = self.rule.ends.iter().enumerate().filter(|(i, _)| facts.ends & bit(*i) != 0);
        all.into_iter()
            .any(|(_, end)| end.status.map_or_else(|| (200..300).contains(&status), |wanted| wanted == status))
    }

    /// Whether workers are asked for a session that is not pinned.
    pub fn discovers(&self, facts: Option<&RuleFacts>) -> bool {
        !self.rule.refusal.is_empty() && !facts.is_some_and(|facts| facts.creates)
    }

    /// Whether the rule has a refusal that is recognised by its status alone.
    pub fn refuses_by_status(&self) -> bool {
        self.rule.refusal.iter().any(|refusal| match refusal {
            RefusalRule::Answer { body, header: None, .. } => body.is_empty(),
            _ => false,
        })
    }

    /// Whether the rule has a refusal that is recognised by a text in its body.
    pub fn refuses_in_body(&self) -> bool {
        self.rule.refusal.iter().any(|refusal| matches!(refusal, RefusalRule::Answer { body, .. } if !body.is_empty()))
    }

    pub(crate) fn is_socket_io(&self) -> bool {
        self.rule.protocol == Protocol::SocketIo
    }

    /// Key of one of the rule's ids in the pin table.
    pub fn key(&self, keys: &Keys, upstream: &str, id: &[u8]) -> Key {
        // The key of an Engine.IO sid does not include the rule, as in admin queries.
        if self.is_socket_io() {
            return keys.key(upstream, id);
        }
        keys.of_rule(upstream, &self.rule.name, id)
    }
}

/// Returns the bit of an index below 64, and no bit otherwise (`config::check` rejects rules with more).
pub(crate) fn bit(index: usize) -> u64 {
    u32::try_from(index).ok().and_then(|index| 1_u64.checked_shl(index)).unwrap_or(0)
}

/// Whether a request meets the conditions `on`.
pub(crate) fn fits<B>(on: &On, request: &Request<B>) -> bool {
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
pub(crate) fn id<'r, B>(lookup: &LookupRule, request: &'r Request<B>) -> Option<Cow<'r, [u8]>> {
    let id = at(&lookup.at, request)?;
    (id.len() >= lookup.min && fits(&lookup.on, request)).then_some(id)
}

pub(crate) fn at<'r, B>(spot: &Spot, request: &'r Request<B>) -> Option<Cow<'r, [u8]>> {
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
