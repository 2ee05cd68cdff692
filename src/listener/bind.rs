//! The sockets of a listener: bound here or adopted from systemd, with the options that accepted sockets inherit.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{BACKLOG, BindError, BoundListener, KEEPALIVE, ListenerSettings, UNSENT, USER_TIMEOUT};
use crate::config;

/// How a listener's address is bound.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BindTerms {
    /// Another listener of ours, which is about to be removed, may overlap with it (0.0.0.0 with 127.0.0.1, on one
    /// port).
    pub(super) shared: bool,
    /// Whether an IPv6 address takes no IPv4 clients, because there is a listener for these (RFC 3493 §5.3).
    pub(super) only_ipv6: bool,
}

/// Binds a listener's address for `threads` threads.
///
/// # Errors
/// The address is in use or not local.
pub(super) fn bind(
    config: &config::Listener,
    settings: ListenerSettings,
    threads: usize,
    terms: BindTerms,
) -> Result<BoundListener, BindError> {
    let BindTerms { shared, only_ipv6 } = terms;
    let failed = |error| BindError::Socket(config.address, error);
    let first = match alone(config.address, only_ipv6) {
        Ok(first) => Some(first),
        Err(error) if shared && error.kind() == io::ErrorKind::AddrInUse => None,
        Err(error) => return Err(failed(error)),
    };
    let address = first.as_ref().and_then(|first| first.local_addr().ok()?.as_socket()).unwrap_or(config.address);
    let mut sockets = Vec::with_capacity(threads);
    sockets.extend(first);
    while sockets.len() < threads {
        sockets.push(socket(address, Sharing::Threads, only_ipv6).map_err(failed)?);
    }
    for socket in &sockets {
        socket.listen(BACKLOG).map_err(failed)?;
        // Connections inherit it, and the next start needs it while some of them are in TIME_WAIT.
        socket.set_reuse_address(true).map_err(failed)?;
    }
    Ok(finish(settings, address, sockets.into_iter().map(Into::into).collect()))
}

/// Binds the first socket of a listener, so that no other process has the address: with SO_REUSEPORT, another process
/// of the same user would silently share our clients. The option is set after the bind, so that the other threads'
/// sockets can join this one; the address is never free in between.
fn alone(address: SocketAddr, only_ipv6: bool) -> io::Result<Socket> {
    let first = match socket(address, Sharing::None, only_ipv6) {
        // Old connections may hold the address. A socket with SO_REUSEADDR could be bound beside another one that does
        // not listen yet, so this is not tried first.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => socket(address, Sharing::OldConnections, only_ipv6)?,
        first => first?,
    };
    first.set_reuse_port(true)?;
    options(&first)?;
    Ok(first)
}

/// Adopts a socket that systemd has bound and listens on: every thread accepts from the same queue, through a
/// descriptor of its own.
///
/// # Errors
/// The socket does not support one of the options that our own sockets have.
pub(super) fn adopt(
    config: &config::Listener,
    settings: ListenerSettings,
    given: &std::net::TcpListener,
    threads: usize,
) -> Result<BoundListener, BindError> {
    let failed = |error| BindError::Socket(config.address, error);
    let address = given.local_addr().map_err(failed)?;
    let socket = SockRef::from(given);
    // All descriptors of a socket share this flag, as well as the queue.
    socket.set_nonblocking(true).map_err(failed)?;
    options(&socket).map_err(failed)?;
    let sockets = (0..threads).map(|_| given.try_clone()).collect::<io::Result<_>>().map_err(failed)?;
    Ok(finish(settings, address, sockets))
}

fn finish(settings: ListenerSettings, address: SocketAddr, sockets: Vec<std::net::TcpListener>) -> BoundListener {
    let settings = Arc::new(ArcSwap::from_pointee(settings));
    let (removed, accepting) = (CancellationToken::new(), TaskTracker::new());
    BoundListener { address, sockets, settings, removed, accepting }
}

/// What may have the address of a socket that is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// No other socket, not even an old connection.
    None,
    /// Connections in TIME_WAIT, or of a listener that is closed (SO_REUSEADDR).
    OldConnections,
    /// The same, and sockets of our other threads (SO_REUSEPORT).
    Threads,
}

fn socket(address: SocketAddr, sharing: Sharing, only_ipv6: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if only_ipv6 {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(sharing != Sharing::None)?;
    if sharing == Sharing::Threads {
        socket.set_reuse_port(true)?;
        options(&socket)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Sets the options that accepted sockets inherit.
fn options(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Several stickyds that start at the same time: at any time one of them has the address, also if the address was
    /// chosen by the kernel for another one that has not begun to listen.
    #[test]
    fn no_two_listeners_ever_have_the_same_address() {
        let loopback = |port| config::Listener::plain(([127, 0, 0, 1], port).into());
        let bind = |listener: &config::Listener| {
            bind(listener, ListenerSettings::of(listener, None, None)?, 2, BindTerms::default())
        };
        let port = bind(&loopback(0)).unwrap().address.port();
        let (owners, won) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let Ok(bound) = bind(&loopback(port)) else { continue };
                        assert_eq!(owners.fetch_add(1, Ordering::SeqCst), 0, "two have the port at the same time");
                        owners.fetch_sub(1, Ordering::SeqCst);
                        won.fetch_add(1, Ordering::SeqCst);
                        drop(bound);
                    }
                });
            }
        });
        assert!(won.load(Ordering::SeqCst) > 0);
    }
}
