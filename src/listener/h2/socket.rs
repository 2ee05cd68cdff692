//! The client's socket as h2 sees it: what comes is metered and filtered, and what goes is written in as few pieces as
//! possible.
//!
//! h2 writes and flushes each DATA frame separately: one system call and one TLS record per response. Here writes are
//! gathered until the connection's task has nothing more to send, and go out together. The thread lends the buffer for
//! that time; a connection owns only the bytes that its socket did not take.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Streams;
use super::filter::{FilterLimits, FrameFilter};
use super::meter::Meter;
use super::sent::{Sent, SentFrame};
use crate::clock;
use crate::net::client_io::ClientIo;

/// Maximum bytes gathered: what a stream may have on its way ([`super::SEND_BUFFER`]) with the headers of its frames.
/// Until they are gathered, h2 holds these bytes.
const GATHER: usize = 65 * 1024;

thread_local! {
    /// Buffer in which connections gather writes, lent for one poll of a connection's task.
    static LENT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Maximum number of parts in one write: the header and payload of a frame, and others before them.
const PARTS: usize = 8;

/// The client's socket, and the bytes that wait for it.
struct Inner {
    io: ClientIo,
    out: Vec<u8>,
    meter: Meter,
    filter: FrameFilter,
    sent: Sent,
    /// Whether flushes wait for [`H2Socket::poll_send`], because there is a task that calls it.
    gathers: bool,
    /// Whether h2 could not write and waits to be woken for that.
    blocked: bool,
    /// Whether the client has ended its side.
    ended: bool,
}

/// Handle to the socket, shared by h2 and the connection's task; never borrowed across a call to either.
#[derive(Clone)]
pub(crate) struct H2Socket {
    inner: Rc<RefCell<Inner>>,
    streams: Rc<Streams>,
}

impl H2Socket {
    /// Wraps the client's socket.
    pub(crate) fn new(io: ClientIo, streams: Rc<Streams>, limits: FilterLimits) -> Self {
        let meter = Meter::new(clock::now_s());
        let filter = FrameFilter::new(limits, streams.inflow.clone());
        let (out, sent) = (Vec::new(), Sent::default());
        let inner = Inner { io, out, meter, filter, sent, gathers: false, blocked: false, ended: false };
        Self { inner: Rc::new(RefCell::new(inner)), streams }
    }

    /// Starts to gather writes; from now on the caller must send them with [`H2Socket::poll_send`].
    pub(crate) fn gather(&self) {
        self.inner.borrow_mut().gathers = true;
    }

    /// Returns the client's socket once h2 is done with it; `None` if the client has already ended its side.
    pub(crate) fn into_open(self) -> Option<ClientIo> {
        Rc::try_unwrap(self.inner).ok().map(RefCell::into_inner).filter(|inner| !inner.ended).map(|inner| inner.io)
    }

    /// Sends the gathered bytes. `Ready(true)` means that everything is written, including what h2 had left to write.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut inner = self.inner.borrow_mut();
        inner.filter.end_burst();
        let sent = inner.poll_send(cx, &self.streams);
        let blocked = std::mem::take(&mut inner.blocked);
        sent.map_ok(|()| !blocked)
    }
}

impl Inner {
    /// Writes the buffer, then flushes the layer below.
    fn poll_send(&mut self, cx: &mut Context<'_>, streams: &Streams) -> Poll<io::Result<()>> {
        self.give_credits(streams);
        ready!(self.poll_empty(cx, streams))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Adds the frames that give back parts of the client's windows, where a frame may be inserted.
    fn give_credits(&mut self, streams: &Streams) {
        if streams.inflow.uploads.has_credits() && self.sent.is_between_frames() {
            let from = self.out.len();
            streams.inflow.uploads.write_credits(&mut self.out);
            self.sent.read(self.out.get(from..).unwrap_or_default(), |_| {});
        }
    }

    /// Appends what h2 writes to the gathered bytes.
    fn gather(&mut self, parts: &[IoSlice<'_>], streams: &Streams) {
        if self.out.is_empty() {
            self.out = LENT.try_with(Cell::take).unwrap_or_default();
        }
        let from = self.out.len();
        parts.iter().for_each(|part| self.out.extend_from_slice(part));
        let (mut code, uploads) = (None, &streams.inflow.uploads);
        self.sent.read(self.out.get(from..).unwrap_or_default(), |frame| {
            note_sent(&mut self.meter, frame, streams);
            if let SentFrame::Reset { stream, end, .. } = frame
                && let Some(new) = uploads.take_code(stream)
            {
                code.get_or_insert_with(Vec::new).push((from + end, new));
            }
        });
        for (end, new) in code.into_iter().flatten() {
            if let Some(place) = end.checked_sub(4).and_then(|begin| self.out.get_mut(begin..end)) {
                place.copy_from_slice(&u32::to_be_bytes(new));
            }
        }
    }

    /// Follows bytes that h2 has written without their being gathered.
    fn follow(&mut self, parts: &[IoSlice<'_>], mut taken: usize, streams: &Streams) {
        for part in parts {
            let piece = part.get(..taken.min(part.len())).unwrap_or_default();
            self.sent.read(piece, |frame| note_sent(&mut self.meter, frame, streams));
            taken -= piece.len();
        }
    }

    fn poll_empty(&mut self, cx: &mut Context<'_>, streams: &Streams) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, &self.out) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(taken)) => self.sent(taken, streams),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    // Keep exactly what is left, because it may have to wait for long.
                    self.out.shrink_to_fit();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Removes `taken` bytes, which are written, from the gathered bytes.
    fn sent(&mut self, taken: usize, streams: &Streams) {
        self.out.drain(..taken);
        if self.out.is_empty() {
            // A thread that is ending has no place for the buffer any more.
            let out = std::mem::take(&mut self.out);
            let _ = LENT.try_with(|lent| lent.set(out));
        }
        self.wrote(taken, streams);
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
        streams: &Streams,
    ) -> Poll<io::Result<usize>> {
        let all: usize = parts.iter().map(|part| part.len()).sum();
        // A code is changed in the gathered bytes only, so these few frames are gathered whatever their size.
        if self.gathers && (self.out.len() + all <= GATHER || streams.inflow.uploads.has_codes()) {
            self.gather(parts, streams);
            return Poll::Ready(Ok(all));
        }
        // Write it together with the gathered bytes, so that a frame header does not become a record of its own.
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); PARTS];
            let mut count = 0;
            for (slot, part) in
                slices.iter_mut().zip(std::iter::once(self.out.as_slice()).chain(parts.iter().map(|p| &**p)))
            {
                *slot = IoSlice::new(part);
                count += 1;
            }
            let slices = slices.get(..count).unwrap_or_default();
            let taken = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
            if taken == 0 {
                return Poll::Ready(Ok(0));
            }
            let of_out = taken.min(self.out.len());
            self.sent(of_out, streams);
            self.wrote(taken - of_out, streams);
            if taken > of_out {
                self.follow(parts, taken - of_out, streams);
                return Poll::Ready(Ok(taken - of_out));
            }
        }
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, parts);
        if let Poll::Ready(Ok(bytes)) = written {
            self.wrote(bytes, streams);
            self.follow(parts, bytes, streams);
        }
        written
    }

    /// Reads what the filter lets pass.
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>, streams: &Streams) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        while !streams.is_over() {
            match self.filter.try_fill(buf) {
                Ok(true) => return Poll::Ready(Ok(())),
                Ok(false) => {}
                Err(fault) => {
                    streams.fault.set(Some(fault));
                    break;
                }
            }
            if self.filter.has_burst() {
                cx.waker().wake_by_ref();
                break;
            }
            let polled = Pin::new(&mut self.io).poll_read(cx, buf);
            let bytes = buf.filled().get(before..).unwrap_or_default();
            if bytes.is_empty() {
                self.ended |= polled.is_ready();
                streams.inflow.uploads.set_reader(cx.waker());
                return polled;
            }
            streams.heard(self.meter.read(bytes, clock::now_s()));
            let passed = self.filter.read(bytes);
            buf.set_filled(before + *passed.as_ref().unwrap_or(&0));
            if let Err(fault) = passed {
                streams.fault.set(Some(fault));
                break;
            }
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }

    fn wrote(&mut self, bytes: usize, streams: &Streams) {
        self.meter.wrote(bytes);
        streams.pace.written(bytes);
    }
}

impl AsyncRead for H2Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { inner, streams } = self.get_mut();
        let mut inner = inner.borrow_mut();
        let read = inner.poll_read(cx, buf, streams);
        if let Some((count, why)) = inner.filter.take_malformed() {
            streams.exceeds(inner.meter.malformed(count, clock::now_s()));
            streams.malformed(count, why);
        }
        if streams.is_over() {
            // Nothing more is read from this client. The connection's task ends the connection once h2 returns to it,
            // so it is woken now.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        read
    }
}

/// Notes a frame that was sent.
fn note_sent(meter: &mut Meter, frame: SentFrame, streams: &Streams) {
    match frame {
        SentFrame::Head => streams.held.head_written(),
        SentFrame::Reset { stream, code, .. } if streams.inflow.uploads.mark_reset(stream) => {
            streams.exceeds(meter.sent_reset(code, clock::now_s()));
        }
        SentFrame::Reset { .. } => {}
    }
}

impl AsyncWrite for H2Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { inner, streams } = self.get_mut();
        let mut inner = inner.borrow_mut();
        let written = inner.poll_write(cx, bufs, streams);
        inner.blocked |= written.is_pending();
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { inner, streams } = self.get_mut();
        let mut inner = inner.borrow_mut();
        if inner.gathers { Poll::Ready(Ok(())) } else { inner.poll_send(cx, streams) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { inner, streams } = self.get_mut();
        let mut inner = inner.borrow_mut();
        ready!(inner.poll_send(cx, streams))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}
