//! A socket to a worker: TCP or unix, with TLS if its upstream is configured so, and the options that all of them have.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use super::limit::NoConnection;
use crate::config::Address;
use crate::net::worker_io::WorkerIo;
use crate::random;
use crate::upstream::worker::Worker;

/// Keep-alive of TCP connections to workers. A silent worker's kernel is probed after 11 to 15 s; after three
/// unanswered probes, 30 s at the latest, the worker's machine counts as gone. The random part keeps connections that
/// were made together from being probed together (see `listener::queue`). While sent bytes are unacknowledged, Linux
/// sends no probes and its own retransmission limit applies.
fn keepalive() -> TcpKeepalive {
    let after = Duration::from_secs(11 + random::u64() % 5);
    TcpKeepalive::new().with_time(after).with_interval(Duration::from_secs(5)).with_retries(3)
}

/// Why a connection to a worker could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// No process listens at the address (ECONNREFUSED, or ENOENT of a unix socket).
    #[error("connection refused")]
    Refused,
    /// The backlog of a unix socket is full (EAGAIN).
    #[error("the worker's backlog is full")]
    Full,
    /// The connect was not answered in time.
    #[error("the connect timed out")]
    TimedOut,
    /// The worker has reached its limit of connections in use (`max_connections`), and none became free.
    #[error("all connections to the worker are in use")]
    Busy(NoConnection),
    /// The remaining file descriptors are reserved for health checks and the admin interface.
    #[error("the remaining descriptors are reserved for health checks and admin (reserved_descriptors)")]
    Reserved,
    /// Any other error of the operating system, or a failed TLS handshake.
    #[error("{0}")]
    Io(io::Error),
}

/// Opens a connection to `worker`, including TLS.
///
/// # Errors
/// Fails with the error of the operating system or of the TLS handshake.
pub(crate) async fn open(worker: &Worker) -> io::Result<WorkerIo> {
    let io = match &worker.address {
        Address::Tcp(address) if worker.ipv6.is_tried() => either(*address, &worker.ipv6).await?,
        address => socket(address).await?,
    };
    worker.link().secure(io, &worker.name).await
}

/// Whether a worker at `localhost` is reached at ::1 instead of 127.0.0.1.
#[derive(Debug, Default)]
pub(crate) struct Ipv6Fallback {
    is_tried: AtomicBool,
    /// Whether the last connect succeeded at ::1, which is then tried first.
    is_first: AtomicBool,
}

impl Ipv6Fallback {
    /// Sets whether ::1 is tried as well.
    pub(crate) fn set_tried(&self, is_tried: bool) {
        self.is_tried.store(is_tried, Relaxed);
    }

    fn is_tried(&self) -> bool {
        self.is_tried.load(Relaxed)
    }
}

/// Opens a socket to `address`, or to ::1 at the same port if nothing listens there; the one that worked last is tried
/// first. The error is that of 127.0.0.1, unless only ::1 says more than that nothing listens.
async fn either(address: SocketAddr, ipv6: &Ipv6Fallback) -> io::Result<WorkerIo> {
    let other = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port());
    let is_first = ipv6.is_first.load(Relaxed);
    let [first, second] = if is_first { [other, address] } else { [address, other] };
    match socket(&Address::Tcp(first)).await {
        // A host without IPv6 reports that the address is not available, or that the family is not supported.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused || first == other => {
            let opened = socket(&Address::Tcp(second)).await;
            if opened.is_ok() {
                ipv6.is_first.store(!is_first, Relaxed);
            }
            opened.map_err(|error| if is_first { error } else { io::ErrorKind::ConnectionRefused.into() })
        }
        opened => opened,
    }
}

/// Opens a socket to `address` with the options that every worker connection has.
async fn socket(address: &Address) -> io::Result<WorkerIo> {
    match address {
        Address::Tcp(address) => {
            let stream = connect(*address).await?;
            // At a loopback address the peer's kernel is this one and reports the worker's end at once. Skipping
            // keep-alive saves four system calls.
            if !address.ip().to_canonical().is_loopback() {
                SockRef::from(&stream).set_tcp_keepalive(&keepalive())?;
            }
            Ok(WorkerIo::Tcp(stream))
        }
        Address::Unix(path) => Ok(WorkerIo::Unix(UnixStream::connect(path).await?)),
    }
}

/// Does the same as [`TcpStream::connect`] with one system call less: the readiness of the socket shows whether there
/// is an error to fetch.
async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => return Err(error),
        _ => {}
    }
    let stream = TcpStream::from_std(socket.into())?;
    // A refused connection and one that was reset since are both closed for writing.
    if stream.ready(Interest::WRITABLE).await?.is_write_closed()
        && let Some(error) = stream.take_error()?
    {
        return Err(error);
    }
    Ok(stream)
}

/// Maps the error of a failed connect to what it means for the worker.
pub(crate) fn classify(error: io::Error) -> ConnectError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => ConnectError::Refused,
        io::ErrorKind::WouldBlock => ConnectError::Full,
        io::ErrorKind::TimedOut => ConnectError::TimedOut,
        _ => ConnectError::Io(error),
    }
}
