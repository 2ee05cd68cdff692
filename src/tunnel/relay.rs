//! The relay task of a tunnel: two sockets, two observers, and no buffer of its own.
//!
//! Each direction reads into the thread's shared buffer and writes at once. Only what the receiver does not take is
//! kept, and meanwhile nothing more is read (back-pressure). Bytes pass exactly as they were sent
//! (ARCHITECTURE.md, invariant 5). The tunnel is over once both sources have ended and both sinks are gone; how it
//! comes to that is in `ending`.

mod ending;

use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use super::direction::{Direction, DirectionStep, Ours, Sink, step};
use super::insert::Insert;
use super::{TunnelPlan, TunnelState, heed};
use crate::broadcast::Fate;
use crate::clock::{self, Seconds};
use crate::net::client_io::ClientIo;
use crate::net::worker_io::WorkerIo;
use crate::sockets::EndReason;
use crate::thread::{Registered, ThreadOrder};
use crate::websocket::frames::{CloseCode, Sender};
use crate::websocket::round_trip::Half;
use ending::ECHO;

/// Steps of both directions in a row, before other tasks get their turn.
const TURNS: usize = 16;

/// One tunnel, as a future that completes when the tunnel is over.
pub(crate) struct Relay {
    client: ClientIo,
    worker: WorkerIo,
    /// The direction from client to worker.
    up: Direction,
    /// The direction from worker to client.
    down: Direction,
    live: Registered,
    terms: Box<TunnelState>,
    /// The code of stickyd's own Close while it waits for a boundary.
    wanted: Option<CloseCode>,
    /// The end of all waiting; set once the tunnel is ending and a peer could prolong that.
    deadline: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Relay {
    /// Joins a client's socket to the worker of a plan. `early` are the bytes that the client sent after its request.
    pub(crate) fn new(client: ClientIo, early: Bytes, plan: TunnelPlan, live: Registered) -> Self {
        let TunnelPlan { io, first, mut terms } = plan;
        live.become_tunnel(terms.silence_s, terms.tunnel.worker().serial);
        let early = match &mut terms.gate {
            Some(gate) if !early.is_empty() => gate.pass(&early).into(),
            _ => early,
        };
        let (early_bytes, now_s) = (early.len(), clock::now_s());
        let (mut up, mut down) = (Direction::new(Sender::Client, early), Direction::new(Sender::Worker, first.clone()));
        terms.went_up(early_bytes, std::mem::take(&mut up.messages), now_s);
        terms.went_down(first.len(), std::mem::take(&mut down.messages), now_s);
        let mut relay = Self { client, worker: io, up, down, live, terms, wanted: None, deadline: None };
        if !first.is_empty() {
            relay.learn(&first);
        }
        relay
    }

    /// Learns the sid and the silence limit of a WebSocket-first session from its first message.
    fn learn(&mut self, bytes: &[u8]) {
        self.terms.name(bytes);
        if let Some(gate) = &mut self.terms.gate {
            gate.hear(bytes);
        }
        let learns = self.terms.learns;
        if let Some(open) = self.terms.learn(bytes) {
            self.terms.socket.learn_sid(open.sid.as_bytes());
            if self.terms.learns_silence {
                self.live.limit(clock::whole_seconds(open.ping_interval + open.ping_timeout + Duration::from_secs(5)));
            }
        } else if learns
            && !self.terms.learns
            && let Some(gate) = &mut self.terms.gate
        {
            gate.close_unless_admitted();
        }
    }

    /// Moves bytes in both directions until both are blocked. Returns whether any moved.
    fn pump(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> bool {
        let mut moved = false;
        let (mut ask_up, mut ask_down) = (true, true);
        for _ in 0..TURNS {
            if self.settle() {
                (ask_up, ask_down) = (true, true);
            }
            // Bytes that stickyd inserts are not a sign of life.
            let own = self.terms.insert.is_some();
            let unsent = (self.up.rest.len(), self.down.rest.len());
            let (mut up, mut down) = (DirectionStep::Blocked, DirectionStep::Blocked);
            if ask_up {
                let TunnelState { socket, upstream, gate, .. } = &mut *self.terms;
                let heed = |signal| heed(socket, &upstream.series, Half::Client, signal);
                let ours = Ours { to_boundary: false, gate: gate.as_deref_mut(), insert: &mut None, heed };
                up = step(&mut self.client, &mut self.worker, &mut self.up, cx, buffer, ours);
                self.after_up(up);
            }
            if ask_down {
                let most = self.client.appetite().min(buffer.len());
                let lent = buffer.get_mut(..most).unwrap_or_default();
                let TunnelState { socket, upstream, insert, .. } = &mut *self.terms;
                let heed = |signal| heed(socket, &upstream.series, Half::Worker, signal);
                let ours = Ours { to_boundary: self.wanted.is_some(), gate: None, insert, heed };
                down = step(&mut self.worker, &mut self.client, &mut self.down, cx, lent, ours);
                self.after_down(down, buffer);
            }
            let more = own && self.terms.insert.is_none() && self.take_post();
            moved |= matches!(up, DirectionStep::Moved(_)) || matches!(down, DirectionStep::Moved(_));
            moved |= self.up.rest.len() < unsent.0 || (self.down.rest.len() < unsent.1 && !own);
            if (up, down) == (DirectionStep::Blocked, DirectionStep::Blocked) && !more {
                return moved;
            }
            // Bytes moved in one direction do not change the other. Anything else may, and gives both another turn.
            ask_up = up != DirectionStep::Blocked || !matches!(down, DirectionStep::Moved(_));
            ask_down = more || down != DirectionStep::Blocked || !matches!(up, DirectionStep::Moved(_));
        }
        cx.waker().wake_by_ref();
        moved
    }

    fn after_up(&mut self, step: DirectionStep) {
        match step {
            DirectionStep::Blocked | DirectionStep::Discarded | DirectionStep::Boundary | DirectionStep::Inserted => {}
            DirectionStep::Moved(bytes) => {
                let messages = std::mem::take(&mut self.up.messages);
                self.terms.went_up(bytes, messages, self.now_s());
                if self.up.observer.close_seen() {
                    self.parts(EndReason::Client);
                }
            }
            DirectionStep::Ended => {
                self.terms.socket.set_end_reason(EndReason::ClientGone);
                self.up.finish();
            }
            // What the client sent before its connection broke still goes to the worker; nothing goes to the client.
            DirectionStep::Broke(how) => {
                self.client_broke(how);
                self.up.finish();
                self.down.sink_is_gone();
                self.terms.insert = None;
                self.wait_at_most(ECHO);
                // No client is left to receive the worker's bytes. Without TLS, closing the worker's socket is enough
                // to end its leg.
                if self.worker.is_bare() && self.up.has_sent_all() {
                    self.up.sink_is_gone();
                    self.down.source_ended = true;
                }
            }
            // The other direction will read the cause from the worker's socket, and inform the client.
            DirectionStep::SinkBroke(_) => {}
        }
    }

    fn after_down(&mut self, step: DirectionStep, buffer: &[u8]) {
        match step {
            DirectionStep::Blocked | DirectionStep::Discarded | DirectionStep::Inserted => {}
            DirectionStep::Moved(bytes) => {
                let messages = std::mem::take(&mut self.down.messages);
                self.terms.went_down(bytes, messages, self.now_s());
                self.learn(buffer.get(..bytes).unwrap_or_default());
                if self.down.observer.close_seen() {
                    self.parts(EndReason::Worker);
                }
            }
            DirectionStep::Ended => self.worker_left(),
            DirectionStep::Broke(_) => {
                self.up.sink_is_gone();
                self.worker_left();
            }
            // What the client sent before is still read, and forwarded.
            DirectionStep::SinkBroke(how) => {
                self.terms.insert = None;
                if how == ErrorKind::TimedOut {
                    self.client_broke(how);
                }
                self.wait_at_most(ECHO);
            }
            DirectionStep::Boundary => self.say_close(),
        }
    }

    /// The time of the thread's last tick, in seconds: at most one tick late, but it saves a clock read per message.
    fn now_s(&self) -> Seconds {
        self.live.thread().now_ms().seconds()
    }

    /// Follows the orders of the thread, an operator or the vigil, before any bytes are moved.
    fn obey(&mut self, order: ThreadOrder) {
        if order == ThreadOrder::Stop {
            self.terms.socket.set_end_reason(EndReason::Stopped);
            self.close(CloseCode::GOING_AWAY);
        } else if self.live.is_closing() || self.terms.socket.is_ordered() {
            self.terms.socket.set_end_reason(EndReason::Drained);
            self.terms.socket.parts();
            self.close(self.terms.farewell().unwrap_or_default().code);
            // The hard deadline of a drain: a tunnel that has not closed by then is cut.
            self.wait_at_most(ECHO);
        }
        if self.terms.socket.is_called() {
            self.answer_call();
        }
    }

    /// Takes up a Ping or a message that was requested for the client.
    fn answer_call(&mut self) {
        self.take_post();
        let parts = self.is_parting();
        let TunnelState { socket, insert, .. } = &mut *self.terms;
        if socket.take_ping_request() && !parts && insert.is_none() {
            *insert = Some(Insert::ping(socket.asking()));
        }
    }

    /// Takes the next message that waits for the client, unless another frame is on its way. Returns whether it did.
    fn take_post(&mut self) -> bool {
        let parts = self.is_parting();
        let TunnelState { socket, insert, .. } = &mut *self.terms;
        insert.take_if(|insert| insert.gives_way());
        while parts || insert.is_none() {
            match socket.posted() {
                None => break,
                Some(posted) if parts => posted.missed(Fate::Closing),
                Some(posted) if posted.is_over() => {}
                Some(posted) => {
                    *insert = Some(Insert::message(posted));
                    return true;
                }
            }
        }
        false
    }

    /// Whether it is too late for a Ping or a message: the tunnel is closing, or does not carry WebSocket frames.
    fn is_parting(&self) -> bool {
        self.wanted.is_some()
            || self.down.sink != Sink::Open
            || self.up.observer.close_seen()
            || self.down.observer.close_seen()
            || !self.is_websocket()
    }

    /// Whether both sides have sent only valid WebSocket frames so far. Otherwise nothing is inserted.
    fn is_websocket(&self) -> bool {
        self.up.observer.is_websocket() && self.down.observer.is_websocket()
    }

    fn over(&self) -> bool {
        self.up.is_over() && self.down.is_over()
    }
}

impl Future for Relay {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.live.watch(cx.waker()) {
            this.terms.socket.woken_by(cx.waker());
        }
        let order = this.live.order();
        if order == ThreadOrder::Cut {
            return Poll::Ready(());
        }
        this.refuse(cx);
        this.obey(order);
        let bytes_up = this.terms.bytes_up;
        let thread = this.live.thread().clone();
        let mut buffer = thread.buffer.borrow_mut();
        if this.pump(cx, &mut buffer) {
            this.live.touch();
        } else if order == ThreadOrder::Idle {
            this.terms.socket.set_end_reason(EndReason::Idle);
            this.close(CloseCode::GOING_AWAY);
            this.wait_at_most(ECHO);
            this.pump(cx, &mut buffer);
        }
        if this.refuse(cx) {
            this.pump(cx, &mut buffer);
        }
        if this.up.sink == Sink::Gone && this.down.sink == Sink::Gone {
            this.wait_at_most(ECHO);
        }
        if this.is_dead(bytes_up) {
            return Poll::Ready(());
        }
        // Checked last, so that a deadline set above is polled and can wake this task.
        if this.over() || this.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tens of thousands of relays live on one machine (docs/reference/performance.md §0.3).
    #[test]
    fn a_relay_is_small() {
        assert!(size_of::<Relay>() <= 250, "{} bytes", size_of::<Relay>());
    }
}
