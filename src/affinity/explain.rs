//! What [`super::resolve`] would decide, without deciding it: for an operator who asks. Nothing is placed, counted, pinned
//! or kept alive by the question, and no worker is asked.
//!
//! Left out: what discovery would find (that takes asking workers), and whether the worker could be reached.

use std::sync::Arc;
use std::time::Instant;

use super::cookie::Cookie;
use super::derive;
use super::pins::plain_hash;
use super::rule::Live;
use super::session::{MAX_ID, MAX_SID};
use crate::clock;
use crate::config::rules::Protocol;
use crate::proxy::headers::Client;
use crate::state::Shared;
use crate::upstream::Upstream;
use crate::upstream::worker::Worker;

/// What a request would carry.
#[derive(Clone, Copy, Default)]
pub struct Question<'a> {
    /// Decoded.
    pub sid: Option<&'a [u8]>,
    /// Whose id that is; `None`: of `socket.io`, or of the only rule there is.
    pub rule: Option<&'a Live>,
    /// Verified.
    pub cookie: Option<Cookie>,
    /// Who would ask.
    pub client: Option<Client>,
    /// Without a sid: an ordinary request, and no new session.
    pub ordinary: bool,
}

/// The reason of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The sid is pinned.
    Pinned,
    /// Nobody has pinned it: discovery begins here.
    Unpinned,
    /// An operator ended the session.
    Ended,
    /// Its worker is gone.
    Gone,
    /// No worker can have made such a sid.
    TooLong,
    /// Its client made the id: its hash.
    Made,
    /// Our cookie names the worker.
    Cookie,
    /// A new session, by bounded load on the ring.
    Placed,
    /// The plain hash.
    Hash,
    /// Nothing of the question says which.
    Chance,
    /// No worker may take it.
    Nobody,
}

impl Why {
    /// One word, for programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Unpinned => "unpinned",
            Self::Ended => "ended",
            Self::Gone => "gone",
            Self::TooLong => "too_long",
            Self::Made => "made",
            Self::Cookie => "cookie",
            Self::Placed => "placed",
            Self::Hash => "hash",
            Self::Chance => "chance",
            Self::Nobody => "nobody",
        }
    }

    /// A sentence, for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Pinned => "the sid is pinned to this worker, and a pin never moves",
            Self::Unpinned => {
                "nobody here has pinned this sid: the workers would be asked, this one first; whoever knows it gets it"
            }
            Self::Ended => "an operator ended this session: the client is refused, and makes a new one",
            Self::Gone => "the worker of this session is gone: the client is refused, and makes a new one",
            Self::TooLong => "no worker can have made so long a sid: the client is refused",
            Self::Made => "nobody here has pinned this id; its client made it, and its hash leads here",
            Self::Cookie => "the cookie names this worker",
            Self::Placed => "a new session: the ring, with bounded load; other sessions may shift it",
            Self::Hash => "the hash of the cookie's id, or of the client's address where there is no cookie",
            Self::Chance => "nothing given says which: name the client's address, a cookie or a sid",
            Self::Nobody => "no worker may take it: 503",
        }
    }
}

/// Which worker, and why.
pub type Answer = (Option<Arc<Worker>>, Why);

/// What would be decided.
pub struct Explained {
    /// Now.
    pub now: Answer,
    /// Where the client would be if that worker died: a session's client makes a new one there.
    pub then: Option<Answer>,
}

/// Answers the question.
pub fn explain(shared: &Shared, upstream: &Upstream, question: Question<'_>) -> Explained {
    let now = decide(shared, upstream, question);
    let anew = Question { sid: None, ..question };
    let then = match &now {
        (Some(worker), _) => Some(without_sid(upstream, anew, &[worker.serial])),
        // The refused client's next handshake.
        (None, Why::Ended | Why::Gone | Why::TooLong) => Some(without_sid(upstream, anew, &[])),
        (None, _) => None,
    };
    Explained { now, then }
}

fn decide(shared: &Shared, upstream: &Upstream, question: Question<'_>) -> Answer {
    let live = question.rule.or_else(|| default_rule(upstream));
    let (Some(sid), Some(live)) = (question.sid, live) else { return without_sid(upstream, question, &[]) };
    let longest = if live.rule.protocol == Protocol::SocketIo { MAX_SID } else { MAX_ID };
    if sid.len() > longest {
        return (None, Why::TooLong);
    }
    let key = live.key(shared, &upstream.config.name, sid);
    match shared.pins.peek(key, Instant::now(), |pin| pin.worker().cloned()) {
        None if live.rule.client_made => match upstream.hash(&plain_hash(sid), &[]) {
            Some(worker) => (Some(worker.clone()), Why::Made),
            None => (None, Why::Nobody),
        },
        None if live.rule.refusal.is_empty() => without_sid(upstream, Question { ordinary: true, ..question }, &[]),
        None => match first_guess(upstream, question) {
            Some(worker) => (Some(worker), Why::Unpinned),
            None => (None, Why::Unpinned),
        },
        Some(None) => (None, Why::Ended),
        Some(Some(worker)) if worker.gone() => (None, Why::Gone),
        Some(Some(worker)) if !worker.serves() => (None, Why::Ended),
        Some(Some(worker)) => (Some(worker), Why::Pinned),
    }
}

/// The rule that a bare id is meant for.
pub fn default_rule(upstream: &Upstream) -> Option<&Live> {
    upstream.socket_io().or_else(|| upstream.rules.first())
}

fn first_guess(upstream: &Upstream, question: Question<'_>) -> Option<Arc<Worker>> {
    let by_cookie = question.cookie.and_then(|cookie| upstream.worker(cookie.worker));
    by_cookie.or_else(|| upstream.hash(&key(upstream, question)?, &[])).cloned()
}

fn without_sid(upstream: &Upstream, question: Question<'_>, tried: &[u64]) -> Answer {
    let session = !upstream.rules.is_empty() && !question.ordinary;
    let may =
        |worker: &Worker| if session { worker.takes_new() && upstream.may_return(worker) } else { worker.serves() };
    let by_cookie = question.cookie.and_then(|cookie| upstream.worker(cookie.worker));
    if let Some(worker) = by_cookie.filter(|worker| !tried.contains(&worker.serial) && may(worker)) {
        return (Some(worker.clone()), Why::Cookie);
    }
    let Some(key) = key(upstream, question) else { return (None, Why::Chance) };
    let (worker, why) = if session {
        (upstream.would_place(&key, tried, clock::now_s()), Why::Placed)
    } else {
        (upstream.hash(&key, tried), Why::Hash)
    };
    worker.map_or((None, Why::Nobody), |worker| (Some(worker.clone()), why))
}

/// As [`super::hash_key`]; `None` where that would draw by chance.
fn key(upstream: &Upstream, question: Question<'_>) -> Option<[u8; 16]> {
    match question.cookie {
        Some(cookie) => Some(derive::first(&cookie.client)),
        None => question.client.filter(|_| upstream.by_address).map(|client| client.key()),
    }
}
