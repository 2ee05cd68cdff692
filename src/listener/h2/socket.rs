//! The client's socket as h2 sees it: metered, and written in as few pieces as there can be.
//!
//! h2 writes and flushes each DATA frame by itself: a system call and a TLS record an answer. Here writes gather until the
//! connection's task has nothing more to say, and go out together. The thread lends the buffer for that long; a connection
//! owns only what its socket did not take.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Streams;
use super::meter::Meter;
use crate::clock;
use crate::listener::conn::ClientIo;

/// Bytes gathered at most: what a stream may have on its way ([`super::SEND_BUFFER`]) with the heads of its frames. h2 held
/// them until now.
const GATHER: usize = 65 * 1024;

thread_local! {
    /// What connections gather in: lent for one poll of a connection's task.
    static LENT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Parts h2 writes at once at most: a frame's head and its payload, and others before them.
const PARTS: usize = 8;

/// The socket, and what waits for it.
struct Inner {
    io: ClientIo,
    out: Vec<u8>,
    meter: Meter,
    /// Flushes wait for [`Socket::poll_send`]: there is somebody to call it.
    gathers: bool,
    /// h2 could not write and waits to be woken for that.
    blocked: bool,
    /// Nothing more comes of the client.
    ended: bool,
}

/// Shared by h2 and the connection's task; never borrowed across a call to either.
#[derive(Clone)]
pub(super) struct Socket {
    inner: Rc<RefCell<Inner>>,
    streams: Rc<Streams>,
}

impl Socket {
    pub(super) fn new(io: ClientIo, streams: Rc<Streams>) -> Self {
        let meter = Meter::new(clock::now_s());
        let inner = Inner { io, out: Vec::new(), meter, gathers: false, blocked: false, ended: false };
        Self { inner: Rc::new(RefCell::new(inner)), streams }
    }

    /// From now on the caller sends what gathers.
    pub(super) fn gather(&self) {
        self.inner.borrow_mut().gathers = true;
    }

    /// The client's socket, once h2 has done with it; `None`: the client has said its end already.
    pub(super) fn into_open(self) -> Option<ClientIo> {
        Rc::try_unwrap(self.inner).ok().map(RefCell::into_inner).filter(|inner| !inner.ended).map(|inner| inner.io)
    }

    /// Sends what has gathered. `Ready(true)`: everything is written, h2's part included.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut inner = self.inner.borrow_mut();
        let sent = inner.poll_send(cx, &self.streams);
        let blocked = std::mem::take(&mut inner.blocked);
        sent.map_ok(|()| !blocked)
    }
}

impl Inner {
    /// Writes the buffer, then flushes what a layer below holds.
    fn poll_send(&mut self, cx: &mut Context<'_>, streams: &Streams) -> Poll<io::Result<()>> {
        ready!(self.poll_empty(cx, streams))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_empty(&mut self, cx: &mut Context<'_>, streams: &Streams) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, &self.out) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(taken)) => self.sent(taken, streams),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    // Exactly what is left: it may be long.
                    self.out.shrink_to_fit();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// So many bytes of what has gathered are written.
    fn sent(&mut self, taken: usize, streams: &Streams) {
        self.out.drain(..taken);
        if self.out.is_empty() {
            // A thread that ends lends nothing any more.
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
        if self.gathers && self.out.len() + all <= GATHER {
            if self.out.is_empty() {
                self.out = LENT.try_with(Cell::take).unwrap_or_default();
            }
            parts.iter().for_each(|part| self.out.extend_from_slice(part));
            return Poll::Ready(Ok(all));
        }
        // Together with what has gathered, so that a frame's head does not become a record of its own.
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
                return Poll::Ready(Ok(taken - of_out));
            }
        }
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, parts);
        if let Poll::Ready(Ok(bytes)) = written {
            self.wrote(bytes, streams);
        }
        written
    }

    fn wrote(&mut self, bytes: usize, streams: &Streams) {
        self.meter.wrote(bytes);
        streams.pace.written(bytes);
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { inner, streams } = self.get_mut();
        if streams.too_much.get().is_some() {
            // Nothing more is read of it. The connection's task sees to that when h2 lets it: now.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut inner = inner.borrow_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut inner.io).poll_read(cx, buf);
        let bytes = buf.filled().get(before..).unwrap_or_default();
        if bytes.is_empty() {
            inner.ended |= polled.is_ready();
        } else {
            streams.heard(inner.meter.read(bytes, clock::now_s()));
        }
        polled
    }
}

impl AsyncWrite for Socket {
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
