//! One HTTP/2 stream as a socket: the client's half of a tunnel over RFC 8441.
//!
//! Bytes are written as the windows of the stream and the connection allow, and read as the worker takes them: a side
//! that does not read holds the other back. END_STREAM acts as a FIN, RST_STREAM as a reset (RFC 8441 §5). Dropping the
//! socket resets the stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes read from the worker at once for a stream. What the client's window does not take of them is kept in memory.
pub(crate) const APPETITE: usize = 16 * 1024;

/// Access to what a stream shares with the others of its connection: room for the bytes that they send.
pub trait StreamCarrier {
    /// Ready when bytes may be handed to the connection.
    fn poll_room(&self, cx: &Context<'_>) -> Poll<()>;
    /// Notes that this many bytes were handed to the connection.
    fn queued(&self, bytes: usize);
    /// Notes whether bytes received from the peer may still occupy a part of the window.
    fn holds(&self, _some: bool) {}
    /// Notes that a DATA frame of this size was taken from the connection.
    fn took(&self, _bytes: usize) {}
}

/// A carrier that always has room.
impl StreamCarrier for () {
    fn poll_room(&self, _: &Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn queued(&self, _: usize) {}
}

/// The client's half of a tunnel; `C` is dropped with it.
pub struct StreamIo<C> {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// Bytes received and not yet read; they still count against the window.
    rest: Bytes,
    /// Whether END_STREAM was sent.
    ended: bool,
    carrier: C,
}

impl<C> StreamIo<C> {
    /// Creates the socket from the two halves of an accepted extended CONNECT.
    pub fn new(send: SendStream<Bytes>, receive: RecvStream, carrier: C) -> Self {
        Self { send, receive, rest: Bytes::new(), ended: false, carrier }
    }
}

impl<C: StreamCarrier + Unpin> AsyncRead for StreamIo<C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.rest.is_empty() {
            let data = this.receive.poll_data(cx);
            this.carrier.holds(data.is_ready());
            match ready!(data) {
                Some(Ok(data)) => {
                    this.carrier.took(data.len());
                    this.rest = data;
                }
                Some(Err(error)) => return Poll::Ready(Err(broken(&error))),
                // Trailers have no meaning on this stream.
                None => return Poll::Ready(Ok(())),
            }
        }
        let some = this.rest.split_to(this.rest.len().min(buf.remaining()));
        buf.put_slice(&some);
        if this.rest.is_empty() {
            // An empty `Bytes` may still hold its whole allocation.
            this.rest = Bytes::new();
        }
        // This fails only for more bytes than were received.
        let _ = this.receive.flow_control().release_capacity(some.len());
        Poll::Ready(Ok(()))
    }
}

impl<C: StreamCarrier + Unpin> AsyncWrite for StreamIo<C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(this.carrier.poll_room(cx));
        // Never reserved while there is nothing to send: capacity reserved by one stream is not available to others.
        this.send.reserve_capacity(buf.len());
        let room = match this.send.capacity() {
            0 => match ready!(this.send.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                Some(Err(error)) => return Poll::Ready(Err(broken(&error))),
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            },
            room => room,
        };
        let taken = buf.get(..room).unwrap_or(buf);
        this.send.send_data(Bytes::copy_from_slice(taken), false).map_err(|error| broken(&error))?;
        this.carrier.queued(taken.len());
        Poll::Ready(Ok(taken.len()))
    }

    /// There is nothing to flush here: the connection's task writes what it was given.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.ended, true) {
            this.send.send_data(Bytes::new(), true).map_err(|error| broken(&error))?;
        }
        Poll::Ready(Ok(()))
    }
}

fn broken(error: &h2::Error) -> io::Error {
    match error.reason() {
        Some(Reason::NO_ERROR | Reason::CANCEL) => io::ErrorKind::ConnectionReset.into(),
        _ => io::Error::other(error.to_string()),
    }
}
