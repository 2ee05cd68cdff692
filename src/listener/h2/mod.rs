//! HTTP/2 to clients (RFC 9113), chosen by ALPN: one connection, its streams, its limits, and its end.
//!
//! The h2 crate is driven directly, without hyper's layers on top: the stream of a tunnel is then a byte stream like
//! any socket ([`crate::net::h2_stream`]) instead of one more task and channel, and resets are visible. Each stream is
//! a task of its own that goes through `proxy::handle` as a request over HTTP/1 does. Nothing about a worker is
//! remembered here, so one connection can carry sessions of any number of workers (ARCHITECTURE.md, invariant 1).
//!
//! | file | content |
//! |---|---|
//! | `filter` | the client's frames, before the h2 crate reads them |
//! | `fields` | which fields a request may have |
//! | `frames` | frames as bytes |
//! | `uploads` | what the client may still send on each stream |
//! | `sent` | the frames that are sent to the client |
//! | `translate` | heads, to the form of HTTP/1.1 and back |
//! | `stream` | one request, its response, its tunnel |
//! | `streams` | what a connection shares with its streams |
//! | `body` | the body of a request |
//! | `meter` | detection of floods |
//! | `send` | the body of a response |
//! | `inflow` | whose request bodies fill the connection's window |
//! | `pace` | a limit on what all streams have on its way to the socket |
//! | `socket` | reads and writes, in as few pieces as possible |
//!
//! Not supported: server push (no browser accepts it any more), priorities (read and ignored), h2 without TLS.

pub(crate) mod body;
mod fields;
mod filter;
mod frames;
#[cfg(feature = "testing")]
pub(crate) mod fuzzing;
mod inflow;
mod meter;
mod pace;
mod send;
mod sent;
mod socket;
mod stream;
mod streams;
mod translate;
mod uploads;
mod written_targets;

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::{Builder, Connection};
use h2::{Ping, PingPong, Reason};

use self::filter::FilterLimits;
pub(crate) use self::inflow::Inflow;
use self::pace::WriteGate;
use self::socket::H2Socket;
pub(crate) use self::streams::{OpenStream, Streams};
use super::conn::Conn;
use super::linger;
use crate::client_limits::StreamCount;
use crate::net::client_io::ClientIo;
use crate::net::held::UnsentBytes;
use crate::telemetry::say_full;
use crate::thread::{Registered, ThreadOrder};

/// Receive window of one stream: bytes that a client may send before the worker has taken any. The same as nginx's
/// preread, and the initial window of RFC 9113, so that no SETTINGS takes back what a client has already sent.
const STREAM_WINDOW: u32 = 65_535;

/// Receive window of a connection: bytes for all of its streams together. Larger than one stream's, because streams of
/// a worker that does not read must not hold up those of other workers.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Maximum bytes of a response that wait for the client on one stream.
const SEND_BUFFER: usize = 64 * 1024;

/// Maximum frame size in bytes, the least that RFC 9113 allows: a larger frame only makes other streams wait longer.
const FRAME: u32 = 16_384;

/// Maximum number of streams that are reset before they were accepted. A client that exceeds it is not a browser (rapid
/// reset).
const RESET_UNSEEN: usize = 20;

/// Seconds of silence, while streams are open, after which we send the client a PING. It has 15 s more to answer before
/// the thread's tick cuts the connection; with the ticks' delays 30 s in total (docs/reference/threats.md §2.6). The
/// kernel of the client is probed, too; the PING finds a client that has died while its kernel, or a balancer in front,
/// still answers.
const ASK_AFTER_S: u32 = 13;

/// Maximum bytes of a client that are read and dropped after our goodbye: what its windows allow it to have sent, and
/// as much again for everything else in frames.
const BYTES_AFTER_GOAWAY: u64 = 2 * CONNECTION_WINDOW as u64;

/// How a connection ended on which the client violated no rule.
#[derive(PartialEq, Eq)]
enum ConnectionEnd {
    /// The connection was closed properly, including the goodbye.
    Whole,
    /// The connection was cut before its proper end.
    Cut,
}

/// An HTTP/2 connection, polled by one task.
struct Serving {
    conn: Rc<Conn>,
    streams: Rc<Streams>,
    h2: Connection<H2Socket, Bytes>,
    socket: H2Socket,
    pings: Option<PingPong>,
    /// Whether a PING of ours waits for its answer.
    asked: bool,
    /// Whether GOAWAY is on its way; streams that are open may finish.
    leaving: bool,
    /// Whether the client flooded us: the connection ends as soon as its last GOAWAY is written.
    cut: bool,
}

/// Serves an HTTP/2 connection until it ends.
pub(crate) async fn serve(conn: Rc<Conn>, live: Registered, io: ClientIo) {
    let (held, inflow) = (Rc::<UnsentBytes>::default(), Rc::<Inflow>::default());
    let _ = (conn.inflow.set(inflow.clone()), conn.held.set(held.clone()));
    let streams = Rc::new(Streams {
        live,
        open: Cell::new(0),
        requests: Cell::new(0),
        tunnels: Cell::new(0),
        too_much: Cell::new(None),
        fault: Cell::new(None),
        inflow,
        pace: WriteGate::default(),
        held,
        counted: StreamCount::new(&conn.thread.shared.caps, conn.peer_ip, conn.trusted),
    });
    let (head_bytes, most) = (conn.thread.limits().head_bytes, conn.thread.limits().http2_streams);
    let socket = H2Socket::new(io, streams.clone(), FilterLimits { head_bytes, streams: most });
    let handshake = builder(&conn).handshake(socket.clone());
    // So far there is only the client's preface: any order ends the connection, since nothing has to be finished.
    let told = poll_fn(|cx| {
        streams.live.watch(cx.waker());
        if streams.live.order() == ThreadOrder::GoOn { Poll::Pending } else { Poll::Ready(()) }
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
    // h2 is dropped, and has sent its goodbye, unless the connection is broken. Bytes of the client may still be on
    // their way.
    let said = ended.as_ref().map_or_else(|error| !error.is_io(), |ended| *ended == ConnectionEnd::Whole);
    if said && let Some(io) = socket.into_open() {
        conn.thread.tasks.spawn_local(async move { linger::linger(io, &streams.live, BYTES_AFTER_GOAWAY).await });
    }
    if let Err(error) = ended {
        tracing::debug!(peer = %conn.peer_ip, %error, "HTTP/2 connection ended");
        if !error.is_io() {
            conn.thread.shared.metrics.clients.errors.with_label_values(&["http2"]).inc();
        }
    }
}

/// Returns h2's settings. Every limit is set explicitly, because a default may change with a version.
fn builder(conn: &Conn) -> Builder {
    let (mut builder, limits) = (Builder::new(), conn.thread.limits());
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        // Announced to the client; the filter enforces it from the beginning.
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(limits.http2_streams)
        .max_pending_accept_reset_streams(RESET_UNSEEN)
        // The meter counts resets that a client's mistakes force us to send: h2 does so for a whole connection's life.
        .max_local_error_reset_streams(None)
        // As many as one burst of frames may have: h2 ends the connection for frames on streams that it has forgotten.
        .max_concurrent_reset_streams(filter::BURST as usize)
        // The filter limits small frames for each stream: beyond its budget, h2 would end the connection.
        .data_frame_budget(usize::MAX)
        .max_send_buffer_size(SEND_BUFFER);
    if conn.listener.websocket_over_http2() {
        builder.enable_connect_protocol();
    }
    builder
}

impl Serving {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<ConnectionEnd, h2::Error>> {
        loop {
            self.streams.live.watch(cx.waker());
            if self.streams.live.order() == ThreadOrder::Cut {
                return Poll::Ready(Ok(ConnectionEnd::Cut));
            }
            self.obey();
            self.hear_pong(cx);
            self.stop_flood();
            self.stop_fault();
            match self.h2.poll_accept(cx) {
                Poll::Ready(Some(Ok((mut request, respond)))) => {
                    let open = self.streams.open();
                    let too_large = self.streams.inflow.uploads.take_too_large(|| respond.stream_id().as_u32());
                    if let Some(written) = self.streams.inflow.targets.take(|| respond.stream_id().as_u32())
                        && request.uri().path_and_query().is_some_and(|target| written.is_of(target.as_str()))
                    {
                        request.extensions_mut().insert(written);
                    }
                    // Boxed before it is moved into its task: the future is as large as that of a request, and would
                    // otherwise be moved three times.
                    let stream = Box::pin(stream::serve(self.conn.clone(), open, request, respond, too_large));
                    self.conn.thread.tasks.spawn_local(stream);
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(ConnectionEnd::Whole)),
                Poll::Pending if self.streams.is_over() && !self.cut => {}
                Poll::Pending => match self.socket.poll_send(cx) {
                    // h2 waits for the socket, which has become writable in the meantime.
                    Poll::Ready(Ok(false)) => {}
                    Poll::Ready(Ok(true)) => {
                        self.streams.pace.settle();
                        self.streams.held.all_heads_written();
                        return self.over_time();
                    }
                    Poll::Ready(Err(error)) => {
                        tracing::debug!(peer = %self.conn.peer_ip, %error, "HTTP/2 connection failed");
                        return Poll::Ready(Ok(ConnectionEnd::Cut));
                    }
                    Poll::Pending => return self.over_time(),
                },
            }
        }
    }

    fn obey(&mut self) {
        let idle = self.streams.open.get() == 0;
        match self.streams.live.order() {
            ThreadOrder::Stop => self.leave(),
            ThreadOrder::Leave => {
                self.leave();
                if !idle {
                    // Its streams, above all tunnels, have time limits of their own.
                    self.streams.live.limit(0);
                }
            }
            ThreadOrder::Idle if idle => self.leave(),
            ThreadOrder::Idle if !self.asked => {
                let ask = |pings: &mut PingPong| pings.send_ping(Ping::opaque()).is_ok();
                self.asked = self.pings.as_mut().is_some_and(ask);
            }
            ThreadOrder::Idle | ThreadOrder::GoOn | ThreadOrder::Cut => {}
        }
    }

    /// Sends GOAWAY: no new streams are accepted, open ones may finish (RFC 9113 §6.8).
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
            // Reading the answer has already restarted the idle timer.
            self.asked = false;
        }
    }

    fn stop_flood(&mut self) {
        let Some(what) = self.streams.too_much.get().filter(|_| !self.cut) else { return };
        self.cut = true;
        self.conn.thread.shared.metrics.http2.floods.with_label_values(&[what.word()]).inc();
        say_full!(flood = what.word(), "HTTP/2 connection closed: the client flooded it with frames");
        self.h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
    }

    fn stop_fault(&mut self) {
        let Some(fault) = self.streams.fault.get().filter(|_| !self.cut) else { return };
        self.cut = true;
        tracing::debug!(peer = %self.conn.peer_ip, ?fault, "HTTP/2 connection closed: the protocol was violated");
        self.conn.thread.shared.metrics.clients.errors.with_label_values(&["http2"]).inc();
        self.h2.abrupt_shutdown(fault.reason());
    }

    /// Ends the connection if requests were cut at a stop and no tunnel is left: it was spared only for its tunnels.
    fn over_time(&self) -> Poll<Result<ConnectionEnd, h2::Error>> {
        let spared = self.streams.tunnels.get() > 0;
        if self.conn.thread.are_requests_cut() && !spared { Poll::Ready(Ok(ConnectionEnd::Cut)) } else { Poll::Pending }
    }
}
