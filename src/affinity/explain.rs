//! Explains to operators what [`super::resolve`] would decide. The question itself places, counts, pins and refreshes
//! nothing, and contacts no worker.
//!
//! Not covered: what discovery would find (workers would have to be asked), and whether the worker can be reached.

use super::sessions::Sessions;
use crate::client::Client;
use crate::clock;
use crate::config::rules::Protocol;
use crate::cookie::Cookie;
use crate::engine_io::{MAX_ID, MAX_SID};
use crate::keys::derive;
use crate::keys::plain_hash;
use crate::rules::LiveRule;
use crate::upstream::Upstream;
use crate::upstream::serial::WorkerSerial;
use crate::upstream::worker::Worker;
use std::sync::Arc;
use std::time::Instant;

/// A hypothetical request to be explained.
#[derive(Clone, Copy, Default)]
pub struct ExplainQuestion<'a> {
    /// Session id, decoded; `None` for a request without one.
    pub sid: Option<&'a [u8]>,
    /// Rule that the session id belongs to; `None` means the `socket.io` rule, or else the upstream's first rule.
    pub rule: Option<&'a LiveRule>,
    /// stickyd's own cookie, already verified.
    pub cookie: Option<Cookie>,
    /// Client that would send the request.
    pub client: Option<Client>,
    /// What the fleet's Redis says of the session, if it is not pinned here.
    pub shared: Option<SharedSession<'a>>,
    /// Worker of the session that an ordinary request with this id names (`follow`), here or as Redis says.
    pub follows: Option<&'a Arc<Worker>>,
    /// Whether the request is ordinary: instead of starting a new session, or one that names a session by the id where
    /// the upstream follows such ids.
    pub ordinary: bool,
}

/// What the fleet's Redis says of a session.
#[derive(Clone, Copy)]
pub enum SharedSession<'a> {
    /// An operator ended it, at any of the stickyds.
    Ended,
    /// Another stickyd has pinned it to this worker.
    At(&'a Arc<Worker>),
}

/// Reason for a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The sid is pinned to the worker.
    Pinned,
    /// Another stickyd of the fleet has pinned the sid to the worker, as Redis says.
    Shared,
    /// The id names a session of the worker: its sid, or the id of one of its sockets.
    Follow,
    /// The sid is not pinned here: discovery would start at the worker.
    Unpinned,
    /// An operator ended the session.
    Ended,
    /// The worker of the session is gone.
    Gone,
    /// The sid is longer than any that a worker can have made.
    TooLong,
    /// The client made the id, and the id's hash leads to the worker.
    Made,
    /// The affinity cookie names the worker.
    Cookie,
    /// A new session is placed by bounded load on the ring.
    Placed,
    /// The plain hash of the ring key leads to the worker.
    Hash,
    /// Nothing in the question determines the worker.
    Chance,
    /// No worker can take the request.
    Nobody,
}

impl Why {
    /// Machine-readable name of the reason.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Shared => "shared",
            Self::Follow => "follow",
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

    /// The reason as a sentence for people, for a decision with a worker or without one.
    pub fn words(self, has_worker: bool) -> &'static str {
        match self {
            Self::Pinned => "the sid is pinned to this worker; a pin never moves",
            Self::Shared => {
                "another stickyd has pinned the sid to this worker: Redis says so, and the worker confirms it"
            }
            Self::Follow => "the id names a session of this worker (`follow`): ordinary requests with it go there",
            Self::Unpinned if has_worker => {
                "the sid is not pinned here: the workers would be asked, this one first, until one knows it"
            }
            Self::Unpinned => {
                "the sid is not pinned here: the workers would be asked until one knows it; a client address or a \
                 cookie determines the first"
            }
            Self::Ended => "an operator ended this session: the client is refused and makes a new one",
            Self::Gone => "the worker of this session is gone: the client is refused and makes a new one",
            Self::TooLong => "the sid is too long for any worker to have made it: the client is refused",
            Self::Made => "the id is not pinned here; the client made it, and its hash leads to this worker",
            Self::Cookie => "the cookie names this worker",
            Self::Placed => "a new session, placed on the ring with bounded load; other sessions may change the result",
            Self::Hash => "the hash of the cookie's id, or of the client's address if there is no cookie",
            Self::Chance => "nothing in the question determines the worker: give a client address, a cookie or a sid",
            Self::Nobody => "no worker can take the request: the answer is 503",
        }
    }
}

/// The worker, if there is one, and the reason for the decision.
pub(crate) type Decision = (Option<Arc<Worker>>, Why);

/// The decision that would be made, and the one after it.
pub struct Explained {
    /// Decision for the request as it is.
    pub now: Decision,
    /// Where the client would start its next session if the worker of `now` died, or after a refusal; `None` in all
    /// other cases.
    pub then: Option<Decision>,
}

/// Returns what would be decided for this question, without changing anything.
pub fn explain(sessions: &Sessions, upstream: &Upstream, question: ExplainQuestion<'_>) -> Explained {
    let now = decide(sessions, upstream, question);
    let anew = ExplainQuestion { sid: None, ..question };
    let then = match &now {
        (Some(worker), _) => Some(without_sid(upstream, anew, &[worker.serial])),
        // The refused client sends a new handshake next.
        (None, Why::Ended | Why::Gone | Why::TooLong) => Some(without_sid(upstream, anew, &[])),
        (None, _) => None,
    };
    Explained { now, then }
}

fn decide(sessions: &Sessions, upstream: &Upstream, question: ExplainQuestion<'_>) -> Decision {
    let live = question.rule.or_else(|| default_rule(upstream));
    let (Some(sid), Some(live)) = (question.sid, live) else { return without_sid(upstream, question, &[]) };
    let follows = question.follows.filter(|worker| worker.serves()).map(|worker| (Some(worker.clone()), Why::Follow));
    if question.ordinary && question.rule.is_none() && !upstream.config.follow.is_empty() {
        return follows.unwrap_or_else(|| without_sid(upstream, question, &[]));
    }
    let longest = if live.rule.protocol == Protocol::SocketIo { MAX_SID } else { MAX_ID };
    if sid.len() > longest {
        return (None, Why::TooLong);
    }
    let key = live.key(&sessions.keys, &upstream.config.name, sid);
    let pinned = sessions.pins.peek(key, Instant::now(), |pin| pin.worker().cloned());
    if let (None, Some(shared), false) = (&pinned, question.shared, live.rule.client_made) {
        return shared_decision(upstream, question, shared);
    }
    match pinned {
        None if live.rule.client_made => match upstream.hash(&plain_hash(sid), &[]) {
            Some(worker) => (Some(worker.clone()), Why::Made),
            None => (None, Why::Nobody),
        },
        None if live.rule.refusal.is_empty() => {
            without_sid(upstream, ExplainQuestion { ordinary: true, ..question }, &[])
        }
        // No session has this id, and the workers know none: it is the id of a socket.
        None if follows.is_some() => follows.unwrap_or((None, Why::Unpinned)),
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

/// What Redis says decides, except where the worker takes no requests: then the workers are asked.
fn shared_decision(upstream: &Upstream, question: ExplainQuestion<'_>, shared: SharedSession<'_>) -> Decision {
    match shared {
        SharedSession::Ended => (None, Why::Ended),
        SharedSession::At(worker) if worker.gone() => (None, Why::Gone),
        SharedSession::At(worker) if worker.serves() => (Some(worker.clone()), Why::Shared),
        SharedSession::At(_) => (first_guess(upstream, question), Why::Unpinned),
    }
}

/// Returns the rule for an id that names no rule: `socket.io`, or else the upstream's first rule.
pub(crate) fn default_rule(upstream: &Upstream) -> Option<&LiveRule> {
    upstream.socket_io().or_else(|| upstream.rules.first())
}

fn first_guess(upstream: &Upstream, question: ExplainQuestion<'_>) -> Option<Arc<Worker>> {
    let by_cookie = question.cookie.and_then(|cookie| upstream.worker(cookie.worker));
    by_cookie.or_else(|| upstream.hash(&key(upstream, question)?, &[])).cloned()
}

fn without_sid(upstream: &Upstream, question: ExplainQuestion<'_>, tried: &[WorkerSerial]) -> Decision {
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

/// Ring key of the request, as [`super::HashKey`] has it; `None` where that would be a random one.
fn key(upstream: &Upstream, question: ExplainQuestion<'_>) -> Option<[u8; 16]> {
    match question.cookie {
        Some(cookie) => Some(derive::first(&cookie.client)),
        None => question.client.filter(|_| upstream.by_address).map(|client| client.key()),
    }
}
