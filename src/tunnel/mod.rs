//! Upgraded connections: bytes pass in both directions, and their frames are only observed.
//!
//! After a checked 101 both sockets leave hyper and move into a small task of their own, [`relay`]. A tunnel holds its
//! worker, never the snapshot (ARCHITECTURE.md, invariant 9).

pub mod direction;
mod insert;
pub mod liveness;
pub mod relay;
pub mod socket_names;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hyper::header;
use hyper::http::response::Parts;
use hyper::{Response, StatusCode, Version};
use tokio::io::AsyncReadExt;

use crate::websocket::frames::{FirstText, Signal, first_text};
use crate::websocket::round_trip::{Half, RoundTrips};
use crate::websocket::upgrade;
use insert::Insert;

use crate::affinity::ask::Kind;
use crate::affinity::{Choice, Hold};
use crate::client_limits::TunnelOf;
use crate::clock;
use crate::config::Farewell;
use crate::engine_io::{self, Handshake};
use crate::metrics::UpstreamSeries;
use crate::net::worker_io::WorkerIo;
use crate::proxy::Job;
use crate::proxy::access_log::Record;
use crate::proxy::forward::set_cookie;
use crate::proxy::headers;
use crate::proxy::respond::{self, Problem};
use crate::proxy::response_body::Reply;
use crate::sockets::{self, Listed, Transport, Tunnelled};
use crate::upstream::Carried;
use crate::upstream::connections::connect::{InUse, Lease};
use crate::upstream::exchange::response_body::Unread;
use crate::upstream::worker::Count;
use socket_names::Names;

/// Number of messages that an Engine.IO client sends to move its session from polling to a WebSocket: `2probe`, and `5`
/// after the worker's answer (docs/reference/protocols.md §1.3). Until then the session polls, and a tunnel that ends
/// was only a trial.
const TRIAL: u32 = 2;

/// Seconds that a tunnel may be silent in both directions if its session's own limit is unknown: one hour, as HAProxy
/// users configure it.
const SILENCE_UNKNOWN_S: u32 = 3_600;

/// The worker's half of a tunnel, kept until hyper releases the client's half.
pub struct Plan {
    io: WorkerIo,
    /// Bytes that the worker sent directly after the head of its response.
    first: Bytes,
    terms: Box<Terms>,
}

/// The state with which a tunnel is opened, used only when it begins and ends. The guards in it are released with it.
struct Terms {
    /// Seconds of silence allowed in both directions.
    silence_s: u32,
    /// Whether the first message of a WebSocket-first Engine.IO session is still to be read; it has the sid and the
    /// ping settings.
    learns: bool,
    /// The incomplete first message so far, at most `FIRST_BYTES_MAX` bytes.
    begun: Box<[u8]>,
    /// Whether the session's own silence limit applies, because none is configured (`tunnel_idle`).
    learns_silence: bool,
    /// Messages that the client still has to send until its session has moved from polling to this tunnel.
    trial: u32,
    transport: Transport,
    started: Instant,
    socket: Tunnelled,
    upstream: Arc<Carried>,
    bytes_up: u64,
    bytes_down: u64,
    tunnel: Count,
    /// The worker's connection, counted as in use until the worker's leg ends.
    in_use: Option<InUse>,
    /// A Ping or a message of stickyd's for the client that waits for its place, or is being written.
    insert: Option<Box<Insert>>,
    hold: Option<Hold>,
    /// The tunnel's own entry on the list of sockets, if its session has no pin.
    listed: Option<Listed>,
    /// Learns Socket.IO ids from the first frames, if ordinary requests name them (`follow`).
    names: Option<Box<Names>>,
    _of_address: Option<TunnelOf>,
}

impl Terms {
    /// Passes the worker's first bytes to `names`, until it needs no more.
    fn name(&mut self, bytes: &[u8]) {
        if let Some(names) = &mut self.names
            && !names.look(bytes, &mut self.listed, &mut self.hold)
        {
            self.names = None;
        }
    }

    /// Reads the first message of a session once it is complete. A message that arrives in one piece is not copied, and
    /// no bytes are kept after it.
    fn learn(&mut self, bytes: &[u8]) -> Option<Handshake> {
        if !self.learns {
            return None;
        }
        let begun = std::mem::take(&mut self.begun);
        let all = if begun.is_empty() { Cow::Borrowed(bytes) } else { Cow::Owned([&begun, bytes].concat()) };
        match first_text(&all) {
            FirstText::Whole(text) => {
                self.learns = false;
                engine_io::websocket_open(&text)
            }
            FirstText::NeedMore => {
                self.begun = all.into();
                None
            }
            FirstText::No => {
                self.learns = false;
                None
            }
        }
    }

    /// The code and reason with which an operator has this tunnel closed, by itself or with its worker's drain; `None`
    /// if the operator has cancelled that.
    fn farewell(&self) -> Option<Farewell> {
        if self.socket.is_ordered() {
            return self.socket.ordered().map(|order| Farewell::clone(&order));
        }
        self.tunnel.worker().admin.ending().map(|ending| ending.farewell.clone())
    }

    /// Counts bytes and messages sent to the worker.
    fn went_up(&mut self, bytes: usize, messages: u32, now_s: u32) {
        self.bytes_up += bytes as u64;
        self.socket.up.moved(bytes as u64, messages, now_s);
        if self.trial > 0 {
            self.trial = self.trial.saturating_sub(messages);
            if self.trial == 0 {
                self.socket.upgraded(self.transport);
            }
        }
    }

    /// Counts bytes and messages sent to the client.
    fn went_down(&mut self, bytes: usize, messages: u32, now_s: u32) {
        self.bytes_down += bytes as u64;
        self.socket.down.moved(bytes as u64, messages, now_s);
    }
}

/// Handles a small frame that came over one half of the tunnel: notes a Close code, and measures a ping's round trip.
fn heed(socket: &sockets::Socket, series: &UpstreamSeries, from: Half, signal: Signal) {
    if !sockets::KEPT {
        return;
    }
    if let Signal::Close(code) = signal {
        let way = if from == Half::Client { &socket.up } else { &socket.down };
        // RFC 6455 §7.4.1 reserves 1005 for a Close without a code.
        way.close_said(code.unwrap_or(1005));
    } else if RoundTrips::is_about(signal, socket.kind() == sockets::Kind::EngineIo)
        && let Some((half, took)) = socket.pinged(from, signal, clock::now_tenths())
    {
        series.round_trip(half).observe(took.as_secs_f64());
    }
}

impl Drop for Terms {
    fn drop(&mut self) {
        let series = &self.upstream.series;
        series.tunnel_seconds.observe(self.started.elapsed().as_secs_f64());
        series.bytes_up.inc_by(self.bytes_up);
        series.bytes_down.inc_by(self.bytes_down);
    }
}

/// A checked 101 and the bare socket to the worker, not yet a tunnel.
pub struct Granted {
    parts: Parts,
    io: WorkerIo,
    /// Bytes that the worker sent directly after the head of its response.
    first: Bytes,
    in_use: InUse,
}

impl Granted {
    /// Whether the worker ends the connection within `patience` without sending anything. Bytes that it sends are kept.
    pub async fn ends_within(&mut self, patience: Duration) -> bool {
        if !self.first.is_empty() {
            return false;
        }
        let mut said = BytesMut::with_capacity(1024);
        match tokio::time::timeout(patience, self.io.read_buf(&mut said)).await {
            Ok(Ok(0) | Err(_)) => true,
            Ok(Ok(_)) => {
                self.first = said.freeze();
                false
            }
            Err(_) => false,
        }
    }
}

/// Checks a 101 and turns it into the client's. A 101 that was not requested, or is not valid, becomes a 502, and its
/// connection is closed.
pub async fn grant(
    job: &Job,
    choice: Choice,
    response: Response<Unread>,
    lease: Box<Lease>,
    record: &mut Record,
) -> Response<Reply> {
    match check(job, response, lease).await {
        Some(granted) => open(job, choice, granted, record),
        None => {
            choice.worker.series.broken.inc();
            respond::problem(Problem::BadGateway)
        }
    }
}

/// Whether this is the 101 that was requested (ARCHITECTURE.md, invariant 6); otherwise its connection is closed.
pub async fn check(job: &Job, response: Response<Unread>, lease: Box<Lease>) -> Option<Granted> {
    let (parts, unread) = response.into_parts();
    let asked = job.ask.upgrade.as_ref().is_some_and(|accept| upgrade::grants(&parts.headers, accept));
    if parts.version != Version::HTTP_11 || !asked {
        return None;
    }
    let (io, first, in_use) = lease.into_tunnel(unread);
    Some(Granted { parts, io, first, in_use })
}

/// Opens the tunnel: the client gets a 101 and its connection the tunnel; over HTTP/2, a 200 on the stream.
pub fn open(job: &Job, mut choice: Choice, granted: Granted, record: &mut Record) -> Response<Reply> {
    let Granted { mut parts, io, first, in_use } = granted;
    choice.worker.series.answered(StatusCode::SWITCHING_PROTOCOLS.as_u16());
    job.upstream.series().upgrades_granted.inc();
    record.became_tunnel();
    headers::to_client(&mut parts.headers, !job.conn.http2);
    set_cookie(job, &choice, &mut parts);
    let plan = Plan { io, first, terms: terms(job, &mut choice, in_use) };
    if job.conn.http2 {
        // Any 2xx opens the tunnel (RFC 8441 §5). stickyd generated the key, so the accept is of no use to the client.
        parts.status = StatusCode::OK;
        parts.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        return Response::from_parts(parts, Reply::tunnel(plan));
    }
    job.conn.upgrade_to(plan);
    Response::from_parts(parts, Reply::whole(Bytes::new()))
}

fn terms(job: &Job, choice: &mut Choice, in_use: InUse) -> Box<Terms> {
    let shared = &job.conn.thread.shared;
    let ends = job.ask.is_engine_io(&job.upstream);
    let (hold, socket) = choice.hold.take().map(|hold| hold.of_tunnel(ends)).unzip();
    let known = hold.as_ref().map(|hold| hold.ttl_s).filter(|seconds| *seconds > 0);
    let new = job.tunnel(&choice.worker, choice.seat.take());
    let transport = new.transport;
    let (socket, trial, listed) = match socket.flatten() {
        Some(socket) if ends => (socket, TRIAL, None),
        // In protocols other than Engine.IO, clients do not probe a WebSocket before they use it.
        Some(socket) => {
            socket.upgraded(transport);
            (socket, 0, None)
        }
        None => {
            let listed = shared.sessions.sockets.open(new);
            listed.socket().begins();
            (Tunnelled::new(listed.socket().clone()), 0, Some(listed))
        }
    };
    let configured = job.upstream.config.tunnel_idle.map(clock::whole_seconds);
    Box::new(Terms {
        silence_s: configured.or(known).unwrap_or(SILENCE_UNKNOWN_S).max(1),
        learns: known.is_none() && job.ask.kind == Kind::Handshake,
        begun: Box::default(),
        learns_silence: configured.is_none(),
        trial,
        transport,
        socket,
        started: Instant::now(),
        upstream: job.upstream.carried.clone(),
        bytes_up: 0,
        bytes_down: 0,
        tunnel: choice.worker.tunnel(),
        in_use: Some(in_use),
        insert: None,
        hold,
        listed,
        names: Names::of(job),
        _of_address: match job.conn.listener.trusts(job.client.address) {
            true => None,
            false => shared.caps.take_tunnel(job.client.address),
        },
    })
}
