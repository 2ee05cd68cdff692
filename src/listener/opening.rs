//! What comes before the first request of a connection: a PROXY header and a TLS handshake, where its listener has them.
//!
//! Both together have one time (`[limits] handshake_timeout`), handshakes take turns, and every end but the one of a client
//! that never said a word is counted. Leaves out how a header is read and how a certificate is chosen.

use std::cell::LazyCell;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::{HandshakeKind, ProtocolVersion};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::client_certificate::ClientCertificate;
use super::conn::ClientIo;
use super::proxy_protocol::{self, Source};
use super::tls::Terms;
use super::tls_stream::TlsStream;
use super::{Listener, caps};
use crate::thread::{Order, Registered, Thread};

/// How long a handshake may keep its turn from others: an honest one needs a round trip or two, and clients that stop in
/// the middle must not keep everybody else out.
const TLS_TURN: Duration = Duration::from_millis(500);

/// What is known of an encrypted connection.
pub struct Secured {
    /// By which of its listener's policies it was made.
    pub(super) policy: usize,
    /// What a worker is told of the client's certificate; `None`: it was not asked for one.
    pub client: Option<Box<ClientCertificate>>,
}

/// A connection that is ready for requests.
pub(super) struct Opened {
    pub(super) io: ClientIo,
    /// The peer, or whom a PROXY header names in its place.
    pub(super) ip: IpAddr,
    /// It is a trusted proxy.
    pub(super) trusted: bool,
    /// `None`: it is not encrypted up to us.
    pub(super) tls: Option<Secured>,
}

/// Makes a fresh connection ready for requests. `None`: it came to nothing, and that is counted.
pub(super) async fn open(
    thread: &Thread,
    live: &Registered,
    listener: &Listener,
    mut stream: TcpStream,
    peer: SocketAddr,
) -> Option<Opened> {
    let peer_ip = peer.ip().to_canonical();
    let mut who = Peer { ip: peer_ip, trusted: listener.trusts(peer_ip) };
    // A plain connection has none.
    let deadline = LazyCell::new(|| Instant::now() + thread.limits().handshake_timeout);
    // Boxed, both: a future is as large as its largest branch, and these are over before the first request.
    if listener.settings.proxy_protocol {
        let header = proxy_header(listener, &mut stream, who);
        let named = Box::pin(in_time(live, *deadline, header)).await;
        who = named.map_err(|error| not_served(thread, "proxy", peer_ip, &error)).ok()?;
        if who.ip != peer_ip && !listener.trusts(who.ip) && !caps::admits_address(live, who.ip) {
            return None;
        }
    }
    let (io, tls) = match listener.tls() {
        None => (ClientIo::Plain(stream), None),
        Some(terms) => {
            let secured = Box::pin(secure(thread, live, listener, terms, stream, *deadline)).await;
            let (stream, secured) = secured.map_err(|error| not_served(thread, "tls", who.ip, &error)).ok()?;
            (ClientIo::Tls(stream), Some(secured))
        }
    };
    Some(Opened { io, ip: who.ip, trusted: who.trusted, tls })
}

/// Who a connection is from.
#[derive(Clone, Copy)]
struct Peer {
    ip: IpAddr,
    /// Its word on others counts.
    trusted: bool,
}

/// A connection that ends before its first request. One that never said a word is no error: balancers look that way
/// whether somebody listens.
fn not_served(thread: &Thread, kind: &str, peer: IpAddr, error: &io::Error) {
    tracing::debug!(%peer, %error, "client connection not served: {kind}");
    if said_nothing(error) {
        return;
    }
    thread.shared.metrics.client_errors.with_label_values(&[kind]).inc();
}

/// Waits for the client's first byte, and leaves it where it is.
async fn first_byte(stream: &TcpStream) -> io::Result<()> {
    match stream.peek(&mut [0]).await {
        Ok(1..) => Ok(()),
        Ok(0) | Err(_) => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// What [`first_byte`] says of a client that left without one; no read or write of a socket fails in this way.
fn said_nothing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionAborted
}

/// Who a PROXY header says the client is. That client is the peer from here on, so its own word on others counts only if
/// it is a trusted proxy itself; an unknown client's never does, though the balancer's would.
async fn proxy_header(listener: &Listener, stream: &mut TcpStream, sender: Peer) -> io::Result<Peer> {
    if !sender.trusted {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "a PROXY header is due, and it is no trusted proxy",
        ));
    }
    first_byte(stream).await?;
    Ok(match proxy_protocol::read(stream).await? {
        Source::Balancer => sender,
        Source::Unknown => Peer { trusted: false, ..sender },
        Source::Client(ip) => Peer { ip, trusted: listener.trusts(ip) },
    })
}

/// A TLS handshake, counted by its end.
async fn secure(
    thread: &Thread,
    live: &Registered,
    listener: &Listener,
    terms: &Terms,
    stream: TcpStream,
    deadline: Instant,
) -> io::Result<(TlsStream, Secured)> {
    let count = |version, result, resumed| {
        thread.shared.metrics.tls_handshake(&listener.settings.label, version, result, resumed);
    };
    let (stream, policy) = match in_time(live, deadline, handshake(thread, terms, stream)).await {
        Ok(made) => made,
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
    Ok((stream, Secured { policy, client }))
}

/// A step before the first request, within its time; a stop cuts it like a request.
async fn in_time<T>(live: &Registered, deadline: Instant, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let mut step = pin!(tokio::time::timeout_at(deadline, step));
    let done = poll_fn(|cx| {
        live.watch(cx.waker());
        match live.order() {
            Order::Cut => Poll::Ready(None),
            Order::GoOn | Order::Stop | Order::Idle | Order::Leave => step.as_mut().poll(cx).map(Some),
        }
    });
    done.await.ok_or(io::ErrorKind::Interrupted)?.map_err(|_| io::ErrorKind::TimedOut)?
}

/// A TLS handshake in its turn.
async fn handshake(thread: &Thread, terms: &Terms, stream: TcpStream) -> io::Result<(TlsStream, usize)> {
    // Who says nothing takes no turn. A look, because `readable` may say yes of a fresh socket.
    first_byte(&stream).await?;
    // The semaphore is never closed.
    let turn = thread.handshakes.acquire().await.map_err(io::Error::other)?;
    let mut accept = pin!(terms.accept(stream));
    match tokio::time::timeout(TLS_TURN, &mut accept).await {
        Ok(accepted) => accepted,
        Err(_) => {
            drop(turn);
            accept.await
        }
    }
}
