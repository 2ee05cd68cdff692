//! HTTP/2 to clients (RFC 9113), chosen by ALPN: one connection, its streams, its limits, its end.
//!
//! The h2 crate is driven directly, without hyper's layers over it: a stream of a tunnel is then a socket like any other
//! ([`crate::tunnel::stream`]) instead of a task and a channel more, and resets are seen. Each stream is a task of its own
//! that lives through `proxy::handle` as a request over HTTP/1 does; nothing about a worker is remembered here, so one
//! connection carries sessions of as many workers as it likes (invariant 1).
//!
//! | file | what |
//! |---|---|
//! | `translate` | heads, to HTTP/1.1's form and back |
//! | `stream` | one request, its answer, its tunnel |
//! | `body` | a request's body |
//! | `meter` | floods |
//! | `send` | an answer's body |
//! | `inflow` | whose bodies fill the connection's window |
//! | `pace` | what all streams have on its way to the socket |
//! | `socket` | bytes, in as few pieces as there can be |
//!
//! Left out: server push (no browser takes it any more), priorities (read and ignored), h2 without TLS.

pub mod body;
#[doc(hidden)]
pub mod fuzzing;
mod inflow;
mod meter;
mod pace;
mod send;
mod socket;
mod stream;
mod translate;

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::{Builder, Connection};
use h2::{Ping, PingPong, Reason};

use self::inflow::Holding;
pub use self::inflow::Inflow;
use self::meter::{Heard, TooMuch};
use self::pace::Pace;
use self::socket::Socket;
use super::caps::StreamsOf;
use super::conn::{ClientIo, Conn};
use super::linger;
use crate::metrics::Limit;
use crate::telemetry::say_full;
use crate::thread::{Order, Registered};
use crate::tunnel::stream::Carrier;
use crate::upstream::held::Held;

/// Bytes a client may send on one stream before the worker has taken any: nginx's preread, and the least RFC 9113 begins
/// with, so that no SETTINGS takes back what a client already sent.
const STREAM_WINDOW: u32 = 65_535;

/// The same for all streams of a connection together. More than one stream's, because streams of a worker that does not
/// read must not hold up those of the others.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Bytes of an answer that wait for the client on one stream.
const SEND_BUFFER: usize = 64 * 1024;

/// The least RFC 9113 allows: a larger frame only makes the others wait for longer.
const FRAME: u32 = 16_384;

/// Streams taken back before they were even looked at. A client that does this is no browser (rapid reset).
const RESET_UNSEEN: usize = 20;

/// Resets a client's own mistakes force on us, in a connection's life (MadeYouReset).
const RESETS_FORCED: usize = 100;

/// Seconds of silence, while streams are open, after which a client is asked by PING whether it is there. It has 15 more to
/// answer (the thread's tick cuts it then), 30 with the ticks' (threats §2). Its kernel is asked, too; this finds the client
/// that only its kernel, or a balancer in front, has outlived.
const ASK_AFTER_S: u32 = 13;

/// Bytes of a client that are read and dropped behind our goodbye: what its windows allow it to have sent, and as much again
/// for what else frames hold.
const GOODBYE: u64 = 2 * CONNECTION_WINDOW as u64;

/// What the streams of a connection share with it.
pub(super) struct Streams {
    live: Registered,
    /// Streams open.
    open: Cell<u32>,
    /// Streams there have been.
    requests: Cell<u32>,
    /// Tunnels among those that are open.
    tunnels: Cell<u32>,
    /// The meter's last word.
    too_much: Cell<Option<TooMuch>>,
    pace: Pace,
    /// Read of workers, and not handed over yet.
    held: Rc<Held>,
    counted: StreamsOf,
}

impl Streams {
    fn open(self: &Rc<Self>) -> Open {
        let thread = self.live.thread();
        self.open.set(self.open.get() + 1);
        self.live.begin(thread.is_stopping());
        self.live.limit(ASK_AFTER_S);
        self.live.touch();
        let metrics = &thread.shared.metrics;
        metrics.http2_streams.inc();
        metrics.http2_streams_total.inc();
        self.requests.set(self.requests.get().saturating_add(1));
        if self.requests.get() >= thread.limits().requests_per_connection && self.live.last() {
            metrics.limits.reached(Limit::RequestsPerConnection);
        }
        Open { streams: self.clone(), admitted: self.counted.may_be(self.open.get()), holding: None }
    }

    /// The client said something.
    fn heard(&self, Heard { resets, window, too_much }: Heard) {
        self.pace.opened(window);
        if self.open.get() > 0 {
            self.live.touch();
        }
        if resets > 0 {
            self.live.thread().shared.metrics.http2_resets.inc_by(u64::from(resets));
        }
        if too_much.is_some() {
            self.too_much.set(too_much);
        }
    }
}

/// A stream is open; it is over when this is dropped.
pub struct Open {
    streams: Rc<Streams>,
    /// Its client may have as many.
    admitted: bool,
    /// Of a tunnel.
    holding: Option<Holding>,
}

impl Open {
    /// The time of a tunnel to end is a tunnel's, also for the connection that carries it.
    fn becomes_tunnel(mut self, holding: Holding) -> Self {
        self.holding = Some(holding);
        let tunnels = &self.streams.tunnels;
        tunnels.set(tunnels.get() + 1);
        self.streams.live.carries_tunnels(true);
        self
    }
}

impl Carrier for Open {
    fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        self.streams.pace.poll_room(cx)
    }

    fn queued(&self, bytes: usize) {
        self.streams.pace.queued(bytes);
    }

    fn holds(&self, some: bool) {
        if let Some(holding) = &self.holding {
            holding.holds(some);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Streams { live, open, tunnels, counted, .. } = &*self.streams;
        live.thread().shared.metrics.http2_streams.dec();
        open.set(open.get().saturating_sub(1));
        if open.get() == 0 {
            counted.rest();
            live.touch();
            live.waits_for_request(live.thread().idle_s());
        }
        if self.holding.is_some() {
            tunnels.set(tunnels.get().saturating_sub(1));
            live.carries_tunnels(tunnels.get() > 0);
        }
    }
}

/// How a connection ended that broke no rule.
#[derive(PartialEq, Eq)]
enum Ended {
    /// All was said, the goodbye too.
    Whole,
    /// In the middle.
    Cut,
}

/// A connection, polled by one task.
struct Serving {
    conn: Rc<Conn>,
    streams: Rc<Streams>,
    h2: Connection<Socket, Bytes>,
    socket: Socket,
    pings: Option<PingPong>,
    /// A PING of ours waits for its answer.
    asked: bool,
    /// GOAWAY is on its way; streams that are open may finish.
    leaving: bool,
    /// It is over as soon as that is written.
    cut: bool,
}

/// Serves a connection to its end.
pub(super) async fn serve(conn: Rc<Conn>, live: Registered, io: ClientIo) {
    let held = Rc::<Held>::default();
    let _ = (conn.inflow.set(Rc::default()), conn.held.set(held.clone()));
    let streams = Rc::new(Streams {
        live,
        open: Cell::new(0),
        requests: Cell::new(0),
        tunnels: Cell::new(0),
        too_much: Cell::new(None),
        pace: Pace::default(),
        held,
        counted: StreamsOf::new(&conn.thread.shared, conn.peer_ip, conn.trusted),
    });
    let socket = Socket::new(io, streams.clone());
    let handshake = builder(&conn).handshake(socket.clone());
    // Nothing but the client's preface: whatever the connection is told meanwhile, it has nothing to finish.
    let told = poll_fn(|cx| {
        streams.live.watch(cx.waker());
        if streams.live.order() == Order::GoOn { Poll::Pending } else { Poll::Ready(()) }
    });
    let h2 = tokio::select! {
        biased;
        h2 = handshake => h2,
        () = told => return,
    };
    let ended = match h2 {
        Ok(mut h2) => {
            let pings = h2.ping_pong();
            socket.gather();
            let mut serving = Serving {
                conn: conn.clone(),
                streams: streams.clone(),
                h2,
                socket: socket.clone(),
                pings,
                asked: false,
                leaving: false,
                cut: false,
            };
            poll_fn(|cx| serving.poll(cx)).await
        }
        Err(error) => Err(error),
    };
    // h2 is gone, and has said goodbye, unless there was nobody to hear it. The client's own may still be on its way.
    let said = ended.as_ref().map_or_else(|error| !error.is_io(), |ended| *ended == Ended::Whole);
    if said && let Some(io) = socket.into_open() {
        conn.thread.tasks.spawn_local(async move { linger::linger(io, &streams.live, GOODBYE).await });
    }
    if let Err(error) = ended {
        tracing::debug!(peer = %conn.peer_ip, %error, "HTTP/2 connection ended");
        if !error.is_io() {
            conn.thread.shared.metrics.client_errors.with_label_values(&["http2"]).inc();
        }
    }
}

/// Every limit said; a default may change with a version.
fn builder(conn: &Conn) -> Builder {
    let (mut builder, limits) = (Builder::new(), conn.thread.limits());
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        // h2 closes the connection past four times this, and answers 431 past this.
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(limits.http2_streams)
        .max_pending_accept_reset_streams(RESET_UNSEEN)
        .max_local_error_reset_streams(Some(RESETS_FORCED))
        .max_send_buffer_size(SEND_BUFFER);
    if conn.listener.websocket_over_http2() {
        builder.enable_connect_protocol();
    }
    builder
}

impl Serving {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Ended, h2::Error>> {
        loop {
            self.streams.live.watch(cx.waker());
            if self.streams.live.order() == Order::Cut {
                return Poll::Ready(Ok(Ended::Cut));
            }
            self.obey();
            self.hear_pong(cx);
            self.stop_flood();
            match self.h2.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    let open = self.streams.open();
                    // Boxed before it is moved into its task, three times otherwise: it is as large as a request's story.
                    let stream = Box::pin(stream::serve(self.conn.clone(), open, request, respond));
                    self.conn.thread.tasks.spawn_local(stream);
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(Ended::Whole)),
                Poll::Pending if self.streams.too_much.get().is_some() && !self.cut => {}
                Poll::Pending => match self.socket.poll_send(cx) {
                    // h2 waits for a socket that has become free meanwhile.
                    Poll::Ready(Ok(false)) => {}
                    Poll::Ready(Ok(true)) => {
                        self.streams.pace.settle();
                        return self.over_time();
                    }
                    Poll::Ready(Err(error)) => {
                        tracing::debug!(peer = %self.conn.peer_ip, %error, "HTTP/2 connection broke");
                        return Poll::Ready(Ok(Ended::Cut));
                    }
                    Poll::Pending => return self.over_time(),
                },
            }
        }
    }

    fn obey(&mut self) {
        let idle = self.streams.open.get() == 0;
        match self.streams.live.order() {
            Order::Stop => self.leave(),
            Order::Leave => {
                self.leave();
                if !idle {
                    // Its streams, tunnels above all, have their own time.
                    self.streams.live.limit(0);
                }
            }
            Order::Idle if idle => self.leave(),
            Order::Idle if !self.asked => {
                let ask = |pings: &mut PingPong| pings.send_ping(Ping::opaque()).is_ok();
                self.asked = self.pings.as_mut().is_some_and(ask);
            }
            Order::Idle | Order::GoOn | Order::Cut => {}
        }
    }

    /// GOAWAY: no new streams, those there are may finish (RFC 9113 §6.8).
    fn leave(&mut self) {
        if !std::mem::replace(&mut self.leaving, true) {
            self.h2.graceful_shutdown();
        }
    }

    fn hear_pong(&mut self, cx: &mut Context<'_>) {
        if self.asked
            && let Some(pings) = &mut self.pings
            && pings.poll_pong(cx).is_ready()
        {
            // What was read has touched the entry already.
            self.asked = false;
        }
    }

    fn stop_flood(&mut self) {
        let Some(what) = self.streams.too_much.get().filter(|_| !self.cut) else { return };
        self.cut = true;
        self.conn.thread.shared.metrics.http2_floods.with_label_values(&[what.word()]).inc();
        say_full!("a client's HTTP/2 connection was closed: too many {} frames", what.word());
        self.h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
    }

    /// When requests were cut, a connection was spared for its tunnels only.
    fn over_time(&self) -> Poll<Result<Ended, h2::Error>> {
        let spared = self.streams.tunnels.get() > 0;
        if self.conn.thread.are_requests_cut() && !spared { Poll::Ready(Ok(Ended::Cut)) } else { Poll::Pending }
    }
}
