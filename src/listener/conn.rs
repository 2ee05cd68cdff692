//! One client connection: first what its listener requires (`opening`), then HTTP through hyper, then, after a checked
//! 101, a tunnel.
//!
//! [`Conn`] holds what is trusted about a connection: who the peer is, and whether its forwarding fields count. Nothing
//! about a worker is remembered, except worker connections that were authenticated for this client
//! (ARCHITECTURE.md, invariant 1).

#[cfg(feature = "testing")]
pub(crate) mod fuzzing;

use std::cell::{Cell, OnceCell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use super::handshake::{self, Opened, Secured};
use super::http1_io::Http1Io;
use super::refusal::Refused;
use super::traffic::Http1Traffic;
use super::{ThreadListener, h2, head_timeout, linger, refusal};
use crate::clock;
use crate::cookie::SeenCookie;
use crate::metrics::LimitLabel;
use crate::net::client_io::ClientIo;
use crate::net::held::UnsentBytes;
use crate::proxy::{self, headers};
use crate::sockets::labels::CertificateTexts;
use crate::thread::{Registered, Thread, ThreadOrder};
use crate::tunnel::Opening;
use crate::upstream::connections::own::OwnConnections;
use crate::upstream::exchange::interim::InterimHead;
use crate::upstream::serial::WorkerSerial;

// What hyper leaves to its caller (docs/reference/threats.md §1), and where it is done:
// - size and number of fields of a head: `[limits] head_bytes`, `head_fields`; hyper bounds its read buffer, not the
//   head;
// - time-outs for heads and for idle clients: `rest`, by the thread's one sweep, without a timer per connection;
// - where a request ends, and what is sent after it: `request_end`, `http1_io`;
// - the answer to a head that is not valid: `refusal`;
// - unread bytes when a connection closes: `linger`;
// - unusual targets, codings, expectations and responses: `proxy::framing`; hop-by-hop fields and identity:
//   `proxy::headers`; trailers: `proxy::trailers`; raw bytes before a 101: `tunnel::grant`.

/// One client connection and its state.
pub struct Conn {
    /// The data thread that serves this connection.
    pub thread: Rc<Thread>,
    /// The listener that accepted this connection.
    pub listener: Rc<ThreadListener>,
    /// The client's address: the socket's peer, or the one a PROXY header names. An IPv4 address mapped into IPv6 is
    /// stored as IPv4.
    pub peer_ip: IpAddr,
    /// Whether `peer_ip` is the client's; a PROXY header may name no client, and then it is the balancer's.
    pub is_known: bool,
    /// `peer_ip` as a field value, made once per connection.
    pub peer_value: HeaderValue,
    /// Whether the peer is a trusted proxy, so that its `X-Forwarded-*` fields count.
    pub trusted: bool,
    /// Result of the TLS handshake; `None` if the connection is not encrypted up to stickyd.
    pub tls: Option<Secured>,
    /// Whether the connection uses HTTP/2, where each stream is a request, or a tunnel, of its own.
    pub http2: bool,
    /// The affinity cookie as the client sent it last.
    pub cookie: SeenCookie,
    /// Counts the streams whose request bodies fill the connection's window; only set over HTTP/2.
    pub inflow: OnceCell<Rc<h2::Inflow>>,
    /// Counts the response bytes held for this connection; only set over HTTP/2.
    pub held: OnceCell<Rc<UnsentBytes>>,
    /// Worker connections that were authenticated for this client; empty for nearly every client.
    own: OnceCell<Rc<OwnConnections>>,
    /// The thread's entry for this connection; `None` over HTTP/2, where the streams share it.
    live: RefCell<Option<Registered>>,
    plan: RefCell<Option<Opening>>,
    pub(crate) traffic: Http1Traffic,
    /// Informational responses for the request that is being polled; sent at the end of the same poll.
    pub(crate) interim: RefCell<Vec<InterimHead>>,
    requests: Cell<u32>,
    under_way: Cell<u32>,
    /// Number of request bodies that are still being received.
    pub uploads: Cell<u32>,
    head_began: Cell<bool>,
    /// Whether the last request's body was not read to its end.
    unread: Cell<bool>,
}

/// Serves a client connection until it ends.
pub(crate) async fn serve(live: Registered, listener: Rc<ThreadListener>, stream: TcpStream, peer: SocketAddr) {
    let thread = live.thread().clone();
    let opened = handshake::open(&thread, &live, &listener, stream, peer).await;
    let Some(Opened { io, ip, is_known, trusted, tls, plain }) = opened else { return };
    let http2 = io.speaks_http2();
    let (live, of_streams) = if http2 { (None, Some(live)) } else { (Some(live), None) };
    let conn = Rc::new(Conn {
        trusted,
        is_known,
        tls,
        peer_value: headers::address_value(ip),
        peer_ip: ip,
        thread,
        listener,
        http2,
        cookie: SeenCookie::default(),
        inflow: OnceCell::new(),
        held: OnceCell::new(),
        own: OnceCell::new(),
        live: RefCell::new(live),
        plan: RefCell::default(),
        traffic: Http1Traffic::default(),
        interim: RefCell::default(),
        requests: Cell::new(0),
        under_way: Cell::new(0),
        uploads: Cell::new(0),
        head_began: Cell::new(false),
        unread: Cell::new(false),
    });
    // Both futures are boxed: a resting connection frees the one for HTTP/1, and reserves no room for the one for
    // HTTP/2.
    if let Some(live) = of_streams {
        return Box::pin(h2::serve(conn, live, io)).await;
    }
    if let Some(came) = plain {
        let Some(live) = conn.live.take() else { return };
        return Box::pin(refusal::answer(conn, io, live, Refused::without_tls(&came))).await;
    }
    let (mut io, mut ahead) = (io, Vec::new());
    while head_timeout::rest(&conn, &mut io, &mut ahead).await {
        let Some(rested) = Box::pin(serve_http(conn.clone(), io, ahead)).await else { return };
        (io, ahead) = rested;
    }
}

/// Serves requests over HTTP/1 until the connection ends or rests. A resting connection is returned, with the bytes of
/// the next head that have arrived.
async fn serve_http(conn: Rc<Conn>, io: ClientIo, ahead: Vec<u8>) -> Option<(ClientIo, Vec<u8>)> {
    let service = {
        let conn = conn.clone();
        service_fn(move |mut request| {
            conn.traffic.begins(&mut request);
            let conn = conn.clone();
            // The future of `handle` is created when this one is polled, in its final place; created outside, it would
            // be moved into this one.
            async move { Ok::<_, Infallible>(proxy::handle(conn, request, Ok(())).await) }
        })
    };
    conn.mark_awake();
    let limits = conn.thread.limits();
    let mut http = http1::Builder::new()
        .max_headers(limits.head_fields)
        .max_buf_size(limits.head_bytes)
        .max_header_size(limits.head_bytes)
        .serve_connection(TokioIo::new(Http1Io::new(io, ahead, conn.clone())), service);
    let mut rests = false;
    let ended = poll_fn(|cx| {
        // hyper is polled first, so that a request already in the socket is served even while stickyd stops.
        if let Poll::Ready(ended) = Pin::new(&mut http).poll(cx) {
            return Poll::Ready(Some(ended));
        }
        match conn.order(cx) {
            ThreadOrder::GoOn | ThreadOrder::Idle if conn.may_rest() => {
                rests = true;
                Poll::Ready(None)
            }
            ThreadOrder::GoOn => Poll::Pending,
            ThreadOrder::Cut => Poll::Ready(None),
            ThreadOrder::Stop | ThreadOrder::Idle | ThreadOrder::Leave => {
                Pin::new(&mut http).graceful_shutdown();
                Pin::new(&mut http).poll(cx).map(Some)
            }
        }
    })
    .await;
    if rests {
        let parts = http.into_parts();
        // Copy exactly the bytes that came: hyper's buffer has room for 8 KiB.
        let (io, ahead) = parts.io.into_inner().take(parts.read_buf);
        return Some((io, ahead.to_vec()));
    }
    if let Some(Err(error)) = &ended {
        tracing::debug!(peer = %conn.peer_ip, %error, "client connection ended");
        conn.thread.shared.metrics.clients.errors.with_label_values(&["http"]).inc();
    }
    let (Some(ended), Some(live)) = (ended, conn.live.take()) else { return None };
    let (plan, parts) = (conn.plan.take(), http.into_parts());
    let read = parts.read_buf.clone();
    let (mut io, early) = parts.io.into_inner().take(parts.read_buf);
    // What follows gets a task of its own, because this one is as large as hyper's dispatcher
    // (docs/reference/performance.md §0.3).
    match (ended, plan) {
        (Ok(()), Some(plan)) => {
            plan.begin(io, early, live);
        }
        (Err(error), _) if !error.is_parse() => {}
        (Err(error), _) if conn.traffic.is_answered() => {
            // What hyper has not read belongs to a body, or to another request.
            let refused = Refused::new(&conn, &error, conn.traffic.head_of(&read));
            conn.thread.tasks.spawn_local(refusal::answer(conn.clone(), io, live, refused));
        }
        (ended, _) => {
            let over = conn.traffic.has_ended();
            if ended.is_err() || (!over && (conn.unread.get() || try_take_unread(&mut io).await)) {
                conn.thread.tasks.spawn_local(async move { linger::linger(io, &live, u64::MAX).await });
            }
        }
    }
    None
}

/// Reads a byte that no request needs any more. Returns whether there was one: then the peer is still sending.
async fn try_take_unread(io: &mut ClientIo) -> bool {
    let mut byte = [0];
    let mut byte = ReadBuf::new(&mut byte);
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *io).poll_read(cx, &mut byte).is_ready())).await && !byte.filled().is_empty()
}

impl Conn {
    /// Returns whether a request for `host` may use this connection: its certificate, and what the client had to
    /// present, must be those of that host (RFC 9110 §7.4).
    pub fn serves(&self, host: &str) -> bool {
        match (&self.tls, self.listener.tls()) {
            (Some(secured), Some(terms)) => terms.is_for(secured.policy, host),
            _ => true,
        }
    }

    /// What the client's certificate says, if the connection was opened with one.
    pub(crate) fn certificate(&self) -> Option<CertificateTexts<'_>> {
        self.tls.as_ref()?.client.as_deref()?.texts()
    }

    /// Returns the value of `Strict-Transport-Security` for responses on this connection, if one is configured.
    pub fn hsts(&self) -> Option<&HeaderValue> {
        self.tls.as_ref().and_then(|_| self.listener.tls())?.hsts.as_ref()
    }

    /// Returns the worker connections of this client, if there ever were any.
    pub fn own(&self) -> Option<&Rc<OwnConnections>> {
        self.own.get()
    }

    /// Returns the store of this client's own worker connections, which is made at the first call.
    pub fn make_own(&self) -> &Rc<OwnConnections> {
        self.own.get_or_init(|| OwnConnections::new(&self.thread.connections))
    }

    /// Returns whether the client may be sent informational responses (RFC 9110 §15.2: not over HTTP/1.0).
    pub(crate) fn takes_interim(&self) -> bool {
        self.http2 || self.traffic.is_http_1_1.get()
    }

    /// Marks a request as under way.
    pub fn begin_request(&self) {
        if let Some(live) = &*self.live.borrow() {
            live.begin(self.thread.is_stopping());
            self.under_way.set(self.under_way.get() + 1);
            self.head_began.set(false);
            self.requests.set(self.requests.get().saturating_add(1));
            if self.requests.get() >= self.thread.limits().requests_per_connection && live.leave_after_this() {
                self.thread.shared.metrics.limits.reached(LimitLabel::RequestsPerConnection);
            }
        }
    }

    /// Marks a request as finished and restarts the idle timer.
    pub fn finish_request(&self) {
        if let Some(live) = &*self.live.borrow() {
            live.touch();
            live.start_idle_timer(self.thread.idle_s());
            self.under_way.set(self.under_way.get().saturating_sub(1));
        }
    }

    /// Returns whether all of these requests, handed over by hyper, have been finished.
    pub(super) fn has_answered(&self, handed_over: u32) -> bool {
        self.under_way.get() == 0 && self.requests.get() == handed_over
    }

    /// Returns whether a poll waits at a worker.
    pub(super) fn is_poll(&self) -> bool {
        self.live.borrow().as_ref().is_some_and(|live| live.worker.get().is_some())
    }

    /// Returns whether nothing is under way, and has not been for a second or two.
    fn may_rest(&self) -> bool {
        self.under_way.get() == 0
            && self.uploads.get() == 0
            && self.traffic.is_still()
            && self.plan.borrow().is_none()
            && self.live.borrow().as_ref().is_some_and(|live| live.is_still())
    }

    /// Returns whether the client has not taken all bytes written to it, so that no more of a response should be read
    /// for it. Only for HTTP/1, where hyper polls the body again in the same poll in which its last byte has left;
    /// HTTP/2 streams wait for room by themselves.
    pub fn is_blocked(&self) -> bool {
        self.traffic.is_blocked()
    }

    /// Clears the mark that the connection is still; the thread sets it again after a second or two without activity.
    fn mark_awake(&self) {
        if let Some(live) = &*self.live.borrow() {
            live.mark_awake();
        }
    }

    /// Starts the time-out for the rest of a head that has partly arrived; only once per head.
    pub(crate) fn mark_head_started(&self) {
        if let (false, Some(live)) = (self.head_began.replace(true), &*self.live.borrow()) {
            live.start_head_timer(clock::whole_seconds(self.thread.limits().head_timeout));
        }
    }

    /// Returns whether no request has begun on this connection yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.live.borrow().as_ref().is_none_or(|live| live.is_fresh())
    }

    /// Ends the connection at once; HTTP/1 only.
    pub fn cut(&self) {
        if let Some(live) = &*self.live.borrow() {
            live.cut();
        }
    }

    /// Notes the serial of the worker at which a poll waits, so that a drain of that worker wakes it.
    pub fn set_worker(&self, serial: Option<WorkerSerial>) {
        if let Some(live) = &*self.live.borrow() {
            live.set_worker(serial);
        }
    }

    /// Begins a new request: clears what was noted about the body of the previous one.
    pub fn mark_body_read(&self) {
        self.unread.set(false);
    }

    /// Notes that the request's body was not read to its end: if the connection ends with this response, it lingers.
    pub fn mark_body_unread(&self) {
        self.unread.set(true);
    }

    /// Makes the connection a tunnel, once hyper has written the 101.
    pub(crate) fn upgrade_to(&self, plan: Opening) {
        *self.plan.borrow_mut() = Some(plan);
    }

    pub(crate) fn order(&self, cx: &Context<'_>) -> ThreadOrder {
        self.live.borrow().as_ref().map_or(ThreadOrder::Cut, |live| {
            live.watch(cx.waker());
            live.order()
        })
    }
}
