//! One direction of a tunnel: a source, a sink, the bytes read but not yet written, and the step that moves them.
//!
//! The source and the sink of a `Direction` end separately (half-close). While the source still sends and the sink is
//! gone, its bytes are read and discarded: dropping a socket with unread bytes resets the connection, and a reset can
//! destroy stickyd's Close, or the client's echo of it, before the peer has read it. Out of scope: the consequences for
//! the other direction and for the tunnel (`super::relay`).

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::gate::TunnelGate;
use super::insert::Insert;
use crate::websocket::frames::{Observer, Sender, Signal};

/// Bytes read at once for a receiver that has not shown that it takes more. What it does not take has to be kept
/// (docs/reference/threats.md §2.6: a slow reader).
const READ: usize = 64 * 1024;

/// After this many reads of `READ` bytes that the receiver took completely, a read may fill the thread's buffer
/// (docs/reference/performance.md §2: a sixth less CPU than with 64 KiB). If such a receiver then stops, stickyd holds
/// at most a quarter of what it has just taken.
const STREAK: u8 = 16;

/// The state of one direction of a tunnel.
pub(crate) struct Direction {
    pub(crate) observer: Observer,
    /// Bytes read from the source and not yet taken by the receiver.
    pub(crate) rest: Bytes,
    /// Whether bytes were written into a layer that may buffer them (TLS) and were not yet flushed.
    unflushed: bool,
    /// Whether the sender sends no more: after a FIN, a broken connection, or a Close that ends the tunnel.
    pub(crate) source_ended: bool,
    pub(crate) sink: Sink,
    /// Consecutive full reads that the receiver took completely.
    streak: u8,
    /// Messages whose end was read since this count was last taken.
    pub(crate) messages: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sink {
    Open,
    /// Nothing follows stickyd's Close; the end of the sink waits for the client's answer.
    Muted,
    /// The sink is shut down once the rest is written.
    Finishing,
    /// The sink was shut down, or broke.
    Gone,
}

/// The result of one step of a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DirectionStep {
    /// Nothing can be done until a socket is ready; the waker is registered there.
    Blocked,
    /// This many bytes were forwarded; they are at the beginning of the buffer.
    Moved(usize),
    /// Bytes were read and discarded.
    Discarded,
    /// The source has just ended.
    Ended,
    /// The source broke, with this error.
    Broke(ErrorKind),
    /// The sink broke, with this error.
    SinkBroke(ErrorKind),
    /// The direction is at a frame boundary, as requested.
    Boundary,
    /// A frame from stickyd has found its place and is written next.
    Inserted,
}

impl Direction {
    pub(crate) fn new(from: Sender, first: Bytes) -> Self {
        let mut observer = Observer::new(from);
        let messages = observer.feed(&first).messages;
        Self { observer, rest: first, unflushed: false, source_ended: false, sink: Sink::Open, streak: 0, messages }
    }

    /// Stops taking bytes; the sink is shut down after the rest is written.
    pub(crate) fn finish(&mut self) {
        if self.sink != Sink::Gone {
            self.sink = Sink::Finishing;
        }
    }

    pub(crate) fn sink_is_gone(&mut self) {
        self.sink = Sink::Gone;
        self.rest = Bytes::new();
    }

    /// Whether the source has ended, or has sent a whole Close, which nothing may follow (RFC 6455 §5.5.1).
    pub(crate) fn has_said_all(&self) -> bool {
        self.source_ended || (self.observer.close_seen() && self.observer.at_frame_boundary())
    }

    /// Whether nothing that was read still waits for the sink.
    pub(crate) fn has_sent_all(&self) -> bool {
        self.rest.is_empty() && !self.unflushed
    }

    pub(crate) fn is_over(&self) -> bool {
        self.source_ended && self.sink == Sink::Gone
    }

    /// The number of bytes to read at once, if there is room for `most`.
    fn appetite(&self, most: usize) -> usize {
        if self.streak < STREAK { most.min(READ) } else { most }
    }

    /// Updates the streak after a read of `bytes`, of at most `most`, was written, possibly in part.
    fn took(&mut self, bytes: usize, most: usize) {
        if !self.rest.is_empty() {
            self.streak = 0;
        } else if bytes == most {
            self.streak = self.streak.saturating_add(1);
        }
    }

    /// Writes the rest and flushes it; then shuts the sink down if it is finishing. Ready once the sink has taken
    /// everything.
    fn poll_sink(&mut self, to: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.rest))?;
            if written == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            drop(self.rest.split_to(written));
        }
        // An empty `Bytes` may still hold its whole allocation.
        self.rest = Bytes::new();
        if self.unflushed {
            ready!(Pin::new(&mut *to).poll_flush(cx))?;
            self.unflushed = false;
        }
        if self.sink == Sink::Finishing {
            ready!(Pin::new(to).poll_shutdown(cx))?;
            self.sink = Sink::Gone;
        }
        Poll::Ready(Ok(()))
    }
}

/// What stickyd does to a direction in addition to moving its bytes.
pub(crate) struct Ours<'a, F> {
    /// Whether it stops at the first frame boundary, and drops what the sender sent after that.
    pub(crate) to_boundary: bool,
    /// Judges what the source sends; what it holds back is not written.
    pub(crate) gate: Option<&'a mut TunnelGate>,
    /// A frame from stickyd that waits for its place, or is being written after the bytes before it.
    pub(crate) insert: &'a mut Option<Box<Insert>>,
    /// Receives the signals of small frames.
    pub(crate) heed: F,
}

impl<F> Ours<'_, F> {
    /// Inserts the waiting frame at the current position, if that is a suitable boundary; everything before is written.
    fn insert_here(&mut self, way: &mut Direction) -> bool {
        match self.insert.take_if(|insert| insert.is_over() || way.observer.close_seen()) {
            Some(_) => false,
            None => self.place_in(way, &[]),
        }
    }

    /// Inserts the waiting frame into these bytes, which were read and are about to be written, if there is a place for
    /// it. The result is then the rest to be written.
    fn place_in(&mut self, way: &mut Direction, bytes: &[u8]) -> bool {
        let Some(insert) = self.insert.as_mut().filter(|insert| insert.waits()) else { return false };
        let Some(at) = way.observer.next_place(bytes, insert.is_message()) else { return false };
        let frame = insert.take();
        way.rest = match bytes.split_at_checked(at) {
            Some((before, behind)) if !bytes.is_empty() => [before, &frame, behind].concat().into(),
            // Shared with all other recipients of the same message.
            _ => frame,
        };
        true
    }

    /// Reports a frame from stickyd as delivered, once everything is written.
    fn wrote_all(&mut self) {
        if let Some(insert) = self.insert.take_if(|insert| !insert.waits()) {
            insert.arrived();
        }
    }
}

/// Makes one read and one write, or returns what prevents them.
pub(crate) fn step(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    way: &mut Direction,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
    mut ours: Ours<'_, impl FnMut(Signal)>,
) -> DirectionStep {
    if way.sink != Sink::Gone {
        match way.poll_sink(to, cx) {
            Poll::Ready(Ok(())) => ours.wrote_all(),
            Poll::Ready(Err(error)) => {
                way.sink_is_gone();
                return DirectionStep::SinkBroke(error.kind());
            }
            Poll::Pending => return DirectionStep::Blocked,
        }
    }
    if way.source_ended {
        return DirectionStep::Blocked;
    }
    let passing = way.sink == Sink::Open;
    let to_boundary = ours.to_boundary && passing;
    if to_boundary && way.observer.at_frame_boundary() {
        return DirectionStep::Boundary;
    }
    let inserts = ours.insert.is_some() && passing && !to_boundary;
    if inserts && ours.insert_here(way) {
        return DirectionStep::Inserted;
    }
    let most = way.appetite(buffer.len());
    let mut read = ReadBuf::new(buffer.get_mut(..most).unwrap_or_default());
    match Pin::new(from).poll_read(cx, &mut read) {
        Poll::Pending => return DirectionStep::Blocked,
        Poll::Ready(Ok(())) if !read.filled().is_empty() => {}
        Poll::Ready(ended) => {
            way.source_ended = true;
            return ended.map_or_else(|error| DirectionStep::Broke(error.kind()), |()| DirectionStep::Ended);
        }
    }
    let mut bytes = read.filled();
    let passed;
    if let Some(gate) = ours.gate.as_mut() {
        passed = gate.pass(bytes);
        bytes = &passed;
        if bytes.is_empty() {
            return DirectionStep::Discarded;
        }
    }
    if to_boundary && let Some(end) = way.observer.next_boundary(bytes) {
        bytes = bytes.get(..end).unwrap_or_default();
    }
    let placed = inserts && ours.place_in(way, bytes);
    way.messages = way.messages.wrapping_add(way.observer.feed_heeding(bytes, ours.heed).messages);
    if placed {
        return DirectionStep::Moved(bytes.len());
    }
    if !passing {
        return DirectionStep::Discarded;
    }
    let written = match Pin::new(to).poll_write(cx, bytes) {
        Poll::Ready(Ok(written)) => written,
        Poll::Ready(Err(error)) => {
            way.sink_is_gone();
            return DirectionStep::SinkBroke(error.kind());
        }
        Poll::Pending => 0,
    };
    way.unflushed |= written > 0;
    if let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        way.rest = Bytes::copy_from_slice(rest);
    }
    way.took(bytes.len(), most);
    DirectionStep::Moved(bytes.len())
}

#[cfg(test)]
mod tests;
