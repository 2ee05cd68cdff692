//! What an answer teaches before it is released: the id of a new session (invariant 3), a refusal, other names of a socket.
//!
//! A body is held back only where a rule has to look into it, no longer than 5 s and no further than
//! [`session::MAX_HANDSHAKE`]; past that it is released unlearned. A stream of events is never held: what is born in one is
//! learned as it passes ([`super::stream`]).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Frame;
use hyper::header;
use hyper::http::response::Parts;
use tokio::time::Instant;

use super::Job;
use super::ask::Kind;
use super::body::Answer;
use super::respond::Problem;
use crate::affinity::rule::answer::{self, Verdict};
use crate::affinity::rule::{Live, extract};
use crate::affinity::session::{self, Handshake, OpenPacket};
use crate::affinity::{self, Choice};
use crate::config::pattern::Seen;
use crate::config::rules::{Learn, Place, Protocol};
use crate::metrics::Source;
use crate::sockets::End;

/// How long an answer's body may take to show what has to be read of it before it is released (design.md §3.3).
const READ_AHEAD: Duration = Duration::from_secs(5);

/// An answer's body, and what was read of it.
pub struct Ahead<'a> {
    answer: &'a mut Answer,
    held: &'a mut VecDeque<Frame<Bytes>>,
    seen: Vec<u8>,
    /// Nothing more will come.
    whole: bool,
    /// Set at the first read.
    deadline: Option<Instant>,
}

impl<'a> Ahead<'a> {
    /// `whole`: there is no body.
    pub fn new(answer: &'a mut Answer, held: &'a mut VecDeque<Frame<Bytes>>, whole: bool) -> Self {
        Self { answer, held, seen: Vec::new(), whole, deadline: None }
    }

    /// Reads a frame; `false`: nothing more is to be had, by its end, by `limit` or by the time. Slow is not wrong: what has
    /// come is released as it is.
    async fn more(&mut self, limit: usize) -> Result<bool, Problem> {
        if self.whole || self.seen.len() >= limit {
            return Ok(false);
        }
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + READ_AHEAD);
        let Ok(frame) = tokio::time::timeout_at(deadline, self.answer.frame()).await else { return Ok(false) };
        let Some(frame) = frame else {
            self.whole = true;
            return Ok(true);
        };
        let frame = frame.map_err(|_| Problem::BadGateway)?;
        if let Some(data) = frame.data_ref() {
            self.seen.extend_from_slice(data);
        }
        self.held.push_back(frame);
        Ok(true)
    }

    /// Reads for as long as `look` has not seen enough.
    async fn until<T>(&mut self, look: impl Fn(&[u8], bool) -> Seen<T>) -> Result<Option<T>, Problem> {
        loop {
            match look(&self.seen, self.whole) {
                Seen::Found(found) => return Ok(Some(found)),
                Seen::Never => return Ok(None),
                Seen::NeedMore if self.more(session::MAX_HANDSHAKE).await? => {}
                Seen::NeedMore => return Ok(None),
            }
        }
    }
}

/// An id that an answer bears.
struct Born {
    id: Vec<u8>,
    ttl: Duration,
    /// The answer said how long the session may be silent.
    paced: bool,
}

/// Whether anything has to be read: of most answers nothing, a poll's among them.
pub fn looks(job: &Job, parts: &Parts) -> bool {
    let refuses = |live: &Live| answer::head_refuses(&live.rule, parts.status, &parts.headers) != Verdict::No;
    let of_kind = match job.ask.kind {
        Kind::Handshake => parts.status == StatusCode::OK,
        Kind::Session { .. } => job.ask.rule(&job.upstream).is_some_and(refuses) || names_sockets(job, parts),
        Kind::Ordinary | Kind::Birth | Kind::UnknownSid | Kind::Preflight(_) => false,
    };
    of_kind || job.ask.facts.as_ref().is_some_and(|facts| facts.bears())
}

/// Whether a poll brings what ordinary requests may follow.
fn names_sockets(job: &Job, parts: &Parts) -> bool {
    !job.upstream.config.follow.is_empty() && job.ask.is_poll() && parts.status == StatusCode::OK
}

/// Reads what must be known of an answer before its first byte is released.
pub async fn read(job: &Job, choice: &mut Choice, parts: &Parts, ahead: Ahead<'_>) -> Result<(), Problem> {
    let ahead = &mut { ahead };
    if job.ask.kind == Kind::Handshake && parts.status == StatusCode::OK {
        Box::pin(handshake(job, choice, parts, ahead)).await?;
    }
    if let Some(facts) = job.ask.facts.as_ref().filter(|facts| facts.bears()) {
        for live in &job.upstream.rules {
            let births = live.births(facts).filter(|learn| bears(learn, parts.status));
            Box::pin(first(job, choice, live, births, parts, ahead)).await?;
        }
    }
    if let (Kind::Session { key, .. }, Some(live)) = (job.ask.kind, job.ask.rule(&job.upstream)) {
        if answer::head_refuses(&live.rule, parts.status, &parts.headers) != Verdict::No
            && Box::pin(refuses(live, parts, ahead)).await?
        {
            refused(job, live, key);
            choice.hold = None;
        } else if names_sockets(job, parts) {
            Box::pin(names(job, key, parts, ahead)).await?;
        }
    }
    Ok(())
}

/// The session's own worker does not know it.
fn refused(job: &Job, live: &Live, key: affinity::pins::Key) {
    let shared = &job.conn.thread.shared;
    if live.rule.client_made {
        affinity::forget(shared, key, End::Refused);
    } else {
        affinity::refused_by_owner(shared, key);
    }
    live.series.refused.inc();
    job.upstream.series().refusals_forwarded.inc();
}

/// An Engine.IO handshake. What cannot be learned is released all the same, and counted.
async fn handshake(job: &Job, choice: &mut Choice, parts: &Parts, ahead: &mut Ahead<'_>) -> Result<(), Problem> {
    let Some(live) = job.upstream.socket_io() else { return Ok(()) };
    if first(job, choice, live, live.rule.learn.iter(), parts, ahead).await? {
        affinity::watch_one_address(&job.conn.thread.shared, &job.upstream, job.client);
        job.upstream.series().learned.inc();
    } else {
        job.upstream.series().unlearned.inc();
    }
    Ok(())
}

/// Whether an answer of this status may bear the id.
fn bears(learn: &Learn, status: StatusCode) -> bool {
    learn.status.map_or_else(|| status.is_success(), |wanted| wanted == status.as_u16())
}

/// Learns the first id there is of one rule, and pins it; whether there was one.
async fn first<'l>(
    job: &Job,
    choice: &mut Choice,
    live: &Live,
    births: impl Iterator<Item = &'l Learn>,
    parts: &Parts,
    ahead: &mut Ahead<'_>,
) -> Result<bool, Problem> {
    for learn in births {
        if let Some((path, value)) = &learn.only
            && json(&Place::Json(path.clone()), parts, ahead).await?.as_deref() != Some(value)
        {
            continue;
        }
        if let Some(born) = find(job, live, learn, parts, ahead).await? {
            pin(job, choice, live, &born);
            return Ok(true);
        }
    }
    Ok(false)
}

/// Looks for an id where one may be born.
async fn find(
    job: &Job,
    live: &Live,
    learn: &Learn,
    parts: &Parts,
    ahead: &mut Ahead<'_>,
) -> Result<Option<Born>, Problem> {
    let id = match &learn.from {
        Place::OpenPacket => {
            return Ok(open_packet(ahead).await?.map(|open| {
                let ttl = job.upstream.learn(open.ping_interval, open.ping_timeout, open.max_payload);
                Born { id: open.sid.into_bytes(), ttl, paced: true }
            }));
        }
        Place::Json(_) => json(&learn.from, parts, ahead).await?.map(String::into_bytes),
        Place::Prefix(_) if !answer::is_text(&parts.headers) => None,
        Place::Prefix(template) => ahead.until(|seen, whole| extract::behind(template, seen, whole)).await?,
        Place::Header(_) | Place::SetCookie(_) | Place::Location => extract::in_head(&learn.from, &parts.headers),
    };
    let Some(id) = id else { return Ok(None) };
    if live.rule.protocol == Protocol::SocketIo {
        return Ok(Some(Born { id, ttl: job.upstream.session_ttl(), paced: true }));
    }
    let ttl = match &live.rule.ttl_from {
        None => None,
        Some(place @ Place::Json(_)) => {
            json(place, parts, ahead).await?.and_then(|text| answer::seconds(text.as_bytes()))
        }
        Some(place) => extract::in_head(place, &parts.headers).and_then(|text| answer::seconds(&text)),
    };
    Ok(Some(Born { id, ttl: ttl.unwrap_or(live.rule.ttl), paced: false }))
}

async fn open_packet(ahead: &mut Ahead<'_>) -> Result<Option<Handshake>, Problem> {
    let look = |seen: &[u8], whole: bool| match session::open_packet(seen) {
        OpenPacket::NeedMore if whole => Seen::Never,
        OpenPacket::NeedMore => Seen::NeedMore,
        OpenPacket::NotOne => Seen::Never,
        OpenPacket::Open(handshake) => Seen::Found(handshake),
    };
    ahead.until(look).await
}

/// A field of a body that is whole within the bounds; one that cannot be is not held back.
async fn json(place: &Place, parts: &Parts, ahead: &mut Ahead<'_>) -> Result<Option<String>, Problem> {
    let Place::Json(path) = place else { return Ok(None) };
    let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if !answer::is_text(&parts.headers) || length.is_some_and(|length| length > session::MAX_HANDSHAKE) {
        return Ok(None);
    }
    let look = |seen: &[u8], whole: bool| match extract::json(path, seen) {
        Seen::NeedMore if whole => Seen::Never,
        seen => seen,
    };
    ahead.until(look).await
}

/// Pins what was born, and holds it while its answer lasts.
fn pin(job: &Job, choice: &mut Choice, live: &Live, born: &Born) {
    let shared = &job.conn.thread.shared;
    let key = live.key(shared, &job.upstream.config.name, &born.id);
    let seat = choice.seat.take().unwrap_or_else(|| choice.worker.session());
    let worker = choice.worker.clone();
    affinity::pin(shared, key, job.client, job.session(&worker, seat, &born.id), born.ttl, born.paced);
    live.series.learned.inc();
    // The answer to a handshake of Engine.IO is over at once.
    if choice.hold.is_none() && live.rule.protocol != Protocol::SocketIo {
        choice.hold = affinity::hold(shared, key);
    }
}

/// A session whose id its client made, or that a worker claimed, is pinned where it was taken.
pub fn made(job: &Job, choice: &mut Choice, status: StatusCode) {
    let (Kind::Session { key, .. }, Some(live)) = (job.ask.kind, job.ask.rule(&job.upstream)) else { return };
    if (live.rule.client_made || choice.why == Source::Discovered)
        && status.is_success()
        && let Some(seat) = choice.seat.take()
    {
        let shared = &job.conn.thread.shared;
        let worker = choice.worker.clone();
        affinity::pin(shared, key, job.client, job.session(&worker, seat, &[]), live.rule.ttl, false);
        live.series.learned.inc();
        choice.hold = affinity::hold(shared, key);
    }
}

/// What a session's own request ends, by its rule.
pub fn ended(job: &Job, choice: &mut Choice, status: StatusCode) {
    let (Kind::Session { key, .. }, Some(live)) = (job.ask.kind, job.ask.rule(&job.upstream)) else { return };
    if job.ask.facts.as_ref().is_some_and(|facts| live.ends(facts, status.as_u16())) {
        affinity::forget(&job.conn.thread.shared, key, End::Client);
        live.series.ended.inc();
        choice.hold = None;
    }
}

/// Whether an answer is a worker's explicit "I do not know this session"; reads at most what a refusal can be long.
pub async fn refuses(live: &Live, parts: &Parts, ahead: &mut Ahead<'_>) -> Result<bool, Problem> {
    match answer::head_refuses(&live.rule, parts.status, &parts.headers) {
        Verdict::No => return Ok(false),
        Verdict::Yes => return Ok(true),
        Verdict::Read => {}
    }
    loop {
        // Engine.IO's are whole bodies, and not their beginnings.
        let early = live.rule.protocol != Protocol::SocketIo && !ahead.seen.is_empty();
        if early && answer::body_refuses(&live.rule, parts.status, &ahead.seen) {
            return Ok(true);
        }
        if !ahead.more(session::MAX_REFUSAL + 1).await? {
            return Ok(answer::body_refuses(&live.rule, parts.status, &ahead.seen));
        }
    }
}

/// Socket.IO's own ids of an Engine.IO session, in what a poll brings; those its client may name from now on.
async fn names(job: &Job, key: affinity::pins::Key, parts: &Parts, ahead: &mut Ahead<'_>) -> Result<(), Problem> {
    if !job.ask.is_engine_io(&job.upstream) || !answer::is_text(&parts.headers) {
        return Ok(());
    }
    // One look at the first packet says whether it is worth more: sockets connect in the first polls.
    while ahead.seen.is_empty() && ahead.more(session::MAX_HANDSHAKE).await? {}
    while session::may_name_sockets(&ahead.seen) && ahead.more(session::MAX_HANDSHAKE).await? {}
    for id in session::socket_ids(&ahead.seen) {
        let shared = &job.conn.thread.shared;
        affinity::alias(shared, &job.upstream.config.name, id.as_bytes(), key, job.client);
    }
    Ok(())
}
