//! Runs the head of a request through reading and rewriting, without a client or a worker. Only the fuzz targets
//! (`tests/fuzz`) use it; no part of stickyd does.

use std::rc::Rc;

use hyper::Request;
use hyper::body::Body;

use super::access_log::Record;
use super::response_body::ClientBody;
use super::{Conn, prepare, read};
use crate::body::Outgoing;

/// Returns the request as a worker would receive it, or `None` if stickyd would answer it itself.
pub fn forwardable<B: Body + Into<ClientBody>>(conn: &Rc<Conn>, request: Request<B>) -> Option<Request<Outgoing>> {
    let job = read(conn, &request, &mut Record::begin(conn, &request)).ok()?;
    let (mut parts, body) = request.into_parts();
    let (body, _) = prepare(&job, &mut parts, body);
    Some(Request::from_parts(parts, body))
}
