//! The life of one request: read its head, find its upstream, choose its worker, forward it, and answer.

mod access;
mod access_format;
mod access_line;
pub(crate) mod access_log;
mod admission;
pub(crate) mod attempt;
pub(crate) mod discover;
pub(crate) mod event_stream;
pub(crate) mod forward;
mod forwarded;
pub(crate) mod framing;
#[cfg(feature = "testing")]
pub(crate) mod fuzzing;
pub(crate) mod headers;
pub(crate) mod hints;
pub(crate) mod hop_fields;
mod job;
mod last_requests;
pub(crate) mod learn;
mod mail;
pub(crate) mod open_poll;
pub(crate) mod own_connection;
mod read_head;
pub(crate) mod replay;
pub(crate) mod request_timeout;
pub(crate) mod respond;
pub(crate) mod response_body;
pub(crate) mod retry;
pub(crate) mod second_worker;
mod told;
mod told_refusals;
mod trailers;
mod upgrade;
mod upload;
mod users;

use std::pin::pin;
use std::rc::Rc;

use hyper::body::Body;
use hyper::header;
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};

use crate::affinity::Resolved;
use crate::affinity::ask::RequestKind;
use crate::body::{Outgoing, RequestStream};
use crate::listener::conn::Conn;
use crate::min_rate::Transfer;
use access_log::Record;
pub(crate) use job::Job;
use read_head::{Rejection, read};
use respond::Problem;
use response_body::{BoxedReply, ClientBody, Reply};
use upload::Upload;

/// Answers one request. `fits` is the result of the checks of its HTTP version. Every path through this function ends
/// in a response, and nothing is remembered on the connection (ARCHITECTURE.md, invariant 1).
pub async fn handle<B>(conn: Rc<Conn>, mut request: Request<B>, fits: Result<(), Problem>) -> Response<Reply>
where
    B: Body + Into<ClientBody>,
{
    let mut record = Record::begin(&conn, &request);
    let lookalikes = framing::try_remove_lookalikes(request.headers_mut());
    let odd = !conn.http2 && (lookalikes || framing::names_two_hosts(&request) || conn.traffic.is_misread());
    let http10 = request.version() == Version::HTTP_10;
    let uploads = !request.body().is_end_stream();
    conn.mark_body_read();
    let mut read = match fits {
        Ok(()) => read(&conn, &request, &mut record),
        Err(problem) => Err(Rejection::from(problem)),
    };
    if let Ok(job) = &mut read
        && !job.gates.is_empty()
        && let Err(refusal) = Box::pin(access::ask(job, &request)).await
    {
        let response = Box::new(refusal.answer(job, &request));
        read = Err(Rejection::ByAccess { response, client: job.client });
    }
    if let Ok(job) = &read
        && let Some(user) = users::asked(job)
        && let Err(rejection) = Box::pin(users::ask(job, user, &request)).await
    {
        read = Err(rejection);
    }
    let mut response = match read {
        Err(rejection) => Box::pin(reject(&conn, rejection, request, &mut record)).await.into(),
        // The job is lent, as the request is: a move of its 350 bytes would cost every request.
        Ok(ref mut job) => {
            let (mut parts, body) = request.into_parts();
            let (body, pace) = prepare(job, &mut parts, body);
            let mut request = Request::from_parts(parts, body);
            record.upload.clone_from(&pace);
            record.sends(request.headers());
            let limit = request_timeout::limit(job);
            let (answer, overdue) = {
                // Pinned in place: passed as an argument, it would be stored twice in this future, which each request
                // moves once.
                let served = pin!(serve(job, &mut request, &mut record));
                let answer = upload::unless_given_up(&conn, pace, served);
                match limit {
                    None => (answer.await, None),
                    Some(limit) => Box::pin(request_timeout::within(conn.clone(), limit, answer)).await,
                }
            };
            record.overdue = overdue;
            answer
        }
    };
    announce_end(&mut response, odd, http10);
    // stickyd wrote this response before anything read the request's body, so the client may still be sending it.
    if uploads && response.headers().contains_key(header::CONNECTION) {
        conn.mark_body_unread();
    }
    if let Some(hsts) = conn.hsts() {
        respond::strictly(hsts, &mut response);
    }
    record.finish(&mut response);
    *response
}

/// Answers a request that is not forwarded.
async fn reject<B>(conn: &Rc<Conn>, why: Rejection, request: Request<B>, record: &mut Record) -> Response<Reply>
where
    B: Body + Into<ClientBody>,
{
    match why {
        Rejection::Problem(problem) => respond::problem(problem),
        Rejection::ByGuard { reason, is_upgrade, client } => {
            record.comes_from(client);
            respond::turned_away(reason, is_upgrade, request.uri().query(), request.headers())
        }
        Rejection::ByAccess { response, client } => {
            record.comes_from(client);
            *response
        }
        Rejection::Told { handshake, client } => {
            record.comes_from(client);
            handshake.answer(conn, &request)
        }
        Rejection::ToldSession { session, client } => {
            record.comes_from(client);
            session.answer(conn.clone(), request).await
        }
        Rejection::Health(readiness) => respond::health(&readiness),
        Rejection::Status(asked) => respond::app_status(&asked, request.method()),
        Rejection::ToHttps { redirect, host } => respond::redirect(redirect, &host, request.uri()),
    }
}

/// Announces the end of the connection with the response, where the connection ends: after an `odd` request, and with
/// an answer to HTTP/1.0 whose end is the end of the connection (RFC 9112 §6.3), which hyper would not announce.
fn announce_end(response: &mut Response<Reply>, odd: bool, http10: bool) {
    let odd = odd || (http10 && response.body().size_hint().exact().is_none());
    // After a 101 the connection carries no further request, so it needs no `Connection: close`.
    if odd && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        respond::last(response);
    }
    // To a response in HTTP/1.1, hyper would add `keep-alive` for such a client.
    if http10 && response.headers().contains_key(header::CONNECTION) {
        *response.version_mut() = Version::HTTP_10;
    }
}

/// Answers a head that is not a valid request, as the last one of its connection. `line` is what its first line says.
pub(crate) fn refuse(conn: &Rc<Conn>, line: Option<(Method, Uri)>, problem: Problem) -> Response<Reply> {
    let mut request = Request::new(());
    let unknown = || (Method::from_bytes(b"-").unwrap_or_default(), Uri::from_static("*"));
    (*request.method_mut(), *request.uri_mut()) = line.unwrap_or_else(unknown);
    let record = Record::begin(conn, &request);
    let mut response = respond::problem(problem);
    respond::last(&mut response);
    if let Some(hsts) = conn.hsts() {
        respond::strictly(hsts, &mut response);
    }
    record.finish(&mut response);
    response
}

/// Chooses the worker for the request and forwards it. The request and its job are lent, because they are large.
#[allow(
    clippy::manual_async_fn,
    reason = "an async fn stores its arguments twice in its future, and each request moves the whole future once"
)]
fn serve(job: &mut Job, request: &mut Request<Outgoing>, record: &mut Record) -> impl Future<Output = BoxedReply> {
    async move {
        if let Some(key) = job.passed.as_ref().and_then(|passed| passed.packets)
            && let Err(answer) = Box::pin(admission::judge(job, key, request)).await
        {
            return answer.into();
        }
        if job.ask.has_unknown_follows() {
            Box::pin(discover::follow::find(job)).await;
        }
        let shared = &job.conn.thread.shared;
        record.concerns(&job.upstream, &job.ask, job.client);
        let resolved = match own_connection::choice(job) {
            Some(choice) => Resolved::Worker(choice),
            None => shared.sessions.resolve(&job.upstream, &job.ask, job.client, &[]),
        };
        if job.ask.kind == RequestKind::Handshake
            || job.ask.upgrade.is_some()
            || matches!(resolved, Resolved::Unpinned(_))
        {
            job.look(request);
        }
        match resolved {
            Resolved::Worker(choice) => {
                job.enlist(&choice, request);
                if mail::concerns(job) {
                    mail::polls(job, request);
                }
                job.ttl_s = choice.hold.as_ref().map_or(0, |hold| hold.ttl_s);
                job.tied_at.set(choice.hold.as_ref().map(|hold| hold.since));
                if forward::may_be_goodbye(job, request)
                    && let Err(problem) = Box::pin(forward::read_goodbye(job, request)).await
                {
                    return respond::problem(problem).into();
                }
                forward::to(job, choice, request, record).await
            }
            // Boxed, like every rare branch: a future is as large as its largest branch, and each request moves it
            // once.
            Resolved::Unpinned(key) => {
                let request = std::mem::replace(request, Request::new(Outgoing::EMPTY));
                Box::pin(discover::find(job, key, request, record)).await.into()
            }
            Resolved::Made(choice) => {
                let choice = Box::pin(discover::claimed(job, request, choice)).await;
                forward::to(job, choice, request, record).await
            }
            Resolved::Ended => {
                if let (RequestKind::Session { key, .. }, Some(_)) = (job.ask.kind, &job.passed)
                    && let Some(answer) = Box::pin(told_refusals::of_ended(job, key, request.method())).await
                {
                    return answer.into();
                }
                respond::ended(job).into()
            }
            Resolved::NoWorker => respond::problem(Problem::NoWorker).into(),
        }
    }
}

/// Turns the request into what the worker receives: a rewritten head (ARCHITECTURE.md, invariant 7) and a streamed
/// body, which is returned.
fn prepare<B: Body + Into<ClientBody>>(job: &Job, parts: &mut Parts, body: B) -> (Outgoing, Option<Rc<Transfer>>) {
    headers::to_worker(&job.conn, job.client, parts, &job.ask);
    if job.upstream.config.forwarded {
        forwarded::add(&mut parts.headers, job.conn.peer_ip, job.conn.tls.is_some());
    }
    if let Some(rules) = &job.claim_rules {
        headers::strip_claims(&mut parts.headers, &rules.claim_fields);
    }
    if let Some(passed) = &job.passed {
        parts.headers.extend(passed.fields.iter().map(|(name, value)| (name.clone(), value.clone())));
        if job.ask.upgrade.is_some() && job.watch.as_ref().is_some_and(|watch| watch.reads_packets()) {
            // Compressed packets could not be judged.
            parts.headers.remove(header::SEC_WEBSOCKET_EXTENSIONS);
        }
    }
    framing::declare(&mut parts.headers, &body);
    let upload = Upload::of(&job.conn, body, job.upstream.config.max_body);
    let pace = upload.as_ref().map(|upload| upload.pace());
    (Outgoing::stream(upload.map(|upload| upload as Box<dyn RequestStream>)), pace)
}
