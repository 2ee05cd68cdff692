//! Parts of a connection for the fuzz targets (`tests/fuzz`), without a socket: a [`Conn`] without a client, the HTTP/1
//! settings of a real connection, and the reader of PROXY headers. stickyd itself does not use this module.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use hyper::header::HeaderValue;
use hyper::server::conn::http1;

use super::super::proxy_protocol;
use super::super::{ListenerSettings, ThreadListener};
use super::{Conn, Http1Traffic};
use crate::config;
use crate::listener::handshake::Secured;
use crate::thread::Thread;

pub use super::super::proxy_protocol::{Peek, ProxiedSource};

/// Creates a connection from `peer` to a listener with these settings, which must be without TLS. `secure` makes it
/// appear to use TLS, and `http2` makes it appear to use HTTP/2.
pub fn conn(
    thread: &Rc<Thread>,
    config: &config::Listener,
    peer: IpAddr,
    secure: bool,
    http2: bool,
) -> Option<Rc<Conn>> {
    let listener = Rc::new(ThreadListener {
        port_value: HeaderValue::from(config.address.port()),
        removed: Rc::default(),
        accepted: thread.shared.metrics.accepted(&config.address.to_string()),
        settings: Arc::new(ListenerSettings::of(config, None, None).ok()?),
    });
    Some(Rc::new(Conn {
        trusted: listener.trusts(peer),
        tls: secure.then_some(Secured { policy: 0, client: None }),
        peer_value: HeaderValue::from_str(&peer.to_string()).ok()?,
        peer_ip: peer,
        is_known: true,
        thread: thread.clone(),
        listener,
        cookie: Default::default(),
        http2,
        inflow: OnceCell::new(),
        held: OnceCell::new(),
        own: OnceCell::new(),
        live: RefCell::default(),
        plan: RefCell::default(),
        traffic: Http1Traffic::default(),
        interim: RefCell::default(),
        requests: Cell::new(0),
        under_way: Cell::new(0),
        uploads: Cell::new(0),
        head_began: Cell::new(false),
        unread: Cell::new(false),
    }))
}

/// Returns the HTTP/1 settings of a real connection with default limits.
pub fn http1() -> http1::Builder {
    let config::Limits { head_bytes, head_fields, .. } = config::Limits::default();
    let mut http = http1::Builder::new();
    http.max_headers(head_fields).max_buf_size(head_bytes).max_header_size(head_bytes);
    http
}

/// Reads a PROXY header.
///
/// # Errors
/// The stream ended, or does not begin with a valid header.
pub async fn proxy_header(stream: &mut impl Peek) -> io::Result<ProxiedSource> {
    proxy_protocol::read(stream).await
}
