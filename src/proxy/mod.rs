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
mod last_requests;
pub(crate) mod learn;
pub(crate) mod open_poll;
pub(crate) mod own_connection;
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

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use hyper::body::Body;
use hyper::header;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};

use crate::affinity::ask::{RequestFacts, RequestKind};
use crate::affinity::{Choice, Resolved};
use crate::body::Outgoing;
use crate::body::RequestStream;
use crate::client::Client;
use crate::clock;
use crate::config::Redirect;
use crate::keys::Key;
use crate::listener::conn::Conn;
use crate::metrics::LimitLabel;
use crate::min_rate::Transfer;
use crate::route;
use crate::route::access::AccessGuard;
use crate::route::guard::{self, Passed, RouteGuard};
use crate::route::person::Person;
use crate::sockets::{self, New, OpeningRequest, SocketFacts, Transport};
use crate::state::{AppStatus, GlobalRules, Readiness, ReplayRoom, admissions};
use crate::upstream::Upstream;
use crate::upstream::worker::{SessionSeat, Worker};
use access_log::Record;
use forward::SessionGoodbye;
use respond::{Problem, StatusRequest};
use response_body::{ClientBody, Reply};
use told_refusals::{ToldHandshake, ToldSession};
use upload::Upload;

/// One request in progress: the values that every later step needs.
pub struct Job {
    /// The client's connection that carries the request.
    pub conn: Rc<Conn>,
    /// The upstream that the request is routed to.
    pub upstream: Arc<Upstream>,
    /// What the request asks for, as read from its head.
    pub ask: RequestFacts,
    /// The client: its address, and whether it came over TLS.
    pub client: Client,
    /// Set for a POST that ends its Engine.IO session; dropping it ends the session's pin.
    pub goodbye: Option<SessionGoodbye>,
    /// The number of sessions ended without their client, as of before this request's session is looked up: an end
    /// after that is noticed by a poll, however long it takes to reach its worker.
    pub(crate) ended: u32,
    /// Whether the request was already sent a second time; it is never sent a third time.
    pub resent: Cell<bool>,
    /// How long the request's session may be silent, in seconds; 0 if that is not known.
    ttl_s: u32,
    /// Where the session of this request lives, if this is its first request after the handshake.
    first_path: Option<Key>,
    /// Index of the matching route in the snapshot; `None` if the config has no routes.
    route: Option<usize>,
    /// Facts about the socket that this request may open; read only for requests that can open one.
    facts: Option<Box<SocketFacts>>,
    /// The guard of the request's route, if it concerns tokens or users.
    watch: Option<Arc<RouteGuard>>,
    /// What the request has shown to that guard.
    passed: Option<Box<Passed>>,
    /// The rules of which claims go to workers, if any route has such.
    claim_rules: Option<Arc<GlobalRules>>,
    /// Guards that have yet to be asked, because their verdict takes time; empty for nearly every request.
    gates: Vec<Arc<AccessGuard>>,
    /// Whether the request is a handshake or an upgrade; known if there are such guards.
    is_opening: bool,
    /// Memory of a body that was read to be judged.
    room: Option<ReplayRoom>,
}

impl Job {
    /// The client of the request's session, as far as its token tells; `None` if the route asks for none.
    fn person(&self) -> Option<Arc<Person>> {
        let passed = self.passed.as_ref()?;
        match (&passed.person, passed.packets, self.ask.kind) {
            (Some(person), ..) => Some(person.clone()),
            (None, Some(key), _) => Some(admission::person(self, key)),
            (None, None, RequestKind::Session { key, .. }) => self.conn.thread.shared.admissions.person(key),
            (None, None, _) => None,
        }
    }

    /// Applies what the guard knows of the client to the socket of a session, if it is on the list.
    fn settle(&self, key: Key) {
        let shared = &self.conn.thread.shared;
        if let Some(watch) = &self.watch
            && let Some(socket) = shared.sessions.socket(key)
        {
            admissions::settle(shared, watch, self.person().as_ref(), &socket);
        }
    }

    /// Describes the polling session that this request begins or belongs to, for the list of sockets.
    pub fn session<'a>(&'a self, worker: &'a Arc<Worker>, seat: SessionSeat, sid: &'a [u8]) -> New<'a> {
        let engine = matches!(self.ask.kind, RequestKind::Handshake | RequestKind::Session { .. })
            && self.ask.is_engine_io(&self.upstream);
        let kind = if engine { sockets::SocketKind::EngineIo } else { sockets::SocketKind::Plain };
        let transport = Transport::Polling;
        New { worker, session: Some(seat), transport, kind, sid, facts: self.facts.as_deref() }
    }

    /// Describes the tunnel that this request opens, for the list of sockets. It is used only if the tunnel's session
    /// has no socket on that list yet, which it has if it was polling before.
    pub fn tunnel<'a>(&'a self, worker: &'a Arc<Worker>, seat: Option<SessionSeat>) -> New<'a> {
        let transport = if self.conn.http2 { Transport::WebSocketH2 } else { Transport::WebSocket };
        let engine = matches!(self.ask.kind, RequestKind::Handshake | RequestKind::Session { .. })
            && self.ask.is_engine_io(&self.upstream);
        let kind = if engine || self.facts.as_deref().is_some_and(SocketFacts::engine_io) {
            sockets::SocketKind::EngineIo
        } else {
            sockets::SocketKind::Plain
        };
        New { worker, session: seat, transport, kind, sid: &[], facts: self.facts.as_deref() }
    }

    /// Puts a session on the list of sockets at its first request after the handshake.
    fn enlist(&mut self, choice: &Choice, request: &Request<Outgoing>) {
        let Some(hold) = choice.hold.as_ref().filter(|hold| hold.is_fresh()) else { return };
        if self.facts.is_none() {
            self.look(request);
        }
        let sid = self.ask.engine_sid(request.uri().query());
        if !sid.is_empty() {
            let new = |seat| self.session(&choice.worker, seat, &sid);
            self.conn.thread.shared.sessions.enlist(hold.key(), new);
            self.settle(hold.key());
            self.first_path = Some(discover::session_path(self, request.uri()));
        }
    }

    /// Learns from a session that its worker has accepted at its first request after the handshake: its numbers, and
    /// the path at which sessions live.
    fn came_back(&self, choice: &Choice) {
        if let (Some(path), Some(hold)) = (self.first_path, &choice.hold) {
            self.upstream.carried.numbers.came_back(hold.key(), clock::now_ms());
            self.upstream.carried.paths.learn(path);
        }
    }

    /// Reads the facts about the request's socket (labels, user agent, route) from its head.
    fn look(&mut self, request: &Request<Outgoing>) {
        let snapshot = self.conn.thread.shared.snapshot.load();
        let route = self.route.and_then(|place| snapshot.rules.routes.get(place)).map(|guarded| guarded.name.clone());
        let person = self.person();
        let claim = |name: &str| person.as_ref().and_then(|person| person.claim(name));
        self.facts = Some(Box::new(SocketFacts::read(OpeningRequest {
            claims: &claim,
            headers: request.headers(),
            query: request.uri().query(),
            is_engine_io: self.ask.engine.is_some(),
            client: self.client,
            route,
            labels: &self.upstream.config.labels,
            jar: self.upstream.jar.as_ref(),
        })));
    }
}

/// Answers one request. `fits` is the result of the checks of its HTTP version. Every path through this function ends
/// in a response, and nothing is remembered on the connection (ARCHITECTURE.md, invariant 1).
pub async fn handle<B>(conn: Rc<Conn>, mut request: Request<B>, fits: Result<(), Problem>) -> Response<Reply>
where
    B: Body + Into<ClientBody>,
{
    let mut record = Record::begin(&conn, &request);
    let lookalikes = framing::try_remove_lookalikes(request.headers_mut());
    let odd = !conn.http2 && (lookalikes || framing::names_two_hosts(&request));
    let http10 = request.version() == Version::HTTP_10;
    let uploads = !request.body().is_end_stream();
    conn.mark_body_read();
    let mut read = fits.map_err(Rejection::from).and_then(|()| read(&conn, &request, &mut record));
    if let Ok(job) = &mut read
        && !job.gates.is_empty()
        && let Err(refusal) = Box::pin(access::ask(job, &request)).await
    {
        let response = Box::new(refusal.answer(job, &request));
        read = Err(Rejection::ByAccess { response, client: job.client });
    }
    let mut response = match read {
        Err(Rejection::Problem(problem)) => respond::problem(problem),
        Err(Rejection::ByGuard { reason, is_upgrade, client }) => {
            record.comes_from(client);
            respond::turned_away(reason, is_upgrade, request.uri().query(), request.headers())
        }
        Err(Rejection::ByAccess { response, client }) => {
            record.comes_from(client);
            *response
        }
        Err(Rejection::Told { handshake, client }) => {
            record.comes_from(client);
            handshake.answer(&conn, &request)
        }
        Err(Rejection::ToldSession { session, client }) => {
            record.comes_from(client);
            Box::pin(session.answer(conn.clone(), request)).await
        }
        Err(Rejection::Health(readiness)) => respond::health(&readiness),
        Err(Rejection::Status(asked)) => respond::app_status(&asked, request.method()),
        Err(Rejection::ToHttps { redirect, host }) => respond::redirect(redirect, &host, request.uri()),
        Ok(job) => {
            let (request, pace) = prepare(&job, request);
            record.upload.clone_from(&pace);
            record.sends(request.headers());
            let limit = request_timeout::limit(&job);
            let (answer, overdue) = {
                // Pinned in place: passed as an argument, it would be stored twice in this future, which each request
                // moves once.
                let served = pin!(serve(job, request, &mut record));
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
    // The end of such a response is the end of the connection (RFC 9112 §6.3), which hyper would not announce.
    let odd = odd || (http10 && response.body().size_hint().exact().is_none());
    // After a 101 the connection carries no further request, so it needs no `Connection: close`.
    if odd && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        respond::last(&mut response);
    }
    // To a response in HTTP/1.1, hyper would add `keep-alive` for such a client.
    if http10 && response.headers().contains_key(header::CONNECTION) {
        *response.version_mut() = Version::HTTP_10;
    }
    // stickyd wrote this response before anything read the request's body, so the client may still be sending it.
    if uploads && response.headers().contains_key(header::CONNECTION) {
        conn.mark_body_unread();
    }
    if let Some(hsts) = conn.hsts() {
        respond::strictly(hsts, &mut response);
    }
    record.finish(response)
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
    record.finish(response)
}

/// Chooses the worker for the request and forwards it.
#[allow(
    clippy::manual_async_fn,
    reason = "an async fn stores its arguments twice in its future, and each request moves the whole future once"
)]
fn serve(mut job: Job, request: Request<Outgoing>, record: &mut Record) -> impl Future<Output = Response<Reply>> {
    async move {
        let request = match job.passed.as_ref().and_then(|passed| passed.packets) {
            None => request,
            Some(key) => match Box::pin(admission::judge(&mut job, key, request)).await {
                Ok(request) => request,
                Err(answer) => return answer,
            },
        };
        let shared = &job.conn.thread.shared;
        record.concerns(&job.upstream, &job.ask, job.client);
        let resolved = match own_connection::choice(&job) {
            Some(choice) => Resolved::Worker(choice),
            None => shared.sessions.resolve(&job.upstream, &job.ask, job.client, &[]),
        };
        if job.ask.kind == RequestKind::Handshake
            || job.ask.upgrade.is_some()
            || matches!(resolved, Resolved::Unpinned(_))
        {
            job.look(&request);
        }
        match resolved {
            Resolved::Worker(choice) => {
                job.enlist(&choice, &request);
                job.ttl_s = choice.hold.as_ref().map_or(0, |hold| hold.ttl_s);
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
            // Boxed, like every rare branch: a future is as large as its largest branch, and each request moves it
            // once.
            Resolved::Unpinned(key) => Box::pin(discover::find(&job, key, request, record)).await,
            Resolved::Made(choice) => {
                let choice = Box::pin(discover::claimed(&job, &request, choice)).await;
                forward::to(&job, choice, request, record).await
            }
            Resolved::Ended => {
                if let (RequestKind::Session { key, .. }, Some(_)) = (job.ask.kind, &job.passed)
                    && let Some(answer) = Box::pin(told_refusals::of_ended(&job, key, request.method())).await
                {
                    return answer;
                }
                respond::ended(&job)
            }
            Resolved::Nobody => respond::problem(Problem::NoWorker),
        }
    }
}

/// Why a request is answered without being forwarded to a worker.
enum Rejection {
    /// It is answered with the plain text of this problem.
    Problem(Problem),
    /// It is a health check of stickyd itself.
    Health(Readiness),
    /// It asks whether the application can be reached.
    Status(Box<StatusRequest>),
    /// It is redirected to https at this host.
    ToHttps {
        /// Port and status of the redirect.
        redirect: Redirect,
        /// Host that the request names.
        host: String,
    },
    /// A guard of the route or of the upstream rejected it.
    ByGuard {
        /// What the guard objects to.
        reason: guard::GuardRefusal,
        /// Whether the request asked for an upgrade, whose refusal closes the connection.
        is_upgrade: bool,
        /// Client that the access log names.
        client: Client,
    },
    /// A guard that took time for its verdict rejected it.
    ByAccess { response: Box<Response<Reply>>, client: Client },
    /// A guard rejected a handshake, and its client is told so in its own protocol.
    Told { handshake: Box<ToldHandshake>, client: Client },
    /// It belongs to a session that a guard has rejected.
    ToldSession { session: Box<ToldSession>, client: Client },
}

impl From<Problem> for Rejection {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Reads the head of a request and routes it. A head that is invalid or ambiguous is a problem.
fn read<B: Body>(conn: &Rc<Conn>, request: &Request<B>, record: &mut Record) -> Result<Job, Rejection> {
    let host = check_head(conn, request)?;
    let shared = &conn.thread.shared;
    let snapshot = shared.snapshot.load();
    let found = route::find(&snapshot.rules.routes, &snapshot.upstreams, host, request.uri().path());
    let Some(found) = found.map_err(|why| Problem::BadRequest(why.reason()))? else {
        shared.metrics.unrouted.inc();
        return Err(Problem::NoRoute.into());
    };
    let upstream = found.upstream;
    record.routed(upstream);
    let ask = RequestFacts::read(&shared.sessions, upstream, request, &conn.cookie);
    let client = headers::client(conn, request.headers());
    let (mut guarded, mut gates) = (None, Vec::new());
    if found.is_guarded() {
        let key = shared.sessions.keys.address(client.key());
        let own = told::authority(conn, request.headers(), host);
        let person = |key| shared.admissions.person(key);
        let asked = guard::GuardedRequest { ask: &ask, client, own, key, now_ms: clock::now_ms(), person: &person };
        if let Some(session) = ToldSession::of(conn, upstream, request, &ask, client) {
            return Err(match guard::check_told(&found, request, &asked) {
                Ok(readable) => Rejection::ToldSession { session: session.readable(readable), client },
                Err(reason) => Rejection::ByGuard { reason, is_upgrade: false, client },
            });
        }
        let is_upgrade = ask.upgrade.is_some();
        let passed = guard::check(&found, request, &asked).map_err(|reason| {
            match ToldHandshake::of(conn, upstream, request, &ask, client, reason) {
                Some(handshake) => Rejection::Told { handshake, client },
                None => Rejection::ByGuard { reason, is_upgrade, client },
            }
        })?;
        gates.extend(found.guards().filter_map(|watch| watch.access.clone()));
        guarded = found.watch.filter(|watch| watch.knows_clients()).map(|watch| (watch.clone(), passed));
    }
    if let Some(route) = found.route.filter(|route| route.status.as_deref() == Some(request.uri().path())) {
        let own = told::authority(conn, request.headers(), host);
        let origins = route.guards.origins.as_deref();
        let origin = origins.and_then(|all| guard::allowed_origin(all, request.headers(), client, own));
        let status = if conn.thread.is_stopping() { AppStatus::Down } else { AppStatus::of(upstream) };
        let asked = StatusRequest { status, varies: origins.is_some(), origin };
        return Err(Rejection::Status(Box::new(asked)));
    }
    let (watch, passed) = guarded.map_or((None, None), |(watch, passed)| (Some(watch), passed));
    if upstream.config.max_body.is_some_and(|most| request.body().size_hint().lower() > most) {
        shared.metrics.limits.reached(LimitLabel::MaxBody);
        return Err(Problem::TooLarge.into());
    }
    if ask.upgrade.is_some() && !conn.listener.trusts(client.address) && !shared.caps.try_admit_tunnel(client.address) {
        return Err(Problem::Full("this client address has reached its limit of WebSockets").into());
    }
    let is_opening = !gates.is_empty() && guard::is_opening(upstream, request, &ask);
    Ok(Job {
        conn: conn.clone(),
        upstream: upstream.clone(),
        ask,
        client,
        goodbye: None,
        ended: shared.sessions.sockets.ended(),
        resent: Cell::new(false),
        ttl_s: 0,
        first_path: None,
        route: found.place,
        facts: None,
        watch,
        passed,
        claim_rules: (!snapshot.rules.claim_fields.is_empty()).then(|| snapshot.rules.clone()),
        gates,
        is_opening,
        room: None,
    })
}

/// Checks the head of a request as far as it needs no route, and returns the host that it names.
fn check_head<'r, B: Body>(conn: &Conn, request: &'r Request<B>) -> Result<&'r str, Rejection> {
    // PRI is the preface of HTTP/2, "never used by an actual client" (RFC 9113 §11.7).
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) || request.method().as_str() == "PRI" {
        return Err(Problem::NotImplemented.into());
    }
    framing::check_request(request)?;
    let shared = &conn.thread.shared;
    if request.uri().path_and_query().map_or(0, |target| target.as_str().len()) > conn.thread.limits().target_bytes {
        shared.metrics.limits.reached(LimitLabel::TargetBytes);
        return Err(Problem::TooLong.into());
    }
    if let Some(path) = conn.listener.health()
        && request.uri().path() == path
        && matches!(*request.method(), Method::GET | Method::HEAD)
    {
        let mut pairs = request.uri().query().unwrap_or_default().split('&');
        let upstream = pairs.find_map(|pair| pair.strip_prefix("upstream="));
        return Err(Rejection::Health(shared.readiness(conn.thread.is_stopping(), upstream)));
    }
    let host = headers::host(request)?;
    // A client that came to a trusted proxy over TLS is where the redirect would send it.
    if let Some(redirect) = conn.listener.redirect()
        && !headers::client(conn, request.headers()).secure
    {
        // An HTTP/1.0 client may leave out the host; then there is no URL to redirect it to.
        return Err(match told::authority(conn, request.headers(), host).host {
            "" => Problem::BadRequest("the Host header is missing").into(),
            host => Rejection::ToHttps { redirect, host: host.to_owned() },
        });
    }
    if !conn.serves(route::bare(host)) {
        return Err(Problem::Misdirected.into());
    }
    Ok(host)
}

/// Turns the request into what the worker receives: a rewritten head (ARCHITECTURE.md, invariant 7) and a streamed
/// body.
fn prepare<B: Body + Into<ClientBody>>(job: &Job, request: Request<B>) -> (Request<Outgoing>, Option<Rc<Transfer>>) {
    let (mut parts, body) = request.into_parts();
    headers::to_worker(&job.conn, job.client, &mut parts, &job.ask);
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
    (Request::from_parts(parts, Outgoing::stream(upload.map(|upload| upload as Box<dyn RequestStream>))), pace)
}
