//! Upgraded connections: bytes pass in both directions, and their frames are only observed.
//!
//! After a checked 101 both sockets leave hyper and move into a small task of their own, [`relay`]. A tunnel holds its
//! worker, never the snapshot (ARCHITECTURE.md, invariant 9).

pub(crate) mod connected;
pub(crate) mod direction;
pub(crate) mod gate;
mod insert;
pub(crate) mod liveness;
pub(crate) mod relay;
pub(crate) mod socket_names;
pub(crate) mod told;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use crate::websocket::frames::{FirstText, Signal, first_text};
use crate::websocket::round_trip::{Half, RoundTrips};
use connected::Connected;
use gate::TunnelGate;
use insert::Insert;
use relay::Relay;
use told::RefusalPlan;

use crate::affinity::SessionHold;
use crate::client_limits::TunnelCount;
use crate::clock::{self, Seconds};
use crate::config::CloseNotice;
use crate::engine_io::{self, Handshake};
use crate::metrics::{SocketCarrier, UpstreamSeries, Way};
use crate::net::client_io::ClientIo;
use crate::net::worker_io::WorkerIo;
use crate::sockets::{self, Listed, Transport, Tunnelled};
use crate::thread::Registered;
use crate::upstream::UpstreamMemory;
use crate::upstream::connections::connect::InUse;
use crate::upstream::worker::Count;
use socket_names::Names;

/// What a client's connection becomes after an upgrade.
pub(crate) enum Opening {
    /// A tunnel to a worker.
    Tunnel(TunnelPlan),
    /// A WebSocket that only tells the client why it is refused.
    Refusal(Box<RefusalPlan>),
}

impl Opening {
    /// Begins it, in a task of its own. `early` are the bytes that the client sent after its request.
    pub(crate) fn begin(self, io: ClientIo, early: Bytes, live: Registered) {
        let thread = live.thread().clone();
        match self {
            Self::Tunnel(plan) => thread.tasks.spawn_local(Relay::new(io, early, plan, live)),
            Self::Refusal(plan) => thread.tasks.spawn_local(told::run(io, early, *plan, live)),
        };
    }
}

/// The worker's half of a tunnel, kept until hyper releases the client's half.
pub(crate) struct TunnelPlan {
    pub(crate) io: WorkerIo,
    /// Bytes that the worker sent directly after the head of its response.
    pub(crate) first: Bytes,
    pub(crate) terms: Box<TunnelState>,
}

/// The state with which a tunnel is opened, used only when it begins and ends. The guards in it are released with it.
pub(crate) struct TunnelState {
    /// Seconds of silence allowed in both directions.
    pub(crate) silence_s: u32,
    /// Whether the first message of a WebSocket-first Engine.IO session is still to be read; it has the sid and the
    /// ping settings.
    pub(crate) learns: bool,
    /// The incomplete first message so far, at most `FIRST_BYTES_MAX` bytes.
    pub(crate) begun: Box<[u8]>,
    /// Whether the session's own silence limit applies, because none is configured (`tunnel_idle`).
    pub(crate) learns_silence: bool,
    /// Messages that the client still has to send until its session has moved from polling to this tunnel.
    pub(crate) trial: u32,
    pub(crate) transport: Transport,
    pub(crate) socket: Tunnelled,
    pub(crate) upstream: Arc<UpstreamMemory>,
    /// Bytes sent to the worker so far.
    pub(crate) bytes_up: u64,
    pub(crate) tunnel: Count,
    /// The worker's connection, counted as in use until the worker's leg ends.
    pub(crate) in_use: Option<InUse>,
    /// A Ping or a message of stickyd's for the client that waits for its place, or is being written.
    pub(crate) insert: Option<Box<Insert>>,
    pub(crate) hold: Option<SessionHold>,
    /// The tunnel's own entry on the list of sockets, if its session has no pin.
    pub(crate) listed: Option<Listed>,
    /// Judges what the client sends, if its token comes in a packet.
    pub(crate) gate: Option<Box<TunnelGate>>,
    /// Learns Socket.IO ids from the first frames, if ordinary requests name them (`follow`).
    pub(crate) names: Option<Box<Names>>,
    /// Learns which namespaces are connected, if messages are kept for clients that are away (`offline_queue`).
    pub(crate) connected: Option<Box<Connected>>,
    pub(crate) _of_address: Option<TunnelCount>,
}

impl TunnelState {
    /// Passes the worker's bytes to what learns from them; `names` needs only the first.
    fn name(&mut self, bytes: &[u8]) {
        if let Some(connected) = &mut self.connected {
            connected.look(bytes);
        }
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
    fn farewell(&self) -> Option<CloseNotice> {
        if self.socket.is_ordered() {
            return self.socket.ordered().map(|order| CloseNotice::clone(&order));
        }
        self.tunnel.worker().admin.ending().map(|ending| ending.farewell.clone())
    }

    /// Counts bytes and messages sent to the worker.
    fn went_up(&mut self, bytes: usize, messages: u32, now_s: Seconds) {
        self.bytes_up += bytes as u64;
        self.socket.moved(Way::Up, SocketCarrier::Tunnel, (bytes as u64, messages), now_s);
        if self.trial > 0 {
            self.trial = self.trial.saturating_sub(messages);
            if self.trial == 0 {
                self.socket.upgraded(self.transport);
            }
        }
    }

    /// Counts bytes and messages sent to the client.
    fn went_down(&self, bytes: usize, messages: u32, now_s: Seconds) {
        self.socket.moved(Way::Down, SocketCarrier::Tunnel, (bytes as u64, messages), now_s);
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
    } else if RoundTrips::is_about(signal, socket.kind() == sockets::SocketKind::EngineIo)
        && let Some((half, took)) = socket.pinged(from, signal, clock::now_tenths())
    {
        series.round_trip(half).observe(took.as_secs_f64());
    }
}
