//! A client's TLS connection, of one of two kinds: over buffers that its thread shares, or over buffers of its own.
//!
//! The shared kind (`bufferless`) costs less where many connections are silent: 5.6 KB per idle WebSocket instead of
//! 9.7 KB. rustls's own kind is available in case the shared one ever fails, and for the day when rustls's unbuffered
//! interface is gone (see `bufferless`). This file holds what the two have in common, and all that other modules need
//! of them. Which certificate is sent is decided in `listener::tls`.

mod bufferless;
mod records;
mod scratch;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::server::{Accepted, Acceptor, ClientHello};
use rustls::{CommonState, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, server};

use crate::config::Buffers;
use bufferless::Bufferless;

/// Bytes read at once while a ClientHello is awaited; most are smaller.
const HELLO: usize = 4096;

/// A TLS connection after its handshake; boxed, because a rustls connection takes a kilobyte.
pub(crate) enum TlsStream {
    /// A connection over shared buffers, which owns no buffer while it is silent.
    Shared(Box<Bufferless<TcpStream>>),
    /// A connection over buffers of its own, 4 KiB or more.
    Own(Box<server::TlsStream<TcpStream>>),
}

impl TlsStream {
    /// Makes a handshake with the given configuration.
    ///
    /// # Errors
    /// I/O errors of the socket; `InvalidData` if the client violates TLS, which it is also told by an alert;
    /// `UnexpectedEof` if the client has left.
    pub(crate) async fn accept(buffers: Buffers, socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        Ok(match buffers {
            Buffers::Shared => Self::Shared(Bufferless::accept(socket, config, Vec::new()).await?),
            Buffers::Own => Self::own(TlsAcceptor::from(config).accept(socket).await?),
        })
    }

    /// Makes a handshake with the configuration that `choose` returns for its ClientHello.
    ///
    /// # Errors
    /// Those of [`TlsStream::accept`], and those of `choose`.
    pub(crate) async fn accept_chosen(
        buffers: Buffers,
        mut socket: TcpStream,
        choose: impl FnOnce(ClientHello<'_>) -> io::Result<Arc<ServerConfig>>,
    ) -> io::Result<Self> {
        Ok(match buffers {
            Buffers::Shared => {
                let (came, accepted) = hello(&mut socket).await?;
                let config = choose(accepted.client_hello())?;
                // The handshake continues on a rustls connection of another type, which parses the same bytes once
                // more.
                drop(accepted);
                Self::Shared(Bufferless::accept(socket, config, came).await?)
            }
            Buffers::Own => {
                let start = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
                let config = choose(start.client_hello())?;
                Self::own(start.into_stream(config).await?)
            }
        })
    }

    fn own(mut stream: server::TlsStream<TcpStream>) -> Self {
        // The same amount that the shared kind holds for a socket that accepts no more bytes.
        stream.get_mut().1.set_buffer_limit(Some(records::STEP));
        Self::Own(Box::new(stream))
    }

    /// Returns the parameters that the handshake agreed on.
    pub(crate) fn session(&self) -> &CommonState {
        match self {
            Self::Shared(io) => io.session(),
            Self::Own(io) => io.get_ref().1,
        }
    }

    /// Returns the TCP socket below.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Shared(io) => io.socket(),
            Self::Own(io) => io.get_ref().0,
        }
    }
}

/// Waits for a ClientHello; returns all bytes that came, and the parsed message. Anything else is answered by an alert.
async fn hello(socket: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<(Vec<u8>, Accepted)> {
    let (mut acceptor, mut came) = (Acceptor::default(), Vec::new());
    loop {
        came.reserve(HELLO);
        let seen = came.len();
        if socket.read_buf(&mut came).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut new = came.get(seen..).unwrap_or_default();
        // rustls takes a piece at a time, and refuses to hold more than a handshake message may contain.
        while !new.is_empty() {
            acceptor.read_tls(&mut new)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok((came, accepted)),
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let mut told = Vec::new();
                    alert.write_all(&mut told)?;
                    // The reason why the handshake failed is more useful than the error of a client that does not read
                    // the alert.
                    let _ = socket.write_all(&told).await;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Shared(io) => Pin::new(io).poll_read(cx, buf),
            Self::Own(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Shared(io) => Pin::new(io).poll_write(cx, buf),
            Self::Own(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Shared(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Own(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    /// Both kinds combine several small parts into one record.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Shared(io) => Pin::new(io).poll_flush(cx),
            Self::Own(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Shared(io) => Pin::new(io).poll_shutdown(cx),
            Self::Own(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
