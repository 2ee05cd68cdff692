//! A client's socket as hyper sees it. It gives hyper one request at a time, reports when nothing is under way, and
//! cuts clients that read too slowly.
//!
//! What a client sends after a request waits here until the response has left, so that the end of its stream is seen
//! meanwhile. Request lines that hyper's URI type rejects are encoded on the way (`net::written_target`). A head that
//! hyper rejects gets its answer from `refusal`, and not the bare one of hyper, which is dropped here.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use memchr::memchr;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::bytes_ahead::BytesAhead;
use super::conn::Conn;
use super::request_end::{BodyScan, HeadScan, is_body_as_long};
use crate::metrics::LimitLabel;
use crate::min_rate::{RateVerdict, TransferGuard};
use crate::net::client_io::ClientIo;
use crate::net::written_target::{EncodedLine, encode_line};

/// How long a client that has ended its side is waited for without taking any byte: it may have shut down its side
/// after its request (RFC 9112 §9.6 speaks of the server's side only, and nothing forbids it), or it may be gone.
const HALF_CLOSED: Duration = Duration::from_secs(5);

/// Maximum bytes per read of what follows a request.
const AHEAD_PIECE_BYTES: usize = 4 * 1024;

/// The part of a request to which the next byte belongs.
enum RequestPart {
    /// The first line of a head, or a blank line before it.
    Line,
    Head(HeadScan),
    Body(BodyScan),
}

/// The client's socket, wrapped for hyper.
pub(crate) struct Http1Io {
    io: ClientIo,
    ahead: BytesAhead,
    part: RequestPart,
    conn: Rc<Conn>,
    /// Informational responses that the client has not taken yet.
    interim: Vec<u8>,
    /// Whether hyper's last write was not taken completely, so that nothing may be put between it and the next one.
    cut: bool,
    /// Check of the minimum rate; begins with the first write that the client does not take at once.
    pace: Option<TransferGuard>,
    /// Deadline of a client that has ended its side while its request is under way.
    leaves: Option<Pin<Box<Sleep>>>,
}

impl Http1Io {
    pub(crate) fn new(io: ClientIo, ahead: Vec<u8>, conn: Rc<Conn>) -> Self {
        conn.traffic.dry.set(false);
        let ahead = BytesAhead { bytes: ahead, seen: 0 };
        Self { io, ahead, part: RequestPart::Line, conn, interim: Vec::new(), cut: false, pace: None, leaves: None }
    }

    /// Returns the socket and the received bytes that are not processed yet: those that hyper had `read`, then those
    /// that it had not.
    pub(crate) fn take(self, read: Bytes) -> (ClientIo, Bytes) {
        let ahead = self.ahead.waiting();
        let rest = if ahead.is_empty() { read } else { [&read, ahead].concat().into() };
        (self.io, rest)
    }

    /// Reads from the socket.
    fn poll_socket(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.conn.traffic.dry.set(read.is_pending());
        self.conn.traffic.ended.set(read.is_ready() && buf.filled().len() == before);
        read
    }

    /// Reads up to `most` bytes from the socket and keeps them; returns their number, which is 0 at its end.
    fn poll_ahead(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        let thread = self.conn.thread.clone();
        let mut buffer = thread.buffer.borrow_mut();
        let mut piece = ReadBuf::new(buffer.get_mut(..most).unwrap_or_default());
        ready!(self.poll_socket(cx, &mut piece))?;
        match self.ahead.is_empty() {
            true => self.ahead = BytesAhead { bytes: piece.filled().to_vec(), seen: 0 },
            false => self.ahead.bytes.extend_from_slice(piece.filled()),
        }
        Poll::Ready(Ok(piece.filled().len()))
    }

    /// Gives hyper bytes that are kept, or else bytes from the socket; returns them.
    fn poll_next<'b>(&mut self, cx: &mut Context<'_>, buf: &'b mut ReadBuf<'_>) -> Poll<io::Result<&'b [u8]>> {
        let before = buf.filled().len();
        if self.ahead.is_empty() {
            ready!(self.poll_socket(cx, buf))?;
        } else {
            let count = self.ahead.waiting().len().min(buf.remaining());
            buf.put_slice(self.ahead.waiting().get(..count).unwrap_or_default());
            self.ahead.advance(count);
        }
        Poll::Ready(Ok(buf.filled().get(before..).unwrap_or_default()))
    }

    /// Takes back the bytes of `buf` from `end` on, because they belong to what follows.
    fn take_back(&mut self, buf: &mut ReadBuf<'_>, end: usize) {
        let back = buf.filled().get(end..).unwrap_or_default();
        if !back.is_empty() {
            self.ahead = BytesAhead { bytes: [back, self.ahead.waiting()].concat(), seen: 0 };
            buf.set_filled(end);
        }
    }

    /// Reads the head of a request, and nothing after it but bytes of its body.
    fn poll_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let mut new = 0;
        let (mut scan, is_first) = match self.part {
            RequestPart::Head(scan) => (scan, false),
            RequestPart::Line | RequestPart::Body(_) => {
                new = ready!(self.poll_line(cx, buf))?;
                (HeadScan::default(), true)
            }
        };
        if new == 0 {
            new = ready!(self.poll_next(cx, buf))?.len();
        }
        let head = buf.filled().get(before..before + new).unwrap_or_default();
        match scan.end_in(head) {
            Some(end) => {
                self.part = RequestPart::Line;
                let beyond = new - end;
                // A body that came with its head is given with it: kept here, it would cost hyper another read, into
                // another buffer.
                if is_first && beyond > 0 && is_body_as_long(head.get(..end).unwrap_or_default(), beyond) {
                    self.conn.traffic.beyond.set(beyond);
                } else {
                    self.take_back(buf, before + end);
                }
            }
            None => self.part = RequestPart::Head(scan),
        }
        Poll::Ready(Ok(()))
    }

    /// Reads the first line of a head, and encodes its target if necessary. Returns how many bytes were put into `buf`;
    /// if they are 0, the bytes are kept.
    fn poll_line(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        self.part = RequestPart::Line;
        if self.ahead.is_empty() {
            let before = buf.filled().len();
            let new = ready!(self.poll_next(cx, buf))?;
            let is_plain = |line: Range<usize>| encode_line(new.get(line).unwrap_or_default()).is_none();
            if new.is_empty() || first_line(new).is_some_and(is_plain) {
                return Poll::Ready(Ok(new.len()));
            }
            self.take_back(buf, before);
        }
        let most = self.conn.thread.limits().head_bytes;
        let line = loop {
            match first_line(self.ahead.waiting()) {
                Some(line) => break line,
                // hyper rejects a line that begins like this; its end, which may never come, is not waited for.
                None if begins_without_method(self.ahead.waiting()) => return Poll::Ready(Ok(0)),
                None if self.ahead.waiting().len() >= most => return Poll::Ready(Ok(0)),
                // At the end of the stream, hyper gets what there is.
                None => {
                    if ready!(self.poll_ahead(cx, AHEAD_PIECE_BYTES))? == 0 {
                        return Poll::Ready(Ok(0));
                    }
                }
            }
        };
        let waiting = self.ahead.waiting();
        if let Some(EncodedLine { line: encoded, written }) = encode_line(waiting.get(line.clone()).unwrap_or_default())
        {
            let before = waiting.get(..line.start).unwrap_or_default();
            let bytes = [before, &encoded, waiting.get(line.end..).unwrap_or_default()].concat();
            self.ahead = BytesAhead { bytes, seen: 0 };
            self.conn.traffic.written.replace(written);
        }
        Poll::Ready(Ok(0))
    }

    /// Reads the body of a request, and nothing after it.
    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>, mut body: BodyScan) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let new = ready!(self.poll_next(cx, buf))?;
        let taken = body.take(new).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.part = RequestPart::Body(body);
        self.take_back(buf, before + taken);
        Poll::Ready(Ok(()))
    }

    /// Waits for the end of the client's stream while its request is under way; what else comes is kept. Ready when the
    /// client is taken to be gone.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let most = self.conn.thread.limits().head_bytes;
        while !self.conn.traffic.ended.get() {
            // A client that sends more than a head ahead is not looked at until it has its response.
            match most.saturating_sub(self.ahead.waiting().len()) {
                0 => return Poll::Pending,
                room => _ = ready!(self.poll_ahead(cx, room.min(AHEAD_PIECE_BYTES)))?,
            }
        }
        // A poll, or an upgrade, is of no use to a client that sends no more.
        if self.conn.traffic.upgrades.get() || self.conn.is_poll() {
            return Poll::Ready(Ok(()));
        }
        let leaves = self.leaves.get_or_insert_with(|| Box::pin(tokio::time::sleep(HALF_CLOSED)));
        ready!(leaves.as_mut().poll(cx));
        if !self.conn.traffic.is_blocked() {
            return Poll::Ready(Ok(()));
        }
        // The client's kernel still takes what ours holds, or will reset the connection. `min_rate` limits that time:
        // our kernel may hold megabytes, and takes no more before a third of them has got through.
        leaves.as_mut().reset(Instant::now() + HALF_CLOSED);
        leaves.as_mut().poll(cx).map(Ok)
    }

    /// Drops hyper's output if it is its own answer to a head that it has rejected; returns whether it is.
    fn drop_own_answer(&self) -> bool {
        let traffic = &self.conn.traffic;
        traffic.refused.set(traffic.refused.get() || traffic.is_answered());
        traffic.refused.get()
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

    /// Writes informational responses before anything else that hyper writes. hyper cannot send them. Since it gets one
    /// request at a time, all of its output belongs to the request under way, and its response comes later.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let heads = self.conn.interim.take();
        if !self.cut {
            heads.iter().for_each(|head| head.write(&mut self.interim));
        }
        while !self.interim.is_empty() {
            self.check()?;
            let written = Pin::new(&mut self.io).poll_write(cx, &self.interim);
            self.note(&written, cx);
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => drop(self.interim.drain(..count)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Notes a write of hyper's, of `offered` bytes.
    fn wrote(&mut self, written: &Poll<io::Result<usize>>, offered: usize, cx: &Context<'_>) {
        if let Poll::Ready(Ok(count)) = written {
            self.cut = *count < offered;
        }
        self.note(written, cx);
    }

    fn note(&mut self, written: &Poll<io::Result<usize>>, cx: &Context<'_>) {
        self.conn.traffic.unflushed.set(true);
        if let (Poll::Ready(Ok(_)), Some(leaves)) = (written, &mut self.leaves) {
            // A client that is gone resets its connection at the next write.
            leaves.as_mut().reset(Instant::now() + HALF_CLOSED);
        }
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
        if let Some(body) = this.conn.traffic.begun.take() {
            (this.part, this.leaves) = (RequestPart::Body(body), None);
        }
        match this.part {
            RequestPart::Body(body) if !body.is_over() => this.poll_body(cx, buf, body),
            RequestPart::Body(_) if this.conn.traffic.owed.get() => this.poll_gone(cx),
            RequestPart::Line | RequestPart::Head(_) | RequestPart::Body(_) => this.poll_head(cx, buf),
        }
    }
}

/// Returns where the first line that is not blank begins and ends, if all of it is in `bytes`.
fn first_line(bytes: &[u8]) -> Option<Range<usize>> {
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    Some(start..start + memchr(b'\n', bytes.get(start..)?)?)
}

/// Returns whether the first byte that is not part of a blank line cannot begin a method; those of TLS and of most
/// other protocols cannot.
fn begins_without_method(bytes: &[u8]) -> bool {
    let first = bytes.iter().find(|byte| !matches!(byte, b'\r' | b'\n'));
    first.is_some_and(|byte| !byte.is_ascii_graphic())
}

impl AsyncWrite for Http1Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.drop_own_answer() {
            return Poll::Ready(Ok(buf.len()));
        }
        ready!(this.poll_interim(cx))?;
        this.check()?;
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.wrote(&written, buf.len(), cx);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let total = || bufs.iter().map(|part| part.len()).sum();
        if this.drop_own_answer() {
            return Poll::Ready(Ok(total()));
        }
        ready!(this.poll_interim(cx))?;
        this.check()?;
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.wrote(&written, total(), cx);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        // TLS holds records that the socket has not taken.
        let flushed = Pin::new(&mut this.io).poll_flush(cx);
        if flushed.is_pending() {
            this.check()?;
            this.note(&Poll::Pending, cx);
        }
        ready!(flushed)?;
        this.conn.traffic.unflushed.set(false);
        this.conn.traffic.blocked.set(false);
        let traffic = &this.conn.traffic;
        if this.conn.has_answered(traffic.handed_over.get())
            && traffic.owed.replace(false)
            && (!this.ahead.is_empty() || traffic.has_ended())
        {
            // hyper's last read found nothing, so it reads again only if it is woken. The socket does not wake it for
            // what is kept here.
            cx.waker().wake_by_ref();
        }
        if let Some(pace) = &this.pace {
            pace.moved(0);
        }
        Poll::Ready(Ok(()))
    }

    /// Handles hyper's last call. A plain socket whose client has already ended is not shut down: it is closed right
    /// after this, which tells the client the same. Nor is a socket on which an answer follows (`refusal`).
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match &this.io {
            ClientIo::Plain(_) if this.conn.traffic.has_ended() => Poll::Ready(Ok(())),
            _ if this.conn.traffic.refused.get() => Poll::Ready(Ok(())),
            _ => Pin::new(&mut this.io).poll_shutdown(cx),
        }
    }
}
