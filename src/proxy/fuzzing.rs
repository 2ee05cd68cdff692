//! The way of a request's head from a client to a worker, without either, for the fuzz targets (`tests/fuzz`). No part of
//! stickyd uses it.

use std::rc::Rc;

use hyper::Request;
use hyper::body::Body;

use super::body::{ClientBody, Outgoing};
use super::{Conn, prepare, read};

/// The request as a worker would get it; `None` where stickyd answers it itself.
pub fn forwardable<B: Body + Into<ClientBody>>(conn: &Rc<Conn>, request: Request<B>) -> Option<Request<Outgoing>> {
    let job = read(conn, &request).ok()?;
    Some(prepare(&job, request).0)
}
