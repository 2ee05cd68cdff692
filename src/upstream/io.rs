//! The socket to a worker, whichever kind its address is, with or without TLS.

use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// The socket to a worker.
pub enum WorkerIo {
    /// TCP.
    Tcp(TcpStream),
    /// Unix socket.
    Unix(UnixStream),
    /// TLS over one of the others; boxed, because a rustls connection is a kilobyte.
    Tls(Box<TlsStream<Self>>),
}

impl AsyncRead for WorkerIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Self::Unix(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for WorkerIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Self::Unix(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(io) => poll_write_small(Pin::new(io), cx, bufs),
            Self::Unix(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_flush(cx),
            Self::Unix(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Self::Unix(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

impl WorkerIo {
    /// Its number.
    pub(super) fn descriptor(&self) -> RawFd {
        match self {
            Self::Tcp(io) => io.as_raw_fd(),
            Self::Unix(io) => io.as_raw_fd(),
            Self::Tls(io) => io.get_ref().0.descriptor(),
        }
    }

    /// Nothing of ours is between what is written and its socket: that its end is said needs no more than to close it.
    pub fn is_bare(&self) -> bool {
        !matches!(self, Self::Tls(_))
    }

    /// Neither has it ended nor has anything come, as far as the reactor has seen. What comes here is lost.
    pub(super) fn is_quiet(&mut self) -> bool {
        let read = match self {
            // No call to the kernel unless there is something, and no waker left behind.
            Self::Tcp(io) => io.try_read(&mut [0]),
            Self::Unix(io) => io.try_read(&mut [0]),
            // TLS has messages of its own, which are neither.
            Self::Tls(io) => {
                let (mut cx, mut byte) = (Context::from_waker(Waker::noop()), [0]);
                return Pin::new(io).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending();
            }
        };
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Reads up to `most` bytes into a buffer of their own, made when there is something to read; empty at the end.
    pub(super) fn poll_read_large(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<BytesMut>> {
        match self {
            Self::Tcp(io) => ready!(io.poll_read_ready(cx))?,
            Self::Unix(io) => ready!(io.poll_read_ready(cx))?,
            Self::Tls(_) => {}
        }
        let mut read = BytesMut::with_capacity(most);
        // Not `try_read_buf`: that does not take a read that fills not all for the last there is for now.
        ready!(pin!(self.read_buf(&mut read)).poll(cx))?;
        Poll::Ready(Ok(read))
    }
}

/// Parts that together fit here are copied and sent in one piece.
const SMALL: usize = 2_048;

/// Writes several parts, a head and a body mostly. `send` of one small piece costs the kernel less than `writev` of two,
/// by more than copying them here costs us (http-1k 18.2 against 18.6 µs in one interleaved run); large bodies are not
/// copied.
pub(crate) fn poll_write_small(
    io: Pin<&mut TcpStream>,
    cx: &mut Context<'_>,
    parts: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [only] = parts {
        return io.poll_write(cx, only);
    }
    let mut piece = [0; SMALL];
    let mut filled = 0;
    for part in parts {
        let Some(room) = piece.get_mut(filled..filled + part.len()) else {
            return io.poll_write_vectored(cx, parts);
        };
        room.copy_from_slice(part);
        filled += part.len();
    }
    io.poll_write(cx, piece.get(..filled).unwrap_or_default())
}
