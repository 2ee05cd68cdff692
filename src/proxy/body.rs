//! The bodies that pass: from client to worker ([`Outgoing`]) and from worker to client ([`Reply`]). Streams, both ways,
//! with the reader's pace; nothing is held but what discovery may have to send again and what learning has to see.

use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::headers;
use super::record::Record;
use super::upload::Upload;
use crate::thread::Thread;
use crate::upstream::connect::Lease;
use crate::upstream::life::Loss;

/// A request's body on its way to a worker: what is held of it, then what still streams from the client.
pub struct Outgoing {
    held: Bytes,
    stream: Option<Incoming>,
    /// Frames the worker's connection has taken of the stream, for who waits for the answer.
    taken: Option<Rc<Cell<u64>>>,
    /// While it streams.
    upload: Option<Box<Upload>>,
}

impl Outgoing {
    /// No body.
    pub const EMPTY: Self = Self { held: Bytes::new(), stream: None, taken: None, upload: None };

    /// As it comes from the client.
    pub fn stream(body: Incoming, upload: Option<Box<Upload>>) -> Self {
        Self { stream: Some(body), upload, ..Self::EMPTY }
    }

    /// Held whole, so that it can be sent again.
    pub fn held(bytes: Bytes) -> Self {
        Self { held: bytes, ..Self::EMPTY }
    }

    /// What was read of it, put back in front.
    pub fn after(self, read: Bytes) -> Self {
        Self { held: read, ..self }
    }

    /// How many frames the worker's connection has taken, while the client may still be sending.
    pub fn watch(&mut self) -> Option<Rc<Cell<u64>>> {
        self.stream.as_ref().filter(|stream| !stream.is_end_stream())?;
        Some(self.taken.get_or_insert_default().clone())
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if !this.held.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.held)))));
        }
        let Some(stream) = &mut this.stream else { return Poll::Ready(None) };
        let polled = poll_client(stream, cx);
        match (&polled, &mut this.upload) {
            (Poll::Pending, Some(upload)) => upload.waits(cx),
            (Poll::Ready(Some(Ok(frame))), Some(upload)) => {
                if !upload.brought(frame.data_ref().map_or(0, Bytes::len), cx) {
                    // Whoever answers is told, and drops this.
                    return Poll::Pending;
                }
            }
            (Poll::Ready(_), _) => this.upload = None,
            (Poll::Pending, None) => {}
        }
        if let (true, Some(taken)) = (polled.is_ready(), &this.taken) {
            taken.set(taken.get() + 1);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.stream.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.stream.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        add_held(rest, self.held.len() as u64)
    }
}

/// The next frame of a client's body. Who somebody is belongs into heads, where it is checked: trailers say nothing of it.
fn poll_client(body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
    let checked = |frame: Frame<Bytes>| match frame.into_trailers() {
        Ok(mut trailers) => {
            headers::strip_identity(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(data) => data,
    };
    Pin::new(body).poll_frame(cx).map_ok(checked)
}

/// A worker's answer body, driving the connection it comes from.
pub struct Answer {
    incoming: Incoming,
    lease: Option<Box<Lease>>,
    thread: Rc<Thread>,
}

impl Answer {
    /// The body of the answer that came over `lease`.
    pub fn new(incoming: Incoming, lease: Box<Lease>, thread: Rc<Thread>) -> Self {
        Self { incoming, lease: Some(lease), thread }
    }

    fn give_back(&mut self, cx: &mut Context<'_>) {
        if let Some(lease) = self.lease.take() {
            lease.give_back(&self.thread, cx);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if this.incoming.is_end_stream() {
            this.give_back(cx);
            return Poll::Ready(None);
        }
        // First what has arrived, then the connection, then what that brought.
        for last in [false, true] {
            match Pin::new(&mut this.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if this.incoming.is_end_stream() {
                        this.give_back(cx);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Poll::Ready(None) => {
                    this.give_back(cx);
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(error))) => {
                    if let Some(lease) = this.lease.take() {
                        lease.lost(Loss::Light);
                    }
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Pending if last => break,
                Poll::Pending => {}
            }
            // Its end brings the rest of the body, or the error that the next turn finds.
            if let Some(lease) = &mut this.lease {
                let _ = lease.poll_connection(cx);
            }
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// What a client gets.
pub struct Reply {
    /// Data read ahead (by learning or refusal matching), sent before the rest.
    held: VecDeque<Frame<Bytes>>,
    rest: Option<Answer>,
    /// What ends with the answer: counts, an open poll, the log line.
    record: Option<Box<Record>>,
}

impl Reply {
    /// A whole body.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let held = if bytes.is_empty() { VecDeque::new() } else { VecDeque::from([Frame::data(bytes)]) };
        Self { held, rest: None, record: None }
    }

    /// A worker's answer, `held` having been read of it.
    pub fn stream(held: VecDeque<Frame<Bytes>>, rest: Answer) -> Self {
        Self { held, rest: Some(rest), record: None }
    }

    /// The same, with what shall end with it.
    pub fn recorded(mut self, record: Box<Record>) -> Self {
        self.record = Some(record);
        self
    }

    fn passed(&mut self, frame: &Frame<Bytes>) {
        if let (Some(record), Some(data)) = (&mut self.record, frame.data_ref()) {
            record.bytes_down += data.len() as u64;
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if let Some(frame) = this.held.pop_front() {
            this.passed(&frame);
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(rest) = &mut this.rest else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(rest).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            this.passed(frame);
        } else if let (Poll::Ready(Some(Err(_))), Some(record)) = (&polled, &mut this.record) {
            record.cut_off();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let held: u64 = self.held.iter().filter_map(|frame| frame.data_ref()).map(|data| data.len() as u64).sum();
        let rest = self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        add_held(rest, held)
    }
}

fn add_held(rest: SizeHint, held: u64) -> SizeHint {
    let mut hint = SizeHint::new();
    if let Some(upper) = rest.upper() {
        hint.set_upper(upper + held);
    }
    hint.set_lower(rest.lower() + held);
    hint
}
