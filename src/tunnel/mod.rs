//! Upgraded connections: bytes both ways, frames only observed.
//!
//! After a checked 101 both sockets leave hyper and move into a small task of their own, [`relay`]. A tunnel holds its
//! worker, never the snapshot (invariant 9).

pub mod frames;
mod insert;
pub mod names;
pub mod relay;
pub mod round_trip;
pub mod stream;
pub mod upgrade;
mod way;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hyper::header;
use hyper::http::response::Parts;
use hyper::{Response, StatusCode, Version};
use tokio::io::AsyncReadExt;

use frames::{FirstText, Signal, first_text};
use insert::Insert;
use round_trip::{Half, RoundTrips};

use crate::affinity::session::{self, Handshake};
use crate::affinity::{Choice, Hold};
use crate::clock;
use crate::config::Farewell;
use crate::listener::{TunnelOf, tunnel_of};
use crate::metrics::UpstreamSeries;
use crate::proxy::Job;
use crate::proxy::ask::Kind;
use crate::proxy::body::Reply;
use crate::proxy::forward::set_cookie;
use crate::proxy::headers;
use crate::proxy::record::Record;
use crate::proxy::respond::{self, Problem};
use crate::sockets::{self, Listed, Transport, Tunnelled};
use crate::upstream::Carried;
use crate::upstream::connect::{InUse, Lease};
use crate::upstream::io::WorkerIo;
use crate::upstream::unread::Unread;
use crate::upstream::worker::Count;
use names::Names;

/// Engine.IO's way from polling to a WebSocket: the client's `2probe`, and after the worker's answer its `5` (protocols
/// §1.3). Until then the session polls, and a tunnel that ends was only a try.
const TRIAL: u32 = 2;

/// Seconds a tunnel may be silent both ways when nothing is known of its session: an hour, as HAProxy users set it.
const SILENCE_UNKNOWN_S: u32 = 3_600;

/// The worker's half of a tunnel, waiting for hyper to let go of the client's.
pub struct Plan {
    io: WorkerIo,
    /// What the worker sent right behind its answer's head.
    first: Bytes,
    terms: Box<Terms>,
}

/// What a tunnel was opened with, touched only at its ends. The guards end with it.
struct Terms {
    /// Seconds of silence allowed.
    silence_s: u32,
    /// A WebSocket-first Engine.IO session tells its name and its ping numbers in its first message.
    learns: bool,
    /// What has come of that message, while it is not whole: `FIRST_BYTES_MAX` bytes at most.
    begun: Box<[u8]>,
    /// Nobody has configured another silence than the session's own.
    learns_silence: bool,
    /// Messages its client still has to send until the session has moved here from polling.
    trial: u32,
    transport: Transport,
    started: Instant,
    socket: Tunnelled,
    upstream: Arc<Carried>,
    bytes_up: u64,
    bytes_down: u64,
    tunnel: Count,
    /// Until the worker's leg has ended.
    in_use: Option<InUse>,
    /// Something of ours for the client that waits for its place, or is on its way.
    insert: Option<Box<Insert>>,
    hold: Option<Hold>,
    /// Of a session without a pin.
    listed: Option<Listed>,
    /// Where ordinary requests follow sockets.
    names: Option<Box<Names>>,
    _of_address: Option<TunnelOf>,
}

impl Terms {
    /// Looks at what the worker says first.
    fn name(&mut self, bytes: &[u8]) {
        if let Some(names) = &mut self.names
            && !names.look(bytes, &mut self.listed, &mut self.hold)
        {
            self.names = None;
        }
    }

    /// What a session's first message tells, once it is whole. Nothing is kept where it comes in one piece, nor behind it.
    fn learn(&mut self, bytes: &[u8]) -> Option<Handshake> {
        if !self.learns {
            return None;
        }
        let begun = std::mem::take(&mut self.begun);
        let all = if begun.is_empty() { Cow::Borrowed(bytes) } else { Cow::Owned([&begun, bytes].concat()) };
        match first_text(&all) {
            FirstText::Whole(text) => {
                self.learns = false;
                session::websocket_open(&text)
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

    /// What an operator has this tunnel told, by itself or with its worker's drain; `None` when he has called it off.
    fn farewell(&self) -> Option<Farewell> {
        if self.socket.is_ordered() {
            return self.socket.ordered().map(|order| Farewell::clone(&order));
        }
        self.tunnel.worker().admin.ending().map(|ending| ending.farewell.clone())
    }

    /// Bytes went to the worker.
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

    /// Bytes went to the client.
    fn went_down(&mut self, bytes: usize, messages: u32, now_s: u32) {
        self.bytes_down += bytes as u64;
        self.socket.down.moved(bytes as u64, messages, now_s);
    }
}

/// What a small frame said, and over which half it came.
fn heed(socket: &sockets::Socket, series: &UpstreamSeries, from: Half, signal: Signal) {
    if !sockets::KEPT {
        return;
    }
    if let Signal::Close(code) = signal {
        let way = if from == Half::Client { &socket.up } else { &socket.down };
        // As RFC 6455 §7.4.1 calls a Close without one.
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

/// A checked 101: the bare socket behind it, not yet a tunnel.
pub struct Granted {
    parts: Parts,
    io: WorkerIo,
    /// What the worker sent right behind its answer's head.
    first: Bytes,
    in_use: InUse,
}

impl Granted {
    /// Whether the worker ends the connection within `patience` and before it says anything; what it says is kept.
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

/// Checks a 101 and turns it into the client's. An unasked or wrong one is rubbish: 502, and its connection is closed.
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

/// Whether this is the 101 that was asked for (invariant 6); otherwise its connection is closed.
pub async fn check(job: &Job, response: Response<Unread>, lease: Box<Lease>) -> Option<Granted> {
    let (parts, unread) = response.into_parts();
    let asked = job.ask.upgrade.as_ref().is_some_and(|accept| upgrade::grants(&parts.headers, accept));
    if parts.version != Version::HTTP_11 || !asked {
        return None;
    }
    let (io, first, in_use) = lease.into_tunnel(unread);
    Some(Granted { parts, io, first, in_use })
}

/// Gives the client its 101, and the connection its tunnel; over HTTP/2 a 200, and the stream.
pub fn open(job: &Job, mut choice: Choice, granted: Granted, record: &mut Record) -> Response<Reply> {
    let Granted { mut parts, io, first, in_use } = granted;
    choice.worker.series.answered(StatusCode::SWITCHING_PROTOCOLS.as_u16());
    job.upstream.series().upgrades_granted.inc();
    record.became_tunnel();
    headers::to_client(&mut parts.headers, !job.conn.http2);
    set_cookie(job, &choice, &mut parts);
    let plan = Plan { io, first, terms: terms(job, &mut choice, in_use) };
    if job.conn.http2 {
        // Opened by any 2xx (RFC 8441 §5); the key, and so the accept, were ours.
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
        // Of other protocols nobody tries one first.
        Some(socket) => {
            socket.upgraded(transport);
            (socket, 0, None)
        }
        None => {
            let listed = shared.sockets.open(new);
            listed.socket().begins();
            (Tunnelled::new(listed.socket().clone()), 0, Some(listed))
        }
    };
    let configured = job.upstream.config.tunnel_idle.map(whole_seconds);
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
            false => tunnel_of(shared, job.client.address),
        },
    })
}

/// Rounded up: a limit of silence must never be shorter than what the session was told.
pub fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX)
}
