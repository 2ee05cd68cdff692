//! From the head of a request to its [`Job`]: which upstream it is for, and whether it is forwarded at all.
//!
//! Everything here is decided without waiting. A request that is not forwarded is a [`Rejection`]; the guards that have
//! to wait for their verdict (`access`) come after this.

use std::cell::Cell;
use std::rc::Rc;

use hyper::body::Body;
use hyper::{Method, Request, Response};

use super::access_log::Record;
use super::job::Job;
use super::respond::{Problem, StatusRequest};
use super::response_body::Reply;
use super::told_refusals::{ToldHandshake, ToldSession};
use super::{framing, headers, told};
use crate::affinity::ask::RequestFacts;
use crate::client::Client;
use crate::clock;
use crate::config::{Redirect, Route};
use crate::listener::conn::Conn;
use crate::metrics::LimitLabel;
use crate::route::guard::{self, Passed};
use crate::route::{self, RouteMatch};
use crate::state::{AppStatus, Readiness};

/// Why a request is answered without being forwarded to a worker.
pub(super) enum Rejection {
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
pub(super) fn read<B: Body>(conn: &Rc<Conn>, request: &Request<B>, record: &mut Record) -> Result<Job, Rejection> {
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
        let passed = check_guards(conn, &found, request, &ask, client, host)?;
        gates.extend(found.guards().filter_map(|watch| watch.access.clone()));
        guarded = found.watch.filter(|watch| watch.knows_clients()).map(|watch| (watch.clone(), passed));
    }
    answer_status(conn, &found, request, client, host)?;
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
        tied_at: Cell::new(None),
        first_path: None,
        route: found.place,
        facts: None,
        watch,
        passed,
        claim_rules: (!snapshot.rules.claim_fields.is_empty()).then(|| snapshot.rules.clone()),
        gates,
        is_opening,
        trace: record.trace.clone(),
        room: None,
    })
}

/// Asks the guards of a request's route and upstream. Returns what the request has shown to them.
fn check_guards<B: Body>(
    conn: &Rc<Conn>,
    found: &RouteMatch<'_>,
    request: &Request<B>,
    ask: &RequestFacts,
    client: Client,
    host: &str,
) -> Result<Option<Box<Passed>>, Rejection> {
    let key = conn.thread.shared.sessions.keys.address(client.key());
    let own = told::authority(conn, request.headers(), host);
    let person = |key| conn.thread.shared.admissions.person(key);
    let fleet = conn.thread.shared.sessions.fleet().map(|fleet| &**fleet);
    let (certificate, now_ms) = (conn.certificate(), clock::now_ms());
    let asked = guard::GuardedRequest { ask, client, own, key, now_ms, fleet, certificate, person: &person };
    if let Some(session) = ToldSession::of(conn, found.upstream, request, ask, client) {
        return Err(match guard::check_told(found, request, &asked) {
            Ok(readable) => Rejection::ToldSession { session: session.readable(readable), client },
            Err(reason) => Rejection::ByGuard { reason, is_upgrade: false, client },
        });
    }
    guard::check(found, request, &asked).map_err(|reason| {
        match ToldHandshake::of(conn, found.upstream, request, ask, client, reason) {
            Some(handshake) => Rejection::Told { handshake, client },
            None => Rejection::ByGuard { reason, is_upgrade: ask.upgrade.is_some(), client },
        }
    })
}

/// Answers a request for the path at which its route tells pages whether the application can be reached.
fn answer_status<B>(
    conn: &Rc<Conn>,
    found: &RouteMatch<'_>,
    request: &Request<B>,
    client: Client,
    host: &str,
) -> Result<(), Rejection> {
    let is_asked = |route: &&Route| route.status.as_deref() == Some(request.uri().path());
    let Some(route) = found.route.filter(is_asked) else { return Ok(()) };
    let own = told::authority(conn, request.headers(), host);
    let origins = route.guards.origins.as_deref();
    let origin = origins.and_then(|all| guard::allowed_origin(all, request.headers(), client, own));
    let status = if conn.thread.is_stopping() { AppStatus::Down } else { AppStatus::of(found.upstream) };
    Err(Rejection::Status(Box::new(StatusRequest { status, varies: origins.is_some(), origin })))
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
    if conn.tls.is_some() && !conn.serves(route::bare(host)) {
        return Err(Problem::Misdirected.into());
    }
    Ok(host)
}
