//! One request and the head of its answer over a worker's connection, without a task, a channel or a timer of its own:
//! whoever waits for the answer drives the connection, and later whoever reads its body.
//!
//! Both directions go on at the same time: a worker may answer an upload before it has come, and a client may still be
//! sending while its answer is read. Left out: which connection (`connect`), and whether to try again (`proxy::attempt`).

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::header::HeaderMap;
use hyper::{Method, Request, Response};
use tokio::io::{AsyncRead, ReadBuf};

use super::answer::{Coming, Head};
use super::broke_off::BrokeOff;
use super::connect::Lease;
use super::life::Loss;
use super::sending::{self, Sending};
use super::unread::Unread;
use super::waits::{PIECE, Stage};
use super::worker::Count;
use crate::clock;
use crate::proxy::body::Outgoing;

/// An exchange that breaks after having waited for so long was not refused: its worker was at it. In ms, with what the waits
/// of a thread are off by taken off a second.
const LONG_WAIT_MS: u64 = 750;

/// A body is read in pieces of up to this size, if its worker sends as fast: with what hyper holds of it for a client that
/// takes nothing (`[limits] head_bytes`) 64 KiB a request.
const LARGE_PIECE: usize = 32 * 1024;

/// Why an attempt got no answer.
pub enum Failure {
    /// The connection had closed before the request was written; here it is again, untouched.
    Unsent(Box<Request<Outgoing>>),
    /// The connection broke, or what came was no HTTP answer.
    Broken {
        /// Why.
        error: BrokeOff,
        /// At least a byte of an answer had come.
        heard: bool,
        /// The request's head as it was written, where it was to be kept.
        head: Option<Vec<u8>>,
    },
    /// No answer's head in time.
    TimedOut {
        /// The client had not sent all of its body when this began: the silence may be its own.
        uploading: bool,
    },
}

/// How a request goes out.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// For how long its answer is waited for; since the last piece of its body, where that is still coming.
    pub patience: Duration,
    /// An open poll: silent by design.
    pub is_poll: bool,
    /// Its head is to be kept, to be sent again.
    pub keep: bool,
}

/// An exchange under way: a connection waiting for the head of an answer. It holds nothing of its request, and is small:
/// futures are moved into one another.
pub struct Exchange {
    /// Gone with the answer.
    lease: Option<Box<Lease>>,
    coming: Coming,
    /// The request's own, emptied: nearly always as large as the answer's has to be.
    fields: HeaderMap,
    /// The request's head as text, where it is kept.
    head: Option<Vec<u8>>,
    /// The client had not sent all of its body when this began.
    uploading: bool,
    heard: bool,
    slow: Option<Count>,
}

/// An answer, and the connection its body comes over.
pub type Answered = (Response<Unread>, Box<Lease>);

impl Lease {
    /// Sends `request` and waits for the head of the answer, as [`Self::begin`] has it.
    ///
    /// # Errors
    /// See [`Failure`]; the connection is closed then.
    pub async fn exchange(self: Box<Self>, request: Request<Outgoing>, terms: Terms) -> Result<Answered, Failure> {
        self.begin(request, terms)?.await
    }

    /// Sends of `request` what can be sent at once; the rest goes with the wait for the head of the answer, which is what
    /// comes back. An open poll is silent by design; any other request that waits for longer than 2 s counts as slow
    /// meanwhile.
    ///
    /// # Errors
    /// See [`Failure`]; the connection is closed then.
    pub fn begin(mut self: Box<Self>, mut request: Request<Outgoing>, terms: Terms) -> Result<Exchange, Failure> {
        if !self.is_quiet() {
            return Err(Failure::Unsent(Box::new(request)));
        }
        self.used = true;
        let coming = Coming::new(request.method() == Method::HEAD);
        let uploading = request.body().is_uploading();
        self.wait.begin(terms.patience, !terms.is_poll && !uploading);
        let mut head = None;
        match self.write(&mut request, terms.keep.then_some(&mut head)) {
            Ok(()) => {}
            Err(None) => return Err(Failure::Unsent(Box::new(request))),
            Err(Some(error)) => return Err(self.broke(error, false, head)),
        }
        let mut fields = std::mem::take(request.headers_mut());
        fields.clear();
        Ok(Exchange { lease: Some(self), coming, fields, head, uploading, heard: false, slow: None })
    }

    /// Writes what of a request can be written at once; `None` as the error: nothing was, and its connection has ended.
    fn write(
        &mut self,
        request: &mut Request<Outgoing>,
        keep: Option<&mut Option<Vec<u8>>>,
    ) -> Result<(), Option<BrokeOff>> {
        let waits = self.wait.waits();
        let mut text = waits.writing.borrow_mut();
        text.clear();
        let declared = sending::head(request, &mut text);
        if let Some(keep) = keep {
            *keep = Some(text.to_vec());
        }
        let body = std::mem::replace(request.body_mut(), Outgoing::EMPTY);
        if body.is_uploading() {
            // Its client is waited for by who waits for the answer, and by nobody else.
            self.sending = Some(Box::new(Sending::behind(&text, body, declared)));
            return Ok(());
        }
        let mut sending = Sending::new(body, declared);
        match sending.poll_first(&mut Context::from_waker(Waker::noop()), &mut self.io, &mut text) {
            Poll::Ready(Ok(())) => Ok(()),
            Poll::Pending => {
                self.sending = Some(Box::new(sending));
                Ok(())
            }
            Poll::Ready(Err(BrokeOff::Io(_))) if sending.is_untouched() => {
                *request.body_mut() = sending.into_body();
                Err(None)
            }
            // The worker's end need not be the end of its answer.
            Poll::Ready(Err(BrokeOff::Io(_))) => {
                self.cut_short = true;
                Ok(())
            }
            Poll::Ready(Err(error)) => Err(Some(error)),
        }
    }

    fn answered(mut self: Box<Self>, head: Head, rest: Bytes) -> Answered {
        self.wait.end();
        self.established.spoke(clock::now_ms());
        self.idle_ms = head.idle_ms;
        let mut response = Response::new(Unread::new(head.length, rest));
        *response.status_mut() = head.status;
        *response.version_mut() = head.version;
        *response.headers_mut() = head.fields;
        *response.extensions_mut() = head.extensions;
        (response, self)
    }

    fn broke(self, error: BrokeOff, heard: bool, head: Option<Vec<u8>>) -> Failure {
        let long = self.wait.lasted_ms(clock::now_ms()) >= LONG_WAIT_MS;
        self.lost(if long { Loss::Grave } else { Loss::Light });
        Failure::Broken { error, heard, head }
    }

    /// Goes on sending what is left of a request.
    ///
    /// # Errors
    /// The client's, whose body broke off. The worker's need not be the end of its answer: it is found out by who reads.
    pub fn go_on_sending(&mut self, cx: &mut Context<'_>) -> Result<(), BrokeOff> {
        let Some(sending) = &mut self.sending else { return Ok(()) };
        let before = sending.frames();
        let waits = self.wait.waits();
        let polled = sending.poll(cx, &mut self.io, &mut waits.writing.borrow_mut());
        if sending.frames() != before {
            self.wait.again();
        }
        match polled {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(BrokeOff::Io(_))) => self.cut_short = true,
            Poll::Ready(Err(error)) => return Err(error),
        }
        self.sending = None;
        Ok(())
    }

    /// Reads on, at once as much as is sure to come ([`Unread::expected`]), if that is much; nothing: the connection has ended.
    ///
    /// # Errors
    /// The socket's.
    pub fn poll_more(&mut self, cx: &mut Context<'_>, expected: u64) -> Poll<Result<Bytes, BrokeOff>> {
        let most = self.piece();
        if expected > PIECE as u64 && self.fast && most == PIECE {
            // One byte more: a read that fills its buffer would be followed by another, which finds nothing.
            let most = usize::try_from(expected).map_or(LARGE_PIECE, |bytes| bytes.saturating_add(1).min(LARGE_PIECE));
            let read = ready!(self.io.poll_read_large(cx, most))?;
            self.fast = read.len() >= PIECE;
            return Poll::Ready(Ok(trimmed(read)));
        }
        let waits = self.wait.waits();
        let mut piece = waits.reading.borrow_mut();
        let mut read = ReadBuf::new(piece.get_mut(..most).unwrap_or_default());
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
        self.fast = read.remaining() == 0;
        Poll::Ready(Ok(Bytes::copy_from_slice(read.filled())))
    }

    /// Bytes read at once into the thread's buffer.
    fn piece(&self) -> usize {
        self.held.as_ref().map_or(PIECE, |held| held.piece(PIECE))
    }
}

/// What was read, in no more room than it needs: it may wait for a slow client.
fn trimmed(read: BytesMut) -> Bytes {
    if read.len() < read.capacity() / 2 { Bytes::copy_from_slice(&read) } else { read.freeze() }
}

impl Future for Exchange {
    type Output = Result<Answered, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let over = || Poll::Ready(Err(Failure::TimedOut { uploading: this.uploading }));
        let Some(lease) = &mut this.lease else { return over() };
        let polled = match lease.go_on_sending(cx) {
            Ok(()) => lease.poll_head(cx, &mut this.coming, &mut this.fields, &mut this.heard),
            Err(error) => Poll::Ready(Err(error)),
        };
        match (polled, this.lease.take()) {
            (Poll::Pending, Some(lease)) => {
                match lease.wait.stage(cx.waker()) {
                    Stage::Early => {}
                    Stage::Slow => {
                        this.slow.get_or_insert_with(|| lease.worker().slow_request());
                    }
                    Stage::Over => return over(),
                }
                this.lease = Some(lease);
                Poll::Pending
            }
            (Poll::Ready(Ok((head, rest))), Some(lease)) => Poll::Ready(Ok(lease.answered(head, rest))),
            (Poll::Ready(Err(error)), Some(lease)) => {
                Poll::Ready(Err(lease.broke(error, this.heard, this.head.take())))
            }
            (_, None) => over(),
        }
    }
}

impl Lease {
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        coming: &mut Coming,
        fields: &mut HeaderMap,
        heard: &mut bool,
    ) -> Poll<Result<(Head, Bytes), BrokeOff>> {
        let (most, waits) = (self.piece(), self.wait.waits());
        let mut piece = waits.reading.borrow_mut();
        loop {
            let mut read = ReadBuf::new(piece.get_mut(..most).unwrap_or_default());
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Err(BrokeOff::Ended));
            }
            *heard = true;
            self.fast = read.remaining() == 0;
            if let Some(whole) = coming.feed(read.filled(), fields)? {
                return Poll::Ready(Ok(whole));
            }
        }
    }
}
