//! The body of one request over HTTP/2, in the form in which the rest of stickyd reads bodies.
//!
//! The stream's window opens only as fast as the connection to the worker takes the bytes, so a worker that does not
//! read slows its client down, and no more than the window's bytes is held here. h2 itself resets a stream whose body
//! does not have the length that its `content-length` announces (RFC 9113 §8.1.1).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use hyper::body::{Body, Frame, SizeHint};

use super::inflow::Holding;

/// The request body of one stream.
pub struct StreamBody {
    stream: RecvStream,
    /// Bytes still to come, if the head announces a length.
    left: Option<u64>,
    /// Whether all data was read, so that trailers are next.
    data_done: bool,
    holding: Holding,
}

impl StreamBody {
    /// Wraps the rest of `stream`; `length` is the length that its head announces.
    pub(crate) fn new(stream: RecvStream, length: Option<u64>, holding: Holding) -> Self {
        holding.holds(!stream.is_end_stream());
        let left = if stream.is_end_stream() { Some(0) } else { length };
        Self { stream, left, data_done: false, holding }
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = self.get_mut();
        while !this.data_done {
            let data = this.stream.poll_data(cx);
            this.holding.holds(data.is_ready());
            match ready!(data) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    this.holding.took(data.len());
                    // This fails only if more is released than was received.
                    let _ = this.stream.flow_control().release_capacity(data.len());
                    this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    this.holding.holds(false);
                    this.data_done = true;
                }
            }
        }
        let trailers = ready!(this.stream.poll_trailers(cx)).transpose();
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
