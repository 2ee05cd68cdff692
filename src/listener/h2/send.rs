//! An answer's body on its stream, at its client's pace: no frame is asked of the worker before the one before it has found
//! room, and a client that makes none is given up (`min_rate`).

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use hyper::body::Body;

use super::{Open, Streams};
use crate::metrics::Limit;
use crate::pace::{Held, Lane, Paced, Verdict};
use crate::proxy::body::Reply;
use crate::proxy::headers;
use crate::tunnel::stream::Carrier as _;

impl Lane for Streams {
    fn state(&self) -> (Held, u64) {
        self.pace.state()
    }
}

/// How a wait for room ended.
enum Turn {
    /// This many bytes may go.
    Room(usize),
    /// The stream is no more.
    Over,
    /// Its client takes too little.
    Slow,
}

/// A body under way.
pub(super) struct Sending<'a> {
    open: &'a Open,
    stream: &'a mut SendStream<Bytes>,
    /// From the first wait for the client on: most answers have none.
    pace: Option<Paced>,
    /// Some of it has left.
    begun: bool,
    /// Bytes of the piece under way that are still here.
    held: usize,
}

impl<'a> Sending<'a> {
    /// Nothing was sent of it.
    pub(super) fn new(open: &'a Open, stream: &'a mut SendStream<Bytes>) -> Self {
        Self { open, stream, pace: None, begun: false, held: 0 }
    }

    /// Sends all of it; or resets the stream.
    pub(super) async fn body(mut self, mut body: Reply) {
        loop {
            // What waits for the socket is enough to hold for it.
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
                // Taken back.
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
                            // Fails only on a stream that is over.
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

    /// Sends `data` as its windows open; whether the stream still stands.
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

    /// So many bytes of a piece are still here.
    fn holds(&mut self, bytes: usize) {
        let held = &self.open.streams.held;
        held.more(bytes);
        held.less(std::mem::replace(&mut self.held, bytes));
    }

    fn too_slow(&mut self) {
        self.open.streams.live.thread().shared.metrics.limits.reached(Limit::SlowReader);
        self.stream.send_reset(Reason::CANCEL);
    }

    /// Room for so many bytes or fewer; for none: until any may go.
    async fn turn(&mut self, wanted: usize) -> Turn {
        let turn = poll_fn(|cx| self.poll_turn(wanted, cx)).await;
        if let Some(pace) = &self.pace {
            // From here on it waits for its worker.
            pace.moved(0);
        }
        turn
    }

    fn poll_turn(&mut self, wanted: usize, cx: &mut Context<'_>) -> Poll<Turn> {
        if self.pace.as_ref().and_then(|pace| pace.verdict()) == Some(Verdict::Slow) {
            return Poll::Ready(Turn::Slow);
        }
        let turn = self.poll_room(wanted, cx);
        if turn.is_pending() {
            let (streams, begun) = (&self.open.streams, self.begun);
            self.pace
                .get_or_insert_with(|| {
                    let pace = Paced::begin(streams.live.thread(), Some(streams.clone() as Rc<dyn Lane>));
                    // A window full has just left, much of which must get through first. Who opened none has taken nothing.
                    pace.moved(if begun { usize::from(u16::MAX) } else { 0 });
                    pace
                })
                .waits(cx.waker());
        }
        turn
    }

    fn poll_room(&mut self, wanted: usize, cx: &mut Context<'_>) -> Poll<Turn> {
        // A stream that is reset meanwhile is found out below.
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

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.holds(0);
    }
}
