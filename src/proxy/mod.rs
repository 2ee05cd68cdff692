//! The story of a request, on one screen: read what it asks, find its upstream, decide its worker, forward, answer.

pub mod ask;
pub mod attempt;
pub mod body;
mod fields;
pub mod forward;
mod forwarded;
pub mod framing;
#[doc(hidden)]
pub mod fuzzing;
pub mod guard;
pub mod headers;
pub mod learn;
pub mod open_poll;
pub mod overdue;
pub mod record;
pub mod respond;
pub mod retry;
pub mod route;
pub mod stream;
mod trailers;
mod upload;

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use hyper::body::Body;
use hyper::header;
use hyper::{Method, Request, Response, StatusCode};

use crate::affinity::session::{self, EngineIo, Sid};
use crate::affinity::{self, Choice, Resolved, discover};
use crate::clock;
use crate::config::Redirect;
use crate::listener::conn::Conn;
use crate::listener::may_tunnel;
use crate::metrics::Limit;
use crate::pace::Pace;
use crate::sockets::{self, Facts, New, Transport};
use crate::upstream::Upstream;
use crate::upstream::worker::{Session, Worker};
use ask::{Ask, Kind};
use body::{ClientBody, Outgoing, Reply};
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
    /// The place of the rule that led here.
    route: Option<usize>,
    /// What is told of the socket it may begin; of others nothing is read.
    facts: Option<Box<Facts>>,
}

impl Job {
    /// The polling session it begins, or belongs to.
    pub fn session<'a>(&'a self, worker: &'a Arc<Worker>, seat: Session, sid: &'a [u8]) -> New<'a> {
        let engine =
            matches!(self.ask.kind, Kind::Handshake | Kind::Session { .. }) && self.ask.is_engine_io(&self.upstream);
        let kind = if engine { sockets::Kind::EngineIo } else { sockets::Kind::Plain };
        let transport = Transport::Polling;
        New { worker, session: Some(seat), transport, kind, sid, facts: self.facts.as_deref() }
    }

    /// The tunnel it begins, which is no session's that polled before.
    pub fn tunnel<'a>(&'a self, worker: &'a Arc<Worker>, seat: Option<Session>) -> New<'a> {
        let transport = if self.conn.http2 { Transport::WebSocketH2 } else { Transport::WebSocket };
        let engine =
            matches!(self.ask.kind, Kind::Handshake | Kind::Session { .. }) && self.ask.is_engine_io(&self.upstream);
        let kind = if engine || self.facts.as_deref().is_some_and(Facts::engine_io) {
            sockets::Kind::EngineIo
        } else {
            sockets::Kind::Plain
        };
        New { worker, session: seat, transport, kind, sid: &[], facts: self.facts.as_deref() }
    }

    /// The first request of a session behind its handshake puts it on the list of sockets.
    fn enlist(&mut self, choice: &Choice, request: &Request<Outgoing>) {
        let Some(hold) = choice.hold.as_ref().filter(|hold| hold.is_fresh()) else { return };
        if self.facts.is_none() {
            self.look(request);
        }
        let engine = session::recognise(request.uri().query());
        if let Some(EngineIo { sid: Sid::Given(sid), .. }) = &engine {
            let new = |seat| self.session(&choice.worker, seat, sid);
            affinity::enlist(&self.conn.thread.shared, hold.key(), new);
        }
    }

    /// Reads what is told of a socket.
    fn look(&mut self, request: &Request<Outgoing>) {
        let snapshot = self.conn.thread.shared.snapshot.load();
        let route = self.route.and_then(|place| snapshot.rules.routes.get(place)).map(|guarded| guarded.name.clone());
        let rules = (&self.upstream.config.labels, self.upstream.jar.as_ref());
        let head = (request.headers(), request.uri().query());
        self.facts = Some(Box::new(Facts::read(head, self.client, route, rules)));
    }
}

/// Answers one request; `fits` is what its protocol found wrong with it. Every path out of here is an answer; nothing is
/// remembered on the connection (invariant 1).
pub async fn handle<B>(conn: Rc<Conn>, request: Request<B>, fits: Result<(), Problem>) -> Response<Reply>
where
    B: Body + Into<ClientBody>,
{
    let mut record = Record::begin(&conn, &request);
    let odd = !conn.http2 && framing::names_two_hosts(&request);
    let uploads = !request.body().is_end_stream();
    conn.begins();
    let mut response = match fits.map_err(Turned::from).and_then(|()| read(&conn, &request)) {
        Err(Turned::Problem(problem)) => respond::problem(problem),
        Err(Turned::Guarded(turned, upgrade, client)) => {
            record.comes_from(client);
            respond::turned_away(turned, upgrade, &request)
        }
        Err(Turned::Away(redirect, host)) => respond::redirect(redirect, &host, request.uri()),
        Ok(job) => {
            let (request, pace) = prepare(&job, request);
            let limit = overdue::limit(&job);
            let (answer, overdue) = {
                // Pinned where it stays: as an argument it would be in this future twice, all of which is moved once a request.
                let served = pin!(serve(job, request, &mut record));
                let answer = upload::unless_given_up(&conn, pace, served);
                match limit {
                    None => (answer.await, None),
                    Some(limit) => Box::pin(overdue::within(conn.clone(), limit, answer)).await,
                }
            };
            record.overdue = overdue;
            answer
        }
    };
    // A tunnel is its connection's last word anyway.
    if odd && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        respond::last(&mut response);
    }
    // An answer of ours that came before its body had a reader.
    if uploads && response.headers().contains_key(header::CONNECTION) {
        conn.may_still_send();
    }
    if let Some(hsts) = conn.listener.tls().and_then(|tls| tls.hsts.as_ref()) {
        respond::strictly(hsts, &mut response);
    }
    record.finish(response)
}

/// Decides the worker and forwards.
#[allow(
    clippy::manual_async_fn,
    reason = "an async fn keeps what it is given twice, and all of it is moved once a request"
)]
fn serve(mut job: Job, request: Request<Outgoing>, record: &mut Record) -> impl Future<Output = Response<Reply>> {
    async move {
        let shared = &job.conn.thread.shared;
        record.concerns(&job.upstream, &job.ask, job.client);
        let resolved = affinity::resolve(shared, &job.upstream, &job.ask, job.client, &[]);
        if job.ask.kind == Kind::Handshake || job.ask.upgrade.is_some() || matches!(resolved, Resolved::Unpinned(_)) {
            job.look(&request);
        }
        match resolved {
            Resolved::Worker(choice) => {
                job.enlist(&choice, &request);
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
            Resolved::Made(choice) => {
                let choice = Box::pin(discover::claimed(&job, &request, choice)).await;
                forward::to(&job, choice, request, record).await
            }
            Resolved::Ended => {
                job.upstream.series().refusals_own.inc();
                respond::refused(&job)
            }
            Resolved::Nobody => respond::problem(Problem::NoWorker),
        }
    }
}

/// Why a request goes to no worker.
enum Turned {
    /// For this.
    Problem(Problem),
    /// To https, at this host.
    Away(Redirect, String),
    /// By a guard; whether it asked for an upgrade, and who it was.
    Guarded(guard::Turned, bool, Client),
}

impl From<Problem> for Turned {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Reads what a head says; a head that means nothing, or two things, is a problem.
fn read<B: Body>(conn: &Rc<Conn>, request: &Request<B>) -> Result<Job, Turned> {
    // PRI is HTTP/2's preface, "never used by an actual client" (RFC 9113 §11.7).
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) || request.method().as_str() == "PRI" {
        return Err(Problem::NotImplemented.into());
    }
    framing::check_request(request)?;
    let shared = &conn.thread.shared;
    if request.uri().path_and_query().map_or(0, |target| target.as_str().len()) > conn.thread.limits().target_bytes {
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
    let Some((upstream, watch, route)) = route::find(&snapshot, host, request.uri().path()) else {
        shared.metrics.unrouted.inc();
        return Err(Problem::NoRoute.into());
    };
    let ask = Ask::read(shared, upstream, request, &conn.cookie);
    let client = Client::read(conn, request.headers());
    if watch.is_some() || upstream.limits.is_some() {
        let key = shared.keys.address(client.key());
        let asked = guard::Asked { ask: &ask, client, host, key, now_ms: clock::now_ms() };
        let passed = guard::check(watch, upstream, request, &asked);
        passed.map_err(|turned| Turned::Guarded(turned, ask.upgrade.is_some(), client))?;
    }
    if upstream.config.max_body.is_some_and(|most| request.body().size_hint().lower() > most) {
        shared.metrics.limits.reached(Limit::MaxBody);
        return Err(Problem::TooLarge.into());
    }
    if ask.upgrade.is_some() && !conn.listener.trusts(client.address) && !may_tunnel(shared, client.address) {
        return Err(Problem::Full("this address has as many WebSockets as it may").into());
    }
    Ok(Job {
        conn: conn.clone(),
        upstream: upstream.clone(),
        ask,
        client,
        goodbye: None,
        resent: Cell::new(false),
        route,
        facts: None,
    })
}

/// The request as workers get it: its head written anew (invariant 7), its body a stream.
fn prepare<B: Body + Into<ClientBody>>(job: &Job, request: Request<B>) -> (Request<Outgoing>, Option<Rc<Pace>>) {
    let (mut parts, body) = request.into_parts();
    headers::to_worker(&job.conn, job.client, &mut parts, &job.ask);
    if job.upstream.config.forwarded {
        forwarded::add(&mut parts.headers, job.conn.peer_ip, job.conn.tls.is_some());
    }
    framing::declare(&mut parts.headers, &body);
    let upload = Upload::of(&job.conn, body, job.upstream.config.max_body);
    let pace = upload.as_ref().map(|upload| upload.pace());
    (Request::from_parts(parts, Outgoing::stream(upload)), pace)
}
