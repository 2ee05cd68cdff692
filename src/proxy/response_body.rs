//! Message bodies in both directions: from client to worker ([`Outgoing`]) and from worker to client ([`Reply`]). Both
//! are streamed at the reader's pace. Nothing is buffered except what discovery may have to send again and what
//! learning has to inspect.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::Response;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use super::access_log::Record;
use super::event_stream::Stream;
use super::trailers;
use crate::body::{BodyError, add_held};
use crate::listener::h2::body::StreamBody;
use crate::thread::Thread;
use crate::tunnel::Opening;
use crate::upstream::connections::connect::Lease;
use crate::upstream::exchange::broken::BrokeOff;
use crate::upstream::exchange::response_body::{BodyStep, Unread};

/// A request's body as the client sends it.
pub enum ClientBody {
    /// The request has no body.
    Empty,
    /// The body of an HTTP/1 request.
    Http1(Incoming),
    /// The body of an HTTP/2 stream.
    Http2(StreamBody),
}

impl From<Incoming> for ClientBody {
    fn from(body: Incoming) -> Self {
        Self::Http1(body)
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

/// Removes trailer fields that must not be forwarded; data passes unchanged. Used in both directions.
pub(crate) fn checked(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut fields) => {
            trailers::clean(&mut fields);
            Frame::trailers(fields)
        }
        Err(data) => data,
    }
}

/// The body of a worker's response; reading it drives the connection it comes from.
pub struct WorkerBody {
    unread: Unread,
    lease: Option<Box<Lease>>,
    thread: Rc<Thread>,
}

impl WorkerBody {
    /// Creates the body of the response that arrived over `lease`.
    pub fn new(unread: Unread, lease: Box<Lease>, thread: Rc<Thread>) -> Self {
        Self { unread, lease: Some(lease), thread }
    }

    /// Gives the connection back, because the response has no body or its body is complete.
    fn ends(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back(&self.unread, &self.thread.connections);
        }
    }

    /// Goes on sending the request while the client takes no frames of the response.
    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        match self.lease.as_mut().map_or(Ok(()), |lease| lease.go_on_sending(cx)) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }

    /// Reads the next frame of the response, and goes on sending the rest of the request meanwhile.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, BrokeOff>> {
        if let Some(lease) = &mut self.lease {
            lease.go_on_sending(cx)?;
        }
        loop {
            match (self.unread.advance()?, &mut self.lease) {
                (BodyStep::Frame(frame), _) => return Poll::Ready(Ok(Some(frame))),
                (BodyStep::End, _) => return Poll::Ready(Ok(None)),
                (BodyStep::More, None) => return Poll::Ready(Err(BrokeOff::Ended)),
                (BodyStep::More, Some(lease)) => {
                    let more = ready!(lease.poll_more(cx, self.unread.expected()))?;
                    if more.is_empty() { self.unread.closed()? } else { self.unread.came(more) }
                }
            }
        }
    }
}

impl Body for WorkerBody {
    type Data = Bytes;
    type Error = BrokeOff;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        let this = self.get_mut();
        let read = ready!(this.poll(cx));
        if read.is_err()
            && let Some(lease) = this.lease.take()
        {
            lease.lost();
        } else if this.unread.is_end_stream() {
            this.ends();
        }
        Poll::Ready(read.transpose().map(|frame| frame.map(checked)))
    }

    fn is_end_stream(&self) -> bool {
        self.unread.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.unread.size_hint()
    }
}

/// An answer on its way through the futures of its request. It is boxed, because a dozen moves of its 224 bytes cost
/// more than the box.
pub(crate) type BoxedReply = Box<Response<Reply>>;

/// The body of a response as it goes to the client.
pub struct Reply {
    /// Frames read ahead by learning or refusal matching; sent before the rest.
    held: VecDeque<Frame<Bytes>>,
    rest: ReplyRest,
    /// Set for a long-lived response, such as an event stream: lets a drain end it.
    stream: Option<Box<Stream>>,
    /// Ends with the response: request counts, the hold on a session's pin, and the access log line.
    record: Option<Box<Record>>,
}

/// The part of a response that follows the frames read ahead.
enum ReplyRest {
    Nothing,
    Answer(WorkerBody),
    /// Over HTTP/2, the tunnel that the stream becomes once the head of this response is sent.
    Tunnel(Box<Opening>),
    /// The response broke off; the error is passed on after the earlier data has left.
    Broken(BrokeOff),
}

impl Reply {
    /// Creates a response body from bytes that are all at hand.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let held = if bytes.is_empty() { VecDeque::new() } else { VecDeque::from([Frame::data(bytes)]) };
        Self { held, rest: ReplyRest::Nothing, stream: None, record: None }
    }

    /// Creates the body of a worker's response; `held` are the frames already read from it.
    pub fn stream(held: VecDeque<Frame<Bytes>>, rest: WorkerBody) -> Self {
        Self { held, rest: ReplyRest::Answer(rest), stream: None, record: None }
    }

    /// Creates an empty body whose HTTP/2 stream becomes a tunnel.
    pub(crate) fn tunnel(plan: Opening) -> Self {
        Self { held: VecDeque::new(), rest: ReplyRest::Tunnel(Box::new(plan)), stream: None, record: None }
    }

    /// Whether the HTTP/2 stream becomes a tunnel.
    pub fn is_tunnel(&self) -> bool {
        matches!(self.rest, ReplyRest::Tunnel(_))
    }

    /// Takes the tunnel that the HTTP/2 stream becomes, if there is one.
    pub(crate) fn take_plan(&mut self) -> Option<Box<Opening>> {
        match std::mem::replace(&mut self.rest, ReplyRest::Nothing) {
            ReplyRest::Tunnel(plan) => Some(plan),
            rest => {
                self.rest = rest;
                None
            }
        }
    }

    /// Deadline for the last byte of the response, if `request_timeout` sets one.
    pub fn overdue_at(&self) -> Option<Instant> {
        self.record.as_ref().and_then(|record| record.overdue.as_ref()).map(|overdue| overdue.at)
    }

    /// Replaces this response by `other`, and moves the request's record to it.
    pub fn replaced_by(mut self, mut other: Response<Self>) -> Response<Self> {
        if let Some(record) = self.record.take() {
            record.finish(&mut other);
        }
        other
    }

    /// Makes the response one that a drain may end, if `stream` is set.
    pub fn ended_by(mut self, stream: Option<Box<Stream>>) -> Self {
        self.stream = stream;
        self
    }

    /// Attaches the record of the request, which ends with the response.
    pub fn attach(&mut self, record: Box<Record>) {
        self.record = Some(record);
    }

    fn passed(&mut self, frame: &Frame<Bytes>) {
        if let (Some(record), Some(data)) = (&mut self.record, frame.data_ref()) {
            record.bytes_down += data.len() as u64;
        }
        if let Some(stream) = &mut self.stream {
            stream.passes(frame);
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = BrokeOff;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        let this = self.get_mut();
        if let Some(frame) = this.held.pop_front() {
            this.passed(&frame);
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(stream) = &mut this.stream
            && stream.poll_end(cx).is_ready()
        {
            // Dropping the rest closes the worker's connection; the client gets a complete response.
            (this.stream, this.rest) = (None, ReplyRest::Nothing);
        }
        let rest = match &mut this.rest {
            ReplyRest::Answer(answer) => answer,
            ReplyRest::Nothing | ReplyRest::Tunnel(_) => return Poll::Ready(None),
            ReplyRest::Broken(_) => {
                let rest = std::mem::replace(&mut this.rest, ReplyRest::Nothing);
                return Poll::Ready(if let ReplyRest::Broken(error) = rest { Some(Err(error)) } else { None });
            }
        };
        // While the client has not taken what was written, nothing more of the response is read from the worker.
        let blocked = this.record.as_ref().is_some_and(|record| record.is_blocked());
        let polled = if blocked { rest.poll_blocked(cx) } else { Pin::new(rest).poll_frame(cx) };
        match polled {
            Poll::Ready(Some(Err(error))) => {
                if let Some(record) = &mut this.record {
                    record.cut_off();
                }
                // On an error hyper drops what it has not flushed yet, possibly the head of the response. A client
                // whose kept connection ends without a byte sends its request again, even a POST. Returning Pending
                // once lets hyper flush first.
                this.rest = ReplyRest::Broken(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            polled => {
                if let Poll::Ready(Some(Ok(frame))) = &polled {
                    this.passed(frame);
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty()
            && match &self.rest {
                ReplyRest::Nothing | ReplyRest::Tunnel(_) => true,
                ReplyRest::Answer(answer) => answer.is_end_stream(),
                ReplyRest::Broken(_) => false,
            }
    }

    fn size_hint(&self) -> SizeHint {
        let held: u64 = self.held.iter().filter_map(|frame| frame.data_ref()).map(|data| data.len() as u64).sum();
        let rest = match &self.rest {
            ReplyRest::Nothing | ReplyRest::Tunnel(_) => SizeHint::with_exact(0),
            ReplyRest::Answer(answer) => answer.size_hint(),
            ReplyRest::Broken(_) => SizeHint::default(),
        };
        add_held(rest, held)
    }
}
