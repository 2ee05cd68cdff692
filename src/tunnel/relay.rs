//! The relay task: two sockets, two observers, no buffer of its own.
//!
//! Each direction reads into the thread's one buffer and writes at once; only what the receiver would not take is kept,
//! and while it is, nothing more is read (back-pressure). Bytes pass exactly as they were sent (invariant 5). What stickyd
//! says itself — 1001 when it stops or the tunnel was silent for too long, 1012 when the worker's leg ended without a close
//! frame — goes in where the observer knows a boundary, and nowhere else.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{self, CloseCode, FirstText, Observer, Sender};
use super::{Plan, Terms};
use crate::affinity::session;
use crate::listener::conn::ClientIo;
use crate::thread::{Order, Registered};
use crate::upstream::connect::WorkerIo;

/// Reads of one direction in a row before other tasks get their turn.
const TURNS: usize = 16;

/// After our Close, the client's echo has this long to pass to the worker (invariant 5).
const ECHO: Duration = Duration::from_secs(5);

/// One tunnel, as a future that ends with it.
pub struct Relay {
    client: ClientIo,
    worker: WorkerIo,
    up: Way,
    down: Way,
    live: Registered,
    terms: Box<Terms>,
    /// Our own Close: none, to be said at the next boundary, or said.
    closing: Closing,
    /// The end of all waiting, once the tunnel is closing.
    deadline: Option<Pin<Box<tokio::time::Sleep>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    AtBoundary(CloseCode),
    Said,
}

/// One direction.
struct Way {
    observer: Observer,
    /// Read and not yet taken by the receiver.
    rest: Bytes,
    /// Written into a layer that may hold it (TLS) and not yet flushed.
    unflushed: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Flowing,
    /// Nothing more is read; once the rest is written the receiver is told the end.
    Ending,
    Ended,
}

/// Why a direction stopped moving.
enum Stop {
    /// Nothing to read, or the receiver is full.
    Blocked,
    /// It had [`TURNS`] turns.
    Turn,
    /// The sender's end: closed, or broken.
    SenderEnded,
    SenderBroke,
    ReceiverBroke,
    /// At a frame boundary, as asked.
    Boundary,
    /// Everything is written and the receiver was told the end.
    Ended,
}

impl Relay {
    /// Joins a client's socket, with what it already sent behind its request, to a plan's worker.
    pub fn new(client: ClientIo, early: Bytes, plan: Plan, live: Registered) -> Self {
        let Plan { io, first, terms } = plan;
        live.become_tunnel(terms.silence_s);
        let mut relay = Self {
            client,
            worker: io,
            up: Way::new(Sender::Client, early),
            down: Way::new(Sender::Worker, first),
            live,
            terms,
            closing: Closing::No,
            deadline: None,
        };
        relay.terms.bytes_up += relay.up.rest.len() as u64;
        relay.terms.bytes_down += relay.down.rest.len() as u64;
        let first = relay.down.rest.clone();
        relay.learn_silence(&first);
        relay
    }

    /// The first frame of a WebSocket-first session tells how long its silence may last. A frame that arrives in pieces is
    /// not put together for that: the default limit does for it.
    fn learn_silence(&mut self, bytes: &[u8]) {
        if !self.terms.learns_silence || bytes.is_empty() {
            return;
        }
        self.terms.learns_silence = false;
        if let FirstText::Whole(payload) = frames::first_text_payload(bytes)
            && let Some(open) = session::websocket_open(payload)
        {
            let seconds = (open.ping_interval + open.ping_timeout + Duration::from_secs(5)).as_secs();
            self.live.limit(u32::try_from(seconds).unwrap_or(u32::MAX));
        }
    }

    /// Client → worker. `true`: the tunnel is over.
    fn poll_up(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> bool {
        loop {
            let (stop, moved) = pump(&mut self.client, &mut self.worker, &mut self.up, cx, buffer, false);
            self.terms.bytes_up += moved as u64;
            match stop {
                Stop::Blocked | Stop::Boundary | Stop::Ended => return false,
                Stop::Turn => {
                    cx.waker().wake_by_ref();
                    return false;
                }
                Stop::SenderEnded => self.up.end(),
                Stop::SenderBroke => return true,
                // The other direction will read why, and tell the client.
                Stop::ReceiverBroke => {
                    self.up.state = State::Ended;
                    return false;
                }
            }
        }
    }

    /// Worker → client. `true`: the tunnel is over.
    fn poll_down(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> bool {
        loop {
            let to_boundary = matches!(self.closing, Closing::AtBoundary(_));
            let (stop, moved) = pump(&mut self.worker, &mut self.client, &mut self.down, cx, buffer, to_boundary);
            self.terms.bytes_down += moved as u64;
            if moved > 0 && self.terms.learns_silence {
                // Almost always the one read there was; its bytes still stand at the head of the buffer.
                let first = Bytes::copy_from_slice(buffer.get(..moved).unwrap_or_default());
                self.learn_silence(&first);
            }
            match stop {
                Stop::Blocked | Stop::Ended => return false,
                Stop::Turn => {
                    cx.waker().wake_by_ref();
                    return false;
                }
                Stop::SenderEnded => self.worker_left(false),
                Stop::SenderBroke => self.worker_left(true),
                Stop::ReceiverBroke => return true,
                Stop::Boundary => self.say_close(),
            }
        }
    }

    /// stickyd wants this tunnel to end: our Close at the next boundary; bytes that are no WebSocket just end.
    fn close(&mut self, code: CloseCode) {
        if self.closing != Closing::No {
            return;
        }
        self.deadline = Some(Box::pin(tokio::time::sleep(ECHO)));
        if !self.down.observer.is_websocket() {
            self.closing = Closing::Said;
            self.down.end();
            self.up.end();
        } else if !self.down.observer.close_seen() {
            self.closing = Closing::AtBoundary(code);
        }
    }

    fn say_close(&mut self) {
        if let Closing::AtBoundary(code) = self.closing {
            self.closing = Closing::Said;
            self.down.rest = Bytes::copy_from_slice(frames::close_frame(code, "").as_ref());
            self.down.end();
        }
    }

    /// The worker's leg ended. Without a close frame before it the client is told 1012 (design.md §7): a bare end reads as
    /// 1006 and cannot be told from a broken network. Bytes that are no WebSocket keep their half-close.
    fn worker_left(&mut self, broke: bool) {
        let observer = &self.down.observer;
        let mute = self.closing == Closing::Said || observer.close_seen() || !observer.is_websocket();
        if broke || !mute || observer.close_seen() {
            self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(ECHO)));
        }
        if !mute && observer.at_frame_boundary() && self.down.rest.is_empty() {
            self.closing = Closing::AtBoundary(CloseCode::SERVICE_RESTART);
            self.say_close();
        }
        self.down.end();
        if broke {
            self.up.state = State::Ended;
        }
    }

    /// After our Close and the client's echo, or once both directions ended, there is nothing to wait for.
    fn over(&self) -> bool {
        let ended = self.down.state == State::Ended;
        let echoed = self.closing == Closing::Said && self.up.observer.close_seen() && self.up.rest.is_empty();
        ended && (self.up.state == State::Ended || echoed)
    }
}

impl Future for Relay {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.live.watch(cx.waker());
        match this.live.order() {
            Order::GoOn => {}
            Order::Stop | Order::Idle => this.close(CloseCode::GOING_AWAY),
            Order::Cut => return Poll::Ready(()),
        }
        if this.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(());
        }
        let before = (this.terms.bytes_up, this.terms.bytes_down);
        let thread = this.live.thread().clone();
        let mut buffer = thread.buffer.borrow_mut();
        if this.poll_up(cx, &mut buffer) || this.poll_down(cx, &mut buffer) || this.over() {
            return Poll::Ready(());
        }
        if before != (this.terms.bytes_up, this.terms.bytes_down) {
            this.live.touch(thread.now_s.get());
        }
        Poll::Pending
    }
}

impl Way {
    fn new(from: Sender, first: Bytes) -> Self {
        let mut observer = Observer::new(from);
        observer.feed(&first);
        Self { observer, rest: first, unflushed: false, state: State::Flowing }
    }

    fn end(&mut self) {
        if self.state == State::Flowing {
            self.state = State::Ending;
        }
    }

    /// Writes what was left, and flushes.
    fn poll_rest(&mut self, to: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            drop(self.rest.split_to(written));
        }
        // An empty `Bytes` may still hold its whole allocation.
        self.rest = Bytes::new();
        if self.unflushed {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// Moves bytes one way until something stops it; also says how many it read. With `to_boundary` it stops at the first
/// frame boundary and drops what the sender sent behind it.
fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    way: &mut Way,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
    to_boundary: bool,
) -> (Stop, usize) {
    let mut moved = 0;
    for _ in 0..TURNS {
        match way.poll_rest(to, cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return (Stop::ReceiverBroke, moved),
            Poll::Pending => return (Stop::Blocked, moved),
        }
        if way.state != State::Flowing {
            return (poll_end(to, way, cx), moved);
        }
        if to_boundary && way.observer.at_frame_boundary() {
            return (Stop::Boundary, moved);
        }
        let mut read = ReadBuf::new(buffer);
        match Pin::new(&mut *from).poll_read(cx, &mut read) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return (Stop::SenderBroke, moved),
            Poll::Pending => return (Stop::Blocked, moved),
        }
        let mut bytes = read.filled();
        if bytes.is_empty() {
            return (Stop::SenderEnded, moved);
        }
        if to_boundary && let Some(end) = way.observer.next_boundary(bytes) {
            bytes = bytes.get(..end).unwrap_or_default();
        }
        way.observer.feed(bytes);
        moved += bytes.len();
        match Pin::new(&mut *to).poll_write(cx, bytes) {
            Poll::Ready(Ok(written)) => {
                way.unflushed = true;
                if let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
                    way.rest = Bytes::copy_from_slice(rest);
                }
            }
            Poll::Ready(Err(_)) => return (Stop::ReceiverBroke, moved),
            Poll::Pending => way.rest = Bytes::copy_from_slice(bytes),
        }
    }
    (Stop::Turn, moved)
}

fn poll_end(to: &mut (impl AsyncWrite + Unpin), way: &mut Way, cx: &mut Context<'_>) -> Stop {
    if way.state == State::Ended {
        return Stop::Ended;
    }
    match Pin::new(to).poll_shutdown(cx) {
        Poll::Ready(Ok(())) => {
            way.state = State::Ended;
            Stop::Ended
        }
        Poll::Ready(Err(_)) => Stop::ReceiverBroke,
        Poll::Pending => Stop::Blocked,
    }
}
