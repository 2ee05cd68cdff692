//! What comes before the first request of a connection: a PROXY header and a TLS handshake, where its listener requires
//! them.
//!
//! Both share one time-out (`[limits] handshake_timeout`), and every failure is counted, except that of a client that
//! never sent a byte. Handshakes take turns; a client has one only while stickyd works for it, so that clients which
//! stop in the middle keep no others waiting. How a header is read and how a certificate is chosen is in
//! `proxy_protocol` and `tls`.

use std::cell::LazyCell;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::task::{Poll, ready};

use rustls::pki_types::UnixTime;
use rustls::{HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::client_certificate::ClientCertificate;
use super::proxy_protocol::{self, ProxiedSource};
use super::tls::TlsTerms;
use super::{ThreadListener, admission};
use crate::net::client_hello::{HelloScan, MAX_HELLO};
use crate::net::client_io::ClientIo;
use crate::net::tls_stream::TlsStream;
use crate::thread::{Registered, Thread, ThreadOrder};

/// Result of the TLS handshake of a connection.
pub struct Secured {
    /// Index of the listener's policy under which the handshake was made.
    pub(crate) policy: usize,
    /// The client's certificate as it is reported to workers; `None` if none was requested.
    pub client: Option<Box<ClientCertificate>>,
}

/// A connection that is ready for requests.
pub(crate) struct Opened {
    pub(crate) io: ClientIo,
    /// Address of the client: the peer, or the address that a PROXY header names in its place.
    pub(crate) ip: IpAddr,
    /// Whether that is the client's address; a PROXY header may name no client.
    pub(crate) is_known: bool,
    /// Whether that address is a trusted proxy.
    pub(crate) trusted: bool,
    /// Result of the TLS handshake; `None` if the connection is not encrypted up to stickyd.
    pub(crate) tls: Option<Secured>,
    /// What came of a request without TLS to a listener with TLS, which is refused.
    pub(crate) plain: Option<Vec<u8>>,
}

/// What a client sends to a listener with TLS.
enum Handshake<S> {
    /// A handshake, which was made.
    Made(TlsStream, S),
    /// Plain HTTP, of which these bytes have come.
    PlainHttp(TcpStream, Vec<u8>),
}

/// Prepares a fresh connection for requests. `None` means that it failed, which has been counted.
pub(crate) async fn open(
    thread: &Thread,
    live: &Registered,
    listener: &ThreadListener,
    mut stream: TcpStream,
    peer: SocketAddr,
) -> Option<Opened> {
    let peer_ip = peer.ip().to_canonical();
    let mut who = Peer { ip: peer_ip, is_known: true, trusted: listener.trusts(peer_ip) };
    // Lazy, because a connection without PROXY header and TLS needs no deadline.
    let deadline = LazyCell::new(|| Instant::now() + thread.limits().handshake_timeout);
    // Both steps are boxed: a future is as large as its largest branch, and these are over before the first request.
    if listener.settings.proxy_protocol {
        let header = proxy_header(listener, &mut stream, who);
        let named = Box::pin(in_time(live, *deadline, header)).await;
        who = named.map_err(|error| not_served(thread, "proxy", peer_ip, &error)).ok()?;
        if who.ip != peer_ip && !listener.trusts(who.ip) && !admission::admits_address(live, who.ip) {
            return None;
        }
    }
    let (mut tls, mut plain) = (None, None);
    let io = match listener.tls() {
        None => ClientIo::Plain(stream),
        Some(terms) => {
            let secured = Box::pin(secure(live, listener, terms, stream, *deadline)).await;
            match secured.map_err(|error| not_served(thread, "tls", who.ip, &error)).ok()? {
                Handshake::Made(stream, secured) => {
                    tls = Some(secured);
                    ClientIo::Tls(stream)
                }
                Handshake::PlainHttp(stream, came) => {
                    not_served(thread, "http_on_tls", who.ip, &io::Error::other("plain HTTP on a port with TLS"));
                    plain = Some(came);
                    ClientIo::Plain(stream)
                }
            }
        }
    };
    Some(Opened { io, ip: who.ip, is_known: who.is_known, trusted: who.trusted, tls, plain })
}

/// The client of a connection, as known so far.
#[derive(Clone, Copy)]
struct Peer {
    ip: IpAddr,
    /// Whether `ip` is the client's, and not that of a balancer that does not know its client.
    is_known: bool,
    /// Whether the client is a trusted proxy, so that its statements about other clients count.
    trusted: bool,
}

/// Logs and counts a connection that ends before its first request. One on which the client never sent a byte is not
/// counted as an error: balancers check in this way whether a port is open.
fn not_served(thread: &Thread, kind: &str, peer: IpAddr, error: &io::Error) {
    tracing::debug!(%peer, kind, %error, "client connection ended before its first request");
    if said_nothing(error) {
        return;
    }
    thread.shared.metrics.clients.errors.with_label_values(&[kind]).inc();
}

/// Waits for the client's first byte, without consuming it.
async fn first_byte(stream: &TcpStream) -> io::Result<()> {
    match stream.peek(&mut [0]).await {
        Ok(1..) => Ok(()),
        Ok(0) | Err(_) => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// Returns whether `error` is the one that stands for a client that left without sending a byte; no read or write of a
/// socket fails with this kind.
fn said_nothing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionAborted
}

/// Reads the PROXY header and returns the client that it names. That client is the peer from here on, so its own
/// statements about other clients count only if it is a trusted proxy itself; those of an unknown client never count,
/// although the balancer's would.
async fn proxy_header(listener: &ThreadListener, stream: &mut TcpStream, sender: Peer) -> io::Result<Peer> {
    if !sender.trusted {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "a PROXY header is required, and the peer is not a trusted proxy",
        ));
    }
    first_byte(stream).await?;
    Ok(match proxy_protocol::read(stream).await? {
        ProxiedSource::Balancer => sender,
        ProxiedSource::Unknown => Peer { is_known: false, trusted: false, ..sender },
        ProxiedSource::Client(ip) => Peer { ip, is_known: true, trusted: listener.trusts(ip) },
    })
}

/// Makes a TLS handshake and counts its result.
async fn secure(
    live: &Registered,
    listener: &ThreadListener,
    terms: &TlsTerms,
    stream: TcpStream,
    deadline: Instant,
) -> io::Result<Handshake<Secured>> {
    let thread = live.thread();
    let count = |version, result, resumed| {
        thread.shared.metrics.tls_handshake(&listener.settings.label, version, result, resumed);
    };
    let (stream, policy) = match in_time(live, deadline, handshake(thread, terms, stream)).await {
        Ok(Handshake::Made(stream, policy)) => (stream, policy),
        Ok(Handshake::PlainHttp(stream, came)) => {
            count("none", "failed", false);
            return Ok(Handshake::PlainHttp(stream, came));
        }
        Err(error) => {
            if said_nothing(&error) {
                return Err(error);
            }
            count("none", if error.kind() == io::ErrorKind::TimedOut { "timeout" } else { "failed" }, false);
            return Err(error);
        }
    };
    let session = stream.session();
    let version = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "1.3",
        Some(ProtocolVersion::TLSv1_2) => "1.2",
        _ => "other",
    };
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    let client = match terms.asks(policy) {
        false => None,
        true => match ClientCertificate::of(session.peer_certificates(), UnixTime::now().as_secs()) {
            Ok(client) => Some(Box::new(client)),
            Err(why) => {
                count(version, "failed", resumed);
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        },
    };
    count(version, "ok", resumed);
    Ok(Handshake::Made(stream, Secured { policy, client }))
}

/// Runs a step before the first request within its deadline; a stop of stickyd cuts it like a request.
async fn in_time<T>(live: &Registered, deadline: Instant, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let mut step = pin!(tokio::time::timeout_at(deadline, step));
    let done = poll_fn(|cx| {
        live.watch(cx.waker());
        match live.order() {
            ThreadOrder::Cut => Poll::Ready(None),
            ThreadOrder::GoOn | ThreadOrder::Stop | ThreadOrder::Idle | ThreadOrder::Leave => {
                step.as_mut().poll(cx).map(Some)
            }
        }
    });
    done.await.ok_or(io::ErrorKind::Interrupted)?.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Makes a TLS handshake. Its turn begins when the ClientHello is complete, and ends when our first flight is sent.
async fn handshake(thread: &Thread, terms: &TlsTerms, stream: TcpStream) -> io::Result<Handshake<usize>> {
    let (stream, came) = client_hello(thread, stream).await?;
    // A method begins with a letter, and no TLS record does.
    if came.first().is_some_and(u8::is_ascii_alphabetic) {
        return Ok(Handshake::PlainHttp(stream, came));
    }
    // The semaphore is never closed.
    let turn = thread.handshakes.acquire().await.map_err(io::Error::other)?;
    let mut accept = pin!(terms.accept(stream, came));
    // The first poll does the work of the handshake: its key exchange and signature.
    if let Poll::Ready(accepted) = poll_fn(|cx| Poll::Ready(accept.as_mut().poll(cx))).await {
        return accepted.map(|(stream, policy)| Handshake::Made(stream, policy));
    }
    // In a storm of handshakes, those that are begun go on before further ones begin: their sockets are looked at once
    // more before the turn passes on. This bounds how many are half done, and so the memory that they hold.
    tokio::task::yield_now().await;
    drop(turn);
    accept.await.map(|(stream, policy)| Handshake::Made(stream, policy))
}

/// Reads from the client until its ClientHello is complete, or cannot become one. A client that leaves without having
/// sent a byte is reported as by [`first_byte`].
async fn client_hello(thread: &Thread, mut stream: TcpStream) -> io::Result<(TcpStream, Vec<u8>)> {
    let (mut came, mut scan) = (Vec::new(), HelloScan::default());
    loop {
        let over = poll_fn(|cx| {
            // A client that stops after one byte must cost no more than that byte.
            let mut buffer = thread.buffer.borrow_mut();
            let mut piece = ReadBuf::new(buffer.get_mut(..MAX_HELLO - came.len()).unwrap_or_default());
            match ready!(Pin::new(&mut stream).poll_read(cx, &mut piece)) {
                Ok(()) if !piece.filled().is_empty() => {}
                Ok(()) if !came.is_empty() => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Err(error) if !came.is_empty() => return Poll::Ready(Err(error)),
                Ok(()) | Err(_) => return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            }
            match came.is_empty() {
                true => came = piece.filled().to_vec(),
                false => came.extend_from_slice(piece.filled()),
            }
            Poll::Ready(Ok(scan.look_for_end(&came)))
        });
        if over.await? {
            return Ok((stream, came));
        }
        if came.len() == MAX_HELLO {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the ClientHello is too long"));
        }
    }
}
