//! The story of a request, on one screen: read what it asks, find its upstream, decide its worker, forward, answer.

pub mod ask;
pub mod attempt;
pub mod body;
pub mod forward;
pub mod framing;
pub mod headers;
pub mod open_poll;
pub mod record;
pub mod respond;
pub mod retry;
mod route;
mod upload;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use hyper::body::{Body, Incoming};
use hyper::{Method, Request, Response};

use crate::affinity::{self, Resolved, discover};
use crate::config::Redirect;
use crate::listener::conn::Conn;
use crate::listener::may_tunnel;
use crate::metrics::Limit;
use crate::pace::Pace;
use crate::upstream::Upstream;
use ask::Ask;
use body::{Outgoing, Reply};
use forward::Farewell;
use headers::Client;
use record::Record;
use respond::Problem;
use upload::Upload;

/// One request on its way: what every step needs to know.
pub struct Job {
    /// The client's connection.
    pub conn: Rc<Conn>,
    /// Where it goes.
    pub upstream: Arc<Upstream>,
    /// What it asks.
    pub ask: Ask,
    /// Who asks.
    pub client: Client,
    /// A POST that ends its Engine.IO session; ends its pin with itself.
    pub goodbye: Option<Farewell>,
    /// It was sent a second time: never a third.
    pub resent: Cell<bool>,
}

/// Answers one request. Every path out of here is an answer; nothing is remembered on the connection (invariant 1).
pub async fn handle(conn: Rc<Conn>, request: Request<Incoming>) -> Response<Reply> {
    let mut record = Record::begin(&conn, &request);
    let mut response = match read(&conn, &request) {
        Err(Turned::Problem(problem)) => respond::problem(problem),
        Err(Turned::Away(redirect, host)) => respond::redirect(redirect, &host, request.uri()),
        Ok(job) => {
            let (request, pace) = prepare(&job, request);
            upload::unless_given_up(&conn, pace, serve(job, request, &mut record)).await
        }
    };
    if let Some(hsts) = conn.listener.tls().and_then(|tls| tls.hsts.as_ref()) {
        respond::strictly(hsts, &mut response);
    }
    record.finish(response)
}

/// Decides the worker and forwards.
async fn serve(mut job: Job, request: Request<Outgoing>, record: &mut Record) -> Response<Reply> {
    let shared = &job.conn.thread.shared;
    record.concerns(&job.upstream, &job.ask, job.client);
    let resolved = affinity::resolve(shared, &job.upstream, &job.ask, job.client, &[]);
    match resolved {
        Resolved::Worker(choice) => {
            let request = if forward::may_be_goodbye(&job, &request) {
                match Box::pin(forward::read_goodbye(&mut job, request)).await {
                    Ok(request) => request,
                    Err(problem) => return respond::problem(problem),
                }
            } else {
                request
            };
            forward::to(&job, choice, request, record).await
        }
        // Boxed, as every branch few requests take: a future is as large as its largest, and each request moves it once.
        Resolved::Unpinned(key) => Box::pin(discover::find(&job, key, request, record)).await,
        Resolved::Ended => {
            job.upstream.series().refusals_own.inc();
            respond::session_unknown(&job.ask)
        }
        Resolved::Nobody => respond::problem(Problem::NoWorker),
    }
}

/// Why a request goes to no worker.
enum Turned {
    /// For this.
    Problem(Problem),
    /// To https, at this host.
    Away(Redirect, String),
}

impl From<Problem> for Turned {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Reads what a head says; a head that means nothing, or two things, is a problem.
fn read(conn: &Rc<Conn>, request: &Request<Incoming>) -> Result<Job, Turned> {
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(Problem::NotImplemented.into());
    }
    framing::check_request(request)?;
    let shared = &conn.thread.shared;
    if request.uri().path_and_query().map_or(0, |target| target.as_str().len()) > shared.limits.target_bytes {
        shared.metrics.limits.reached(Limit::TargetBytes);
        return Err(Problem::TooLong.into());
    }
    let host = headers::host(request)?;
    if let Some(redirect) = conn.listener.redirect() {
        // Without a host there is nowhere to send an old client.
        return Err(match host {
            "" => Problem::BadRequest("no Host").into(),
            host => Turned::Away(redirect, host.to_owned()),
        });
    }
    if !conn.serves(route::without_port(host)) {
        return Err(Problem::Misdirected.into());
    }
    let snapshot = shared.snapshot.load();
    let Some(upstream) = route::find(&snapshot, host, request.uri().path()) else {
        shared.metrics.unrouted.inc();
        return Err(Problem::NoRoute.into());
    };
    if upstream.config.max_body.is_some_and(|most| request.body().size_hint().lower() > most) {
        shared.metrics.limits.reached(Limit::MaxBody);
        return Err(Problem::TooLarge.into());
    }
    let ask = Ask::read(shared, upstream, request);
    let client = Client::read(conn, request.headers());
    if ask.upgrade.is_some() && !conn.listener.trusts(client.address) && !may_tunnel(shared, client.address) {
        return Err(Problem::Full("this address has as many WebSockets as it may").into());
    }
    Ok(Job { conn: conn.clone(), upstream: upstream.clone(), ask, client, goodbye: None, resent: Cell::new(false) })
}

/// The request as workers get it: its head written anew (invariant 7), its body a stream.
fn prepare(job: &Job, request: Request<Incoming>) -> (Request<Outgoing>, Option<Rc<Pace>>) {
    let (mut parts, body) = request.into_parts();
    headers::to_worker(&job.conn, job.client, &mut parts, &job.ask);
    framing::declare(&mut parts.headers, &body);
    let upload = Upload::of(&job.conn, &body, job.upstream.config.max_body);
    let pace = upload.as_ref().map(|upload| upload.pace());
    (Request::from_parts(parts, Outgoing::stream(body, upload)), pace)
}
