//! One client connection: what its listener wants first (`opening`), then hyper, then — after a checked 101 — a tunnel.
//!
//! What stands here is what may be trusted of a connection: who the peer is and whether its word on others counts.
//! Nothing about a worker is remembered (invariant 1).

#[doc(hidden)]
pub mod fuzzing;

use std::cell::{Cell, OnceCell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::opening::{self, Opened, Secured};
use super::tls_stream::TlsStream;
use super::wire::{Traffic, Wire};
use super::{Listener, h2, linger, rest};
use crate::affinity::cookie::Seen;
use crate::metrics::Limit;
use crate::proxy::{self, headers};
use crate::thread::{Order, Registered, Thread};
use crate::tunnel::relay::Relay;
use crate::tunnel::stream::{APPETITE, StreamIo};
use crate::tunnel::{Plan, whole_seconds};
use crate::upstream::held::Held;
use crate::upstream::io::poll_write_small;

// What hyper leaves to its caller (threats §1), here or where it is said:
// - a head's bytes and fields: `[limits] head_bytes`, `head_fields`; hyper bounds its read buffer, not the head;
// - a timer for the head and for idle clients: `rest`, by the thread's one sweep, without a timer for each connection;
// - what is unread when it closes: `linger`;
// - odd targets, codings, expectations and answers: `proxy::framing`; fields of one hop and identity: `proxy::headers`;
//   trailers: `proxy::trailers`; raw bytes before a 101: `tunnel::grant`.

/// One client connection.
pub struct Conn {
    /// The thread it lives on.
    pub thread: Rc<Thread>,
    /// Where it came in.
    pub listener: Rc<Listener>,
    /// The peer's address; an IPv4 one mapped into IPv6 is IPv4.
    pub peer_ip: IpAddr,
    /// The same as a field value, made once a connection.
    pub peer_value: HeaderValue,
    /// The peer is a trusted proxy: its `X-Forwarded-*` counts.
    pub trusted: bool,
    /// What the TLS handshake agreed on; `None`: it is not encrypted up to us.
    pub tls: Option<Secured>,
    /// It speaks HTTP/2: each stream is a request, or a tunnel, of its own.
    pub http2: bool,
    /// Our cookie, as it came last.
    pub cookie: Seen,
    /// What its streams may hold of its window; only over HTTP/2.
    pub inflow: OnceCell<Rc<h2::Inflow>>,
    /// What is held of its answers; only over HTTP/2.
    pub held: OnceCell<Rc<Held>>,
    /// None over HTTP/2, whose streams see to it.
    live: RefCell<Option<Registered>>,
    plan: RefCell<Option<Plan>>,
    pub(super) traffic: Traffic,
    requests: Cell<u32>,
    under_way: Cell<u32>,
    /// Bodies that are still coming.
    pub uploads: Cell<u32>,
    head_began: Cell<bool>,
    /// The last request's body was not read to its end.
    unread: Cell<bool>,
}

/// The client's socket.
pub enum ClientIo {
    /// Plain.
    Plain(TcpStream),
    /// Encrypted.
    Tls(TlsStream),
    /// One stream of an HTTP/2 connection, once it is a tunnel.
    Stream(Box<StreamIo<h2::Open>>),
}

impl ClientIo {
    /// The socket itself; a stream has none of its own.
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(io) => Some(io),
            Self::Tls(io) => Some(io.tcp()),
            Self::Stream(_) => None,
        }
    }
}

/// Serves a connection to its end.
pub async fn serve(live: Registered, listener: Rc<Listener>, stream: TcpStream, peer: SocketAddr) {
    let thread = live.thread().clone();
    let Some(Opened { io, ip, trusted, tls }) = opening::open(&thread, &live, &listener, stream, peer).await else {
        return;
    };
    let http2 = io.speaks_http2();
    let (live, of_streams) = if http2 { (None, Some(live)) } else { (Some(live), None) };
    let conn = Rc::new(Conn {
        trusted,
        tls,
        peer_value: headers::address_value(ip),
        peer_ip: ip,
        thread,
        listener,
        http2,
        cookie: Seen::default(),
        inflow: OnceCell::new(),
        held: OnceCell::new(),
        live: RefCell::new(live),
        plan: RefCell::default(),
        traffic: Traffic::default(),
        requests: Cell::new(0),
        under_way: Cell::new(0),
        uploads: Cell::new(0),
        head_began: Cell::new(false),
        unread: Cell::new(false),
    });
    // Boxed, both: a connection that rests gives HTTP/1's back, and has no room for HTTP/2's.
    if let Some(live) = of_streams {
        return Box::pin(h2::serve(conn, live, io)).await;
    }
    let (mut io, mut ahead) = (io, Vec::new());
    while rest::rest(&conn, &mut io, &mut ahead).await {
        let Some(rested) = Box::pin(serve_http(conn.clone(), io, ahead)).await else { return };
        (io, ahead) = rested;
    }
}

/// Serves requests until the connection ends, or rests: then it is given back, with what of a head had come.
async fn serve_http(conn: Rc<Conn>, io: ClientIo, ahead: Vec<u8>) -> Option<(ClientIo, Vec<u8>)> {
    let service = {
        let conn = conn.clone();
        service_fn(move |request| {
            let conn = conn.clone();
            // Made when it is polled, where it stays: made here, it would be moved into this one.
            async move { Ok::<_, Infallible>(proxy::handle(conn, request, Ok(())).await) }
        })
    };
    conn.stirs();
    let limits = conn.thread.limits();
    let mut http = http1::Builder::new()
        .max_headers(limits.head_fields)
        .max_buf_size(limits.head_bytes)
        .max_header_size(limits.head_bytes)
        .serve_connection(TokioIo::new(Wire::new(io, ahead.into(), conn.clone())), service);
    let mut rests = false;
    let ended = poll_fn(|cx| {
        // Polled first, so that a request already in the socket is served even while we stop.
        if let Poll::Ready(ended) = Pin::new(&mut http).poll(cx) {
            return Poll::Ready(Some(ended));
        }
        match conn.order(cx) {
            Order::GoOn | Order::Idle if conn.may_rest() => {
                rests = true;
                Poll::Ready(None)
            }
            Order::GoOn => Poll::Pending,
            Order::Cut => Poll::Ready(None),
            Order::Stop | Order::Idle | Order::Leave => {
                Pin::new(&mut http).graceful_shutdown();
                Pin::new(&mut http).poll(cx).map(Some)
            }
        }
    })
    .await;
    if rests {
        let parts = http.into_parts();
        // Exactly what came: hyper's buffer has room for 8 KiB.
        let (io, ahead) = parts.io.into_inner().take(parts.read_buf);
        return Some((io, ahead.to_vec()));
    }
    if let Some(Err(error)) = &ended {
        tracing::debug!(peer = %conn.peer_ip, %error, "client connection ended");
        conn.thread.shared.metrics.client_errors.with_label_values(&["http"]).inc();
    }
    let (Some(ended), Some(live)) = (ended, conn.live.take()) else { return None };
    let (plan, parts) = (conn.plan.take(), http.into_parts());
    let (mut io, early) = parts.io.into_inner().take(parts.read_buf);
    // Tasks of their own: this one is as large as hyper's dispatcher (data-plane study §0.3).
    match (ended, plan) {
        (Ok(()), Some(plan)) => {
            conn.thread.tasks.spawn_local(Relay::new(io, early, plan, live));
        }
        (Err(error), _) if !error.is_parse() => {}
        (ended, _) => {
            let over = conn.traffic.has_ended();
            if ended.is_err() || (!over && (conn.unread.get() || has_unread(&mut io).await)) {
                conn.thread.tasks.spawn_local(async move { linger::linger(io, &live, u64::MAX).await });
            }
        }
    }
    None
}

/// Whether bytes wait in the socket that nobody will read.
async fn has_unread(io: &mut ClientIo) -> bool {
    let mut byte = [0];
    let mut byte = ReadBuf::new(&mut byte);
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *io).poll_read(cx, &mut byte).is_ready())).await && !byte.filled().is_empty()
}

impl Conn {
    /// Whether a request for `host` may come over this connection: the certificate it was made with, and what the client
    /// had to show, are those of that host (RFC 9110 §7.4).
    pub fn serves(&self, host: &str) -> bool {
        match (&self.tls, self.listener.tls()) {
            (Some(secured), Some(terms)) => terms.is_for(secured.policy, host),
            _ => true,
        }
    }

    /// A request is under way.
    pub fn busy(&self) {
        if let Some(live) = &*self.live.borrow() {
            live.begin(self.thread.is_stopping());
            self.under_way.set(self.under_way.get() + 1);
            self.head_began.set(false);
            self.requests.set(self.requests.get().saturating_add(1));
            if self.requests.get() >= self.thread.limits().requests_per_connection && live.last() {
                self.thread.shared.metrics.limits.reached(Limit::RequestsPerConnection);
            }
        }
    }

    /// A request is over.
    pub fn idle(&self) {
        if let Some(live) = &*self.live.borrow() {
            live.touch();
            live.waits_for_request(self.thread.idle_s());
            self.under_way.set(self.under_way.get().saturating_sub(1));
        }
    }

    /// Nothing is under way, and has not been for a second or two.
    fn may_rest(&self) -> bool {
        self.under_way.get() == 0
            && self.uploads.get() == 0
            && self.traffic.is_still()
            && self.plan.borrow().is_none()
            && self.live.borrow().as_ref().is_some_and(|live| live.is_still())
    }

    /// The client has not taken all of what it was written: whoever reads an answer for it waits. Over HTTP/1; hyper asks for
    /// more in the same poll in which its last byte has left. Streams of HTTP/2 wait for room by themselves.
    pub fn is_blocked(&self) -> bool {
        self.traffic.is_blocked()
    }

    /// Its second of silence begins anew.
    fn stirs(&self) {
        if let Some(live) = &*self.live.borrow() {
            live.stirs();
        }
    }

    /// Half a head is there: the rest of it has its own time, once.
    pub(super) fn head_has_begun(&self) {
        if let (false, Some(live)) = (self.head_began.replace(true), &*self.live.borrow()) {
            live.head_begins(whole_seconds(self.thread.limits().head_timeout));
        }
    }

    /// No request has come over it yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.live.borrow().as_ref().is_none_or(|live| live.is_fresh())
    }

    /// It ends at once; HTTP/1 only.
    pub fn cut(&self) {
        if let Some(live) = &*self.live.borrow() {
            live.cut();
        }
    }

    /// A poll waits at the worker of this serial, 0 for none: a drain of that worker wakes it.
    pub fn waits_at(&self, serial: u64) {
        if let Some(live) = &*self.live.borrow() {
            live.waits_at(serial);
        }
    }

    /// A request begins: what is noted of the one before is past.
    pub fn begins(&self) {
        self.unread.set(false);
    }

    /// Its body was not read to the end: should the connection end with its answer, the client is read on for a while.
    pub fn may_still_send(&self) {
        self.unread.set(true);
    }

    /// Once hyper has written the 101, the connection becomes this tunnel.
    pub fn upgrade_to(&self, plan: Plan) {
        *self.plan.borrow_mut() = Some(plan);
    }

    pub(super) fn order(&self, cx: &Context<'_>) -> Order {
        self.live.borrow().as_ref().map_or(Order::Cut, |live| {
            live.watch(cx.waker());
            live.order()
        })
    }
}

impl ClientIo {
    /// ALPN's choice.
    fn speaks_http2(&self) -> bool {
        matches!(self, Self::Tls(io) if io.session().alpn_protocol() == Some(b"h2"))
    }

    /// Bytes it makes sense to read for it at once: what it does not take has to be kept.
    pub fn appetite(&self) -> usize {
        match self {
            Self::Plain(_) | Self::Tls(_) => usize::MAX,
            Self::Stream(_) => APPETITE,
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
            Self::Stream(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
            Self::Stream(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => poll_write_small(Pin::new(io), cx, bufs),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Stream(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
            Self::Stream(_) => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
            Self::Stream(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
            Self::Stream(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
