//! A request's body while its client sends it: checks its rate and its size.
//!
//! Over HTTP/2 a stream may be silent because the connection's window is used up by other streams whose workers do not
//! read. That is not the client's fault, and `listener::h2::inflow` detects it.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::headers;
use super::respond::{self, Problem};
use super::response_body::{self, BoxedReply, ClientBody};
use crate::body::{PolledFrame, RequestStream};
use crate::listener::conn::Conn;
use crate::metrics::LimitLabel;
use crate::min_rate::{Lane, RateVerdict, Transfer, TransferGuard};

/// A client's body. If it is dropped before its end, the client may still be sending.
pub(super) struct Upload {
    body: ClientBody,
    conn: Rc<Conn>,
    /// Whether the end of the body was seen.
    over: bool,
    paced: TransferGuard,
    /// Bytes that the body may still bring before it exceeds `max_body`.
    left: u64,
}

impl Upload {
    /// Creates a body limited to `most` bytes; `None` if the request has no body, as most have none.
    pub(super) fn of(conn: &Rc<Conn>, body: impl Body + Into<ClientBody>, most: Option<u64>) -> Option<Box<Self>> {
        if body.is_end_stream() {
            return None;
        }
        conn.uploads.set(conn.uploads.get() + 1);
        let paced =
            TransferGuard::begin(&conn.thread.paces, conn.inflow.get().map(|inflow| inflow.clone() as Rc<dyn Lane>));
        let left = most.unwrap_or(u64::MAX);
        Some(Box::new(Self { body: body.into(), conn: conn.clone(), over: false, paced, left }))
    }

    /// The body's rate control, for the code that writes the response.
    pub(super) fn pace(&self) -> Rc<Transfer> {
        self.paced.pace().clone()
    }

    /// Removes trailer fields that must not be forwarded, among them those that tell workers the claims of tokens.
    fn checked(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let frame = response_body::checked(frame);
        if frame.is_data() {
            return frame;
        }
        match frame.into_trailers() {
            Ok(mut fields) => {
                let snapshot = self.conn.thread.shared.snapshot.load();
                headers::strip_claims(&mut fields, &snapshot.rules.claim_fields);
                Frame::trailers(fields)
            }
            Err(frame) => frame,
        }
    }

    /// Gives up a body that exceeds `max_body`; the frame just read is discarded.
    fn reject_too_large(&self, cx: &Context<'_>) -> PolledFrame {
        self.paced.waits(cx.waker());
        self.paced.give_up(RateVerdict::TooLarge);
        self.given_up()
    }

    /// Stops reading a body that was given up. If the response has not begun, the waiting task sends a 408 or 413 and
    /// drops the body. A response that has begun cannot report an error any more: over HTTP/1 the connection is cut;
    /// over HTTP/2 the request fails, and its stream with it.
    fn given_up(&self) -> PolledFrame {
        if !self.paced.is_answering() {
            return Poll::Pending;
        }
        if self.conn.http2 {
            return Poll::Ready(Some(Err(h2::Error::from(h2::Reason::CANCEL).into())));
        }
        self.conn.cut();
        Poll::Pending
    }
}

impl RequestStream for Upload {
    fn poll(&mut self, cx: &mut Context<'_>) -> PolledFrame {
        if self.paced.verdict().is_some() {
            return self.given_up();
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx).map_ok(|frame| self.checked(frame));
        match &polled {
            Poll::Pending => self.paced.waits(cx.waker()),
            Poll::Ready(Some(Ok(frame))) => {
                self.over = frame.is_trailers();
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.paced.moved(bytes);
                match self.left.checked_sub(bytes as u64) {
                    Some(left) => self.left = left,
                    None => return self.reject_too_large(cx),
                }
            }
            Poll::Ready(Some(Err(_))) => {}
            Poll::Ready(None) => self.over = true,
        }
        polled
    }

    fn has_ended(&self, polled: &PolledFrame) -> bool {
        self.over || matches!(polled, Poll::Ready(None | Some(Err(_))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.conn.uploads.set(self.conn.uploads.get().saturating_sub(1));
        if !self.over && !self.body.is_end_stream() {
            self.conn.mark_body_unread();
        }
    }
}

/// Waits for the response. If the body is given up first, the exchange is dropped and a 408 or 413 returned.
pub(crate) async fn unless_given_up(
    conn: &Conn,
    pace: Option<Rc<Transfer>>,
    mut answer: Pin<&mut impl Future<Output = BoxedReply>>,
) -> BoxedReply {
    let Some(pace) = pace else { return answer.await };
    let answered = poll_fn(|cx| match pace.verdict() {
        Some(verdict) => Poll::Ready(Err(verdict)),
        None => answer.as_mut().poll(cx).map(Ok),
    });
    let (limit, problem) = match answered.await {
        Ok(answer) => {
            pace.answers();
            return answer;
        }
        Err(RateVerdict::Slow) => (LimitLabel::SlowBody, Problem::Slow),
        Err(RateVerdict::TooLarge) => (LimitLabel::MaxBody, Problem::TooLarge),
    };
    conn.thread.shared.metrics.limits.reached(limit);
    respond::problem(problem).into()
}
