//! The answer to an upgrade: a 101 is checked (ARCHITECTURE.md, invariant 6), passed on, and the tunnel planned that
//! both sockets become. Left out: the bytes of the tunnel (`tunnel`).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::header;
use hyper::http::response::Parts;
use hyper::{Response, StatusCode, Version};
use tokio::io::AsyncReadExt;

use super::Job;
use super::access_log::Record;
use super::attempt;
use super::forward::set_cookie;
use super::headers;
use super::respond::{self, Problem};
use super::response_body::Reply;
use crate::affinity::Choice;
use crate::affinity::ask::RequestKind;
use crate::clock;
use crate::engine_io::PollFormat;
use crate::net::worker_io::WorkerIo;
use crate::sockets::{SocketKind, Tunnelled};
use crate::state::{admissions, mail_users};
use crate::tunnel::connected::Connected;
use crate::tunnel::gate::TunnelGate;
use crate::tunnel::socket_names::Names;
use crate::tunnel::{Opening, TunnelPlan, TunnelState};
use crate::upstream::connections::connect::{InUse, Lease};
use crate::upstream::eject::AttemptOutcome;
use crate::upstream::exchange::response_body::Unread;
use crate::websocket::upgrade;

/// Number of messages that an Engine.IO client sends to move its session from polling to a WebSocket: `2probe`, and `5`
/// after the worker's answer (docs/reference/protocols.md §1.3). Until then the session polls, and a tunnel that ends
/// was only a trial.
const TRIAL: u32 = 2;

/// Seconds that a tunnel may be silent in both directions if its session's own limit is unknown: one hour, as HAProxy
/// users configure it.
const SILENCE_UNKNOWN_S: u32 = 3_600;

/// A checked 101 and the bare socket to the worker, not yet a tunnel.
pub(crate) struct Granted {
    parts: Parts,
    io: WorkerIo,
    /// Bytes that the worker sent directly after the head of its response.
    first: Bytes,
    in_use: InUse,
}

impl Granted {
    /// Whether the worker ends the connection within `patience` without sending anything. Bytes that it sends are kept.
    pub(crate) async fn ends_within(&mut self, patience: Duration) -> bool {
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
pub(crate) async fn grant(
    job: &Job,
    choice: Choice,
    response: Box<Response<Unread>>,
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
pub(crate) async fn check(job: &Job, response: Box<Response<Unread>>, lease: Box<Lease>) -> Option<Granted> {
    let (parts, unread) = response.into_parts();
    let asked = job.ask.upgrade.as_ref().is_some_and(|accept| upgrade::grants(&parts.headers, accept));
    if parts.version != Version::HTTP_11 || !asked {
        attempt::came_to(job, lease.worker(), AttemptOutcome::Broken);
        return None;
    }
    attempt::came_to(job, lease.worker(), AttemptOutcome::of(parts.status.as_u16()));
    let (io, first, in_use) = lease.into_tunnel(unread);
    Some(Granted { parts, io, first, in_use })
}

/// Opens the tunnel: the client gets a 101 and its connection the tunnel; over HTTP/2, a 200 on the stream.
pub(crate) fn open(job: &Job, mut choice: Choice, granted: Granted, record: &mut Record) -> Response<Reply> {
    let Granted { mut parts, io, first, in_use } = granted;
    choice.worker.series.answered(StatusCode::SWITCHING_PROTOCOLS.as_u16());
    job.upstream.series().upgrades_granted.inc();
    record.became_tunnel();
    job.came_back(&choice);
    headers::to_client(&mut parts.headers, !job.conn.http2);
    set_cookie(job, &choice, &mut parts);
    let plan = Opening::Tunnel(TunnelPlan { io, first, terms: terms(job, &mut choice, in_use) });
    if job.conn.http2 {
        // Any 2xx opens the tunnel (RFC 8441 §5). stickyd generated the key, so the accept is of no use to the client.
        parts.status = StatusCode::OK;
        parts.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        return Response::from_parts(parts, Reply::tunnel(plan));
    }
    job.conn.upgrade_to(plan);
    Response::from_parts(parts, Reply::whole(Bytes::new()))
}

fn terms(job: &Job, choice: &mut Choice, in_use: InUse) -> Box<TunnelState> {
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
    // Before the user of the socket is known, whose messages are then looked for.
    let connected = connected(job, &socket);
    let gate = gate(job, &socket);
    let configured = job.upstream.config.tunnel_idle.map(clock::whole_seconds);
    Box::new(TunnelState {
        silence_s: configured.or(known).unwrap_or(SILENCE_UNKNOWN_S).max(1),
        learns: known.is_none() && job.ask.kind == RequestKind::Handshake,
        begun: Box::default(),
        learns_silence: configured.is_none(),
        trial,
        transport,
        socket,
        upstream: job.upstream.carried.clone(),
        bytes_up: 0,
        tunnel: choice.worker.tunnel(),
        in_use: Some(in_use),
        insert: None,
        hold,
        listed,
        gate,
        names: names(job),
        connected,
        _of_address: match job.conn.listener.trusts(job.client.address) {
            true => None,
            false => shared.caps.take_tunnel(job.client.address),
        },
    })
}

/// Learns which namespaces are connected, for upstreams that keep messages for clients that are away.
fn connected(job: &Job, socket: &Tunnelled) -> Option<Box<Connected>> {
    if job.upstream.config.offline_queue.is_none() || socket.kind() != SocketKind::EngineIo {
        return None;
    }
    let shared = &job.conn.thread.shared;
    let is_v3 = job.ask.engine.is_some_and(|engine| engine.format == PollFormat::Counted);
    if is_v3 && job.ask.kind != RequestKind::Handshake {
        // In protocol 3 the handshake, which was a poll, has connected `/`.
        shared.queues.connected(&socket.socket().mailbag_or_new(), "");
    }
    Some(Connected::new(shared, socket))
}

/// Applies to the socket what the client's certificate and the route's guard know of the client, and makes the gate of
/// a tunnel whose token comes in a packet.
fn gate(job: &Job, socket: &Tunnelled) -> Option<Box<TunnelGate>> {
    if let Some(certificate) = job.conn.certificate() {
        mail_users::of_certificate(&job.conn.thread.shared, certificate, socket.socket());
    }
    let watch = job.watch.as_ref()?;
    let shared = &job.conn.thread.shared;
    let person = job.person();
    admissions::settle(shared, watch, person.as_ref(), socket.socket());
    let reads_packets = watch.jwt.as_ref().is_some_and(|jwt| jwt.config.reads_packets());
    let person = person.filter(|_| reads_packets)?;
    Some(TunnelGate::new(shared, watch, person, &job.upstream.carried, socket.socket()))
}

/// Reads the ids of the session from the tunnel's first frames, where the upstream's ordinary requests `follow`
/// sockets.
fn names(job: &Job) -> Option<Box<Names>> {
    if job.upstream.config.follow.is_empty() {
        return None;
    }
    let key = match job.ask.kind {
        RequestKind::Session { key, .. } if job.ask.is_engine_io(&job.upstream) => Some(key),
        RequestKind::Handshake => None,
        RequestKind::Session { .. }
        | RequestKind::Ordinary
        | RequestKind::Birth
        | RequestKind::UnknownSid
        | RequestKind::Preflight(_) => return None,
    };
    let sessions = job.conn.thread.shared.sessions.clone();
    Some(Box::new(Names::new(sessions, job.upstream.clone(), job.client, key)))
}
