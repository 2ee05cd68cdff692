//! What an HTTP/2 connection shares with its streams, and the count of those that are open.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::ASK_AFTER_S;
use super::filter::H2Fault;
use super::inflow::{Holding, Inflow};
use super::meter::{Heard, TooMuch};
use super::pace::WriteGate;
use crate::client_limits::StreamCount;
use crate::metrics::LimitLabel;
use crate::net::h2_stream::StreamCarrier;
use crate::net::held::UnsentBytes;
use crate::thread::Registered;

/// State that a connection shares with its streams.
pub(crate) struct Streams {
    pub(super) live: Registered,
    /// Number of streams that are open.
    pub(super) open: Cell<u32>,
    /// Number of streams opened so far.
    pub(super) requests: Cell<u32>,
    /// Number of open streams that are tunnels.
    pub(super) tunnels: Cell<u32>,
    /// The limit that the meter last reported as exceeded.
    pub(super) too_much: Cell<Option<TooMuch>>,
    /// The error for which the filter ends the connection.
    pub(super) fault: Cell<Option<H2Fault>>,
    pub(super) inflow: Rc<Inflow>,
    pub(super) pace: WriteGate,
    /// Counts response bytes that were read from workers and not handed over to h2 yet.
    pub(super) held: Rc<UnsentBytes>,
    pub(super) counted: StreamCount,
}

impl Streams {
    pub(super) fn open(self: &Rc<Self>) -> OpenStream {
        let thread = self.live.thread();
        self.open.set(self.open.get() + 1);
        self.live.begin(thread.is_stopping());
        self.live.limit(ASK_AFTER_S);
        self.live.touch();
        let metrics = &thread.shared.metrics;
        metrics.http2.streams.inc();
        metrics.http2.opened.inc();
        self.requests.set(self.requests.get().saturating_add(1));
        if self.requests.get() >= thread.limits().requests_per_connection && self.live.leave_after_this() {
            metrics.limits.reached(LimitLabel::RequestsPerConnection);
        }
        OpenStream { streams: self.clone(), admitted: self.counted.try_grow_to(self.open.get()), holding: None }
    }

    /// Handles what the meter found in bytes from the client.
    pub(super) fn heard(&self, Heard { resets, window, too_much }: Heard) {
        self.pace.opened(window);
        if self.open.get() > 0 {
            self.live.touch();
        }
        if resets > 0 {
            self.live.thread().shared.metrics.http2.resets.inc_by(u64::from(resets));
        }
        self.exceeds(too_much);
    }

    /// Notes a limit that the client has exceeded.
    pub(super) fn exceeds(&self, too_much: Option<TooMuch>) {
        if too_much.is_some() {
            self.too_much.set(too_much);
        }
    }

    /// Notes requests that were reset because their heads were malformed; `why` is the reason of the last one.
    pub(super) fn malformed(&self, count: u32, why: &'static str) {
        tracing::debug!(count, reason = why, "malformed HTTP/2 request was reset");
        self.live.thread().shared.metrics.http2.malformed.inc_by(u64::from(count));
    }

    /// Returns whether nothing more is read from the client.
    pub(super) fn is_over(&self) -> bool {
        self.too_much.get().is_some() || self.fault.get().is_some()
    }
}

/// An open stream; it counts as closed when this is dropped.
pub(crate) struct OpenStream {
    pub(super) streams: Rc<Streams>,
    /// Whether the client's address may have this many streams.
    pub(super) admitted: bool,
    /// Entry in the connection's receive window; only for a tunnel.
    pub(super) holding: Option<Holding>,
}

impl OpenStream {
    /// Marks the stream as a tunnel. At a stop, the connection that carries it then has as much time to end as a
    /// tunnel.
    pub(super) fn becomes_tunnel(mut self, holding: Holding) -> Self {
        self.holding = Some(holding);
        let tunnels = &self.streams.tunnels;
        tunnels.set(tunnels.get() + 1);
        self.streams.live.carries_tunnels(true);
        self
    }
}

impl StreamCarrier for OpenStream {
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

    fn took(&self, bytes: usize) {
        if let Some(holding) = &self.holding {
            holding.took(bytes);
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let Streams { live, open, tunnels, counted, .. } = &*self.streams;
        live.thread().shared.metrics.http2.streams.dec();
        open.set(open.get().saturating_sub(1));
        counted.shrink_to(open.get());
        if open.get() == 0 {
            live.touch();
            live.start_idle_timer(live.thread().idle_s());
        }
        if self.holding.is_some() {
            tunnels.set(tunnels.get().saturating_sub(1));
            live.carries_tunnels(tunnels.get() > 0);
        }
    }
}
