//! Sends a response's body on its stream, at its client's pace: no frame is requested from the worker before the
//! previous one has found room, and a client that makes no room is given up (`min_rate`).

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use hyper::HeaderMap;
use hyper::body::Body;

use super::{OpenStream, Streams};
use crate::metrics::LimitLabel;
use crate::min_rate::{HeldUpBy, Lane, RateVerdict, TransferGuard};
use crate::net::h2_stream::StreamCarrier as _;
use crate::proxy::headers;
use crate::proxy::response_body::Reply;

/// Returns the bytes of names and values, which wait for the socket as they are until they are encoded.
pub(super) fn head_size(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

impl Lane for Streams {
    fn state(&self) -> (HeldUpBy, u64) {
        self.pace.state()
    }
}

/// How a wait for room to send has ended.
enum Turn {
    /// This many bytes may be sent.
    Room(usize),
    /// The stream has been closed.
    Over,
    /// The client reads too slowly.
    Slow,
}

/// A body that is being sent.
pub(crate) struct BodySender<'a> {
    open: &'a OpenStream,
    stream: &'a mut SendStream<Bytes>,
    /// Check of the minimum rate, from the first wait for the client on; most responses never wait.
    pace: Option<TransferGuard>,
    /// Whether any of the body has been sent.
    begun: bool,
    /// Bytes of the current piece that are not handed over yet.
    held: usize,
}

impl<'a> BodySender<'a> {
    /// Prepares to send a body on a stream.
    pub(crate) fn new(open: &'a OpenStream, stream: &'a mut SendStream<Bytes>) -> Self {
        Self { open, stream, pace: None, begun: false, held: 0 }
    }

    /// Sends the whole body, or resets the stream.
    pub(crate) async fn body(mut self, mut body: Reply) {
        loop {
            // While too many bytes wait for the socket, no more are read from the worker.
            match self.turn(0).await {
                Turn::Room(_) => {}
                Turn::Over => return,
                Turn::Slow => return self.too_slow(),
            }
            let frame = poll_fn(|cx| match Pin::new(&mut body).poll_frame(cx) {
                Poll::Ready(frame) => Poll::Ready(Some(frame)),
                Poll::Pending => self.stream.poll_reset(cx).map(|_| None),
            });
            let sent = match frame.await {
                // The client has reset the stream.
                None => return,
                Some(None) => {
                    let _ = self.stream.send_data(Bytes::new(), true);
                    return;
                }
                Some(Some(Err(_))) => return self.stream.send_reset(Reason::INTERNAL_ERROR),
                Some(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.all(data, body.is_end_stream()).await,
                    Err(frame) => {
                        if let Ok(mut trailers) = frame.into_trailers() {
                            headers::to_client(&mut trailers, false);
                            self.open.streams.held.head_waits(head_size(&trailers));
                            // This fails only on a stream that is closed.
                            let _ = self.stream.send_trailers(trailers);
                        }
                        return;
                    }
                },
            };
            if !sent || body.is_end_stream() {
                return;
            }
        }
    }

    /// Sends `data` as the windows open; returns whether the stream is still open.
    async fn all(&mut self, mut data: Bytes, last: bool) -> bool {
        self.holds(data.len());
        while !data.is_empty() {
            let room = match self.turn(data.len()).await {
                Turn::Room(room) => room,
                Turn::Over => return false,
                Turn::Slow => {
                    self.too_slow();
                    return false;
                }
            };
            let piece = data.split_to(room.min(data.len()));
            self.holds(data.len());
            self.begun = true;
            self.open.queued(piece.len());
            if let Some(pace) = &self.pace {
                pace.moved(piece.len());
            }
            if self.stream.send_data(piece, last && data.is_empty()).is_err() {
                return false;
            }
        }
        true
    }

    /// Sets how many bytes of the current piece are not handed over yet.
    fn holds(&mut self, bytes: usize) {
        let held = &self.open.streams.held;
        held.more(bytes);
        held.less(std::mem::replace(&mut self.held, bytes));
    }

    fn too_slow(&mut self) {
        self.open.streams.live.thread().shared.metrics.limits.reached(LimitLabel::SlowReader);
        self.stream.send_reset(Reason::CANCEL);
    }

    /// Waits for room for at most `wanted` bytes; with 0, until any bytes may be sent.
    async fn turn(&mut self, wanted: usize) -> Turn {
        let turn = poll_fn(|cx| self.poll_turn(wanted, cx)).await;
        if let Some(pace) = &self.pace {
            // From here on the stream waits for its worker, not for its client.
            pace.moved(0);
        }
        turn
    }

    fn poll_turn(&mut self, wanted: usize, cx: &mut Context<'_>) -> Poll<Turn> {
        if self.pace.as_ref().and_then(|pace| pace.verdict()) == Some(RateVerdict::Slow) {
            return Poll::Ready(Turn::Slow);
        }
        let turn = self.poll_room(wanted, cx);
        if turn.is_pending() {
            let (streams, begun) = (&self.open.streams, self.begun);
            self.pace
                .get_or_insert_with(|| {
                    let pace =
                        TransferGuard::begin(&streams.live.thread().paces, Some(streams.clone() as Rc<dyn Lane>));
                    // A whole window has just been sent, and much of it must get through first, so it is credited. A
                    // client that opened no window has taken nothing.
                    pace.moved(if begun { usize::from(u16::MAX) } else { 0 });
                    pace
                })
                .waits(cx.waker());
        }
        turn
    }

    fn poll_room(&mut self, wanted: usize, cx: &mut Context<'_>) -> Poll<Turn> {
        // If the stream is reset in the meantime, this is detected below.
        ready!(self.open.poll_room(cx));
        if wanted == 0 {
            return Poll::Ready(Turn::Room(0));
        }
        self.stream.reserve_capacity(wanted);
        loop {
            match self.stream.capacity() {
                0 => match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    _ => return Poll::Ready(Turn::Over),
                },
                room => return Poll::Ready(Turn::Room(room)),
            }
        }
    }
}

impl Drop for BodySender<'_> {
    fn drop(&mut self) {
        self.holds(0);
    }
}
