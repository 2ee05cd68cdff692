//! Refuses Socket.IO clients in their own protocol, where trying again cannot help: the application gets the exact
//! error, and the client makes one attempt instead of one after the other (docs/who-may-connect.md).
//!
//! A refused handshake gets an open packet of stickyd's own, whose sid carries the reason ([`crate::state::told`]). The
//! client answers with CONNECT packets, and is told the error for each namespace. No worker is asked, no cookie is set,
//! and a page whose origin is refused cannot read any of it. Past the bounds, clients are refused by HTTP. Left out:
//! WebSockets after their 101 (`tunnel::told`).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Body;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::Instant;

use super::Job;
use super::respond;
use super::response_body::{ClientBody, Reply};
use crate::affinity::ask::{RequestFacts, RequestKind};
use crate::client::Client;
use crate::clock;
use crate::config::guards::Refuse;
use crate::engine_io::{self, PollFormat, RequestTransport};
use crate::jwt::TokenFault;
use crate::keys::Key;
use crate::listener::conn::Conn;
use crate::metrics::GuardLabel;
use crate::route::guard::GuardRefusal;
use crate::route::live_keys;
use crate::state::told::{self, ToldReason};
use crate::tunnel::Opening;
use crate::tunnel::told::RefusalPlan;
use crate::upstream::Upstream;
use crate::upstream::eject::ClientKey;
use crate::websocket::upgrade::Accept;

/// How long a poll waits for the CONNECT packet of its session. In protocol 3, clients send none for `/`.
const CONNECTS_WITHIN: Duration = Duration::from_secs(3);
const V3_CONNECTS_WITHIN: Duration = Duration::from_millis(300);

/// How long a poll waits for further namespaces after the first ones were refused.
const MORE_WITHIN: Duration = Duration::from_secs(1);

/// Maximum size of a POST of a refused session, and the time in which it has to come.
const MAX_POST: usize = 64 * 1024;
const POST_WITHIN: Duration = Duration::from_secs(5);

/// A handshake that is refused in its client's protocol.
pub(super) struct ToldHandshake {
    reason: ToldReason,
    upstream: Arc<Upstream>,
    format: PollFormat,
    upgrade: Option<Accept>,
    client: ClientKey,
}

/// A request of a session that stickyd has refused.
pub(super) struct ToldSession {
    reason: ToldReason,
    key: Key,
    client: ClientKey,
    format: PollFormat,
    /// Whether the page that sends it may read the answer.
    readable: bool,
}

impl ToldHandshake {
    /// Returns the refusal if the client can be told it: it is final, the handshake is Socket.IO's, and there is room.
    pub(super) fn of<B>(
        conn: &Conn,
        upstream: &Arc<Upstream>,
        request: &Request<B>,
        ask: &RequestFacts,
        client: Client,
        refusal: GuardRefusal,
    ) -> Option<Box<Self>> {
        let reason = match refusal {
            GuardRefusal::Token(fault, Refuse::Told) => ToldReason::Token(fault),
            GuardRefusal::Forbidden(GuardLabel::Origin, Refuse::Told) => ToldReason::Origin,
            GuardRefusal::TooMany(Refuse::Told) => ToldReason::TooMany,
            _ => return None,
        };
        let engine = ask.engine.filter(|engine| !engine.has_sid())?;
        let is_preflight = matches!(ask.kind, RequestKind::Preflight(_));
        let fits = match engine.transport {
            RequestTransport::Polling => ask.upgrade.is_none() && engine.format != PollFormat::Other,
            RequestTransport::WebSocket => ask.upgrade.is_some() && engine.format != PollFormat::Other,
            RequestTransport::Other => false,
        };
        let (client, told) = (client.key(), &conn.thread.shared.admissions.told);
        if !fits || is_preflight || request.method() != Method::GET || !told.has_room(&client) {
            return None;
        }
        Some(Box::new(Self { reason, upstream: upstream.clone(), format: engine.format, upgrade: ask.upgrade, client }))
    }

    /// Answers the handshake with an open packet.
    pub(super) fn answer<B>(self, conn: &Rc<Conn>, request: &Request<B>) -> Response<Reply> {
        let shared = &conn.thread.shared;
        let now_s = live_keys::now().unix_s;
        let random = crate::random::bytes::<6>();
        let sid = told::seal(&shared.secret, &self.upstream.config.name, self.reason, now_s, random);
        if let Some(accept) = self.upgrade {
            return self.answer_upgrade(conn, request, accept, sid);
        }
        let body = self.format.body(&[engine_io::open_text(&sid)]).unwrap_or_default();
        let readable = self.reason != ToldReason::Origin;
        poll_answer(self.reason, body, request.headers().get(header::ORIGIN).filter(|_| readable))
    }

    fn answer_upgrade<B>(&self, conn: &Rc<Conn>, request: &Request<B>, accept: Accept, sid: String) -> Response<Reply> {
        let Some(place) = conn.thread.shared.admissions.told.try_place(self.client) else {
            return respond::problem(respond::Problem::Full("too many clients are being refused"));
        };
        let plan = RefusalPlan { reason: self.reason, sid, is_v3: self.format == PollFormat::Counted, place };
        let plan = Opening::Refusal(Box::new(plan));
        // A client that asks for a subprotocol fails without an answer to that.
        let protocol = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|value| {
            let first = value.as_bytes().split(|byte| *byte == b',').next()?;
            HeaderValue::from_bytes(first.trim_ascii()).ok()
        });
        let mut response = if conn.http2 {
            respond::own(StatusCode::OK, self.reason.code(), Bytes::new()).map(|_| Reply::tunnel(plan))
        } else {
            conn.upgrade_to(plan);
            let mut response = respond::own(StatusCode::SWITCHING_PROTOCOLS, self.reason.code(), Bytes::new());
            let headers = response.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept.value());
            response
        };
        if let Some(protocol) = protocol {
            response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        response
    }
}

impl ToldSession {
    /// Returns the refused session that a request belongs to; `None` for nearly every request.
    pub(super) fn of<B>(
        conn: &Conn,
        upstream: &Upstream,
        request: &Request<B>,
        ask: &RequestFacts,
        client: Client,
    ) -> Option<Box<Self>> {
        let engine = ask.engine.filter(|engine| engine.has_sid() && ask.upgrade.is_none())?;
        let sid = ask.engine_sid(request.uri().query());
        let shared = &conn.thread.shared;
        let name = &upstream.config.name;
        let reason = told::open(&shared.secret, name, &sid, live_keys::now().unix_s)?;
        let key = shared.sessions.keys.key(name, &sid);
        let readable = reason != ToldReason::Origin;
        Some(Box::new(Self { reason, key, client: client.key(), format: engine.format, readable }))
    }

    /// Hides the answers from the page that asks, unless it may read them.
    pub(super) fn readable(mut self: Box<Self>, readable: bool) -> Box<Self> {
        self.readable &= readable;
        self
    }

    /// Answers a request of the session: notes what a POST says, and tells a poll the refusal.
    pub(super) async fn answer<B>(self, conn: Rc<Conn>, request: Request<B>) -> Response<Reply>
    where
        B: Body + Into<ClientBody>,
    {
        let origin = request.headers().get(header::ORIGIN).filter(|_| self.readable).cloned();
        match *request.method() {
            Method::POST => self.take_post(&conn, request.into_body().into(), origin.as_ref()).await,
            Method::OPTIONS => preflight(self.reason, request.headers(), origin.as_ref()),
            _ => self.tell(&conn, origin.as_ref()).await,
        }
    }

    async fn take_post(&self, conn: &Conn, body: ClientBody, origin: Option<&HeaderValue>) -> Response<Reply> {
        let read = tokio::time::timeout(POST_WITHIN, Limited::new(body, MAX_POST).collect()).await;
        let Ok(Ok(read)) = read else { return respond::problem(respond::Problem::Slow) };
        let told = &conn.thread.shared.admissions.told;
        let body = read.to_bytes();
        let packets = engine_io::posted_packets(self.format, &body);
        for namespace in packets.into_iter().filter_map(engine_io::connected_namespace) {
            if !told.say(self.key, self.client, self.reason, namespace, clock::now_ms()) {
                return respond::problem(respond::Problem::Full("too many clients are being refused"));
            }
        }
        post_taken(self.reason, origin)
    }

    /// Waits for the session's CONNECT packets, and refuses them; without any, the namespace `/` is refused. The
    /// session ends once no further namespace comes.
    async fn tell(&self, conn: &Conn, origin: Option<&HeaderValue>) -> Response<Reply> {
        let told = &conn.thread.shared.admissions.told;
        let full = || respond::problem(respond::Problem::Full("too many clients are being refused"));
        let Some(_place) = told.try_place(self.client) else { return full() };
        let is_v3 = self.format == PollFormat::Counted;
        let answered = told.was_answered(self.key).is_some_and(|(_, answered)| answered);
        let until = Instant::now()
            + match answered {
                true => MORE_WITHIN,
                false if is_v3 => V3_CONNECTS_WITHIN,
                false => CONNECTS_WITHIN,
            };
        let named = loop {
            let Some(news) = told.news(self.key, self.client, clock::now_ms()) else { return full() };
            // Registered before the look, so that nothing said in between is missed.
            let mut said = std::pin::pin!(news.notified());
            said.as_mut().enable();
            if let Some(named) = told.take(self.key) {
                break named;
            }
            if tokio::time::timeout_at(until, said).await.is_ok() {
                continue;
            }
            if answered {
                return poll_answer(self.reason, self.format.close().unwrap_or_default().to_owned(), origin);
            }
            if !told.say(self.key, self.client, self.reason, String::new(), clock::now_ms()) {
                return full();
            }
        };
        refusal(self.format, &named, origin)
    }
}

/// The answer to a request of a session that was refused by one of its packets, and has ended; `None` if it was not. An
/// upgrade is told nothing: its client has not moved to the WebSocket yet, and still listens to its polls.
pub(super) async fn of_ended(job: &Job, key: Key, method: &Method) -> Option<Response<Reply>> {
    let told = &job.conn.thread.shared.admissions.told;
    let (reason, _) = told.was_answered(key)?;
    let engine = job.ask.engine.filter(|_| job.ask.upgrade.is_none())?;
    let client = job.client.key();
    let session = ToldSession { reason, key, client, format: engine.format, readable: true };
    match *method {
        Method::GET => Some(session.tell(&job.conn, job.ask.origin.as_ref()).await),
        Method::POST => Some(post_taken(reason, job.ask.origin.as_ref())),
        _ => None,
    }
}

/// The answer to a poll that tells a session why it is refused, for each namespace that it has `named`. The client then
/// leaves by itself, or names another namespace.
pub(super) fn refusal(
    format: PollFormat,
    named: &[(ToldReason, String)],
    origin: Option<&HeaderValue>,
) -> Response<Reply> {
    let is_v3 = format == PollFormat::Counted;
    let of = |reason: ToldReason, name: &str| engine_io::refusal_packets(is_v3, name, reason.message(), reason.code());
    let mut packets: Vec<_> = named.iter().flat_map(|(reason, name)| of(*reason, name)).collect();
    let reason = named.first().map_or(ToldReason::Token(TokenFault::Missing), |(reason, _)| *reason);
    if is_v3 && named.iter().all(|(_, name)| !name.is_empty()) {
        // Such clients connect to `/` without saying so.
        packets.extend(of(reason, ""));
    }
    poll_answer(reason, format.body(&packets).unwrap_or_default(), origin)
}

/// The answer to a POST that was taken.
pub(super) fn post_taken(reason: ToldReason, origin: Option<&HeaderValue>) -> Response<Reply> {
    let mut response = respond::own(StatusCode::OK, reason.code(), "ok");
    plain(response.headers_mut(), "text/html", origin);
    response
}

fn poll_answer(reason: ToldReason, body: String, origin: Option<&HeaderValue>) -> Response<Reply> {
    let mut response = respond::own(StatusCode::OK, reason.code(), body);
    plain(response.headers_mut(), "text/plain; charset=UTF-8", origin);
    response
}

fn preflight(reason: ToldReason, asked: &HeaderMap, origin: Option<&HeaderValue>) -> Response<Reply> {
    let mut response = respond::own(StatusCode::NO_CONTENT, reason.code(), Bytes::new());
    let headers = response.headers_mut();
    if let Some(origin) = origin {
        respond::let_read(origin, headers);
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET,POST"));
        if let Some(wanted) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
        }
    }
    response
}

fn plain(headers: &mut HeaderMap, kind: &'static str, origin: Option<&HeaderValue>) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(origin) = origin {
        respond::let_read(origin, headers);
    }
}
