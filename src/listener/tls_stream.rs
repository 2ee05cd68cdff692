//! A client's encrypted connection, in either of two kinds: over buffers its thread shares, or over buffers of its own.
//!
//! The first (`bufferless`) is what costs less where many connections are silent, 5.6 KB an idle WebSocket against 9.7 KB;
//! rustls's own way is there should the first ever fail somebody, and for the day its interface is gone (see there). What both have in common, and all that others need of them,
//! is here. Leaves out which certificate is shown: that is `listener::tls`.

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

use self::bufferless::Bufferless;
use crate::config::Buffers;

/// Bytes of a ClientHello read at once: most are smaller.
const HELLO: usize = 4096;

/// An encrypted connection after its handshake; boxed, because a rustls connection is a kilobyte.
pub enum TlsStream {
    /// It owns no buffer while it is silent.
    Shared(Box<Bufferless<TcpStream>>),
    /// It keeps a buffer of 4 KiB or more.
    Own(Box<server::TlsStream<TcpStream>>),
}

impl TlsStream {
    /// A handshake by one configuration.
    ///
    /// # Errors
    /// What the socket says; `InvalidData` for what breaks TLS, and the client has been told by an alert;
    /// `UnexpectedEof` for a client that left.
    pub(super) async fn accept(buffers: Buffers, socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        Ok(match buffers {
            Buffers::Shared => Self::Shared(Bufferless::accept(socket, config, Vec::new()).await?),
            Buffers::Own => Self::own(TlsAcceptor::from(config).accept(socket).await?),
        })
    }

    /// A handshake by the configuration that `choose` has for its ClientHello.
    ///
    /// # Errors
    /// Those of [`TlsStream::accept`], and of `choose`.
    pub(super) async fn accept_chosen(
        buffers: Buffers,
        mut socket: TcpStream,
        choose: impl FnOnce(ClientHello<'_>) -> io::Result<Arc<ServerConfig>>,
    ) -> io::Result<Self> {
        Ok(match buffers {
            Buffers::Shared => {
                let (came, accepted) = hello(&mut socket).await?;
                let config = choose(accepted.client_hello())?;
                // It goes on with a rustls connection of another kind, which reads the same bytes once more.
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
        // As much as the other kind holds for a socket that takes nothing.
        stream.get_mut().1.set_buffer_limit(Some(records::STEP));
        Self::Own(Box::new(stream))
    }

    /// What the handshake agreed on.
    pub(super) fn session(&self) -> &CommonState {
        match self {
            Self::Shared(io) => io.session(),
            Self::Own(io) => io.get_ref().1,
        }
    }

    /// The socket below.
    pub(super) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Shared(io) => io.socket(),
            Self::Own(io) => io.get_ref().0,
        }
    }
}

/// Waits for a ClientHello: all bytes that came, and what it says. What is none is answered by an alert.
async fn hello(socket: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<(Vec<u8>, Accepted)> {
    let (mut acceptor, mut came) = (Acceptor::default(), Vec::new());
    loop {
        came.reserve(HELLO);
        let seen = came.len();
        if socket.read_buf(&mut came).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut new = came.get(seen..).unwrap_or_default();
        // It takes a piece at a time, and refuses to hold more than a handshake message may be.
        while !new.is_empty() {
            acceptor.read_tls(&mut new)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok((came, accepted)),
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let mut told = Vec::new();
                    alert.write_all(&mut told)?;
                    // Why it failed says more than that nobody listened.
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

    /// Both make one record of several small parts.
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
