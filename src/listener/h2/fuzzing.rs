//! A request over HTTP/2 without TLS or a connection's task, for the fuzz targets (`tests/fuzz`). No part of stickyd uses it.

use h2::RecvStream;
use h2::server::Builder;
use hyper::Request;

use super::inflow::Holding;
use super::translate;
use crate::listener::conn::Conn;
use crate::proxy::body::ClientBody;

/// How a real connection is served.
pub fn builder(conn: &Conn) -> Builder {
    let mut builder = super::builder(conn);
    // A listener without TLS has it off.
    builder.enable_connect_protocol();
    builder
}

/// The request it means over HTTP/1.1; `None` where it means none.
pub fn translated(conn: &Conn, request: Request<RecvStream>) -> Option<Request<ClientBody>> {
    let holding = Holding::new(conn.inflow.get().cloned().unwrap_or_default());
    let asked = translate::request(request, conn.thread.limits().head_fields, holding);
    asked.fits.ok().map(|()| asked.request)
}
