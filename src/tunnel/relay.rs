//! The relay task: two sockets, two observers, no buffer of its own.
//!
//! Each direction reads into the thread's one buffer and writes at once; only what the receiver would not take is kept,
//! and while it is, nothing more is read (back-pressure). Bytes pass exactly as they were sent (invariant 5). What stickyd
//! says itself — 1001 when it stops or the tunnel was silent for too long, 1012 when the worker's leg ended without a close
//! frame, the farewell of a worker that is drained — goes in where the observer knows a boundary, and nowhere else.
//!
//! Each direction is a `Way`. The tunnel is over when both sources have ended and both sinks are gone; a deadline bounds
//! every wait that a peer could draw out.

use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use super::frames::{self, CloseCode, Sender};
use super::insert::Insert;
use super::round_trip::Half;
use super::way::{Ours, Sink, Step, Way, step};
use super::{Plan, Terms, heed, whole_seconds};
use crate::broadcast::Fate;
use crate::clock;
use crate::listener::conn::ClientIo;
use crate::sockets::End;
use crate::thread::{Order, Registered};
use crate::upstream::io::WorkerIo;

/// Steps of both directions in a row before other tasks get their turn.
const TURNS: usize = 16;

/// What has to be waited for at an end — the client's echo of our Close, the worker's answer to it, a peer's own FIN — has
/// this long (invariant 5).
const ECHO: Duration = Duration::from_secs(5);

/// One tunnel, as a future that ends with it.
pub struct Relay {
    client: ClientIo,
    worker: WorkerIo,
    /// Client → worker.
    up: Way,
    /// Worker → client.
    down: Way,
    live: Registered,
    terms: Box<Terms>,
    /// A Close of ours that waits for a boundary.
    wanted: Option<CloseCode>,
    /// The end of all waiting, once an end has begun that a peer could draw out.
    deadline: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Relay {
    /// Joins a client's socket, with what it already sent behind its request, to a plan's worker.
    pub fn new(client: ClientIo, early: Bytes, plan: Plan, live: Registered) -> Self {
        let Plan { io, first, mut terms } = plan;
        live.become_tunnel(terms.silence_s, terms.tunnel.worker().serial);
        let (early_bytes, now_s) = (early.len(), clock::now_s());
        let (mut up, mut down) = (Way::new(Sender::Client, early), Way::new(Sender::Worker, first.clone()));
        terms.went_up(early_bytes, std::mem::take(&mut up.messages), now_s);
        terms.went_down(first.len(), std::mem::take(&mut down.messages), now_s);
        let mut relay = Self { client, worker: io, up, down, live, terms, wanted: None, deadline: None };
        if !first.is_empty() {
            relay.learn(&first);
        }
        relay
    }

    /// The first message of a WebSocket-first session tells its name, and how long its silence may last.
    fn learn(&mut self, bytes: &[u8]) {
        self.terms.name(bytes);
        if let Some(open) = self.terms.learn(bytes) {
            self.terms.socket.learn_sid(open.sid.as_bytes());
            if self.terms.learns_silence {
                self.live.limit(whole_seconds(open.ping_interval + open.ping_timeout + Duration::from_secs(5)));
            }
        }
    }

    /// Moves bytes both ways until both are blocked; says whether any moved.
    fn pump(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> bool {
        let mut moved = false;
        let (mut ask_up, mut ask_down) = (true, true);
        for _ in 0..TURNS {
            if self.settle() {
                (ask_up, ask_down) = (true, true);
            }
            // What is ours is no sign of life.
            let own = self.terms.insert.is_some();
            let unsent = (self.up.rest.len(), self.down.rest.len());
            let (mut up, mut down) = (Step::Blocked, Step::Blocked);
            if ask_up {
                let terms = &*self.terms;
                let heed = |signal| heed(&terms.socket, &terms.upstream.series, Half::Client, signal);
                let ours = Ours { to_boundary: false, insert: &mut None, heed };
                up = step(&mut self.client, &mut self.worker, &mut self.up, cx, buffer, ours);
                self.after_up(up);
            }
            if ask_down {
                let most = self.client.appetite().min(buffer.len());
                let lent = buffer.get_mut(..most).unwrap_or_default();
                let Terms { socket, upstream, insert, .. } = &mut *self.terms;
                let heed = |signal| heed(socket, &upstream.series, Half::Worker, signal);
                let ours = Ours { to_boundary: self.wanted.is_some(), insert, heed };
                down = step(&mut self.worker, &mut self.client, &mut self.down, cx, lent, ours);
                self.after_down(down, buffer);
            }
            moved |= matches!(up, Step::Moved(_)) || matches!(down, Step::Moved(_));
            moved |= self.up.rest.len() < unsent.0 || (self.down.rest.len() < unsent.1 && !own);
            if (up, down) == (Step::Blocked, Step::Blocked) {
                return moved;
            }
            // Bytes that moved one way change nothing for the other; whatever else happened may, and is seen to in
            // another turn of both.
            ask_up = up != Step::Blocked || !matches!(down, Step::Moved(_));
            ask_down = down != Step::Blocked || !matches!(up, Step::Moved(_));
        }
        cx.waker().wake_by_ref();
        moved
    }

    fn after_up(&mut self, step: Step) {
        match step {
            Step::Blocked | Step::Discarded | Step::Boundary | Step::Inserted => {}
            Step::Moved(bytes) => {
                let messages = std::mem::take(&mut self.up.messages);
                self.terms.went_up(bytes, messages, self.now_s());
                if self.up.observer.close_seen() {
                    self.parts(End::Client);
                }
            }
            Step::Ended => {
                self.terms.socket.ends(End::ClientGone);
                self.up.finish();
            }
            // What it sent before it broke still goes to the worker; nothing goes to it.
            Step::Broke(how) => {
                self.client_broke(how);
                self.up.finish();
                self.down.sink_is_gone();
                self.terms.insert = None;
                self.wait_at_most(ECHO);
                // Nobody hears what the worker still says, and closing its socket tells it all there is to tell.
                if self.worker.is_bare() && self.up.has_sent_all() {
                    self.up.sink_is_gone();
                    self.down.source_ended = true;
                }
            }
            // The other direction will read why, and tell the client.
            Step::SinkBroke(_) => {}
        }
    }

    fn after_down(&mut self, step: Step, buffer: &[u8]) {
        match step {
            Step::Blocked | Step::Discarded | Step::Inserted => {}
            Step::Moved(bytes) => {
                let messages = std::mem::take(&mut self.down.messages);
                self.terms.went_down(bytes, messages, self.now_s());
                self.learn(buffer.get(..bytes).unwrap_or_default());
                if self.down.observer.close_seen() {
                    self.parts(End::Worker);
                }
            }
            Step::Ended => self.worker_left(),
            Step::Broke(_) => {
                self.up.sink_is_gone();
                self.worker_left();
            }
            // What the client sent before is still read, and passed on.
            Step::SinkBroke(how) => {
                self.terms.insert = None;
                if how == ErrorKind::TimedOut {
                    self.client_broke(how);
                }
                self.wait_at_most(ECHO);
            }
            Step::Boundary => self.say_close(),
        }
    }

    /// A time-out is its kernel's silence; whatever else, somebody said.
    fn client_broke(&self, how: ErrorKind) {
        self.terms.socket.ends(if how == ErrorKind::TimedOut { End::Dead } else { End::ClientGone });
    }

    /// At most a tick late, and no clock read a message.
    fn now_s(&self) -> u32 {
        u32::try_from(self.live.thread().now_ms() / 1_000).unwrap_or(u32::MAX)
    }

    /// This side has said Close, or the other before it.
    fn parts(&self, side: End) {
        self.terms.socket.ends(side);
        self.terms.socket.parts();
    }

    /// What the thread, an operator or the vigil wants of it, before it moves.
    fn obey(&mut self, order: Order) {
        if order == Order::Stop {
            self.terms.socket.ends(End::Stopped);
            self.close(CloseCode::GOING_AWAY);
        } else if self.live.is_closing() || self.terms.socket.is_ordered() {
            self.terms.socket.ends(End::Drained);
            self.terms.socket.parts();
            self.close(self.terms.farewell().unwrap_or_default().code);
            // The hard deadline of a drain: who has not parted by then is cut.
            self.wait_at_most(ECHO);
        }
        if self.terms.socket.is_called() {
            self.answer_call();
        }
    }

    /// stickyd wants this tunnel to end: our Close at the next boundary. Where the worker has said Close, or has left, the
    /// tunnel is ending by itself.
    fn close(&mut self, code: CloseCode) {
        if self.down.sink == Sink::Open && !self.down.source_ended && !self.down.observer.close_seen() {
            self.wanted = Some(code);
            self.terms.insert.take_if(|insert| insert.waits());
        }
    }

    /// Somebody has something for the client. Where the tunnel parts, or is no WebSocket, it is too late for that.
    fn answer_call(&mut self) {
        let parts = self.wanted.is_some()
            || self.down.sink != Sink::Open
            || self.up.observer.close_seen()
            || self.down.observer.close_seen()
            || !self.is_websocket();
        let Terms { socket, insert, .. } = &mut *self.terms;
        insert.take_if(|insert| insert.gives_way());
        match socket.posted() {
            None => {}
            Some(posted) if parts => posted.missed(Fate::Closing),
            Some(posted) if insert.is_some() => posted.missed(Fate::Slow),
            Some(posted) => *insert = Some(Insert::message(posted)),
        }
        if socket.is_asked() && !parts && insert.is_none() {
            *insert = Some(Insert::ping(socket.asking()));
        }
    }

    /// Whether it was given up, and nothing of its client's has been read meanwhile or waits for the worker.
    fn is_dead(&self, bytes_up: u64) -> bool {
        let socket = &self.terms.socket;
        if !socket.is_called() || !socket.is_given_up() {
            return false;
        }
        let lives = self.terms.bytes_up != bytes_up || !self.up.rest.is_empty();
        if lives {
            socket.lives();
        } else {
            socket.ends(End::Dead);
        }
        !lives
    }

    /// At a boundary of the worker's frames.
    fn say_close(&mut self) {
        if !self.is_websocket() {
            return;
        }
        // The frame that was under way may have been the worker's own Close; nothing may follow that.
        if let Some(code) = self.wanted.take()
            && !self.down.observer.close_seen()
        {
            let told = self.live.is_closing() || self.terms.socket.is_ordered();
            let farewell = if told { self.terms.farewell() } else { None };
            let reason = farewell.as_ref().map_or("", |farewell| &farewell.reason);
            self.down.rest = Bytes::copy_from_slice(frames::close_frame(code, reason).as_ref());
            self.down.sink = Sink::Muted;
        }
    }

    /// The worker's leg ended. Without a close frame before it the client is told 1012 (design.md §7): a bare end reads as
    /// 1006 and cannot be told from a broken network. Bytes that are no WebSocket keep their half-close.
    fn worker_left(&mut self) {
        self.forget_connection();
        self.terms.socket.ends(End::WorkerGone);
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

    /// The worker's leg is no connection any more, however long the client's takes to end. Nothing had called for that where
    /// neither side had said Close or left, and we had not.
    fn forget_connection(&mut self) {
        let called_for = self.down.sink != Sink::Open
            || self.up.source_ended
            || self.up.observer.close_seen()
            || self.down.observer.close_seen();
        match self.terms.in_use.take() {
            Some(connection) if !called_for => connection.lost(),
            _ => {}
        }
    }

    /// What follows from both ways together; whether anything did. Before a turn, so that both ways see what it changes.
    fn settle(&mut self) -> bool {
        let leaving = self.down.sink == Sink::Muted || (self.down.source_ended && self.is_websocket());
        // Our Close or the worker's, and the client's: then the server's side closes first (RFC 6455 §7.1.1).
        let parted = leaving && self.up.has_said_all();
        // There will be no boundary.
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

    /// Both sides speak it so far: nothing of ours is put in where one of them speaks something else.
    fn is_websocket(&self) -> bool {
        self.up.observer.is_websocket() && self.down.observer.is_websocket()
    }

    /// Bounds an end. Not while stickyd stops: the thread's deadline bounds that, and counts who had to be cut.
    fn wait_at_most(&mut self, time: Duration) {
        if self.live.order() == Order::Stop {
            return;
        }
        self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
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
        if order == Order::Cut {
            return Poll::Ready(());
        }
        this.obey(order);
        let bytes_up = this.terms.bytes_up;
        let thread = this.live.thread().clone();
        let mut buffer = thread.buffer.borrow_mut();
        if this.pump(cx, &mut buffer) {
            this.live.touch();
        } else if order == Order::Idle {
            this.terms.socket.ends(End::Idle);
            this.close(CloseCode::GOING_AWAY);
            this.wait_at_most(ECHO);
            this.pump(cx, &mut buffer);
        }
        if this.up.sink == Sink::Gone && this.down.sink == Sink::Gone {
            this.wait_at_most(ECHO);
        }
        if this.is_dead(bytes_up) {
            return Poll::Ready(());
        }
        // Last, so that a deadline set above knows whom to wake.
        if this.over() || this.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tens of thousands of them live on one machine (data-plane study §0.3); the terms are one box more.
    #[test]
    fn a_relay_is_small() {
        println!("Relay: {} bytes, terms: {} bytes", size_of::<Relay>(), size_of::<Terms>());
        assert!(size_of::<Relay>() <= 250, "{} bytes", size_of::<Relay>());
    }
}
