//! A request to its worker, and the answer back: whom to try next, what an answer teaches, and what the client gets.

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
use super::ask::Kind;
use super::attempt::{Missed, attempt};
use super::body::{Answer, Outgoing, Reply};
use super::headers;
use super::learn::{self, Ahead};
use super::record::Record;
use super::respond::{self, Problem};
use super::retry;
use super::stream::Stream;
use crate::affinity::pins::Key;
use crate::affinity::session;
use crate::affinity::{self, Choice, Resolved, cookie};
use crate::sockets::End;
use crate::state::Shared;
use crate::tunnel;
use crate::upstream::connect::Lease;
use crate::upstream::dial::ConnectError;
use crate::upstream::pool;
use crate::upstream::unread::Unread;
use crate::upstream::worker::Count;

/// Between two looks at a worker that may be gone.
const LOOK: Duration = Duration::from_millis(20);

/// Sends the request to the chosen worker and answers with what it says. A worker that cannot be reached is passed over
/// when the request has no session (`retry`); the one that failed is not asked again.
#[allow(
    clippy::manual_async_fn,
    reason = "an async fn keeps what it is given twice, and all of it is moved once a request"
)]
pub fn to(
    job: &Job,
    mut choice: Choice,
    mut request: Request<Outgoing>,
    record: &mut Record,
) -> impl Future<Output = Response<Reply>> {
    async move {
        let mut tried = Vec::new();
        loop {
            record.decided(&choice.worker, choice.why);
            match attempt(job, &choice.worker, request).await {
                Ok((response, lease, in_flight)) => {
                    return deliver(job, choice, response, lease, in_flight, record).await;
                }
                Err(Missed::Connect(error, back))
                    if retry::may_pass_on(job, &choice, &error, job.conn.thread.now_ms()) =>
                {
                    let Some(next) = another(job, &choice, &mut tried) else {
                        return respond::problem(Problem::NoWorker);
                    };
                    job.upstream.series().passed_on.inc();
                    (request, choice) = (back, next);
                }
                Err(Missed::Lost(back)) => {
                    let Some(next) = another(job, &choice, &mut tried) else {
                        return respond::problem(Problem::BadGateway);
                    };
                    (request, choice) = (back, next);
                }
                Err(missed) => {
                    stays(job);
                    return Box::pin(lost(job, &choice, &missed)).await;
                }
            }
        }
    }
}

/// Another worker for a request that may have any; the one that failed is none.
fn another(job: &Job, failed: &Choice, tried: &mut Vec<u64>) -> Option<Choice> {
    tried.push(failed.worker.serial);
    match affinity::resolve(&job.conn.thread.shared, &job.upstream, &job.ask, job.client, tried) {
        Resolved::Worker(next) | Resolved::Made(next) => Some(next),
        Resolved::Unpinned(_) | Resolved::Ended | Resolved::Nobody => None,
    }
}

/// The answer to a request whose worker could not give one. A gone worker's session gets the refusal that makes its
/// client start anew at once.
async fn lost(job: &Job, choice: &Choice, missed: &Missed) -> Response<Reply> {
    if matches!(missed, Missed::Ended) {
        job.upstream.series().refusals_own.inc();
        return respond::refused(job);
    }
    if matches!(missed, Missed::Connect(ConnectError::Refused, _)) {
        // Dead idle connections in the pools of other threads make a gone worker look as if it was only leaving.
        let found_out = async {
            while !choice.worker.gone() {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(pool::FINDS_DEAD, found_out).await;
    }
    if let (Kind::Session { key, .. }, true) = (job.ask.kind, choice.worker.gone()) {
        affinity::forget(&job.conn.thread.shared, key, End::WorkerGone);
        job.upstream.series().refusals_own.inc();
        return respond::refused(job);
    }
    problem_of(missed)
}

/// The plain answer to a missed attempt.
pub fn problem_of(missed: &Missed) -> Response<Reply> {
    respond::problem(match missed {
        Missed::BadBody => Problem::BadRequest("the body broke off or is no body"),
        Missed::Connect(ConnectError::TimedOut, _) | Missed::TimedOut => Problem::TimedOut,
        Missed::Connect(ConnectError::Refused, _) | Missed::Ended => Problem::NoWorker,
        Missed::Connect(ConnectError::Full, _) => Problem::Full("the worker takes no more connections now"),
        Missed::Connect(ConnectError::Busy(_), _) => Problem::Full("all connections to the worker are in use"),
        Missed::Connect(ConnectError::Reserved, _) => {
            Problem::Full("no descriptor is left for a connection to the worker")
        }
        Missed::Connect(ConnectError::Io(_), _) | Missed::Broken | Missed::Lost(_) => Problem::BadGateway,
    })
}

/// Turns a worker's answer into the client's: learns from it, drops what it ends, cleans its head.
pub async fn deliver(
    job: &Job,
    mut choice: Choice,
    response: Response<Unread>,
    lease: Box<Lease>,
    in_flight: Count,
    record: &mut Record,
) -> Response<Reply> {
    let status = response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Box::pin(tunnel::grant(job, choice, response, lease, record)).await;
    }
    let (mut parts, unread) = response.into_parts();
    let ended = unread.is_end_stream();
    let mut answer = Answer::new(unread, lease, job.conn.thread.clone());
    let mut held = VecDeque::new();
    if ended {
        // hyper will not ask an ended body for its end, so the connection is given back here.
        poll_fn(|cx| Poll::Ready(Pin::new(&mut answer).poll_frame(cx).is_ready())).await;
    }
    if learn::looks(job, &parts) {
        let ahead = Ahead::new(&mut answer, &mut held, ended);
        if let Err(problem) = Box::pin(learn::read(job, &mut choice, &parts, ahead)).await {
            return respond::problem(problem);
        }
    }
    if status != StatusCode::OK {
        stays(job);
    }
    set_cookie(job, &choice, &mut parts);
    let stream = settle(job, &mut choice, &parts, &answer);
    record.answered(&choice.worker, status, in_flight, choice.hold);
    release(parts, held, answer, stream)
}

/// What an answer is to its session once it is known whole or lasts: a pin, an end, a stream that a drain may end.
pub fn settle(job: &Job, choice: &mut Choice, parts: &Parts, answer: &Answer) -> Option<Box<Stream>> {
    if job.ask.facts.is_some() {
        learn::made(job, choice, parts.status);
        learn::ended(job, choice, parts.status);
    }
    // What has a length is over with it: most answers cost no more than this look.
    if answer.size_hint().exact().is_some() { None } else { Stream::of(job, choice, parts) }
}

/// Lets an answer go to the client: its head cleaned, what was read of its body first.
pub fn release(
    mut parts: Parts,
    held: VecDeque<Frame<Bytes>>,
    answer: Answer,
    stream: Option<Box<Stream>>,
) -> Response<Reply> {
    headers::to_client(&mut parts.headers, false);
    // The worker's version is its hop's; hyper answers a 1.0 client in 1.0 by itself.
    parts.version = Version::HTTP_11;
    Response::from_parts(parts, Reply::stream(held, answer).ended_by(stream))
}

/// Sets the affinity cookie the choice brought, where no shared cache may store it.
pub fn set_cookie(job: &Job, choice: &Choice, parts: &mut Parts) {
    if let (Some(jar), Some(new)) = (&job.upstream.jar, &choice.cookie)
        && cookie::may_set(&parts.headers)
    {
        parts.headers.append(header::SET_COOKIE, jar.write(new, job.client.secure));
    }
}

/// A session's end, said by its client: the pin goes when the request is over, also when that client does not wait for the
/// answer. Should the session live on all the same, its next request finds it.
pub struct Farewell {
    shared: Arc<Shared>,
    key: Key,
    ends: Cell<bool>,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        if self.ends.get() {
            affinity::forget(&self.shared, self.key, End::Client);
        }
    }
}

/// The worker did not take the goodbye.
fn stays(job: &Job) {
    if let Some(farewell) = &job.goodbye {
        farewell.ends.set(false);
    }
}

/// A POST of a few bytes may be the client's goodbye (protocols §1.3).
pub fn may_be_goodbye(job: &Job, request: &Request<Outgoing>) -> bool {
    const LONGEST_GOODBYE: u64 = 8;
    request.method() == Method::POST
        && matches!(job.ask.kind, Kind::Session { .. })
        && job.ask.is_engine_io(&job.upstream)
        && request.body().size_hint().exact().is_some_and(|length| (1..=LONGEST_GOODBYE).contains(&length))
}

/// Looks whether it is one: then its pin ends with the worker's answer, and the live sessions of a worker are exact.
pub async fn read_goodbye(job: &mut Job, request: Request<Outgoing>) -> Result<Request<Outgoing>, Problem> {
    let (parts, body) = request.into_parts();
    /// Its bytes follow the head at once, or the client is gone.
    const GOODBYE: Duration = Duration::from_secs(10);
    let body = tokio::time::timeout(GOODBYE, body.collect()).await.map_err(|_| Problem::Slow)?;
    let body = body.map_err(|_| Problem::BadRequest("the body broke off"))?.to_bytes();
    if let (true, Kind::Session { key, .. }) = (session::says_goodbye(&body), job.ask.kind) {
        job.goodbye = Some(Farewell { shared: job.conn.thread.shared.clone(), key, ends: Cell::new(true) });
    }
    Ok(Request::from_parts(parts, Outgoing::held(body)))
}
