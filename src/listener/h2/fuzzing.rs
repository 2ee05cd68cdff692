//! A request over HTTP/2, without TLS and without a connection's task, for the fuzz targets (`tests/fuzz`). stickyd
//! itself does not use this module.

use h2::RecvStream;
use h2::server::Builder;
use hyper::Request;

use super::inflow::Holding;
use super::translate;
use crate::listener::conn::Conn;
use crate::proxy::response_body::ClientBody;

/// Returns the HTTP/2 settings of a real connection.
pub fn builder(conn: &Conn) -> Builder {
    let mut builder = super::builder(conn);
    // A listener without TLS does not offer WebSockets over HTTP/2.
    builder.enable_connect_protocol();
    builder
}

/// Translates a request to HTTP/1.1; `None` if it has no valid translation.
pub fn translated(conn: &Conn, request: Request<RecvStream>) -> Option<Request<ClientBody>> {
    let holding = Holding::new(conn.inflow.get().cloned().unwrap_or_default(), 1);
    let asked = translate::request(request, conn.thread.limits().head_fields, holding);
    asked.fits.ok().map(|()| asked.request)
}
