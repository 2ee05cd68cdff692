//! Learns from a response before it is released: the id of a new session (ARCHITECTURE.md, invariant 3), a refusal, or
//! further ids of a Socket.IO session.
//!
//! A body is held back only if a rule has to inspect it, for at most 5 s and at most [`engine_io::MAX_HANDSHAKE`]
//! bytes; beyond that it is released without learning. An event stream is never held back: an id that appears in one is
//! learned as it passes ([`super::event_stream`]).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body as _, Frame};
use hyper::header;
use hyper::http::response::Parts;
use tokio::time::Instant;

use super::Job;
use super::respond::Problem;
use super::response_body::WorkerBody;
use crate::affinity::ask::RequestKind;
use crate::affinity::{Choice, Ttl};
use crate::config::pattern::PatternMatch;
use crate::config::rules::{AnswerPlace, Learn, Protocol};
use crate::engine_io::{self, Handshake, OpenPacket};
use crate::jwt::TokenFault;
use crate::keys::Key;
use crate::metrics::{GuardLabel, SourceLabel};
use crate::rules::answer::{self, RefusalMatch};
use crate::rules::proof;
use crate::rules::{LiveRule, extract};
use crate::sockets::EndReason;
use crate::upstream::worker::Worker;

/// How long a response's body may be held back until it shows what has to be learned from it
/// (docs/reference/routing.md §3).
const READ_AHEAD: Duration = Duration::from_secs(5);

/// A response's body, together with the part of it that was read ahead.
pub(crate) struct Ahead<'a> {
    answer: &'a mut WorkerBody,
    held: &'a mut VecDeque<Frame<Bytes>>,
    seen: Vec<u8>,
    /// Whether the body is complete.
    whole: bool,
    /// End of the time for reading ahead, set at the first read.
    deadline: Option<Instant>,
}

impl<'a> Ahead<'a> {
    /// Starts reading a body ahead; `whole` is true if there is no body.
    pub(crate) fn new(answer: &'a mut WorkerBody, held: &'a mut VecDeque<Frame<Bytes>>, whole: bool) -> Self {
        Self { answer, held, seen: Vec::new(), whole, deadline: None }
    }

    /// Goes on reading a body ahead of which some was read before.
    pub(crate) fn again(answer: &'a mut WorkerBody, held: &'a mut VecDeque<Frame<Bytes>>) -> Self {
        let data = held.iter().filter_map(Frame::data_ref);
        let (seen, whole) = (data.flatten().copied().collect(), answer.is_end_stream());
        Self { answer, held, seen, whole, deadline: None }
    }

    /// Reads one frame. Returns `false` if there is nothing more to read: the body has ended, `limit` is reached, or
    /// the time is up. A slow body is not an error; what was read is then released as it is.
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

    /// Reads until `look` has found what it needs, or knows that it will not.
    async fn until<T>(&mut self, look: impl Fn(&[u8], bool) -> PatternMatch<T>) -> Result<Option<T>, Problem> {
        loop {
            match look(&self.seen, self.whole) {
                PatternMatch::Found(found) => return Ok(Some(found)),
                PatternMatch::Never => return Ok(None),
                PatternMatch::NeedMore if self.more(engine_io::MAX_HANDSHAKE).await? => {}
                PatternMatch::NeedMore => return Ok(None),
            }
        }
    }
}

/// Reads until `bytes` bytes of a body have come, or all of it. What was read is returned, and kept for the client.
pub(crate) async fn beginning(
    body: &mut WorkerBody,
    held: &mut VecDeque<Frame<Bytes>>,
    bytes: usize,
) -> Result<Vec<u8>, Problem> {
    let mut ahead = Ahead::again(body, held);
    while ahead.more(bytes).await? {}
    Ok(ahead.seen)
}

/// A session id found in a response.
struct Born {
    id: Vec<u8>,
    ttl: Ttl,
}

/// Whether the response has to be inspected. Most need not be, polls included.
pub(crate) fn looks(job: &Job, parts: &Parts) -> bool {
    let refuses = |live: &LiveRule| answer::head_refuses(&live.rule, parts.status, &parts.headers) != RefusalMatch::No;
    let of_kind = match job.ask.kind {
        RequestKind::Handshake => parts.status == StatusCode::OK,
        RequestKind::Session { .. } => job.ask.rule(&job.upstream).is_some_and(refuses) || names_sockets(job, parts),
        RequestKind::Ordinary | RequestKind::Birth | RequestKind::UnknownSid | RequestKind::Preflight(_) => false,
    };
    of_kind || job.ask.facts.as_ref().is_some_and(|facts| facts.bears())
}

/// Whether a poll's response may bring Socket.IO ids that ordinary requests name later (`follow`).
pub(crate) fn names_sockets(job: &Job, parts: &Parts) -> bool {
    !job.upstream.config.follow.is_empty() && job.ask.is_poll() && parts.status == StatusCode::OK
}

/// Learns what must be known of a response before its first byte is released.
pub(crate) async fn read(job: &Job, choice: &mut Choice, parts: &Parts, ahead: Ahead<'_>) -> Result<(), Problem> {
    let ahead = &mut { ahead };
    if job.ask.kind == RequestKind::Handshake && parts.status == StatusCode::OK {
        Box::pin(handshake(job, choice, parts, ahead)).await?;
    }
    if let Some(facts) = job.ask.facts.as_ref().filter(|facts| facts.bears()) {
        for live in &job.upstream.rules {
            let births = live.births(facts).filter(|learn| bears(learn, parts.status));
            Box::pin(first(job, choice, live, births, parts, ahead)).await?;
        }
    }
    if let (RequestKind::Session { key, .. }, Some(live)) = (job.ask.kind, job.ask.rule(&job.upstream)) {
        if answer::head_refuses(&live.rule, parts.status, &parts.headers) != RefusalMatch::No
            && Box::pin(refuses(live, parts, ahead)).await?
        {
            refused(job, &choice.worker, live, key);
            choice.hold = None;
        } else if names_sockets(job, parts) {
            Box::pin(names(job, key, parts, ahead)).await?;
        }
    }
    Ok(())
}

/// Drops or marks the pin of a session that its own worker refused, and counts the refusal.
fn refused(job: &Job, worker: &Worker, live: &LiveRule, key: Key) {
    let shared = &job.conn.thread.shared;
    if live.rule.client_made {
        shared.sessions.forget(key, EndReason::Refused);
    } else {
        shared.sessions.refused_by_owner(key);
    }
    live.series.refused.inc();
    worker.series.refusals.inc();
    job.upstream.series().refusals_forwarded.inc();
}

/// Learns the session of an Engine.IO handshake. A response that teaches nothing is counted and released.
async fn handshake(job: &Job, choice: &mut Choice, parts: &Parts, ahead: &mut Ahead<'_>) -> Result<(), Problem> {
    let Some(live) = job.upstream.socket_io() else { return Ok(()) };
    if first(job, choice, live, live.rule.learn.iter(), parts, ahead).await? {
        job.conn.thread.shared.sessions.watch_one_address(&job.upstream, job.client);
        job.upstream.series().learned.inc();
    } else {
        job.upstream.series().unlearned.inc();
        if awaits_token(job) {
            return Err(no_session(job));
        }
    }
    Ok(())
}

/// Whether nothing but a session may be the answer to a handshake: its client's token is still to come, in a CONNECT
/// packet, and any other answer needs a token, which a client could avoid by the query of a handshake.
pub(crate) fn awaits_token(job: &Job) -> bool {
    let is_for_all =
        || job.watch.as_ref().and_then(|watch| watch.jwt.as_ref()).is_some_and(|jwt| jwt.config.is_for_all);
    let person = job.passed.as_ref().and_then(|passed| passed.person.as_ref());
    person.is_some_and(|person| !person.is_admitted()) && is_for_all()
}

/// The refusal of such an answer.
pub(crate) fn no_session(job: &Job) -> Problem {
    job.upstream.series().turned(GuardLabel::of_fault(TokenFault::Missing));
    Problem::TokenMissing
}

/// Whether a response with this status may contain the id.
fn bears(learn: &Learn, status: StatusCode) -> bool {
    learn.status.map_or_else(|| status.is_success(), |wanted| wanted == status.as_u16())
}

/// Pins the session of the first id that one of the rule's places yields. Returns whether there was one.
async fn first<'l>(
    job: &Job,
    choice: &mut Choice,
    live: &LiveRule,
    births: impl Iterator<Item = &'l Learn>,
    parts: &Parts,
    ahead: &mut Ahead<'_>,
) -> Result<bool, Problem> {
    for learn in births {
        if let Some((path, value)) = &learn.only
            && json(&AnswerPlace::Json(path.clone()), parts, ahead).await?.as_deref() != Some(value)
        {
            continue;
        }
        if let Some(born) = find(job, live, learn, parts, ahead).await? {
            pin(job, choice, live, &born);
            if live.rule.refusal.is_empty() {
                tell_fleet(job, choice, live, &born).await;
            }
            return Ok(true);
        }
    }
    Ok(false)
}

/// Looks for an id in one of the places where a rule expects it.
async fn find(
    job: &Job,
    live: &LiveRule,
    learn: &Learn,
    parts: &Parts,
    ahead: &mut Ahead<'_>,
) -> Result<Option<Born>, Problem> {
    let id = match &learn.from {
        AnswerPlace::OpenPacket => {
            return Ok(open_packet(ahead).await?.map(|open| {
                let sessions = &job.conn.thread.shared.sessions;
                let key = live.key(&sessions.keys, &job.upstream.config.name, open.sid.as_bytes());
                let ttl = Ttl::Announced(job.upstream.learn(key, &open));
                Born { id: open.sid.into_bytes(), ttl }
            }));
        }
        AnswerPlace::Json(_) => json(&learn.from, parts, ahead).await?.map(String::into_bytes),
        AnswerPlace::Prefix(_) if !answer::is_text(&parts.headers) => None,
        AnswerPlace::Prefix(template) => ahead.until(|seen, whole| extract::behind(template, seen, whole)).await?,
        AnswerPlace::Header(_) | AnswerPlace::SetCookie(_) | AnswerPlace::Location => {
            extract::in_head(&learn.from, &parts.headers)
        }
    };
    let Some(id) = id else { return Ok(None) };
    if live.rule.protocol == Protocol::SocketIo {
        return Ok(Some(Born { id, ttl: Ttl::Announced(job.upstream.session_ttl()) }));
    }
    let ttl = match &live.rule.ttl_from {
        None => None,
        Some(place @ AnswerPlace::Json(_)) => {
            json(place, parts, ahead).await?.and_then(|text| answer::seconds(text.as_bytes()))
        }
        Some(place) => extract::in_head(place, &parts.headers).and_then(|text| answer::seconds(&text)),
    };
    Ok(Some(Born { id, ttl: Ttl::Configured(ttl.unwrap_or(live.rule.ttl)) }))
}

async fn open_packet(ahead: &mut Ahead<'_>) -> Result<Option<Handshake>, Problem> {
    let look = |seen: &[u8], whole: bool| match engine_io::open_packet(seen) {
        OpenPacket::NeedMore if whole => PatternMatch::Never,
        OpenPacket::NeedMore => PatternMatch::NeedMore,
        OpenPacket::NotOne => PatternMatch::Never,
        OpenPacket::Open(handshake) => PatternMatch::Found(handshake),
    };
    ahead.until(look).await
}

/// Reads a field of a JSON body that fits into the limits. A body that cannot fit is not held back.
async fn json(place: &AnswerPlace, parts: &Parts, ahead: &mut Ahead<'_>) -> Result<Option<String>, Problem> {
    let AnswerPlace::Json(path) = place else { return Ok(None) };
    let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if !answer::is_text(&parts.headers) || length.is_some_and(|length| length > engine_io::MAX_HANDSHAKE) {
        return Ok(None);
    }
    let look = |seen: &[u8], whole: bool| match extract::json(path, seen) {
        PatternMatch::NeedMore if whole => PatternMatch::Never,
        seen => seen,
    };
    ahead.until(look).await
}

/// Waits until the fleet knows a session that no stickyd can find by asking workers.
async fn tell_fleet(job: &Job, choice: &Choice, live: &LiveRule, born: &Born) {
    let sessions = &job.conn.thread.shared.sessions;
    if let Some(fleet) = sessions.fleet() {
        let key = live.key(&sessions.keys, &job.upstream.config.name, &born.id);
        Box::pin(fleet.learned_surely(key, choice.worker.id.0, born.ttl.time())).await;
    }
}

/// Pins a new session, and keeps the pin open for the duration of the response.
fn pin(job: &Job, choice: &mut Choice, live: &LiveRule, born: &Born) {
    let shared = &job.conn.thread.shared;
    let key = live.key(&shared.sessions.keys, &job.upstream.config.name, &born.id);
    let seat = choice.seat.take().unwrap_or_else(|| choice.worker.session());
    live.series.learned.inc();
    if let Some(person) = job.person() {
        if let Some(fleet) = shared.sessions.fleet().filter(|_| !person.is_admitted()) {
            // The CONNECT packet may come to another stickyd.
            person.share();
            fleet.owes_connect(key);
        }
        match job.ask.kind {
            RequestKind::Handshake => shared.admissions.begin(shared, key, job.client, person),
            _ => shared.admissions.remember(shared, key, job.client, person),
        }
    }
    // The response to an Engine.IO handshake ends at once, so it need not keep the pin open.
    if live.rule.protocol == Protocol::SocketIo {
        shared.sessions.pin_fresh(key, job.client, seat, born.ttl);
        return;
    }
    let worker = choice.worker.clone();
    shared.sessions.pin(key, job.client, job.session(&worker, seat, &born.id), born.ttl);
    job.settle(key);
    if choice.hold.is_none() {
        choice.hold = shared.sessions.hold(key);
    }
}

/// Pins a session whose id was made by its client, or was accepted by a worker during discovery, to the worker that
/// accepted it.
pub(crate) fn made(job: &Job, choice: &mut Choice, parts: &Parts) {
    let (RequestKind::Session { key, .. }, Some(live)) = (job.ask.kind, job.ask.rule(&job.upstream)) else { return };
    if (live.rule.client_made || choice.why == SourceLabel::Discovered)
        && proof::head_allows(live.rule.protocol, parts.status, &parts.headers)
        && proves(live, parts)
        && let Some(seat) = choice.seat.take()
    {
        let shared = &job.conn.thread.shared;
        let worker = choice.worker.clone();
        shared.sessions.pin(key, job.client, job.session(&worker, seat, &[]), Ttl::Configured(live.rule.ttl));
        if let Some(person) = job.passed.as_ref().and_then(|passed| passed.person.clone()) {
            // Its request had a good token: the next ones of the session need none.
            shared.admissions.begin(shared, key, job.client, person);
        }
        live.series.learned.inc();
        choice.hold = shared.sessions.hold(key);
    }
}

/// Whether a success may be that of a session. A page, which many applications give for every path, proves no session
/// of a protocol that the file does not name.
pub(crate) fn proves(live: &LiveRule, parts: &Parts) -> bool {
    let kind = parts.headers.get(header::CONTENT_TYPE).map(|kind| kind.as_bytes());
    let is_page = kind.and_then(|kind| kind.get(..9)).is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/html"));
    live.rule.guard.is_none() || !is_page
}

/// Drops the pin of a session that this request has ended, as its rule defines.
pub(crate) fn ended(job: &Job, choice: &mut Choice, status: StatusCode) {
    let (RequestKind::Session { key, .. }, Some(live)) = (job.ask.kind, job.ask.rule(&job.upstream)) else { return };
    if job.ask.facts.as_ref().is_some_and(|facts| live.ends(facts, status.as_u16())) {
        job.conn.thread.shared.sessions.forget(key, EndReason::Client);
        live.series.ended.inc();
        choice.hold = None;
    }
}

/// Whether a response is a worker's explicit "I do not know this session". Reads at most the longest possible refusal.
pub(crate) async fn refuses(live: &LiveRule, parts: &Parts, ahead: &mut Ahead<'_>) -> Result<bool, Problem> {
    match answer::head_refuses(&live.rule, parts.status, &parts.headers) {
        RefusalMatch::No => return Ok(false),
        RefusalMatch::Yes => return Ok(true),
        RefusalMatch::Read => {}
    }
    loop {
        // Engine.IO's refusals are matched against the whole body, not against its beginning.
        let early = live.rule.protocol != Protocol::SocketIo && !ahead.seen.is_empty();
        if early && answer::body_refuses(&live.rule, parts.status, &ahead.seen) {
            return Ok(true);
        }
        if !ahead.more(engine_io::MAX_REFUSAL + 1).await? {
            return Ok(answer::body_refuses(&live.rule, parts.status, &ahead.seen));
        }
    }
}

/// Learns Socket.IO's own ids from the response to an Engine.IO poll, because the client may name them from now on.
pub(crate) async fn names(job: &Job, key: Key, parts: &Parts, ahead: &mut Ahead<'_>) -> Result<(), Problem> {
    if !job.ask.is_engine_io(&job.upstream) || !answer::is_text(&parts.headers) {
        return Ok(());
    }
    // The first packet shows whether more has to be read: sockets connect in the first polls.
    while ahead.seen.is_empty() && ahead.more(engine_io::MAX_HANDSHAKE).await? {}
    while engine_io::may_name_sockets(&ahead.seen) && ahead.more(engine_io::MAX_HANDSHAKE).await? {}
    for id in engine_io::socket_ids(&ahead.seen) {
        job.conn.thread.shared.sessions.alias(&job.upstream.config.name, id.as_bytes(), key, job.client);
    }
    Ok(())
}
