//! A TLS connection that owns no buffer while nothing is under way on it: rustls's unbuffered interface over the
//! scratch buffer of its thread. This is the only file that uses that interface.
//!
//! rustls's own connection keeps an input buffer of at least 4 KiB for as long as it lives. This one keeps only what it
//! must: the part of a record whose rest has not come, plaintext that its reader had no room for, and records that the
//! socket did not take. All three are bounded: the first by one read ([`READ`]) and a record or a handshake message,
//! the second by the plaintext of those, and the third by the records of one step ([`records::STEP`]), since nothing
//! more is taken while some of them wait.
//!
//! The code relies on three properties of rustls's interface:
//! - Bytes that rustls was shown and did not discard must be shown again, from the same byte on, in every call, even in
//!   one for writing: rustls remembers positions in them while half a handshake message has come. So `input` is always
//!   passed along.
//! - rustls does not go on while it has something to send itself. That is appended to `output`, and `output` is sent
//!   before anything else.
//! - After an error rustls must not be shown records again: only the alert that it has to send is taken.
//!
//! A client's request for new keys (KeyUpdate, RFC 8446 §4.6.3) is answered as rustls does: before our next record.
//!
//! rustls 0.24 has no unbuffered interface. With it, this file goes, and so do its half of `tls_stream` and the key
//! `tls = { buffers }`: every connection then has buffers of its own again, and a silent tunnel costs 9.7 KB instead of
//! 5.6 KB (tests/bench `idle-tls`).
//!
//! 0-RTT is not supported; no configuration of ours accepts it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};
use rustls::{CommonState, Error, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::records::{self, RECORD, SEALED, WriteParts};
use super::scratch::{BESIDE, READ, Scratch, WaitingBytes, hand_over};

/// Maximum bytes of a record on the wire: its header, and a full record with what TLS 1.2 allows it to grow by (RFC
/// 5246 §6.2.3).
const WIRE: usize = 5 + RECORD + 2048;

/// Maximum bytes of input kept while rustls waits for more of it, for a handshake message in pieces; the same as
/// rustls's own limit.
const HANDSHAKE: usize = 0xffff;

/// A TLS connection, server side, without buffers of its own.
pub(crate) struct Bufferless<S> {
    socket: S,
    session: UnbufferedServerConnection,
    /// Bytes that came and are not processed yet; shown to rustls in every call.
    input: Vec<u8>,
    /// Whether there may be a whole record in `input`.
    look: bool,
    /// Plaintext for the reader, which comes before everything that is still in records.
    plain: WaitingBytes,
    /// Records for the socket, which go before everything that is sealed later.
    output: WaitingBytes,
    /// Whether the client has ended its side (close_notify).
    ended: bool,
    /// Whether we have ended our side.
    parted: bool,
    /// The error that broke the connection; nothing works after it.
    broken: Option<Box<Error>>,
}

/// What to do after a state that rustls reported.
enum TlsStep {
    On,
    Stop,
    Break(Error),
}

impl<S> Bufferless<S> {
    pub(crate) fn session(&self) -> &CommonState {
        &self.session
    }

    pub(crate) fn socket(&self) -> &S {
        &self.socket
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Bufferless<S> {
    /// Makes a handshake. `came` holds bytes of it that were read before.
    ///
    /// # Errors
    /// I/O errors of the socket; `InvalidData` if the client violates TLS; `UnexpectedEof` if it has left.
    pub(crate) async fn accept(socket: S, config: Arc<ServerConfig>, came: Vec<u8>) -> io::Result<Box<Self>> {
        // Boxed from the start: it is never moved.
        let mut made = Box::new(Self {
            socket,
            session: UnbufferedServerConnection::new(config).map_err(io::Error::other)?,
            look: !came.is_empty(),
            input: came,
            plain: WaitingBytes::default(),
            output: WaitingBytes::default(),
            ended: false,
            parted: false,
            broken: None,
        });
        std::future::poll_fn(|cx| made.poll_handshake(cx)).await?;
        Ok(made)
    }

    /// Ready when the handshake is done, and our last message of it (a ticket) is sent.
    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_drain(cx))?;
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            let went_on = self.poll_records(cx, None);
            // The client should learn what was wrong, if its socket takes the alert now.
            if matches!(went_on, Poll::Ready(Err(_))) {
                let _ = self.poll_drain(cx);
            }
            ready!(went_on)?;
        }
    }

    /// Processes the input that is there, or else what the socket has: the plaintext goes to `buf` if there is one, and
    /// the rest to `plain`.
    fn poll_records(&mut self, cx: &mut Context<'_>, mut buf: Option<&mut ReadBuf<'_>>) -> Poll<io::Result<()>> {
        self.check()?;
        if self.look {
            self.turn_kept(buf, |_| {});
        } else {
            let most = buf.as_deref_mut().map_or(0, |buf| buf.remaining()).clamp(WIRE, READ);
            ready!(self.poll_more(cx, most, buf))?;
        }
        // Input that does not become a whole record or message must not grow without limit.
        if !self.look && self.input.len() >= HANDSHAKE {
            self.breaks(Error::General("a handshake message is too long".into()));
        }
        Poll::Ready(self.check())
    }

    /// Reads at most `most` bytes from the socket and processes them.
    fn poll_more(&mut self, cx: &mut Context<'_>, most: usize, buf: Option<&mut ReadBuf<'_>>) -> Poll<io::Result<()>> {
        let mut scratch = Scratch::lend();
        let kept = self.input.len();
        // The new bytes are read to the place after that of the kept ones, so that both can become one piece.
        let at = if kept <= BESIDE { kept } else { 0 };
        let mut more = ReadBuf::new(scratch.get_mut(at..at + most).unwrap_or_default());
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut more))?;
        let came = more.filled().len();
        if came == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        // The smaller part is copied to the larger one, so that a client that sends a record byte by byte does not make
        // us copy all of it every time.
        if at == kept && came >= kept {
            let all = scratch.get_mut(..kept + came).unwrap_or_default();
            if let Some(front) = all.get_mut(..kept) {
                front.copy_from_slice(&self.input);
            }
            let done = self.turn(all, buf, |_| {});
            self.input = all.get(done..).unwrap_or_default().to_vec();
        } else {
            self.input.extend_from_slice(scratch.get(at..at + came).unwrap_or_default());
            self.turn_kept(buf, |_| {});
        }
        Poll::Ready(Ok(()))
    }

    /// Processes the kept input, as [`Self::turn`] does.
    fn turn_kept(
        &mut self,
        buf: Option<&mut ReadBuf<'_>>,
        say: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>),
    ) {
        let mut input = std::mem::take(&mut self.input);
        let done = self.turn(&mut input, buf, say);
        // Keep exactly what is left; if that is nothing, no memory is owned.
        self.input = if done == 0 { input } else { input.get(done..).unwrap_or_default().to_vec() };
    }

    /// Processes `input` until no whole record is left, or `buf` is full; returns how many of its bytes are processed.
    /// `say` is called at the end, unless the connection cannot be written to.
    fn turn(
        &mut self,
        input: &mut [u8],
        mut buf: Option<&mut ReadBuf<'_>>,
        say: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>),
    ) -> usize {
        let (mut done, mut say) = (0, Some(say));
        self.look = false;
        loop {
            let rest = input.get_mut(done..).unwrap_or_default();
            let left = rest.len();
            let UnbufferedStatus { mut discard, state, .. } = self.session.process_tls_records(rest);
            let next = match state {
                Ok(ConnectionState::ReadTraffic(mut records)) => loop {
                    match records.next_record() {
                        Some(Ok(record)) => {
                            discard += record.discard;
                            hand_over(record.payload, buf.as_deref_mut(), &mut self.plain);
                        }
                        Some(Err(error)) => break TlsStep::Break(error),
                        // The records after it stay as they are until a reader has room again.
                        None if buf.as_ref().is_some_and(|buf| buf.remaining() == 0) => {
                            self.look = discard < left;
                            break TlsStep::Stop;
                        }
                        None => break TlsStep::On,
                    }
                },
                Ok(ConnectionState::EncodeTlsData(mut record)) => {
                    encode(&mut record, &mut self.output);
                    TlsStep::On
                }
                // The record is in `output` now, and is sent before anything else.
                Ok(ConnectionState::TransmitTlsData(record)) => {
                    record.done();
                    TlsStep::On
                }
                // Bytes after a close_notify are ignored (RFC 8446 §6.1).
                Ok(ConnectionState::PeerClosed) => {
                    self.ended = true;
                    discard = left;
                    TlsStep::On
                }
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    if let Some(say) = say.take() {
                        say(&mut traffic);
                    }
                    TlsStep::Stop
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => TlsStep::Stop,
                Ok(_) => TlsStep::Break(Error::General("the client sent early data, which is not accepted".into())),
                Err(error) => TlsStep::Break(error),
            };
            done += discard;
            match next {
                TlsStep::On => {}
                TlsStep::Stop => return done,
                TlsStep::Break(error) => {
                    self.breaks(error);
                    return input.len();
                }
            }
        }
    }

    /// Marks the connection as broken: received bytes are dropped, and the alert is the last that is sent.
    fn breaks(&mut self, error: Error) {
        (self.input, self.look) = (Vec::new(), false);
        self.broken = Some(Box::new(error));
        // As long as rustls has something to send, it does not look at the input.
        while self.session.wants_write() {
            match self.session.process_tls_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(mut record)) => encode(&mut record, &mut self.output),
                _ => return,
            }
        }
    }

    fn check(&self) -> io::Result<()> {
        match &self.broken {
            None => Ok(()),
            Some(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error.as_ref().clone())),
        }
    }

    /// Writes the records that wait for the socket.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, self.output.waiting()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.output.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes as much plaintext as the socket takes, and up to one step more.
    fn poll_send(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.check()?;
        if self.parted {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let (mut parts, mut taken) = (WriteParts::of(parts), 0);
        loop {
            match self.poll_drain(cx)? {
                Poll::Pending if taken == 0 => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Ok(taken)),
                Poll::Ready(()) => {}
            }
            match self.send_step(cx, &mut parts)? {
                0 => return Poll::Ready(Ok(taken)),
                more => taken += more,
            }
        }
    }

    /// Seals one step and writes it; what the socket does not take is kept. Returns the bytes of plaintext, 0 at the
    /// end.
    fn send_step(&mut self, cx: &mut Context<'_>, parts: &mut WriteParts<'_>) -> io::Result<usize> {
        let mut scratch = Scratch::lend();
        let (sealed, piece) = scratch.split_at_mut(SEALED);
        let piece = piece.get_mut(..RECORD).unwrap_or_default();
        // Numbers of bytes: of the plaintext, and of its records.
        let mut done = Ok((0, 0));
        self.turn_kept(None, |traffic| {
            let encrypt = |plaintext: &[u8], room: &mut [u8]| traffic.encrypt(plaintext, room);
            done = records::seal(parts, sealed, piece, encrypt);
        });
        self.check()?;
        let (taken, length) = done.map_err(|error: EncryptError| io::Error::other(error.to_string()))?;
        let sealed = sealed.get(..length).unwrap_or_default();
        // Records that rustls has made itself go first, if there are any.
        let written = match self.output.is_empty() && length > 0 {
            true => Pin::new(&mut self.socket).poll_write(cx, sealed)?,
            false => Poll::Pending,
        };
        match written {
            Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(written) => self.output.append(sealed.get(written..).unwrap_or_default()),
            Poll::Pending => self.output.append(sealed),
        }
        Ok(taken)
    }
}

/// Appends a record that rustls has made itself to `output`.
fn encode(record: &mut EncodeTlsData<'_, ServerConnectionData>, output: &mut WaitingBytes) {
    // Without room, rustls reports how long the record is; with that much room, the second call succeeds.
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = record.encode(&mut []) {
        let _ = record.encode(output.grow(required_size));
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Bufferless<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if !this.plain.is_empty() {
            let count = this.plain.waiting().len().min(buf.remaining());
            buf.put_slice(this.plain.waiting().get(..count).unwrap_or_default());
            this.plain.advance(count);
            return Poll::Ready(Ok(()));
        }
        let mut read = Poll::Ready(Ok(()));
        while buf.filled().len() == before && buf.remaining() > 0 && !this.ended && matches!(read, Poll::Ready(Ok(())))
        {
            read = this.poll_records(cx, Some(buf));
        }
        // What rustls answers, mostly an alert, is sent even if no write follows; an error is left to the next write.
        let _ = this.poll_drain(cx);
        // An error is reported at the next call, after the bytes that came before it.
        if buf.filled().len() > before { Poll::Ready(Ok(())) } else { read }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Bufferless<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.parted, true) && this.broken.is_none() {
            let mut scratch = Scratch::lend();
            let mut goodbye = 0;
            // This fails only for lack of room.
            this.turn_kept(None, |traffic| goodbye = traffic.queue_close_notify(&mut scratch).unwrap_or_default());
            this.output.append(scratch.get(..goodbye).unwrap_or_default());
        }
        ready!(this.poll_drain(cx))?;
        match ready!(Pin::new(&mut this.socket).poll_shutdown(cx)) {
            // The client has already disconnected.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}

#[cfg(test)]
mod tests;
