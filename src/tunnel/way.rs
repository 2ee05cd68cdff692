//! One direction of a tunnel: a source, a sink, what was read and not yet taken, and one step of moving it.
//!
//! A `Way` has a source and a sink that end apart (half-close). While its source still speaks and its sink is gone, what
//! comes is read and thrown away: a socket that is dropped with unread bytes in it resets the connection, and a reset may
//! take our Close, or the client's echo of it, from the peer that has not read it yet. Left out: what follows for the other
//! direction, and for the tunnel (`super::relay`).

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{Observer, Sender, Signal};
use super::insert::Insert;

/// Bytes read at once for a receiver that has not shown that it takes more: what it does not take is kept (threats §2: a slow
/// reader).
const READ: usize = 64 * 1024;

/// After so many reads of that size that a receiver took whole, a read may fill the thread's buffer (data-plane study §2: a
/// sixth less CPU than 64 KiB): who then stops has us hold a sixteenth of what it has just taken.
const STREAK: u8 = 16;

/// One direction.
pub(super) struct Way {
    pub(super) observer: Observer,
    /// Read and not yet taken by the receiver.
    pub(super) rest: Bytes,
    /// Written into a layer that may hold it (TLS) and not yet flushed.
    unflushed: bool,
    /// The sender says no more: FIN, a broken connection, or a Close after which nothing may come.
    pub(super) source_ended: bool,
    pub(super) sink: Sink,
    /// Full reads that the receiver took whole, one behind the other.
    streak: u8,
    /// Messages whose end was read since somebody asked.
    pub(super) messages: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sink {
    Open,
    /// Our Close was the last it gets; its end waits for the client's answer.
    Muted,
    /// Once the rest is written it is told the end.
    Finishing,
    /// It was told the end, or broke.
    Gone,
}

/// What one step of a direction came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing to do until a socket is ready; whoever has to wake us knows.
    Blocked,
    /// This many bytes were passed on; they stand at the head of the buffer.
    Moved(usize),
    /// Something was read that nobody gets.
    Discarded,
    /// The source ended, for the first time.
    Ended,
    /// The source broke; how.
    Broke(ErrorKind),
    /// The sink broke; how.
    SinkBroke(ErrorKind),
    /// At a frame boundary, as asked.
    Boundary,
    /// Something of ours has found its place; it is written next.
    Inserted,
}

impl Way {
    pub(super) fn new(from: Sender, first: Bytes) -> Self {
        let mut observer = Observer::new(from);
        let messages = observer.feed(&first).messages;
        Self { observer, rest: first, unflushed: false, source_ended: false, sink: Sink::Open, streak: 0, messages }
    }

    /// Nothing more is taken; the sink is told the end behind the rest.
    pub(super) fn finish(&mut self) {
        if self.sink != Sink::Gone {
            self.sink = Sink::Finishing;
        }
    }

    pub(super) fn sink_is_gone(&mut self) {
        self.sink = Sink::Gone;
        self.rest = Bytes::new();
    }

    /// Its source ended, or sent a whole Close, behind which nothing may come (RFC 6455 §5.5.1).
    pub(super) fn has_said_all(&self) -> bool {
        self.source_ended || (self.observer.close_seen() && self.observer.at_frame_boundary())
    }

    /// Nothing it has read waits for the sink.
    pub(super) fn has_sent_all(&self) -> bool {
        self.rest.is_empty() && !self.unflushed
    }

    pub(super) fn is_over(&self) -> bool {
        self.source_ended && self.sink == Sink::Gone
    }

    /// Bytes to read at once, where there is room for `most`.
    fn appetite(&self, most: usize) -> usize {
        if self.streak < STREAK { most.min(READ) } else { most }
    }

    /// A read of so many bytes, of at most `most`, was written; some of it may be left.
    fn took(&mut self, bytes: usize, most: usize) {
        if !self.rest.is_empty() {
            self.streak = 0;
        } else if bytes == most {
            self.streak = self.streak.saturating_add(1);
        }
    }

    /// Writes what was left and flushes; then, if it is to end, tells the sink so. Ready: the sink waits for us.
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

/// What stickyd does with a direction besides moving it.
pub(super) struct Ours<'a, F> {
    /// It stops at the first frame boundary, and drops what the sender sent behind it.
    pub(super) to_boundary: bool,
    /// Something of ours that waits for its place, or is on its way behind what was sent before it.
    pub(super) insert: &'a mut Option<Box<Insert>>,
    /// Told what small frames say.
    pub(super) heed: F,
}

impl<F> Ours<'_, F> {
    /// Between two frames, or messages, with nothing left to write: what waits goes in here.
    fn insert_here(&mut self, way: &mut Way) -> bool {
        match self.insert.take_if(|insert| insert.is_over() || way.observer.close_seen()) {
            Some(_) => false,
            None => self.place_in(way, &[]),
        }
    }

    /// What waits goes in among these bytes, which were read and are about to be sent, if there is a place; they, and it,
    /// are what is to be written then.
    fn place_in(&mut self, way: &mut Way, bytes: &[u8]) -> bool {
        let Some(insert) = self.insert.as_mut().filter(|insert| insert.waits()) else { return false };
        let Some(at) = way.observer.next_place(bytes, insert.is_message()) else { return false };
        let frame = insert.take();
        way.rest = match bytes.split_at_checked(at) {
            Some((before, behind)) if !bytes.is_empty() => [before, &frame, behind].concat().into(),
            // Shared with all others that are told the same.
            _ => frame,
        };
        true
    }

    /// All that was to be written was.
    fn wrote_all(&mut self) {
        if let Some(insert) = self.insert.take_if(|insert| !insert.waits()) {
            insert.arrived();
        }
    }
}

/// One read and one write, or what keeps them from happening.
pub(super) fn step(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    way: &mut Way,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
    mut ours: Ours<'_, impl FnMut(Signal)>,
) -> Step {
    if way.sink != Sink::Gone {
        match way.poll_sink(to, cx) {
            Poll::Ready(Ok(())) => ours.wrote_all(),
            Poll::Ready(Err(error)) => {
                way.sink_is_gone();
                return Step::SinkBroke(error.kind());
            }
            Poll::Pending => return Step::Blocked,
        }
    }
    if way.source_ended {
        return Step::Blocked;
    }
    let passing = way.sink == Sink::Open;
    let to_boundary = ours.to_boundary && passing;
    if to_boundary && way.observer.at_frame_boundary() {
        return Step::Boundary;
    }
    let inserts = ours.insert.is_some() && passing && !to_boundary;
    if inserts && ours.insert_here(way) {
        return Step::Inserted;
    }
    let most = way.appetite(buffer.len());
    let mut read = ReadBuf::new(buffer.get_mut(..most).unwrap_or_default());
    match Pin::new(from).poll_read(cx, &mut read) {
        Poll::Pending => return Step::Blocked,
        Poll::Ready(Ok(())) if !read.filled().is_empty() => {}
        Poll::Ready(ended) => {
            way.source_ended = true;
            return ended.map_or_else(|error| Step::Broke(error.kind()), |()| Step::Ended);
        }
    }
    let mut bytes = read.filled();
    if to_boundary && let Some(end) = way.observer.next_boundary(bytes) {
        bytes = bytes.get(..end).unwrap_or_default();
    }
    let placed = inserts && ours.place_in(way, bytes);
    way.messages = way.messages.wrapping_add(way.observer.feed_heeding(bytes, ours.heed).messages);
    if placed {
        return Step::Moved(bytes.len());
    }
    if !passing {
        return Step::Discarded;
    }
    let written = match Pin::new(to).poll_write(cx, bytes) {
        Poll::Ready(Ok(written)) => written,
        Poll::Ready(Err(error)) => {
            way.sink_is_gone();
            return Step::SinkBroke(error.kind());
        }
        Poll::Pending => 0,
    };
    way.unflushed |= written > 0;
    if let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        way.rest = Bytes::copy_from_slice(rest);
    }
    way.took(bytes.len(), most);
    Step::Moved(bytes.len())
}

#[cfg(test)]
mod tests;
