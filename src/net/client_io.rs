//! A client's side of a connection or tunnel, whichever it is: plain TCP, TLS, or one HTTP/2 stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::h2_stream::APPETITE;
use super::tls_stream::TlsStream;
use super::worker_io::poll_write_small;

/// Anything that is read and written, as one HTTP/2 stream is.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// The byte stream to a client: a socket, or one HTTP/2 stream.
pub(crate) enum ClientIo {
    /// A TCP socket without TLS.
    Plain(TcpStream),
    /// A TCP socket with TLS.
    Tls(TlsStream),
    /// One stream of an HTTP/2 connection that has become a tunnel.
    Stream(Box<dyn Duplex>),
}

impl ClientIo {
    /// Returns the TCP socket; an HTTP/2 stream has none of its own.
    pub(crate) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(io) => Some(io),
            Self::Tls(io) => Some(io.tcp()),
            Self::Stream(_) => None,
        }
    }
}

impl ClientIo {
    /// Returns whether ALPN has chosen HTTP/2.
    pub(crate) fn speaks_http2(&self) -> bool {
        matches!(self, Self::Tls(io) if io.session().alpn_protocol() == Some(b"h2"))
    }

    /// Number of bytes worth reading for this client at once; bytes that it does not take have to be kept.
    pub(crate) fn appetite(&self) -> usize {
        match self {
            Self::Plain(_) | Self::Tls(_) => usize::MAX,
            Self::Stream(_) => APPETITE,
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
            Self::Stream(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
            Self::Stream(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => poll_write_small(Pin::new(io), cx, bufs),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Stream(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
            Self::Stream(_) => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
            Self::Stream(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
            Self::Stream(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
