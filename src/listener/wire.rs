//! A client's socket as hyper has it: tells when nothing is under way on it, and cuts a reader that is too slow.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::conn::{ClientIo, Conn};
use crate::metrics::Limit;
use crate::pace::{Paced, Verdict};

/// What is known of the socket from outside of hyper.
#[derive(Default)]
pub(super) struct Traffic {
    /// Something was written since the last whole flush.
    unflushed: Cell<bool>,
    /// The last read found nothing.
    dry: Cell<bool>,
    /// The client did not take all of what was written at once, and has not taken it since.
    blocked: Cell<bool>,
    /// The client says no more: nothing it sent is left in the socket.
    ended: Cell<bool>,
}

impl Traffic {
    /// All that hyper had is out, and all that came was read: at the end of each of its turns it flushes what it holds, so
    /// that between two requests its buffers are empty but for half a head, which it gives back.
    pub(super) fn is_still(&self) -> bool {
        !self.unflushed.get() && self.dry.get()
    }

    /// What hyper has waits for the client: no more of an answer should be read for it.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// The client's end was read, or its connection is broken.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.get()
    }
}

/// The socket.
pub(super) struct Wire {
    io: ClientIo,
    /// Read before, not yet seen by hyper.
    ahead: Bytes,
    conn: Rc<Conn>,
    /// From the first write on that the client did not take at once.
    pace: Option<Paced>,
}

impl Wire {
    pub(super) fn new(io: ClientIo, ahead: Bytes, conn: Rc<Conn>) -> Self {
        conn.traffic.dry.set(false);
        Self { io, ahead, conn, pace: None }
    }

    /// The socket, and what came of which nothing is done yet: what hyper had `read`, then what it had not.
    pub(super) fn take(self, read: Bytes) -> (ClientIo, Bytes) {
        let rest = if self.ahead.is_empty() { read } else { [read, self.ahead].concat().into() };
        (self.io, rest)
    }

    /// Whether the client takes our bytes too slowly. What the kernel holds goes with it: a reset frees it at once.
    fn check(&self) -> io::Result<()> {
        if self.pace.as_ref().and_then(|pace| pace.verdict()) != Some(Verdict::Slow) {
            return Ok(());
        }
        self.conn.thread.shared.metrics.limits.reached(Limit::SlowReader);
        if let Some(socket) = self.io.tcp() {
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes its answer too slowly (min_rate)"))
    }

    fn note(&mut self, written: &Poll<io::Result<usize>>, cx: &Context<'_>) {
        self.conn.traffic.unflushed.set(true);
        match (written, &mut self.pace) {
            (Poll::Pending, pace) => {
                let conn = &self.conn;
                conn.traffic.blocked.set(true);
                pace.get_or_insert_with(|| {
                    let begun = Paced::begin(&conn.thread, None);
                    // The kernel has just taken a buffer full, at least a lump of which must get through first.
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

impl AsyncRead for Wire {
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

impl AsyncWrite for Wire {
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
        // TLS holds records that the socket did not take.
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

    /// hyper's last word: the socket is closed behind it, which says the same to a client that has ended.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match &this.io {
            ClientIo::Plain(_) if this.conn.traffic.has_ended() => Poll::Ready(Ok(())),
            _ => Pin::new(&mut this.io).poll_shutdown(cx),
        }
    }
}
