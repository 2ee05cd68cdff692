//! One worker: its address, its name, and the state that the file gives it. Left out: syntax of entries (`workers`).

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// One application process to which requests are forwarded.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    /// Address the worker listens on.
    pub address: Address,
    /// Whether ::1 is tried where nothing listens on 127.0.0.1: the file says `localhost`.
    pub or_ipv6: bool,
    /// The DNS name that the file gives for its address, which the worker's certificate should contain; `None`: the
    /// file gives an IP address or a unix socket.
    pub host: Option<String>,
    /// Whether the file gives its address as one of a range of ports, of which some may have no process.
    pub of_range: bool,
    /// Name shown in logs and metrics and hashed into the cookie; default: the address as text. A changed name makes it
    /// a new worker.
    pub name: String,
    /// Share of new sessions, 1..=256; default 1. A reload applies it.
    pub weight: u32,
    /// Admin state set in the file. A reload applies it if it differs from the state in the file before; otherwise a
    /// state set at run time stays.
    pub admin: AdminState,
}

/// Address that a worker listens on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// IP address and port.
    Tcp(SocketAddr),
    /// Absolute path of a unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// State of a worker set by the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AdminState {
    /// The worker serves its sessions and takes new ones.
    #[default]
    Ready,
    /// The worker serves its sessions but takes no new ones.
    Drain,
    /// The worker serves nothing; its sessions are ended.
    Maint,
}

impl AdminState {
    /// The state's name in the file, metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}
