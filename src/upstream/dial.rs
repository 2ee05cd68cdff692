//! A socket to a worker: TCP or unix, TLS where its upstream says so, with the options all of them have.

use std::io;
use std::time::Duration;

use socket2::TcpKeepalive;
use tokio::net::{TcpStream, UnixStream};

use super::gate::Full;
use super::io::WorkerIo;
use super::worker::Worker;
use crate::config::Address;

/// A silent worker's kernel is asked after 15 s, and the worker's machine is gone after three unanswered questions: 30 s. Where
/// bytes wait to be acknowledged, Linux asks nothing and takes its own time.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5)).with_retries(3);

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
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            // The kernel that would be asked on this machine is this one: a worker's end is told at once. Four system calls.
            if !address.ip().to_canonical().is_loopback() {
                socket2::SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE)?;
            }
            Ok(WorkerIo::Tcp(stream))
        }
        Address::Unix(path) => Ok(WorkerIo::Unix(UnixStream::connect(path).await?)),
    }
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
