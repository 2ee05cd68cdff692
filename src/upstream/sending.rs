//! A request on its way to its worker: its head as text, its body in the framing the head declares.
//!
//! Head and what is there of the body leave in one write, put together in the thread's buffer; large pieces are not copied.
//! Left out: what a head may say (`proxy::headers`), and what comes back (`answer`).

use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::Request;
use hyper::body::{Body, Frame};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use tokio::io::AsyncWrite;

use super::broke_off::BrokeOff;
use crate::proxy::body::Outgoing;

/// Pieces up to this size are put together and sent as one.
const SMALL: usize = 4 * 1024;

/// How the end of a request's body is told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Framing {
    /// After so many bytes.
    Length(u64),
    /// By chunks; these trailers may follow.
    Chunked(Vec<HeaderName>),
}

/// What of a request is not written yet.
pub struct Sending {
    body: Outgoing,
    framing: Framing,
    /// Nothing more comes out of the body.
    over: bool,
    /// Put together, and not taken by the socket yet.
    small: Bytes,
    /// A large piece of the body behind it.
    large: Bytes,
    /// What ends that.
    tail: &'static [u8],
    /// The socket took something of it.
    begun: bool,
    frames: u64,
}

/// Writes a request's head behind what is in `text`, declaring its framing as its body is.
pub fn head(request: &mut Request<Outgoing>, text: &mut Vec<u8>) -> Declared {
    let declared = Declared(declare(request));
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    // A path may be empty to the http crate.
    let root = if target.starts_with('?') { "/" } else { "" };
    for part in [request.method().as_str(), " ", root, target, " HTTP/1.1\r\n"] {
        text.extend_from_slice(part.as_bytes());
    }
    fields(request.headers(), text);
    text.extend_from_slice(b"\r\n");
    declared
}

/// The framing a head declares.
pub struct Declared(Framing);

fn fields(fields: &HeaderMap, text: &mut Vec<u8>) {
    for (name, value) in fields {
        // One by one: what is two bytes long is stored, not copied by a call.
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
}

/// A length the client said is kept (`proxy::framing` has checked it); chunks replace it.
fn declare(request: &mut Request<Outgoing>) -> Framing {
    if request.body().is_end_stream() {
        request.headers_mut().remove(header::TRANSFER_ENCODING);
        return Framing::Length(0);
    }
    let exact = request.body().size_hint().exact();
    let headers = request.headers_mut();
    if !headers.contains_key(header::TRANSFER_ENCODING) {
        let said = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(length) = said {
            return Framing::Length(length);
        }
        if let Some(length) = exact {
            headers.insert(header::CONTENT_LENGTH, length.into());
            return Framing::Length(length);
        }
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    headers.remove(header::CONTENT_LENGTH);
    let named = headers.get_all(header::TRAILER).iter().filter_map(|value| value.to_str().ok());
    let names = named.flat_map(|names| names.split(','));
    Framing::Chunked(names.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok()).collect())
}

/// Fields that mean something only where they are read before a body.
fn may_trail(name: &HeaderName) -> bool {
    !matches!(
        *name,
        header::AUTHORIZATION
            | header::CACHE_CONTROL
            | header::CONTENT_ENCODING
            | header::CONTENT_LENGTH
            | header::CONTENT_RANGE
            | header::CONTENT_TYPE
            | header::HOST
            | header::MAX_FORWARDS
            | header::SET_COOKIE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::TE
    )
}

impl Sending {
    /// The body that goes with a head.
    pub fn new(body: Outgoing, declared: Declared) -> Self {
        let over = body.is_end_stream();
        let (small, large) = (Bytes::new(), Bytes::new());
        Self { body, framing: declared.0, over, small, large, tail: b"", begun: false, frames: 0 }
    }

    /// The same, all of it still to be written: `head` leaves with the first of the body.
    pub fn behind(head: &[u8], body: Outgoing, declared: Declared) -> Self {
        Self { small: Bytes::copy_from_slice(head), ..Self::new(body, declared) }
    }

    /// The body, of something untouched.
    pub fn into_body(self) -> Outgoing {
        self.body
    }

    /// Writes `text`, which holds a head, and what there is of the body. `text` is a buffer that others use, too.
    ///
    /// # Errors
    /// The socket's, or the client's who sends the body.
    pub fn poll_first(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
        text: &mut Vec<u8>,
    ) -> Poll<Result<(), BrokeOff>> {
        self.fill(cx, text)?;
        ready!(self.poll_write(cx, io, text))?;
        self.poll(cx, io, text)
    }

    /// Goes on writing; ready when all of it has left.
    ///
    /// # Errors
    /// As of [`Self::poll_first`].
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
        text: &mut Vec<u8>,
    ) -> Poll<Result<(), BrokeOff>> {
        loop {
            text.clear();
            if !self.begun && self.frames == 0 && !self.over {
                text.extend_from_slice(&std::mem::take(&mut self.small));
            }
            if self.has_leftovers() {
                ready!(self.poll_write(cx, io, text))?;
                continue;
            }
            if self.over {
                return Pin::new(io).poll_flush(cx).map_err(BrokeOff::Io);
            }
            self.fill(cx, text)?;
            if text.is_empty() && !self.has_leftovers() {
                // Nothing comes for now; what TLS holds back is not to wait for it.
                let _ = Pin::new(&mut *io).poll_flush(cx)?;
                return Poll::Pending;
            }
            ready!(self.poll_write(cx, io, text))?;
        }
    }

    /// Something of it waits for the socket.
    fn has_leftovers(&self) -> bool {
        !self.small.is_empty() || !self.large.is_empty() || !self.tail.is_empty()
    }

    /// Nothing of the request has left: the socket took none of it, nor was anything of its body taken.
    pub fn is_untouched(&self) -> bool {
        !self.begun && self.frames == 0
    }

    /// Pieces of the body taken so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Puts what the body has behind `text`; stops at a large piece.
    fn fill(&mut self, cx: &mut Context<'_>, text: &mut Vec<u8>) -> Result<(), BrokeOff> {
        while !self.over && self.large.is_empty() && text.len() < 4 * SMALL {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => self.end(None, text)?,
                Poll::Ready(Some(Err(error))) => return Err(BrokeOff::Client(error)),
                Poll::Ready(Some(Ok(frame))) => {
                    self.frames += 1;
                    self.frame(frame, text)?;
                }
            }
        }
        Ok(())
    }

    fn frame(&mut self, frame: Frame<Bytes>, text: &mut Vec<u8>) -> Result<(), BrokeOff> {
        match frame.into_data() {
            Ok(data) => self.data(data, text)?,
            Err(frame) => return self.end(frame.into_trailers().ok(), text),
        }
        // What is known to be the end needs no second look, and its end leaves with it.
        if self.body.is_end_stream() { self.end(None, text) } else { Ok(()) }
    }

    fn data(&mut self, data: Bytes, text: &mut Vec<u8>) -> Result<(), BrokeOff> {
        let tail: &'static [u8] = match &mut self.framing {
            // An empty chunk would be the last.
            _ if data.is_empty() => return Ok(()),
            Framing::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(BrokeOff::ClientLength)?;
                b""
            }
            Framing::Chunked(_) => {
                // Into memory: it cannot fail.
                let _ = write!(text, "{:x}\r\n", data.len());
                b"\r\n"
            }
        };
        if data.len() <= SMALL {
            text.extend_from_slice(&data);
            text.extend_from_slice(tail);
        } else {
            (self.large, self.tail) = (data, tail);
        }
        Ok(())
    }

    /// Ends the body, behind a large piece where there is one.
    fn end(&mut self, trailers: Option<HeaderMap>, text: &mut Vec<u8>) -> Result<(), BrokeOff> {
        match &self.framing {
            Framing::Length(0) => {}
            Framing::Length(_) => return Err(BrokeOff::ClientLength),
            Framing::Chunked(_) if !self.large.is_empty() => self.tail = b"\r\n0\r\n\r\n",
            Framing::Chunked(announced) => {
                text.extend_from_slice(b"0\r\n");
                let mut trailers = trailers.unwrap_or_default();
                remove_unless(&mut trailers, |name| announced.contains(name) && may_trail(name));
                fields(&trailers, text);
                text.extend_from_slice(b"\r\n");
            }
        }
        self.over = true;
        Ok(())
    }

    /// Offers the socket `text`, or what it has not taken of an earlier one, and the large piece behind it.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
        text: &[u8],
    ) -> Poll<Result<(), BrokeOff>> {
        let first = if text.is_empty() { &self.small } else { text };
        let written = match (first, self.large.is_empty() && self.tail.is_empty()) {
            (only, true) => Pin::new(io).poll_write(cx, only),
            (b"", false) => Pin::new(io).poll_write_vectored(cx, &[IoSlice::new(&self.large), IoSlice::new(self.tail)]),
            (first, false) => {
                let parts = [IoSlice::new(first), IoSlice::new(&self.large), IoSlice::new(self.tail)];
                Pin::new(io).poll_write_vectored(cx, &parts)
            }
        };
        let taken = match written {
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into())),
            Poll::Ready(Ok(taken)) => taken,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            Poll::Pending => 0,
        };
        self.begun |= taken > 0;
        let behind = taken.saturating_sub(first.len());
        if text.is_empty() {
            self.small.advance(taken - behind);
        } else if let Some(rest) = text.get(taken..).filter(|rest| !rest.is_empty()) {
            self.small = Bytes::copy_from_slice(rest);
        }
        let of_tail = behind.saturating_sub(self.large.len());
        self.large.advance(behind - of_tail);
        self.tail = self.tail.get(of_tail..).unwrap_or_default();
        if written.is_pending() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

fn remove_unless(fields: &mut HeaderMap, stays: impl Fn(&HeaderName) -> bool) {
    let out: Vec<HeaderName> = fields.keys().filter(|name| !stays(name)).cloned().collect();
    for name in out {
        fields.remove(name);
    }
}
