//! Addresses we accept on: bound once so that "already in use" is an error, then once more per thread.
//!
//! Every data thread has a socket of its own on each address (SO_REUSEPORT), so the kernel spreads connections and no
//! lock is shared. Options clients' sockets need are set on the listening socket: accepted ones inherit them, which saves
//! a system call each (data-plane study §0.7).

pub mod conn;
pub mod h2;
mod tls;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderValue;
use ipnet::IpNet;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::thread::Thread;

/// Connections the kernel holds for us; it cuts this to net.core.somaxconn.
const BACKLOG: i32 = 4_096;

/// A client whose kernel has not acknowledged our bytes for this long is gone (threats §2: vanished without FIN). The
/// worker leg has none: a stopped worker's kernel still answers, and its full window must not end its tunnels.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// A silent client is asked after 15 s, and given up after three unanswered questions: ≤ 30 s in all.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5)).with_retries(3);

/// A request head's bytes and fields at most (threats §2); hyper answers 431 past either, and so do we over HTTP/2.
const HEAD_BYTES: usize = 32 * 1024;
const HEAD_FIELDS: usize = 100;

/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listener as its connections see it, on one thread.
pub struct Listener {
    /// Terminates TLS.
    pub tls: Option<TlsAcceptor>,
    /// Its port as a field value.
    pub port_value: HeaderValue,
    /// Tells HTTP/2 clients that they may open WebSockets on it (RFC 8441).
    pub websocket_over_http2: bool,
    trusted: Vec<IpNet>,
}

impl Listener {
    /// Whether an address is a trusted proxy's.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|net| net.contains(&address))
    }
}

/// A listener with a bound socket for each thread.
pub struct Bound {
    /// Where, with the port the kernel gave for port 0.
    pub address: SocketAddr,
    sockets: Vec<std::net::TcpListener>,
    tls: Option<Arc<rustls::ServerConfig>>,
    websocket_over_http2: bool,
    trusted: Vec<IpNet>,
}

/// Why a listener cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The operating system's answer.
    #[error("cannot listen on {0}: {1}")]
    Socket(SocketAddr, io::Error),
    /// rustls does not take the certificate.
    #[error("TLS on {0}: {1}")]
    Tls(SocketAddr, rustls::Error),
}

/// Binds a listener's address for `threads` threads.
///
/// # Errors
/// The address is in use or not ours; the certificate does not serve.
pub fn bind(config: &config::Listener, threads: usize) -> Result<Bound, BindError> {
    let failed = |error| BindError::Socket(config.address, error);
    // Without SO_REUSEPORT first: with it, another process of the same user would silently share our clients.
    let first = socket(config.address, false).map_err(failed)?;
    let address = first.local_addr().map_err(failed)?.as_socket().unwrap_or(config.address);
    drop(first);
    let mut sockets = Vec::with_capacity(threads);
    for _ in 0..threads {
        let socket = socket(address, true).map_err(failed)?;
        socket.listen(BACKLOG).map_err(failed)?;
        sockets.push(socket.into());
    }
    finish(config, address, sockets)
}

/// Takes a socket somebody else has bound and listens on: every thread accepts from the same queue, on a descriptor of
/// its own.
///
/// # Errors
/// The certificate does not serve; the socket takes none of the options ours have.
pub fn adopt(config: &config::Listener, given: &std::net::TcpListener, threads: usize) -> Result<Bound, BindError> {
    let failed = |error| BindError::Socket(config.address, error);
    let address = given.local_addr().map_err(failed)?;
    let socket = SockRef::from(given);
    // All descriptors of a socket share this flag, too.
    socket.set_nonblocking(true).map_err(failed)?;
    options(&socket).map_err(failed)?;
    let sockets = (0..threads).map(|_| given.try_clone()).collect::<io::Result<_>>().map_err(failed)?;
    finish(config, address, sockets)
}

fn finish(
    config: &config::Listener,
    address: SocketAddr,
    sockets: Vec<std::net::TcpListener>,
) -> Result<Bound, BindError> {
    let tls = config.tls.as_ref().map(|tls| tls::server_config(tls, config.http2)).transpose();
    let tls = tls.map_err(|error| BindError::Tls(config.address, error))?;
    let (websocket_over_http2, trusted) = (config.websocket_over_http2, config.trusted_proxies.clone());
    Ok(Bound { address, sockets, tls, websocket_over_http2, trusted })
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
        options(&socket)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// What accepted sockets inherit.
fn options(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

impl Bound {
    /// One thread's part: its socket, and what its connections need.
    pub fn take(&mut self) -> Option<(std::net::TcpListener, ListenerPart)> {
        let part = ListenerPart {
            address: self.address,
            tls: self.tls.clone(),
            websocket_over_http2: self.websocket_over_http2,
            trusted: self.trusted.clone(),
        };
        Some((self.sockets.pop()?, part))
    }
}

/// What a thread builds its [`Listener`] from; goes to the thread, the listener itself stays on it.
pub struct ListenerPart {
    address: SocketAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
    websocket_over_http2: bool,
    trusted: Vec<IpNet>,
}

impl ListenerPart {
    /// The thread's own listener.
    pub fn build(self) -> Rc<Listener> {
        Rc::new(Listener {
            tls: self.tls.map(TlsAcceptor::from),
            port_value: HeaderValue::from(self.address.port()),
            websocket_over_http2: self.websocket_over_http2,
            trusted: self.trusted,
        })
    }
}

/// Accepts until `stop`, then takes what the kernel already holds for us, and ends.
pub async fn accept(thread: Rc<Thread>, listener: Rc<Listener>, socket: TcpListener, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = socket.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                thread.tasks.spawn_local(conn::serve(thread.clone(), listener.clone(), stream, peer));
            }
            Err(error) => refused(error).await,
        }
    }
    // `biased` took the queue first; what came between is in it still.
    let Ok(socket) = socket.into_std() else { return };
    while let Ok((stream, peer)) = socket.accept() {
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = tokio::net::TcpStream::from_std(stream)
        {
            thread.tasks.spawn_local(conn::serve(thread.clone(), listener.clone(), stream, peer));
        }
    }
}

/// An accept that failed: the peer's own doing is passed over, want of descriptors is said and waited for. The loop never
/// ends and never spins.
async fn refused(error: io::Error) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    crate::telemetry::say_full!("clients cannot be accepted: {error}");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> config::Listener {
        config::Listener::new(([127, 0, 0, 1], 0).into())
    }

    /// Of a connection accepted from it.
    fn has_our_options(mut bound: Bound) {
        let (socket, _) = bound.take().unwrap();
        socket.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(bound.address).unwrap();
        let (accepted, _) = socket.accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap());
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
    }

    #[test]
    fn accepted_sockets_inherit_the_listeners_options() {
        has_our_options(bind(&loopback(), 1).unwrap());
    }

    #[test]
    fn those_of_an_inherited_socket_get_them_too() {
        let given = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let bound = adopt(&loopback(), &given, 3).unwrap();
        assert_eq!((bound.sockets.len(), bound.address), (3, given.local_addr().unwrap()));
        has_our_options(bound);
    }

    #[test]
    fn an_address_in_use_is_an_error_even_for_the_same_user() {
        let bound = bind(&loopback(), 2).unwrap();
        let again = config::Listener { address: bound.address, ..loopback() };
        assert!(matches!(bind(&again, 2), Err(BindError::Socket(..))));
    }
}
