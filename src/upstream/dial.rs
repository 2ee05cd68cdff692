//! A socket to a worker: TCP or unix, TLS where its upstream says so, with the options all of them have.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use super::gate::Full;
use super::io::WorkerIo;
use super::worker::Worker;
use crate::config::Address;
use crate::random;

/// A silent worker's kernel is asked after 11 to 15 s, and the worker's machine is gone after three unanswered questions: 30 s
/// at the latest. Not all at once after a storm (`listener::queue`). Where bytes wait to be acknowledged, Linux asks nothing and
/// takes its own time.
fn keepalive() -> TcpKeepalive {
    let after = Duration::from_secs(11 + random::u64() % 5);
    TcpKeepalive::new().with_time(after).with_interval(Duration::from_secs(5)).with_retries(3)
}

/// Why there is no connection to a worker.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens (ECONNREFUSED, or ENOENT of a unix socket).
    #[error("connection refused")]
    Refused,
    /// The backlog of a unix socket is full (EAGAIN).
    #[error("its backlog is full")]
    Full,
    /// No answer to the connect in time.
    #[error("no answer to the connect in time")]
    TimedOut,
    /// All connections that may be in use are (`max_connections`), and none got free.
    #[error("all its connections are in use")]
    Busy(Full),
    /// The descriptors that are left are for checks and admin.
    #[error("the descriptors that are left are for checks and admin (reserved_descriptors)")]
    Reserved,
    /// Anything else.
    #[error("{0}")]
    Io(io::Error),
}

/// Opens a connection to `worker`, TLS included.
///
/// # Errors
/// The operating system's, or the handshake's.
pub async fn open(worker: &Worker) -> io::Result<WorkerIo> {
    let io = socket(&worker.address).await?;
    worker.link().secure(io, &worker.name).await
}

/// A socket to `address`, with the options every worker connection has.
async fn socket(address: &Address) -> io::Result<WorkerIo> {
    match address {
        Address::Tcp(address) => {
            let stream = connect(*address).await?;
            // The kernel that would be asked on this machine is this one: a worker's end is told at once. Four system calls.
            if !address.ip().to_canonical().is_loopback() {
                SockRef::from(&stream).set_tcp_keepalive(&keepalive())?;
            }
            Ok(WorkerIo::Tcp(stream))
        }
        Address::Unix(path) => Ok(WorkerIo::Unix(UnixStream::connect(path).await?)),
    }
}

/// As [`TcpStream::connect`], with a system call less: the socket says by its readiness whether there is an error to ask for.
async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => return Err(error),
        _ => {}
    }
    let stream = TcpStream::from_std(socket.into())?;
    // Both a refused connect and one that was reset since are closed for writing.
    if stream.ready(Interest::WRITABLE).await?.is_write_closed()
        && let Some(error) = stream.take_error()?
    {
        return Err(error);
    }
    Ok(stream)
}

/// What a failed connect says of the worker.
pub fn classify(error: io::Error) -> ConnectError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => ConnectError::Refused,
        io::ErrorKind::WouldBlock => ConnectError::Full,
        io::ErrorKind::TimedOut => ConnectError::TimedOut,
        _ => ConnectError::Io(error),
    }
}
