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
use tokio_rustls::{StartHandshake, server};

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
    /// Makes a handshake with the given configuration. `came` holds the ClientHello, and all bytes that came with it.
    ///
    /// # Errors
    /// I/O errors of the socket; `InvalidData` if the client violates TLS, which it is also told by an alert;
    /// `UnexpectedEof` if the client has left.
    pub(crate) async fn accept(
        buffers: Buffers,
        socket: TcpStream,
        came: Vec<u8>,
        config: Arc<ServerConfig>,
    ) -> io::Result<Self> {
        match buffers {
            Buffers::Shared => Ok(Self::Shared(Bufferless::accept(socket, config, came).await?)),
            Buffers::Own => Self::accept_chosen(buffers, socket, came, |_| Ok(config)).await,
        }
    }

    /// Makes a handshake with the configuration that `choose` returns for its ClientHello.
    ///
    /// # Errors
    /// Those of [`TlsStream::accept`], and those of `choose`.
    pub(crate) async fn accept_chosen(
        buffers: Buffers,
        mut socket: TcpStream,
        came: Vec<u8>,
        choose: impl FnOnce(ClientHello<'_>) -> io::Result<Arc<ServerConfig>>,
    ) -> io::Result<Self> {
        let ReadHello { came, used, accepted } = hello(&mut socket, came).await?;
        let config = choose(accepted.client_hello())?;
        Ok(match buffers {
            Buffers::Shared => {
                // The handshake continues on a rustls connection of another type, which parses the same bytes once
                // more.
                drop(accepted);
                Self::Shared(Bufferless::accept(socket, config, came).await?)
            }
            // A client may send nothing between its ClientHello and our first flight but early data, which no ticket of
            // ours allows.
            Buffers::Own if used < came.len() => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the client sent more than its ClientHello"));
            }
            Buffers::Own => Self::own(StartHandshake::from_parts(accepted, socket).into_stream(config).await?),
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

/// A ClientHello as rustls has read it.
struct ReadHello {
    /// All bytes that came.
    came: Vec<u8>,
    /// How many of them `accepted` has taken.
    used: usize,
    accepted: Accepted,
}

/// Parses the ClientHello in `came`, and waits for the rest of it if rustls finds it incomplete. Anything else is
/// answered by an alert.
async fn hello(socket: &mut (impl AsyncRead + AsyncWrite + Unpin), mut came: Vec<u8>) -> io::Result<ReadHello> {
    let (mut acceptor, mut seen) = (Acceptor::default(), 0);
    loop {
        let mut new = came.get(seen..).unwrap_or_default();
        // rustls takes a piece at a time, and refuses to hold more than a handshake message may contain.
        let mut accepted = None;
        while !new.is_empty() && acceptor.read_tls(&mut new)? > 0 {
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(done)) => {
                    accepted = Some(done);
                    break;
                }
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
        let used = came.len() - new.len();
        if let Some(accepted) = accepted {
            return Ok(ReadHello { came, used, accepted });
        }
        seen = came.len();
        came.reserve(HELLO);
        if socket.read_buf(&mut came).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
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
