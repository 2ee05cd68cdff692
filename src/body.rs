//! The body of a request on its way to a worker. Left out: where it comes from and how fast (`proxy::upload`), how it
//! is written (`upstream::exchange::request_writer`), and response bodies (`proxy::response_body`).

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// Why a client's body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The error that hyper reported for an HTTP/1 body.
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    /// The error that h2 reported for an HTTP/2 body.
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

/// What polling a request body gives: the next frame, its end, or the reason why it broke off.
pub(crate) type PolledFrame = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

/// The part of a request body that the client is still sending.
pub trait RequestStream {
    /// Polls for the next frame that may pass to the worker.
    fn poll(&mut self, cx: &mut Context<'_>) -> PolledFrame;

    /// Whether `polled`, just returned by [`RequestStream::poll`], was the last that will come.
    fn has_ended(&self, polled: &PolledFrame) -> bool;

    /// Whether the body is known to be complete.
    fn is_end_stream(&self) -> bool;

    /// How many bytes are still to come, as far as the head declared it.
    fn size_hint(&self) -> SizeHint;
}

/// A request's body on its way to a worker: first the buffered part, then what the client still sends.
pub struct Outgoing {
    held: Bytes,
    /// The part still coming from the client; dropped at its end. Boxed, because most requests have no body.
    stream: Option<Box<dyn RequestStream>>,
}

impl Outgoing {
    /// An empty body, of a request that has none.
    pub const EMPTY: Self = Self { held: Bytes::new(), stream: None };

    /// A body that is streamed from the client; `None` for a request without a body.
    pub fn stream(upload: Option<Box<dyn RequestStream>>) -> Self {
        Self { stream: upload, ..Self::EMPTY }
    }

    /// A fully buffered body, which can be sent again.
    pub fn held(bytes: Bytes) -> Self {
        Self { held: bytes, ..Self::EMPTY }
    }

    /// Puts `read`, which was already taken from this body, back in front of it.
    pub fn after(self, read: Bytes) -> Self {
        Self { held: read, ..self }
    }

    /// Whether the client may still be sending this body.
    pub fn is_uploading(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| !stream.is_end_stream())
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if !this.held.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.held)))));
        }
        let Some(stream) = &mut this.stream else { return Poll::Ready(None) };
        let polled = stream.poll(cx);
        if stream.has_ended(&polled) {
            this.stream = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.stream.as_ref().is_none_or(|stream| stream.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.stream.as_ref().map_or_else(|| SizeHint::with_exact(0), |stream| stream.size_hint());
        add_held(rest, self.held.len() as u64)
    }
}

pub(crate) fn add_held(rest: SizeHint, held: u64) -> SizeHint {
    let mut hint = SizeHint::new();
    if let Some(upper) = rest.upper() {
        hint.set_upper(upper + held);
    }
    hint.set_lower(rest.lower() + held);
    hint
}
