//! Listeners: the addresses on which stickyd accepts clients.
//!
//! Every data thread has a socket of its own on each address (SO_REUSEPORT), so the kernel spreads connections and no
//! lock is shared. Each address is first bound once without that option, so that "already in use" is an error. A reload
//! changes listeners by value: see `set`. Options that clients' sockets need are set on the listening socket: accepted
//! sockets inherit them, which saves one system call per option (docs/reference/performance.md §0.7).

pub(crate) mod accept_queue;
mod admission;
pub(crate) mod all;
mod bind;
mod bind_error;
mod bytes_ahead;
mod client_certificate;
pub(crate) mod conn;
pub(crate) mod h2;
pub(crate) mod handshake;
pub(crate) mod head_timeout;
pub(crate) mod http1_io;
mod linger;
mod proxy_protocol;
mod refusal;
mod request_end;
pub(crate) mod tls;
mod traffic;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use hyper::header::HeaderValue;
use ipnet::IpNet;
use prometheus::IntCounter;
use socket2::TcpKeepalive;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::config::{self, Redirect};
use crate::fleet::tickets::TicketKeys;
use crate::thread::{ListenerRemoved, Thread};

pub(crate) use accept_queue::AcceptQueue;
pub(crate) use all::{ListenerSet, ListenerSetError, Part};
pub(crate) use bind_error::{BindError, address_help};
pub(crate) use client_certificate::ClientCertificate;

use tls::TlsTerms;

/// Number of connections that may wait in the kernel to be accepted; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4_096;

/// A client whose kernel has not acknowledged our bytes for this long is gone (docs/reference/threats.md §2.6: vanished
/// without FIN). So is a client whose receive window has been closed for as long: the kernel cannot make an exception
/// for it, and it reads more slowly than `min_rate`. Connections to workers have no such time-out: the kernel of a
/// stopped worker still answers, and its full window must not end its tunnels.
const USER_TIMEOUT: Duration = Duration::from_secs(25);

/// Keep-alive probes to clients: the first after 9 to 15 s of silence ([`accept_queue`] varies it), then one every 4 s.
/// With a user time-out Linux ignores the number of probes: the first probe after the time-out finds the client gone,
/// at the latest at 27 s, or at 30 s with all possible delays. Without a user time-out, the connection ends after the
/// fourth unanswered probe. The interval is short so that a probe follows soon after the 25 s.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(10)).with_interval(Duration::from_secs(4)).with_retries(4);

/// Bytes the kernel takes from us beyond what the client's window and the path to it allow (TCP_NOTSENT_LOWAT). Without
/// this limit the send buffer grows to megabytes (net.ipv4.tcp_wmem) for a client that reads nothing, and copying those
/// bytes is most of what such a client costs.
const UNSENT: u32 = 128 * 1024;

/// Pause after an accept that failed for lack of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listener as its connections see it on one thread, with the settings in force when they were accepted.
pub struct ThreadListener {
    /// Port of the listener as a field value.
    pub port_value: HeaderValue,
    /// Set once a reload has removed the listener.
    pub removed: ListenerRemoved,
    /// Counts the connections that the listener accepts.
    accepted: IntCounter,
    settings: Arc<ListenerSettings>,
}

impl ThreadListener {
    /// Returns whether an address is that of a trusted proxy.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.settings.trusted.iter().any(|net| net.contains(&address))
    }

    /// Returns true once: for the first client on a private network whose forwarding fields are not believed. It is
    /// probably a proxy that is missing in `trusted_proxies`.
    pub(crate) fn take_disbelief(&self, peer: IpAddr) -> bool {
        let told = &self.settings.disbelief_told;
        !told.load(Ordering::Relaxed) && is_near(peer) && !told.swap(true, Ordering::Relaxed)
    }

    /// Returns the name of the listener in logs and metrics.
    pub(crate) fn label(&self) -> &str {
        &self.settings.label
    }

    /// Returns the TLS settings; `None` for a listener without TLS.
    pub fn tls(&self) -> Option<&Arc<TlsTerms>> {
        self.settings.tls.as_ref()
    }

    /// Returns whether HTTP/2 clients may open WebSockets on this listener (RFC 8441).
    pub fn websocket_over_http2(&self) -> bool {
        self.settings.websocket_over_http2
    }

    /// Returns the redirect that clients get instead of having their requests forwarded, if one is configured.
    pub fn redirect(&self) -> Option<Redirect> {
        self.settings.redirect
    }

    /// Returns the path of health checks of stickyd itself, if one is configured.
    pub fn health(&self) -> Option<&str> {
        self.settings.health.as_deref()
    }
}

/// Settings of a listener that a reload can change without touching its sockets: connections accepted later use the new
/// ones.
struct ListenerSettings {
    tls: Option<Arc<TlsTerms>>,
    /// Whether HTTP/2 clients may open WebSockets on this listener (RFC 8441).
    websocket_over_http2: bool,
    proxy_protocol: bool,
    redirect: Option<Redirect>,
    health: Option<String>,
    trusted: Vec<IpNet>,
    /// Whether the log says already that forwarding fields of some peer are not believed.
    disbelief_told: AtomicBool,
    /// Name of the listener in metrics: the configured name, or else its address.
    label: String,
}

impl ListenerSettings {
    /// Builds the settings. `before` holds the previous settings of the same listener, so that TLS clients can go on
    /// resuming their sessions; `tickets` has the keys that the fleet shares for that.
    fn of(
        config: &config::Listener,
        before: Option<&Self>,
        tickets: Option<&Arc<TicketKeys>>,
    ) -> Result<Self, BindError> {
        let before = before.and_then(|before| before.tls.as_deref());
        let tls = config.tls.as_ref().map(|tls| TlsTerms::build(tls, before, tickets)).transpose();
        Ok(Self {
            tls: tls.map_err(|error| BindError::Tls(config.address, error))?,
            websocket_over_http2: config.websocket_over_http2,
            proxy_protocol: config.proxy_protocol,
            redirect: config.redirect,
            health: config.health.clone(),
            trusted: config.trusted_proxies.clone(),
            disbelief_told: AtomicBool::new(false),
            label: config.name.clone().unwrap_or_else(|| config.address.to_string()),
        })
    }

    /// Returns the expiry of each certificate for metrics: listener, name of the certificate, seconds since 1970.
    fn expiries(&self) -> impl Iterator<Item = (&str, &str, u64)> {
        let all = self.tls.iter().flat_map(|tls| tls.expiries());
        all.map(|(name, until)| (self.label.as_str(), name.as_str(), *until))
    }
}

/// A listener with one bound socket per thread.
pub(crate) struct BoundListener {
    /// Bound address, with the port that the kernel assigned for port 0.
    pub address: SocketAddr,
    sockets: Vec<std::net::TcpListener>,
    settings: Arc<ArcSwap<ListenerSettings>>,
    removed: CancellationToken,
    /// Counts the threads that still accept from this listener.
    accepting: TaskTracker,
}

impl BoundListener {
    /// Takes one thread's part: its socket, and what its connections need.
    fn take(&mut self) -> Option<(std::net::TcpListener, ListenerPart)> {
        let part = ListenerPart {
            address: self.address,
            settings: self.settings.clone(),
            removed: self.removed.clone(),
            _accepting: self.accepting.token(),
        };
        Some((self.sockets.pop()?, part))
    }
}

/// What a thread needs to accept from one listener. It is sent to the thread; the [`Listener`] built from it stays
/// there.
pub(crate) struct ListenerPart {
    address: SocketAddr,
    settings: Arc<ArcSwap<ListenerSettings>>,
    removed: CancellationToken,
    _accepting: TaskTrackerToken,
}

/// Accepts connections until `stop` or until the listener is removed, then takes those that already wait in the kernel,
/// and ends.
pub(crate) async fn accept(thread: Rc<Thread>, part: ListenerPart, queue: AcceptQueue, stop: CancellationToken) {
    let mut door = Door::new(thread, &part);
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = queue.accept() => accepted,
            () = stop.cancelled() => break,
            () = part.removed.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => door.welcome(stream, peer),
            Err(error) => refused(error).await,
        }
    }
    // `biased` polls the queue first, but connections that arrived since then are still in it.
    let Ok(socket) = queue.into_std() else { return };
    while let Ok((stream, peer)) = socket.accept() {
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = tokio::net::TcpStream::from_std(stream)
        {
            door.welcome(stream, peer);
        }
    }
    if part.removed.is_cancelled() {
        door.removed.set(true);
        door.thread.leave();
    }
}

/// Takes in the connections of one listener on one thread.
struct Door {
    thread: Rc<Thread>,
    port_value: HeaderValue,
    removed: ListenerRemoved,
    settings: Cache<Arc<ArcSwap<ListenerSettings>>, Arc<ListenerSettings>>,
    /// The listener as built from the last settings seen.
    listener: Option<Rc<ThreadListener>>,
}

impl Door {
    fn new(thread: Rc<Thread>, part: &ListenerPart) -> Self {
        let (settings, port_value) = (Cache::new(part.settings.clone()), HeaderValue::from(part.address.port()));
        Self { thread, port_value, removed: ListenerRemoved::default(), settings, listener: None }
    }

    fn welcome(&mut self, stream: tokio::net::TcpStream, peer: SocketAddr) {
        let listener = self.listener();
        listener.accepted.inc();
        let live = self.thread.register(self.thread.idle_s(), &listener.removed);
        // A rejected connection is closed by dropping `stream` and `live`.
        if !admission::admits(&live, &listener, stream.as_raw_fd(), peer.ip().to_canonical()) {
            return;
        }
        self.thread.tasks.spawn_local(conn::serve(live, listener, stream, peer));
    }

    /// Returns the listener with the current settings.
    fn listener(&mut self) -> Rc<ThreadListener> {
        let settings = self.settings.load();
        match &self.listener {
            Some(listener) if Arc::ptr_eq(&listener.settings, settings) => listener.clone(),
            _ => {
                let listener = Rc::new(ThreadListener {
                    port_value: self.port_value.clone(),
                    removed: self.removed.clone(),
                    accepted: self.thread.shared.metrics.accepted(&settings.label),
                    settings: settings.clone(),
                });
                self.listener.insert(listener).clone()
            }
        }
    }
}

/// Whether an address is one of this machine or of a private network (RFC 1918, RFC 6598, RFC 4193, RFC 3927).
fn is_near(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            v4.is_loopback() || v4.is_private() || v4.is_link_local() || (first == 100 && second & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// Handles a failed accept: errors caused by the peer are ignored; a lack of descriptors or memory is logged, followed
/// by a pause. The accept loop never ends and never spins.
async fn refused(error: io::Error) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    crate::telemetry::say_full!(%error, "client connections cannot be accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

#[cfg(test)]
mod tests;
