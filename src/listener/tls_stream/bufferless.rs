//! A TLS connection that owns no buffer while nothing is under way on it: rustls's unbuffered interface over its thread's
//! scratch. The only file that knows that interface.
//!
//! rustls's own connection keeps an input buffer of at least 4 KiB for as long as it lives; this one keeps what it must: the
//! part of a record whose rest has not come, plaintext its reader had no room for, and records that the socket did not take.
//! All three are bounded: by a read ([`READ`]) and a record or a handshake message, by the plaintext of that, and by the
//! records of one step ([`records::STEP`]), since nothing more is taken while some of them wait.
//!
//! Three properties of rustls's interface hold it together:
//! - What it was shown and did not discard it must be shown again, from the same byte on, in every call, be that for writing:
//!   it remembers places in it while half a handshake message has come. So `input` goes along, always.
//! - It goes no further while it has something to say itself. That goes behind `output`, and `output` before all else.
//! - After an error it must not be shown records again: only what it has to say of it, the alert, is taken.
//!
//! A client's request for new keys (KeyUpdate, RFC 8446 §4.6.3) is answered as rustls does: before the next record of ours.
//!
//! rustls 0.24 has no unbuffered interface. Then this file goes, and with it its half of `tls_stream` and the key
//! `tls = { buffers }`: every connection has buffers of its own again, and a silent tunnel costs 9.7 KB instead of 5.6
//! (tests/bench `idle-tls`).
//!
//! Leaves out 0-RTT, which no configuration of ours accepts.

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

use super::records::{self, Parts, RECORD, SEALED};
use super::scratch::{BESIDE, READ, Rest, Scratch, hand_over};

/// A record on the wire is never longer: its header, and what TLS 1.2 lets a full one grow by (RFC 5246 §6.2.3).
const WIRE: usize = 5 + RECORD + 2048;

/// Input kept at most while rustls waits for more of it: a handshake message in pieces; rustls's own bound.
const HANDSHAKE: usize = 0xffff;

/// The connection.
pub struct Bufferless<S> {
    socket: S,
    session: UnbufferedServerConnection,
    /// Came, and is not done with; shown to rustls in every call.
    input: Vec<u8>,
    /// There may be a whole record in it.
    look: bool,
    /// For the reader, before all that is still in records.
    plain: Rest,
    /// For the socket, before all that is sealed later.
    output: Rest,
    /// The client has said its end (close_notify).
    ended: bool,
    /// We have said ours.
    parted: bool,
    /// Nothing goes on.
    broken: Option<Box<Error>>,
}

/// What follows from a state of rustls.
enum Next {
    On,
    Stop,
    Break(Error),
}

impl<S> Bufferless<S> {
    pub(super) fn session(&self) -> &CommonState {
        &self.session
    }

    pub(super) fn socket(&self) -> &S {
        &self.socket
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Bufferless<S> {
    /// A handshake; `came`: bytes of it that were read before.
    ///
    /// # Errors
    /// What the socket says; `InvalidData` for what breaks TLS; `UnexpectedEof` for a client that left.
    pub(super) async fn accept(socket: S, config: Arc<ServerConfig>, came: Vec<u8>) -> io::Result<Box<Self>> {
        // Boxed from the start: it is never moved.
        let mut made = Box::new(Self {
            socket,
            session: UnbufferedServerConnection::new(config).map_err(io::Error::other)?,
            look: !came.is_empty(),
            input: came,
            plain: Rest::default(),
            output: Rest::default(),
            ended: false,
            parted: false,
            broken: None,
        });
        std::future::poll_fn(|cx| made.poll_handshake(cx)).await?;
        Ok(made)
    }

    /// Ready: it is done, and our last word on it (a ticket) is out.
    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_drain(cx))?;
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            let went_on = self.poll_records(cx, None);
            // What was wrong the client should hear, if its socket takes it now.
            if matches!(went_on, Poll::Ready(Err(_))) {
                let _ = self.poll_drain(cx);
            }
            ready!(went_on)?;
        }
    }

    /// Takes apart what is there, or else what the socket has: into `buf` if there is one, and the rest into `plain`.
    fn poll_records(&mut self, cx: &mut Context<'_>, mut buf: Option<&mut ReadBuf<'_>>) -> Poll<io::Result<()>> {
        self.check()?;
        if self.look {
            self.turn_kept(buf, |_| {});
        } else {
            let most = buf.as_deref_mut().map_or(0, |buf| buf.remaining()).clamp(WIRE, READ);
            ready!(self.poll_more(cx, most, buf))?;
        }
        // A reader that still waits for a whole record must not make us hold any number of them.
        if !self.look && self.input.len() >= HANDSHAKE {
            self.breaks(Error::General("a handshake message is too long".into()));
        }
        Poll::Ready(self.check())
    }

    /// Reads at most this many bytes, and takes them apart.
    fn poll_more(&mut self, cx: &mut Context<'_>, most: usize, buf: Option<&mut ReadBuf<'_>>) -> Poll<io::Result<()>> {
        let mut scratch = Scratch::lend();
        let kept = self.input.len();
        // Behind the place of what is kept, so that both can become one piece.
        let at = if kept <= BESIDE { kept } else { 0 };
        let mut more = ReadBuf::new(scratch.get_mut(at..at + most).unwrap_or_default());
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut more))?;
        let came = more.filled().len();
        if came == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        // The smaller is moved to the larger: who sends a record byte by byte does not make us copy it every time.
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

    /// A turn over what is kept.
    fn turn_kept(
        &mut self,
        buf: Option<&mut ReadBuf<'_>>,
        say: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>),
    ) {
        let mut input = std::mem::take(&mut self.input);
        let done = self.turn(&mut input, buf, say);
        // Exactly what is left, and nothing where nothing is.
        self.input = if done == 0 { input } else { input.get(done..).unwrap_or_default().to_vec() };
    }

    /// Goes through `input` until a whole record is missing, or `buf` is full; how many of its bytes are done with. `say` is
    /// called at the end of it, unless the connection cannot be written to.
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
                        Some(Err(error)) => break Next::Break(error),
                        // What is behind it waits as it is for a reader that has room again.
                        None if buf.as_ref().is_some_and(|buf| buf.remaining() == 0) => {
                            self.look = discard < left;
                            break Next::Stop;
                        }
                        None => break Next::On,
                    }
                },
                Ok(ConnectionState::EncodeTlsData(mut record)) => {
                    encode(&mut record, &mut self.output);
                    Next::On
                }
                // It is ours now, and goes before all else.
                Ok(ConnectionState::TransmitTlsData(record)) => {
                    record.done();
                    Next::On
                }
                // What follows it is ignored (RFC 8446 §6.1).
                Ok(ConnectionState::PeerClosed) => {
                    self.ended = true;
                    discard = left;
                    Next::On
                }
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    if let Some(say) = say.take() {
                        say(&mut traffic);
                    }
                    Next::Stop
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => Next::Stop,
                Ok(_) => Next::Break(Error::General("early data, which nobody accepted".into())),
                Err(error) => Next::Break(error),
            };
            done += discard;
            match next {
                Next::On => {}
                Next::Stop => return done,
                Next::Break(error) => {
                    self.breaks(error);
                    return input.len();
                }
            }
        }
    }

    /// The end of it: what came is forgotten, and the alert is the last that goes out.
    fn breaks(&mut self, error: Error) {
        (self.input, self.look) = (Vec::new(), false);
        self.broken = Some(Box::new(error));
        // As long as it has something to say, it looks at nothing that came.
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

    /// Writes what waits for the socket.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, self.output.waiting()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.output.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes all that the socket takes, and a step more.
    fn poll_send(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.check()?;
        if self.parted {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let (mut parts, mut taken) = (Parts::of(parts), 0);
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

    /// Seals a step and writes it; what the socket does not take is kept. How many bytes of plaintext, 0 when there are none.
    fn send_step(&mut self, cx: &mut Context<'_>, parts: &mut Parts<'_>) -> io::Result<usize> {
        let mut scratch = Scratch::lend();
        let (sealed, piece) = scratch.split_at_mut(SEALED);
        let piece = piece.get_mut(..RECORD).unwrap_or_default();
        // Of the plaintext and of the records.
        let mut done = Ok((0, 0));
        self.turn_kept(None, |traffic| {
            let encrypt = |plaintext: &[u8], room: &mut [u8]| traffic.encrypt(plaintext, room);
            done = records::seal(parts, sealed, piece, encrypt);
        });
        self.check()?;
        let (taken, length) = done.map_err(|error: EncryptError| io::Error::other(error.to_string()))?;
        let sealed = sealed.get(..length).unwrap_or_default();
        // rustls's own words go first, if it had some.
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

/// A record that rustls has made itself.
fn encode(record: &mut EncodeTlsData<'_, ServerConnectionData>, output: &mut Rest) {
    // It says how long it is when there is no room; and with that there is.
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
        // What rustls says to that, an alert mostly, goes out though nobody writes; that it cannot is the writer's business.
        let _ = this.poll_drain(cx);
        // An error comes behind what came before it, at the next call.
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
            // It fails only for want of room.
            this.turn_kept(None, |traffic| goodbye = traffic.queue_close_notify(&mut scratch).unwrap_or_default());
            this.output.append(scratch.get(..goodbye).unwrap_or_default());
        }
        ready!(this.poll_drain(cx))?;
        match ready!(Pin::new(&mut this.socket).poll_shutdown(cx)) {
            // Nobody is there to be told.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}

#[cfg(test)]
mod tests;
