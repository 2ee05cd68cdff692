//! A client's socket as hyper sees it: it reports when nothing is under way on it, and cuts clients that read too
//! slowly.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::conn::Conn;
use crate::metrics::LimitLabel;
use crate::min_rate::{RateVerdict, TransferGuard};
use crate::net::client_io::ClientIo;

/// State of the socket, as far as it can be observed outside hyper.
#[derive(Default)]
pub(crate) struct Traffic {
    /// Whether something was written since the last complete flush.
    unflushed: Cell<bool>,
    /// Whether the last read found no bytes.
    dry: Cell<bool>,
    /// Whether the client did not take all that was written at once, and has not taken it since.
    blocked: Cell<bool>,
    /// Whether the client has ended its side, and nothing it sent is left in the socket; or the connection is broken.
    ended: Cell<bool>,
}

impl Traffic {
    /// Returns whether hyper's output is sent and all that came was read. At the end of each turn hyper flushes its
    /// output, so that between two requests its buffers are empty, except for part of a head, which it gives back.
    pub(crate) fn is_still(&self) -> bool {
        !self.unflushed.get() && self.dry.get()
    }

    /// Returns whether hyper's output waits for the client, so that no more of a response should be read for it.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// Returns whether the end of the client's stream was read, or its connection is broken.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.get()
    }
}

/// The client's socket, wrapped for hyper.
pub(crate) struct Http1Io {
    io: ClientIo,
    /// Bytes that were read earlier and that hyper has not seen yet.
    ahead: Bytes,
    conn: Rc<Conn>,
    /// Check of the minimum rate; begins with the first write that the client does not take at once.
    pace: Option<TransferGuard>,
}

impl Http1Io {
    pub(crate) fn new(io: ClientIo, ahead: Bytes, conn: Rc<Conn>) -> Self {
        conn.traffic.dry.set(false);
        Self { io, ahead, conn, pace: None }
    }

    /// Returns the socket and the received bytes that are not processed yet: those that hyper had `read`, then those
    /// that it had not.
    pub(crate) fn take(self, read: Bytes) -> (ClientIo, Bytes) {
        let rest = if self.ahead.is_empty() { read } else { [read, self.ahead].concat().into() };
        (self.io, rest)
    }

    /// Fails if the client reads our bytes too slowly. The connection is then closed by a reset, so that the kernel
    /// frees its send buffer at once.
    fn check(&self) -> io::Result<()> {
        if self.pace.as_ref().and_then(|pace| pace.verdict()) != Some(RateVerdict::Slow) {
            return Ok(());
        }
        self.conn.thread.shared.metrics.limits.reached(LimitLabel::SlowReader);
        if let Some(socket) = self.io.tcp() {
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads its response too slowly (min_rate)"))
    }

    fn note(&mut self, written: &Poll<io::Result<usize>>, cx: &Context<'_>) {
        self.conn.traffic.unflushed.set(true);
        match (written, &mut self.pace) {
            (Poll::Pending, pace) => {
                let conn = &self.conn;
                conn.traffic.blocked.set(true);
                pace.get_or_insert_with(|| {
                    let begun = TransferGuard::begin(&conn.thread.paces, None);
                    // The kernel has just filled its send buffer. It takes more only after a large piece of that has
                    // got through, so that piece is credited.
                    begun.moved(usize::from(u16::MAX));
                    begun
                })
                .waits(cx.waker());
            }
            (Poll::Ready(Ok(bytes)), Some(pace)) => pace.moved(*bytes),
            (Poll::Ready(_), _) => {}
        }
    }
}

impl AsyncRead for Http1Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ahead.is_empty() {
            let count = this.ahead.len().min(buf.remaining());
            buf.put_slice(this.ahead.get(..count).unwrap_or_default());
            this.ahead.advance(count);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        this.conn.traffic.dry.set(read.is_pending());
        this.conn.traffic.ended.set(read.is_ready() && buf.filled().len() == before);
        read
    }
}

impl AsyncWrite for Http1Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check()?;
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.note(&written, cx);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check()?;
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.note(&written, cx);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // TLS holds records that the socket has not taken.
        let flushed = Pin::new(&mut this.io).poll_flush(cx);
        if flushed.is_pending() {
            this.check()?;
            this.note(&Poll::Pending, cx);
        }
        ready!(flushed)?;
        this.conn.traffic.unflushed.set(false);
        this.conn.traffic.blocked.set(false);
        if let Some(pace) = &this.pace {
            pace.moved(0);
        }
        Poll::Ready(Ok(()))
    }

    /// Handles hyper's last call. A plain socket whose client has already ended is not shut down: it is closed right
    /// after this, which tells the client the same.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match &this.io {
            ClientIo::Plain(_) if this.conn.traffic.has_ended() => Poll::Ready(Ok(())),
            _ => Pin::new(&mut this.io).poll_shutdown(cx),
        }
    }
}
