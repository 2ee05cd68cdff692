//! A request on its way to a worker: its head as text, and its body in the framing that the head declares.
//!
//! The head and the available part of the body are sent in one write, assembled in the thread's buffer; large pieces
//! are not copied. The fields a head may contain (`proxy::headers`) and the response (`answer`) are not part of this
//! module.

use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::Request;
use hyper::body::{Body, Frame};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use tokio::io::AsyncWrite;

use super::broken::BrokeOff;
use crate::body::Outgoing;
use crate::net::written_target::WrittenTarget;

/// Size in bytes up to which pieces are copied together and sent as one.
const SMALL: usize = 4 * 1024;

/// How the end of a request body is signalled.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Framing {
    /// The body ends after this many bytes.
    Length(u64),
    /// The body is chunked and may be followed by these trailers.
    Chunked(Vec<HeaderName>),
}

/// The part of a request that is not written yet.
pub struct RequestWriter {
    body: Outgoing,
    framing: Framing,
    /// Whether nothing more is to be taken from the body.
    over: bool,
    /// Assembled text that the socket has not accepted yet.
    small: Bytes,
    /// A large piece of the body, written after `small`.
    large: Bytes,
    /// The bytes that end the large piece, written after it.
    tail: &'static [u8],
    /// Whether the socket has accepted any byte of the request.
    begun: bool,
    frames: u64,
}

/// Appends the head of a request to `text`, with the framing that its body needs.
pub fn head(request: &mut Request<Outgoing>, text: &mut Vec<u8>) -> Declared {
    let declared = Declared(declare(request));
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    // A path may be empty for the http crate.
    let root = if target.starts_with('?') { "/" } else { "" };
    let written = request.extensions().get::<WrittenTarget>().map_or(target.as_bytes(), WrittenTarget::as_bytes);
    for part in [request.method().as_str().as_bytes(), b" ", root.as_bytes(), written, b" HTTP/1.1\r\n"] {
        text.extend_from_slice(part);
    }
    fields(request.headers(), text);
    text.extend_from_slice(b"\r\n");
    declared
}

/// The framing that a request head declares.
pub struct Declared(Framing);

fn fields(fields: &HeaderMap, text: &mut Vec<u8>) {
    for (name, value) in fields {
        // Separate calls, because appending two constant bytes compiles to a store instead of a call that copies.
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
}

/// Sets the framing fields of the head. A length declared by the client is kept, as `proxy::framing` has checked it,
/// unless the body is chunked.
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

/// Whether a field may be a trailer: fields that only have a meaning before the body may not.
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

impl RequestWriter {
    /// Creates the rest of a request whose head is written separately.
    pub fn new(body: Outgoing, declared: Declared) -> Self {
        let over = body.is_end_stream();
        let (small, large) = (Bytes::new(), Bytes::new());
        Self { body, framing: declared.0, over, small, large, tail: b"", begun: false, frames: 0 }
    }

    /// Creates a request that is still to be written as a whole; `head` is sent together with the first part of the
    /// body.
    pub fn behind(head: &[u8], body: Outgoing, declared: Declared) -> Self {
        Self { small: Bytes::copy_from_slice(head), ..Self::new(body, declared) }
    }

    /// Returns the body of a request of which nothing was sent.
    pub fn into_body(self) -> Outgoing {
        self.body
    }

    /// Writes `text`, which contains the head, and the available part of the body. `text` is a buffer that is shared
    /// with other requests.
    ///
    /// # Errors
    /// Fails with the error of the socket, or of the client that sends the body.
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

    /// Continues to write; ready when the whole request was sent.
    ///
    /// # Errors
    /// Fails as [`Self::poll_first`] does.
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
                // No more of the body is available for now. Data that TLS holds back must not wait for it.
                let _ = Pin::new(&mut *io).poll_flush(cx)?;
                return Poll::Pending;
            }
            ready!(self.poll_write(cx, io, text))?;
        }
    }

    /// Whether some of the request waits for the socket.
    fn has_leftovers(&self) -> bool {
        !self.small.is_empty() || !self.large.is_empty() || !self.tail.is_empty()
    }

    /// Whether nothing of the request was sent: the socket accepted no byte, and no piece of the body was taken.
    pub fn is_untouched(&self) -> bool {
        !self.begun && self.frames == 0
    }

    /// Returns the number of pieces of the body taken so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Appends the available part of the body to `text`; stops at a large piece.
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
        // If the body is known to have ended, it is not polled again, and its end is sent together with the last piece.
        if self.body.is_end_stream() { self.end(None, text) } else { Ok(()) }
    }

    fn data(&mut self, data: Bytes, text: &mut Vec<u8>) -> Result<(), BrokeOff> {
        let tail: &'static [u8] = match &mut self.framing {
            // An empty chunk would mark the end of the body.
            _ if data.is_empty() => return Ok(()),
            Framing::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(BrokeOff::ClientLength)?;
                b""
            }
            Framing::Chunked(_) => {
                // Writing into memory cannot fail.
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

    /// Ends the body, after the large piece if there is one.
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

    /// Writes `text`, or the part of an earlier text that the socket did not accept, followed by the large piece.
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
