//! How a tunnel ends: which side is recorded as the cause, stickyd's own Close, and how long the peers are waited for.
//!
//! stickyd sends a Close of its own with 1001 if it stops or the tunnel was silent for too long, with 1012 if the
//! worker's leg ended without a Close, and with the configured farewell during a drain. Such a frame is inserted only
//! where the observer knows a boundary. A deadline bounds every wait for a peer.

use std::io::ErrorKind;
use std::task::Context;
use std::time::Duration;

use bytes::Bytes;

use super::Relay;
use crate::sockets::EndReason;
use crate::thread::ThreadOrder;
use crate::tunnel::direction::Sink;
use crate::websocket::frames::{CloseCode, close_frame};

/// Time limit for what is awaited at the end of a tunnel: the client's echo of stickyd's Close, the worker's answer to
/// it, or a peer's own FIN (ARCHITECTURE.md, invariant 5).
pub(super) const ECHO: Duration = Duration::from_secs(5);

impl Relay {
    /// Notes why the client's connection broke. A time-out means that the client's kernel was silent; with any other
    /// error, a peer ended the connection.
    pub(super) fn client_broke(&self, how: ErrorKind) {
        self.terms.socket.set_end_reason(if how == ErrorKind::TimedOut {
            EndReason::Dead
        } else {
            EndReason::ClientGone
        });
    }

    /// Notes that `side` has sent a Close; the first reason noted is kept.
    pub(super) fn parts(&self, side: EndReason) {
        self.terms.socket.set_end_reason(side);
        self.terms.socket.parts();
    }

    /// Ends the tunnel if a packet was refused: nothing more goes to the worker, and the client is told why. Returns
    /// whether it has just done so.
    pub(super) fn refuse(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.terms.gate.as_mut().is_some_and(|gate| gate.take_refusal(cx)) {
            return false;
        }
        self.terms.socket.set_end_reason(EndReason::Guard);
        self.terms.socket.parts();
        self.up.rest = Bytes::new();
        self.up.finish();
        if let Some((code, _)) = self.terms.gate.as_ref().and_then(|gate| gate.refusal()) {
            self.close(code);
        }
        self.wait_at_most(ECHO);
        true
    }

    /// Requests a Close from stickyd at the next boundary. If the worker has sent a Close, or its leg has ended, the
    /// tunnel is ending already.
    pub(super) fn close(&mut self, code: CloseCode) {
        if self.down.sink == Sink::Open && !self.down.source_ended && !self.down.observer.close_seen() {
            self.wanted = Some(code);
            self.terms.insert.take_if(|insert| insert.waits());
        }
    }

    /// Whether the vigil has given up the client, nothing has been read from it meanwhile, and none of its bytes wait
    /// for the worker.
    pub(super) fn is_dead(&self, bytes_up: u64) -> bool {
        let socket = &self.terms.socket;
        if !socket.is_called() || !socket.take_given_up() {
            return false;
        }
        let lives = self.terms.bytes_up != bytes_up || !self.up.rest.is_empty();
        if lives {
            socket.lives();
        } else {
            socket.set_end_reason(EndReason::Dead);
        }
        !lives
    }

    /// Queues stickyd's Close; called at a boundary of the worker's frames.
    pub(super) fn say_close(&mut self) {
        if !self.is_websocket() {
            return;
        }
        // The frame that just ended may have been the worker's own Close, which nothing may follow.
        if let Some(code) = self.wanted.take()
            && !self.down.observer.close_seen()
        {
            let gate = self.terms.gate.as_ref();
            // Between two frames of a message, no other message may stand (RFC 6455 §5.4).
            let gate_told = gate.filter(|_| self.down.observer.at_message_boundary()).map(|gate| gate.told());
            let refusal = gate.and_then(|gate| gate.refusal());
            let told = self.live.is_closing() || self.terms.socket.is_ordered();
            let farewell = if told { self.terms.farewell() } else { None };
            let reason = farewell.as_ref().map_or("", |farewell| &farewell.reason);
            let (code, reason) = refusal.unwrap_or((code, reason));
            self.down.rest = [&*gate_told.unwrap_or_default(), close_frame(code, reason).as_ref()].concat().into();
            self.down.sink = Sink::Muted;
        }
    }

    /// Ends the worker's leg. If it had sent no Close, the client gets 1012 (docs/reference/routing.md §8): a bare end
    /// reads as 1006, which looks like a broken network. Connections that do not carry WebSocket frames keep their
    /// half-close.
    pub(super) fn worker_left(&mut self) {
        self.forget_connection();
        self.terms.socket.set_end_reason(EndReason::WorkerGone);
        if self.down.sink == Sink::Open && self.down.observer.at_frame_boundary() {
            self.wanted = Some(CloseCode::SERVICE_RESTART);
            self.say_close();
        }
        self.wanted = None;
        if self.down.sink == Sink::Open {
            self.down.finish();
        }
        if self.is_websocket() || self.up.sink == Sink::Gone {
            self.wait_at_most(ECHO);
        }
    }

    /// Stops counting the worker's connection, however long the client's leg takes to end. It counts as lost if nothing
    /// had called for its end: no side had sent a Close or left, and stickyd had not closed the tunnel.
    pub(super) fn forget_connection(&mut self) {
        let called_for = self.down.sink != Sink::Open
            || self.up.source_ended
            || self.up.observer.close_seen()
            || self.down.observer.close_seen();
        match self.terms.in_use.take() {
            Some(connection) if !called_for => connection.lost(),
            _ => {}
        }
    }

    /// Applies what follows from the state of both directions. Returns whether anything changed. It runs before each
    /// turn, so that both directions see the change.
    pub(super) fn settle(&mut self) -> bool {
        let leaving = self.down.sink == Sink::Muted || (self.down.source_ended && self.is_websocket());
        // A Close went to the client, and one came from it: then the server closes first (RFC 6455 §7.1.1).
        let said_all = self.up.has_said_all() || self.terms.gate.as_ref().is_some_and(|gate| gate.has_closed());
        let parted = leaving && said_all;
        // There will not be another boundary.
        let hopeless = self.wanted.is_some() && !self.is_websocket();
        self.up.source_ended |= parted;
        if hopeless {
            self.wanted = None;
        }
        if parted || hopeless {
            self.up.finish();
            self.down.finish();
        }
        parted || hopeless
    }

    /// Sets a deadline for the end of the tunnel. While stickyd stops, the thread's own deadline applies instead, and
    /// counts the tunnels that it had to cut.
    pub(super) fn wait_at_most(&mut self, time: Duration) {
        if self.live.order() == ThreadOrder::Stop {
            return;
        }
        self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
    }
}
