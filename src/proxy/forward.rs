//! Sends a request to its worker and the response back: which worker to try next, what a response teaches, and what the
//! client receives.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use hyper::header;
use hyper::http::response::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};

use super::Job;
use super::access_log::Record;
use super::attempt::{Missed, attempt};
use super::event_stream::Stream;
use super::headers;
use super::learn::{self, Ahead};
use super::mail;
use super::respond::{self, Problem};
use super::response_body::{BoxedReply, Reply, WorkerBody};
use super::retry;
use super::told_refusals;
use super::upgrade;
use crate::affinity::ask::RequestKind;
use crate::affinity::{Choice, Resolved};
use crate::body::Outgoing;
use crate::cookie;
use crate::engine_io;
use crate::keys::Key;
use crate::sockets::EndReason;
use crate::state::Shared;
use crate::upstream::connections::connect::Lease;
use crate::upstream::connections::dial::ConnectError;
use crate::upstream::connections::pool;
use crate::upstream::exchange::response_body::Unread;
use crate::upstream::serial::WorkerSerial;
use crate::upstream::worker::Count;

/// Pause between two checks whether a worker is gone.
const FOUND_DEAD_PAUSE: Duration = Duration::from_millis(20);

/// Sends the request to the chosen worker and returns its response. If the worker cannot be reached and the request has
/// no session, another worker is tried (see `retry`); a worker that failed is not tried again.
#[allow(
    clippy::manual_async_fn,
    reason = "an async fn stores its arguments twice in its future, and each request moves the whole future once"
)]
pub(crate) fn to(
    job: &Job,
    mut choice: Choice,
    request: &mut Request<Outgoing>,
    record: &mut Record,
) -> impl Future<Output = BoxedReply> {
    async move {
        let mut tried = Vec::new();
        loop {
            record.decided(&choice.worker, choice.why);
            record.tries();
            let was_resent = job.resent.get();
            let attempted = attempt(job, &choice.worker, request).await;
            if job.resent.get() && !was_resent && !matches!(attempted, Err(Missed::Lost)) {
                // It was sent twice to this worker.
                record.tries();
            }
            match attempted {
                Ok((response, lease, in_flight)) => {
                    return deliver(job, choice, response, lease, in_flight, record).await;
                }
                Err(Missed::Connect(error))
                    if retry::try_take_pass_on(job, &choice, &error, job.conn.thread.now_ms()) =>
                {
                    let Some(next) = another(job, &choice, &mut tried) else {
                        return respond::problem(Problem::NoWorker).into();
                    };
                    job.upstream.series().passed_on.inc();
                    choice = next;
                }
                Err(Missed::Lost) => {
                    let Some(next) = another(job, &choice, &mut tried) else {
                        return respond::problem(Problem::BadGateway).into();
                    };
                    choice = next;
                }
                Err(missed) => {
                    stays(job);
                    return Box::pin(lost(job, &choice, &missed)).await.into();
                }
            }
        }
    }
}

/// Chooses another worker for a request that is not tied to one, excluding those that have failed.
fn another(job: &Job, failed: &Choice, tried: &mut Vec<WorkerSerial>) -> Option<Choice> {
    tried.push(failed.worker.serial);
    match job.conn.thread.shared.sessions.resolve(&job.upstream, &job.ask, job.client, tried) {
        Resolved::Worker(next) | Resolved::Made(next) => Some(next),
        Resolved::Unpinned(_) | Resolved::Ended | Resolved::NoWorker => None,
    }
}

/// The response to a request whose worker could not give one. A session of a gone worker gets the refusal that makes
/// its client start a new session at once.
async fn lost(job: &Job, choice: &Choice, missed: &Missed) -> Response<Reply> {
    if matches!(missed, Missed::Ended) {
        if let (RequestKind::Session { key, .. }, Some(_)) = (job.ask.kind, &job.passed)
            && let Some(answer) = told_refusals::of_ended(job, key, &Method::GET).await
        {
            return answer;
        }
        return respond::ended(job);
    }
    if matches!(missed, Missed::Connect(ConnectError::Refused)) {
        // Dead idle connections in the pools of other threads keep a gone worker from being recognised as gone. Wait
        // until they are found.
        let found_out = async {
            while !choice.worker.gone() {
                tokio::time::sleep(FOUND_DEAD_PAUSE).await;
            }
        };
        let _ = tokio::time::timeout(pool::FINDS_DEAD, found_out).await;
    }
    if let (RequestKind::Session { key, .. }, true) = (job.ask.kind, choice.worker.gone()) {
        job.conn.thread.shared.sessions.forget(key, EndReason::WorkerGone);
        job.upstream.series().refusals_own.inc();
        choice.worker.series.refusals.inc();
        return respond::refused(job);
    }
    problem_of(missed)
}

/// The plain-text response for a failed attempt.
pub(crate) fn problem_of(missed: &Missed) -> Response<Reply> {
    respond::problem(match missed {
        Missed::BadBody => Problem::BadRequest("the request body broke off or is malformed"),
        Missed::Connect(ConnectError::TimedOut) | Missed::TimedOut => Problem::TimedOut,
        Missed::Connect(ConnectError::Refused) | Missed::Ended => Problem::NoWorker,
        Missed::Connect(ConnectError::Full) => Problem::Full("the worker does not accept more connections now"),
        Missed::Connect(ConnectError::Busy(_)) => Problem::Full("all connections to the worker are in use"),
        Missed::Connect(ConnectError::Reserved) => {
            Problem::Full("no file descriptor is left for a connection to the worker")
        }
        Missed::Connect(ConnectError::Io(_)) | Missed::Broken | Missed::Lost => Problem::BadGateway,
    })
}

/// Turns a worker's response into the client's: learns from it, drops the session that it ends, and cleans its head.
pub(crate) async fn deliver(
    job: &Job,
    mut choice: Choice,
    response: Box<Response<Unread>>,
    lease: Box<Lease>,
    in_flight: Count,
    record: &mut Record,
) -> BoxedReply {
    let status = response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Box::pin(upgrade::grant(job, choice, response, lease, record)).await.into();
    }
    let (mut parts, unread) = response.into_parts();
    let ended = unread.is_end_stream();
    let mut answer = WorkerBody::new(unread, lease, job.conn.thread.clone());
    let mut held = VecDeque::new();
    if ended {
        // hyper does not poll a body that has already ended, so the connection is given back here.
        poll_fn(|cx| Poll::Ready(Pin::new(&mut answer).poll_frame(cx).is_ready())).await;
    }
    if status != StatusCode::OK && !status.is_client_error() && !status.is_server_error() && learn::awaits_token(job) {
        return respond::problem(learn::no_session(job)).into();
    }
    if learn::looks(job, &parts) {
        let ahead = Ahead::new(&mut answer, &mut held, ended);
        if let Err(problem) = Box::pin(learn::read(job, &mut choice, &parts, ahead)).await {
            return respond::problem(problem).into();
        }
    }
    if mail::concerns(job)
        && let Err(problem) = Box::pin(mail::add(job, &mut parts, &mut held, &mut answer)).await
    {
        return respond::problem(problem).into();
    }
    if status != StatusCode::OK {
        stays(job);
    }
    if status.is_success() {
        job.came_back(&choice);
    }
    set_cookie(job, &choice, &mut parts);
    let stream = settle(job, &mut choice, &parts, &answer);
    record.answered(&choice.worker, status, in_flight, choice.hold);
    Box::new(HeldAnswer { parts, held, body: answer }.release(stream))
}

/// Applies the effects of a response on its session: it may create a pin, end the session, or be a long-lived stream
/// that a drain can end.
pub(crate) fn settle(job: &Job, choice: &mut Choice, parts: &Parts, answer: &WorkerBody) -> Option<Box<Stream>> {
    if job.ask.facts.is_some() {
        learn::made(job, choice, parts);
        learn::ended(job, choice, parts.status);
    }
    // A response of known length ends by itself. Most responses cost no more than this check.
    if answer.size_hint().exact().is_some() { None } else { Stream::of(job, choice, parts) }
}

/// A worker's response of which the beginning was read, and is held back from the client.
pub(crate) struct HeldAnswer {
    /// Head of the response, as the worker sent it.
    pub parts: Parts,
    /// Frames of the body that were read already.
    pub held: VecDeque<Frame<Bytes>>,
    /// The rest of the body.
    pub body: WorkerBody,
}

impl HeldAnswer {
    /// Releases the response to the client: cleans its head, and sends the frames already read before the rest.
    pub(crate) fn release(self, stream: Option<Box<Stream>>) -> Response<Reply> {
        let Self { mut parts, held, body } = self;
        headers::to_client(&mut parts.headers, false);
        // The worker's HTTP version belongs to its own hop. hyper answers an HTTP/1.0 client in 1.0 by itself.
        parts.version = Version::HTTP_11;
        Response::from_parts(parts, Reply::stream(held, body).ended_by(stream))
    }
}

/// Sets the affinity cookie that came with the choice, unless a shared cache may store the response.
pub(crate) fn set_cookie(job: &Job, choice: &Choice, parts: &mut Parts) {
    if let (Some(jar), Some(new)) = (&job.upstream.jar, &choice.cookie)
        && cookie::may_set(&parts.headers)
    {
        parts.headers.append(header::SET_COOKIE, jar.write(new, job.client.secure));
    }
}

/// Ends a session at its client's request: the pin is dropped when the request is over, even if the client does not
/// wait for the response. If the session lives on, discovery finds it at its next request.
pub struct SessionGoodbye {
    shared: Arc<Shared>,
    key: Key,
    ends: Cell<bool>,
}

impl Drop for SessionGoodbye {
    fn drop(&mut self) {
        if self.ends.get() {
            self.shared.sessions.forget(self.key, EndReason::Client);
        }
    }
}

/// Keeps the session, because the worker did not accept the client's goodbye.
fn stays(job: &Job) {
    if let Some(farewell) = &job.goodbye {
        farewell.ends.set(false);
    }
}

/// Whether a request may be the client's goodbye, which is a POST of a few bytes (docs/reference/protocols.md §1.3).
pub(crate) fn may_be_goodbye(job: &Job, request: &Request<Outgoing>) -> bool {
    const LONGEST_GOODBYE: u64 = 8;
    request.method() == Method::POST
        && matches!(job.ask.kind, RequestKind::Session { .. })
        && job.ask.is_engine_io(&job.upstream)
        && request.body().size_hint().exact().is_some_and(|length| (1..=LONGEST_GOODBYE).contains(&length))
}

/// Reads the body of a possible goodbye. If it is one, the pin ends with the worker's response, which keeps the count
/// of a worker's live sessions exact.
pub(crate) async fn read_goodbye(job: &mut Job, request: &mut Request<Outgoing>) -> Result<(), Problem> {
    let body = std::mem::replace(request.body_mut(), Outgoing::EMPTY);
    /// Time-out for the body: its few bytes follow the head at once, unless the client is gone.
    const GOODBYE_PATIENCE: Duration = Duration::from_secs(10);
    let body = tokio::time::timeout(GOODBYE_PATIENCE, body.collect()).await.map_err(|_| Problem::Slow)?;
    let body = body.map_err(|_| Problem::BadRequest("the request body broke off"))?.to_bytes();
    if let (true, RequestKind::Session { key, .. }) = (engine_io::says_goodbye(&body), job.ask.kind) {
        job.goodbye = Some(SessionGoodbye { shared: job.conn.thread.shared.clone(), key, ends: Cell::new(true) });
    }
    *request.body_mut() = Outgoing::held(body);
    job.tied_at.set(None);
    Ok(())
}
