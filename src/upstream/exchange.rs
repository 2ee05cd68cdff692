//! One request and the head of its response over a worker's connection, without a task, channel or timer of its own.
//! The task that waits for the response drives the connection, and later the task that reads the body.
//!
//! Both directions proceed at the same time: a worker may respond to an upload before it is complete, and a client may
//! still be sending while its response is read. Which connection is used (`connect`) and whether a request is retried
//! (`proxy::attempt`) are not part of this module.

pub(crate) mod broken;
pub(crate) mod connection_auth;
pub(crate) mod interim;
pub(crate) mod request_writer;
pub(crate) mod response_body;
pub(crate) mod response_head;

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hyper::header::HeaderMap;
use hyper::{Method, Request, Response, Uri};
use tokio::io::{AsyncRead, ReadBuf};

use super::connections::connect::Lease;
use super::connections::response_timeout::{READ_PIECE_BYTES, Stage, WaitKind};
use super::eject::ClientKey;
use super::restarts::Loss;
use super::slow_requests::SlowRequest;
use crate::body::Outgoing;
use crate::clock;
use broken::BrokeOff;
use interim::InterimHead;
use request_writer::RequestWriter;
use response_body::Unread;
use response_head::{Coming, Head};

/// Waiting time in milliseconds after which a poll counts as open: the worker has taken it, and did not break it off at
/// once. It is one second, less the inaccuracy of a thread's waits.
const LONG_WAIT_MS: u64 = 750;

/// Maximum size in bytes of one read of a body from a fast worker. Together with what hyper holds for a client that
/// reads nothing (`[limits] head_bytes`), this is 64 KiB per request.
const LARGE_PIECE: usize = 32 * 1024;

/// Why an exchange brought no response.
pub enum Failure {
    /// The connection had closed before the request was written; the request is unchanged.
    Unsent,
    /// The connection broke, or what came was not a valid HTTP response.
    Broken {
        /// The error that ended the exchange.
        error: BrokeOff,
        /// Whether at least one byte of a response had arrived.
        heard: bool,
        /// The request head as it was written, if it was to be kept.
        head: Option<Vec<u8>>,
    },
    /// The response head did not arrive in time.
    TimedOut {
        /// Whether the client was still sending its body when the exchange began, so that the silence may be the
        /// client's.
        uploading: bool,
    },
}

/// How a request is sent, and how long its response is waited for.
#[derive(Debug, Clone, Copy)]
pub struct ExchangeTerms {
    /// The client that sent the request: one client's slow or broken requests do not show that the worker is ill.
    pub client: ClientKey,
    /// Maximum wait for the response. While the request body is still being sent, it counts from the last piece of it.
    pub patience: Duration,
    /// Whether the request is an open poll, which may wait long by design.
    pub is_poll: bool,
    /// Whether the request head is kept so that it can be sent again.
    pub keep: bool,
    /// Whether the client takes informational responses.
    pub takes_interim: bool,
}

/// An exchange in progress: a connection that waits for the head of a response. It holds nothing of its request and is
/// small, because futures are moved into one another.
pub struct Exchange {
    /// The connection; `None` once the exchange has ended.
    lease: Option<Box<Lease>>,
    coming: Coming,
    /// The request's emptied field map, reused for the response: it is nearly always large enough.
    fields: HeaderMap,
    /// The request head as text, if it is to be kept.
    head: Option<Vec<u8>>,
    /// Whether the client was still sending its body when the exchange began.
    uploading: bool,
    heard: bool,
    slow: Option<SlowRequest>,
}

/// A response, and the connection over which its body comes. The response is boxed, because it passes through many
/// futures, and the moves of its 160 bytes cost more than the box.
pub(crate) type ResponseAndLease = (Box<Response<Unread>>, Box<Lease>);

impl Lease {
    /// Sends `request` and waits for the head of the response; see [`Self::begin`].
    ///
    /// # Errors
    /// See [`Failure`]; the connection is then closed.
    pub async fn exchange(
        self: Box<Self>,
        mut request: Request<Outgoing>,
        terms: ExchangeTerms,
    ) -> Result<ResponseAndLease, Failure> {
        self.begin(&mut request, terms)?.await
    }

    /// Sends the part of `request` that can be sent at once, and empties it. The returned future sends the rest while
    /// it waits for the head of the response. A request that waits for longer than 2 s counts as slow meanwhile, except
    /// for an open poll, which may wait long by design.
    ///
    /// # Errors
    /// See [`Failure`]; the connection is then closed.
    pub fn begin(
        mut self: Box<Self>,
        request: &mut Request<Outgoing>,
        terms: ExchangeTerms,
    ) -> Result<Exchange, Failure> {
        if !self.check_quiet() {
            return Err(Failure::Unsent);
        }
        self.used = true;
        let mut coming = Coming::new(request.method() == Method::HEAD);
        coming.interim.want(terms.takes_interim);
        let uploading = request.body().is_uploading();
        self.wait.begin(terms.client, terms.patience, wait_kind(terms.is_poll, uploading));
        let mut head = None;
        match self.write(request, terms.keep.then_some(&mut head)) {
            Ok(()) => {}
            Err(None) => return Err(Failure::Unsent),
            Err(Some(error)) => return Err(self.broke(error, false, head)),
        }
        let mut fields = std::mem::take(request.headers_mut());
        fields.clear();
        // The target is a part of the client's read buffer, which can be used again once nothing refers to it.
        *request.uri_mut() = Uri::default();
        request.extensions_mut().clear();
        Ok(Exchange { lease: Some(self), coming, fields, head, uploading, heard: false, slow: None })
    }

    /// Writes the part of a request that can be written at once. The error `None` means that the connection had ended
    /// before anything was written.
    fn write(
        &mut self,
        request: &mut Request<Outgoing>,
        keep: Option<&mut Option<Vec<u8>>>,
    ) -> Result<(), Option<BrokeOff>> {
        let waits = self.wait.waits();
        let mut text = waits.writing.borrow_mut();
        text.clear();
        let declared = request_writer::head(request, &mut text);
        if let Some(keep) = keep {
            *keep = Some(text.to_vec());
        }
        let body = std::mem::replace(request.body_mut(), Outgoing::EMPTY);
        if body.is_uploading() {
            // Only the task that waits for the response may wait for the client's body.
            self.sending = Some(Box::new(RequestWriter::behind(&text, body, declared)));
            return Ok(());
        }
        let mut sending = RequestWriter::new(body, declared);
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
            // The worker may have sent a response before it closed its side.
            Poll::Ready(Err(BrokeOff::Io(_))) => {
                self.cut_short = true;
                Ok(())
            }
            Poll::Ready(Err(error)) => Err(Some(error)),
        }
    }

    fn answered(mut self: Box<Self>, head: Head, rest: Bytes) -> ResponseAndLease {
        self.wait.end();
        self.answered_at = Instant::now();
        self.established.spoke(clock::ms_at(self.answered_at));
        self.authenticates |= head.authenticates;
        self.idle_ms = self.idle_after(&head);
        let mut response = Box::new(Response::new(Unread::new(head.length, rest)));
        *response.status_mut() = head.status;
        *response.version_mut() = head.version;
        *response.headers_mut() = head.fields;
        *response.extensions_mut() = head.extensions;
        (response, self)
    }

    fn broke(self, error: BrokeOff, heard: bool, head: Option<Vec<u8>>) -> Failure {
        // No client makes a worker cut its open poll, but a slow page may cut all its requests.
        let is_open_poll = self.wait.kind() == WaitKind::Poll && self.wait.lasted_ms(clock::now_ms()) >= LONG_WAIT_MS;
        let loss = if is_open_poll { Loss::Grave } else { Loss::Light(self.wait.client()) };
        self.established.lost(loss);
        Failure::Broken { error, heard, head }
    }

    /// Continues to send what is left of a request.
    ///
    /// # Errors
    /// Fails if the client's body broke off. A failure of the worker's socket is not reported here: a response may
    /// still come, so the reader finds out.
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

    /// Reads more of a response. A read is large if many bytes are sure to come ([`Unread::expected`]); an empty one
    /// means that the connection has ended.
    ///
    /// # Errors
    /// Fails with the error of the socket.
    pub fn poll_more(&mut self, cx: &mut Context<'_>, expected: u64) -> Poll<Result<Bytes, BrokeOff>> {
        let most = self.piece();
        if expected > READ_PIECE_BYTES as u64 && self.fast && most == READ_PIECE_BYTES {
            // One byte more than expected: a read that fills its buffer would be followed by another read that finds
            // nothing.
            let most = usize::try_from(expected).map_or(LARGE_PIECE, |bytes| bytes.saturating_add(1).min(LARGE_PIECE));
            let read = ready!(self.io.poll_read_large(cx, most))?;
            self.fast = read.len() >= READ_PIECE_BYTES;
            return Poll::Ready(Ok(trimmed(read)));
        }
        let waits = self.wait.waits();
        let mut piece = waits.reading.borrow_mut();
        let mut read = ReadBuf::new(piece.get_mut(..most).unwrap_or_default());
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
        self.fast = read.remaining() == 0;
        Poll::Ready(Ok(Bytes::copy_from_slice(read.filled())))
    }

    /// Returns the maximum number of bytes per read into the thread's buffer.
    fn piece(&self) -> usize {
        self.held.as_ref().map_or(READ_PIECE_BYTES, |held| held.piece(READ_PIECE_BYTES))
    }
}

fn wait_kind(is_poll: bool, uploading: bool) -> WaitKind {
    match (is_poll, uploading) {
        (true, _) => WaitKind::Poll,
        (false, true) => WaitKind::Upload,
        (false, false) => WaitKind::Worker,
    }
}

/// Returns the bytes in no more memory than they need, because they may wait for a slow client.
fn trimmed(read: BytesMut) -> Bytes {
    if read.len() < read.capacity() / 2 { Bytes::copy_from_slice(&read) } else { read.freeze() }
}

impl Exchange {
    /// Takes the request's head as it was written, if it was kept and no byte of a response has come.
    pub(crate) fn take_head(&mut self) -> Option<Vec<u8>> {
        self.head.take().filter(|_| !self.heard)
    }

    /// Takes the informational responses received since the last call.
    pub(crate) fn take_interim(&mut self) -> Vec<InterimHead> {
        self.coming.interim.take()
    }
}

impl Future for Exchange {
    type Output = Result<ResponseAndLease, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let over = || Poll::Ready(Err(Failure::TimedOut { uploading: this.uploading }));
        let Some(lease) = &mut this.lease else { return over() };
        let polled = match lease.go_on_sending(cx) {
            Ok(()) if lease.waits_for_client(cx) => Poll::Pending,
            Ok(()) => lease.poll_head(cx, &mut this.coming, &mut this.fields, &mut this.heard),
            Err(error) => Poll::Ready(Err(error)),
        };
        match (polled, this.lease.take()) {
            (Poll::Pending, Some(lease)) => {
                match lease.wait.stage(cx.waker()) {
                    Stage::Early => {}
                    Stage::Slow => {
                        this.slow.get_or_insert_with(|| lease.worker().slow_request(lease.wait.client()));
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
    /// Returns whether no head may be read because the client does not take those of other responses. The worker is not
    /// blamed for that time.
    fn waits_for_client(&self, cx: &Context<'_>) -> bool {
        let waits = self.held.as_ref().is_some_and(|held| held.poll_head_room(cx).is_pending());
        if waits {
            self.wait.again();
        }
        waits
    }

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
