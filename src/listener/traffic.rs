//! What is known of a client's HTTP/1 socket outside of hyper: how far it is with requests and responses. `http1_io`
//! keeps it up to date.

use std::cell::{Cell, RefCell};

use hyper::body::Body;
use hyper::{Request, Version, header};

use super::request_end::{BodyScan, ChunkScan};
use crate::net::written_target::WrittenTarget;

/// State of the socket, as far as it can be observed outside hyper.
#[derive(Default)]
pub(crate) struct Http1Traffic {
    /// Whether something was written since the last complete flush.
    pub(super) unflushed: Cell<bool>,
    /// Whether the last read found no bytes.
    pub(super) dry: Cell<bool>,
    /// Whether the client did not take all that was written at once, and has not taken it since.
    pub(super) blocked: Cell<bool>,
    /// Whether the client has ended its side, and nothing it sent is left in the socket; or the connection is broken.
    pub(super) ended: Cell<bool>,
    /// The body of the request that hyper has just handed over.
    pub(super) begun: Cell<Option<BodyScan>>,
    /// Number of bytes that hyper got with the last head, as the beginning of its body.
    pub(super) beyond: Cell<usize>,
    /// Whether hyper found another end of the last request than `request_end`, and may have bytes of the next one.
    is_misread: Cell<bool>,
    /// Number of requests that hyper has handed over.
    pub(super) handed_over: Cell<u32>,
    /// Whether the response to a request has not left completely.
    pub(super) owed: Cell<bool>,
    /// Whether the request asks for an upgrade, for which its client has to go on sending.
    pub(super) upgrades: Cell<bool>,
    /// Whether the request is of HTTP/1.1, and not of HTTP/1.0.
    pub(super) is_http_1_1: Cell<bool>,
    /// Whether hyper has rejected a head, and its own answer was dropped.
    pub(super) refused: Cell<bool>,
    /// The target of the next request, if it was encoded.
    pub(super) written: RefCell<Option<WrittenTarget>>,
}

impl Http1Traffic {
    /// Returns whether hyper's output is sent and all that came was read. At the end of each turn hyper flushes its
    /// output, so that between two requests its buffers are empty, except for part of a head, which it gives back.
    pub(crate) fn is_still(&self) -> bool {
        !self.unflushed.get() && self.dry.get()
    }

    /// Returns whether hyper's output waits for the client, so that no more of a response should be read for it.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// Returns whether the end of the client's stream was read, or its connection is broken.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Returns whether all responses have left, so that an error of hyper concerns a head, and has no answer yet.
    pub(crate) fn is_answered(&self) -> bool {
        !self.owed.get()
    }

    /// Returns whether no further request may be read from the connection.
    pub(crate) fn is_misread(&self) -> bool {
        self.is_misread.get()
    }

    /// Returns how much of `read`, which hyper was given and has not used, belongs to a head.
    pub(super) fn head_of<'r>(&self, read: &'r [u8]) -> &'r [u8] {
        read.get(..read.len().saturating_sub(self.beyond.get())).unwrap_or_default()
    }

    /// Notes a request that hyper hands over, and adds the target as its client wrote it.
    pub(crate) fn begins<B: Body>(&self, request: &mut Request<B>) {
        let mut body = match request.body().size_hint().exact() {
            Some(length) => BodyScan::Length(length),
            None => BodyScan::Chunked(ChunkScan::default()),
        };
        let beyond = self.beyond.take();
        if beyond > 0 && !body.try_skip(beyond) {
            self.is_misread.set(true);
        }
        self.begun.set(Some(body));
        self.handed_over.set(self.handed_over.get().saturating_add(1));
        self.owed.set(true);
        self.is_http_1_1.set(request.version() == Version::HTTP_11);
        self.upgrades.set(request.headers().contains_key(header::UPGRADE));
        if let Some(written) = self.written.take()
            && request.uri().path_and_query().is_some_and(|target| written.is_of(target.as_str()))
        {
            request.extensions_mut().insert(written);
        }
    }
}
