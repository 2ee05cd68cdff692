//! What the program uses of a configuration: every value checked, every default filled in, every file read.
//!
//! `stickyd.toml ─► file (as written) ─► check (all errors at once) ─► Config (here)`. A [`Config`] holds no socket, task
//! or atomic; the live view built from it is `state::Snapshot`. Only this module reads files (invariant 11).
//! Each item says whether a reload applies it.

mod check;
mod drain;
mod eject;
mod error;
mod file;
mod files;
pub mod guards;
mod health;
mod labels;
mod limits;
mod listener;
mod load;
mod log;
pub mod pattern;
mod resolve;
mod routes;
pub mod rules;
mod sources;
mod tls;
mod tunnels;
mod upstream;
mod values;
mod worker_tls;
mod workers;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::sockets::Labels;

pub(crate) use check::is_listener;
pub use check::{Resolve, for_command_line, parse, parse_with};
pub use drain::{Drain, Farewell, LONGEST_GRACE, LONGEST_REASON, Removed};
pub use eject::Eject;
pub use error::{Diagnostic, Errors, Line, Place, Severity};
pub use files::token;
pub use health::{Expected, Health, HealthKind, Target};
pub use limits::Limits;
pub use load::{Loaded, load, load_admin, load_noting, load_with_warnings};
pub use log::{Log, LogFormat, check_level};
pub(crate) use resolve::look_up;
pub use rules::Affinity;
pub use sources::{Look, Sources};
pub use tls::{Buffers, Certificate, ClientAuth, Tls};
pub use tunnels::Tunnels;
pub(crate) use values::digits;
pub use worker_tls::WorkerTls;
pub use workers::{At, Found, Group};
pub(crate) use workers::{MAX_RANGE, tidy};

/// A whole checked configuration.
#[derive(Debug, PartialEq)]
pub struct Config {
    /// Signs cookies and keys the ring; the same in a whole fleet. `None`: read from or generated into `state_dir`, or,
    /// without one, made up in memory with a warning. Needs a restart.
    pub secret: Option<Secret>,
    /// Where stickyd keeps its secret and its admin socket. Needs a restart.
    pub state_dir: Option<PathBuf>,
    /// Reload by itself when the file, or one it names, changes; default on. Reloaded.
    pub watch: bool,
    /// Data threads, 1..=256. Default: one per core. Needs a restart.
    pub threads: usize,
    /// Addresses to accept on; at least one. Reloaded.
    pub listeners: Vec<Listener>,
    /// Pools of workers; at least one, names unique. Reloaded.
    pub upstreams: Vec<Upstream>,
    /// Tried in order, the first that fits wins. One upstream and no route: everything goes there. Reloaded.
    pub routes: Vec<Route>,
    /// The admin listener. Needs a restart.
    pub admin: Admin,
    /// Bounds. Needs a restart.
    pub limits: Limits,
    /// Logging. Reloaded, but for its format.
    pub log: Log,
}

impl Config {
    /// What differs in `new` and takes effect only after a restart, in the words of the file.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let changed = [
            ("secret", self.secret != new.secret),
            ("state_dir", self.state_dir != new.state_dir),
            ("threads", self.threads != new.threads),
            ("[admin]", self.admin != new.admin),
            ("[limits] pins", self.limits.pins != new.limits.pins),
            ("[limits] handshakes", self.limits.handshakes != new.limits.handshakes),
            ("[limits] reserved_descriptors", self.limits.reserved_descriptors != new.limits.reserved_descriptors),
            ("[log] format", self.log.format != new.log.format),
        ];
        changed.into_iter().filter(|(_, changed)| *changed).map(|(what, _)| what).collect()
    }
}

/// Secret bytes (16 or more); never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// An address to accept clients on.
#[derive(Debug, PartialEq)]
pub struct Listener {
    /// IP and port; port 0 takes a free one.
    pub address: SocketAddr,
    /// Which of systemd's sockets is this one (`FileDescriptorName=`); unique. `None`: the one bound to `address`.
    pub name: Option<String>,
    /// Terminates TLS; `None` is plain HTTP.
    pub tls: Option<Tls>,
    /// Offers HTTP/2 by ALPN; only with `tls`.
    pub http2: bool,
    /// Tells HTTP/2 clients that they may open WebSockets over it (RFC 8441); only with `http2`.
    pub websocket_over_http2: bool,
    /// Every connection begins with a PROXY protocol header, from a trusted proxy. `false`: none may.
    pub proxy_protocol: bool,
    /// Answers every request with a redirect to https instead of forwarding it.
    pub redirect: Option<Redirect>,
    /// Peers whose `X-Forwarded-*` is believed. Empty: nobody's.
    pub trusted_proxies: Vec<IpNet>,
}

impl Listener {
    /// Plain HTTP on an address, everything else as it is by default.
    pub fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            name: None,
            tls: None,
            http2: false,
            websocket_over_http2: false,
            proxy_protocol: false,
            redirect: None,
            trusted_proxies: Vec::new(),
        }
    }
}

/// Where a redirecting listener sends its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redirect {
    /// Of the https address; default 443, which is not written.
    pub port: u16,
    /// 301, 302, 307 or 308; default 308: the method stays what it was (RFC 9110 §15.4.9).
    pub status: u16,
}

/// A named pool of workers.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// `[a-z0-9_-]{1,32}`; part of the cookie's name and of every metric.
    pub name: String,
    /// The entries of `workers`; at least one, unless the file says that none is meant (`allow_empty`).
    pub groups: Vec<Group>,
    /// The addresses of the DNS names among them.
    pub found: Found,
    /// What `groups` stand for while names have the addresses `found`; addresses and names unique inside the upstream.
    /// None, while no name has resolved.
    pub workers: Vec<Worker>,
    /// DNS names among the workers are looked up this often; default 10 s.
    pub dns_interval: Duration,
    /// Facts of a request that choose a worker, in order; never empty.
    pub affinity: Vec<Affinity>,
    /// Headers and queries where ordinary requests name a Socket.IO session, whose worker they go to then. Reloaded.
    pub follow: Vec<rules::Spot>,
    /// How workers are checked.
    pub health: Health,
    /// `SameSite` of the affinity cookie.
    pub cookie_same_site: SameSite,
    /// How long a connect to a worker may take; default 5 s.
    pub connect_timeout: Duration,
    /// How long a worker may take to begin its answer; default 60 s. Polls of a learned session get at least its
    /// pingInterval + pingTimeout (protocols §1.8).
    pub response_timeout: Duration,
    /// From a request's head to the last byte of its answer; not of long polls, event streams and tunnels. `None`: for as
    /// long as it goes on.
    pub request_timeout: Option<Duration>,
    /// A tunnel silent both ways for this long is closed. `None`: the session's own pingInterval + pingTimeout + 5 s, or
    /// one hour where no ping numbers are known.
    pub tunnel_idle: Option<Duration>,
    /// What is made of its tunnels' pings, and what may be said on them.
    pub tunnels: Tunnels,
    /// When live failures eject a worker.
    pub eject: Eject,
    /// How long a worker that comes back (from an ejection, from not being up, from a restart) is eased in; default 10 s.
    pub slow_start: Duration,
    /// Percent of the requests of `eject.window` that may be sent a second time, besides three a second; default 20, 0:
    /// none at all.
    pub retry_budget: u32,
    /// Connections in use to one worker at most: requests under way (open polls, too) and tunnels. `None`: no limit.
    pub max_connections: Option<u32>,
    /// Requests that wait for one of them, per worker; default 100.
    pub queue: u32,
    /// How long each waits at most; default 5 s.
    pub queue_timeout: Duration,
    /// Tunnels to one worker at most; `None`: no limit but `max_connections`.
    pub max_tunnels: Option<u32>,
    /// Bytes of a request's body at most; `None`: no limit.
    pub max_body: Option<u64>,
    /// How the sessions of a drained worker end. Applies to drains that begin later.
    pub drain: Drain,
    /// What becomes of the sessions of a worker that a reload removes.
    pub removed: Removed,
    /// Its workers are told `Forwarded` (RFC 7239) besides `X-Forwarded-*`.
    pub forwarded: bool,
    /// Its answers tell clients which worker was chosen, and why.
    pub debug_header: bool,
    /// How much all clients together may ask.
    pub rate: guards::Rates,
    /// What is told of its sockets besides, by rule: at most 8, names unique. Applies to sockets that begin later.
    pub labels: Arc<Labels>,
    /// How its workers are spoken to by TLS; `None`: in the clear.
    pub tls: Option<Arc<WorkerTls>>,
}

impl Upstream {
    /// An upstream with every default.
    pub fn new(name: String, groups: Vec<Group>, found: Found) -> Self {
        let workers = workers::expand(&groups, &found, &[]).workers.into_iter().map(|(worker, _)| worker).collect();
        Self {
            name,
            groups,
            found,
            workers,
            dns_interval: Duration::from_secs(10),
            affinity: vec![Affinity::socket_io(), Affinity::Cookie, Affinity::Address],
            follow: Vec::new(),
            health: Health::default(),
            cookie_same_site: SameSite::default(),
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(60),
            request_timeout: None,
            tunnel_idle: None,
            tunnels: Tunnels::default(),
            eject: Eject::default(),
            slow_start: Duration::from_secs(10),
            retry_budget: 20,
            max_connections: None,
            queue: 100,
            queue_timeout: Duration::from_secs(5),
            max_tunnels: None,
            max_body: None,
            drain: Drain::default(),
            removed: Removed::default(),
            forwarded: false,
            debug_header: false,
            rate: guards::Rates::default(),
            labels: Arc::default(),
            tls: None,
        }
    }
}

/// One application process.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    /// Where it listens.
    pub address: Address,
    /// The DNS name its address was written by, which its certificate should bear; `None`: it was written as it is.
    pub host: Option<String>,
    /// Shown in logs and metrics and hashed into the cookie; default: the address as text.
    pub name: String,
    /// Share of new sessions, 1..=256; default 1.
    pub weight: u32,
    /// What the operator says of it.
    pub admin: AdminState,
}

/// Where a worker listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// IP and port.
    Tcp(SocketAddr),
    /// A unix socket's absolute path.
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

/// What the operator says of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AdminState {
    /// Serves and takes new sessions.
    #[default]
    Ready,
    /// Serves its sessions, takes no new ones.
    Drain,
    /// Serves nothing.
    Maint,
}

impl AdminState {
    /// The word for it in the file, metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}

/// `SameSite` of the affinity cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SameSite {
    /// The default.
    #[default]
    Lax,
    /// First-party only.
    Strict,
    /// For cross-site pages: adds `Secure` and `Partitioned`.
    None,
}

/// Host + path rule → upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Exact (lower case, no port) or `*.example.com`; `None` fits every host.
    pub host: Option<String>,
    /// Prefix on a segment boundary, begins with `/`; `/` fits everything.
    pub path: String,
    /// Index into [`Config::upstreams`].
    pub upstream: usize,
    /// Who is turned away.
    pub guards: guards::Guards,
    /// Operators may send texts and events to the sockets of this route, or may not; `None`: as its upstream has it. Applies
    /// at once, also to sockets there are.
    pub broadcast: Option<bool>,
}

/// The admin listener.
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// Where it listens.
    pub address: AdminAddress,
    /// Bearer token for writes over TCP, read from `token_file` (trimmed, at least 16 bytes). `None`: TCP cannot write.
    pub token: Option<Secret>,
}

/// Where the admin listener is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// No state directory, no address: there is no admin listener.
    None,
    /// IP and port.
    Tcp(SocketAddr),
    /// Unix socket, mode 0600; by default `admin.sock` in the state directory.
    Unix(PathBuf),
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
