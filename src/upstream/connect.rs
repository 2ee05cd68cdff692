//! Connections to workers: per thread, per worker, kept alive, each driven by the task that uses it.
//!
//! A [`Lease`] is one HTTP/1.1 connection, on loan to one request. There is no task per connection: whoever waits for the
//! answer (and later, whoever reads its body) polls the connection, which saves two task switches a request and makes a
//! client's disconnect cancel the attempt by itself: the lease is dropped, the worker sees the connection close.
//!
//! Out of scope: idle ones (`pool`), the socket below (`dial`), retries, and which worker (that is `proxy::attempt` and
//! `affinity`).

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HeaderMap;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use super::dial::{ConnectError, classify, open};
use super::gate::Slot;
use super::io::{Heeded, WorkerIo};
use super::life::Loss;
use super::worker::{Established, SLOW_MS, Worker};
use crate::clock;
use crate::proxy::body::Outgoing;
use crate::thread::Thread;

/// How long an idle connection is used when the worker says nothing: Node closes at 5 s (protocols §4).
const IDLE_MS: u64 = 4_000;

/// An idle connection that ends so soon after its use was not ended by any worker's time-out for idle ones.
const JUST_USED_MS: u64 = 1_000;

/// An exchange that breaks after having waited for so long was not refused: its worker was at it.
const LONG_WAIT: Duration = Duration::from_secs(1);

/// A worker's answer head: bytes and fields hyper accepts at most.
const HEAD_BYTES: usize = 64 * 1024;
const HEAD_FIELDS: usize = 200;

/// Why an attempt got no answer.
pub enum Failure {
    /// The connection had closed before the request was written; here it is again, untouched.
    Unsent(Box<Request<Outgoing>>),
    /// The connection broke, or what came was no HTTP answer.
    Broken {
        /// In hyper's words.
        error: hyper::Error,
        /// At least a byte of an answer had come.
        heard: bool,
    },
    /// No answer's head in time.
    TimedOut {
        /// The client had not sent all of its body when this began: the silence may be its own.
        uploading: bool,
    },
}

type Connection = http1::Connection<TokioIo<Heeded>, Outgoing>;

/// What an exchange came to.
#[allow(clippy::large_enum_variant, reason = "moved once, within one function; a box would cost every request")]
enum Heard {
    /// hyper's word on it.
    Answer(Result<Response<Incoming>, TrySendError<Request<Outgoing>>>),
    /// The connection ended with the request still queued.
    End,
    /// No answer in time.
    Nothing,
}

fn failure(mut error: TrySendError<Request<Outgoing>>, heard: bool) -> Failure {
    match error.take_message() {
        Some(request) => Failure::Unsent(Box::new(request)),
        None => Failure::Broken { error: error.into_error(), heard },
    }
}

/// One connection to a worker, on loan.
pub struct Lease {
    connection: Connection,
    sender: SendRequest<Outgoing>,
    established: Established,
    /// By which of its worker's links it was made.
    link: u32,
    /// While it is in use, and where that is limited.
    slot: Option<Slot>,
    /// Something came over it since the last request began.
    heard: Rc<Cell<bool>>,
    /// It has carried a request before.
    used: bool,
    /// Idle time after which it is not used again.
    idle_ms: u64,
    idle_since_ms: u64,
    over: bool,
}

/// What keeps count of a connection that became a tunnel.
pub struct InUse {
    established: Established,
    _slot: Option<Slot>,
}

impl InUse {
    /// It has ended, and nothing had called for that.
    pub fn lost(self) {
        self.established.lost(Loss::Grave);
    }
}

impl Lease {
    /// Whom it leads to.
    pub fn worker(&self) -> &Arc<Worker> {
        self.established.worker()
    }

    /// It is in use from now on, until it is given back or ends.
    pub fn occupy(&mut self, slot: Slot) {
        self.slot = Some(slot);
    }

    /// It is not used again after this answer.
    pub fn retire(&mut self) {
        self.idle_ms = 0;
    }

    /// It has carried a request before: the worker may be closing it just now.
    pub fn is_used(&self) -> bool {
        self.used
    }

    /// Sends `request` and waits for the head of the answer.
    ///
    /// An open poll is silent by design; any other request that waits for longer than 2 s counts as slow meanwhile. An
    /// upload has `patience` since its last byte.
    ///
    /// # Errors
    /// See [`Failure`]; the connection is closed then.
    pub async fn exchange(
        mut self: Box<Self>,
        mut request: Request<Outgoing>,
        patience: Duration,
        is_poll: bool,
    ) -> Result<(Response<Incoming>, Box<Self>), Failure> {
        // While a client is still sending its body, the silence is the client's, not the worker's.
        let upload = request.body_mut().watch();
        let may_be_slow = !is_poll && upload.is_none();
        let mut uploaded = 0;
        let first = if may_be_slow { patience.min(Duration::from_millis(SLOW_MS)) } else { patience };
        let mut slow = None;
        let began = tokio::time::Instant::now();
        let mut timer = pin!(tokio::time::sleep_until(began + first));
        self.heard.set(false);
        self.used = true;
        let mut answer = pin!(self.sender.try_send_request(request));
        let answered = poll_fn(|cx| {
            let over = self.poll_connection(cx).is_ready();
            if let Poll::Ready(answered) = answer.as_mut().poll(cx) {
                return Poll::Ready(Heard::Answer(answered));
            }
            if over {
                return Poll::Ready(Heard::End);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if let Some(now) = upload.as_ref().map(|upload| upload.get()).filter(|now| *now != uploaded) {
                uploaded = now;
                timer.as_mut().reset(tokio::time::Instant::now() + patience);
                return timer.as_mut().poll(cx).map(|()| Heard::Nothing);
            }
            if slow.is_some() || first >= patience {
                return Poll::Ready(Heard::Nothing);
            }
            slow = Some(self.established.worker().slow_request());
            timer.as_mut().reset(tokio::time::Instant::now() + (patience - first));
            timer.as_mut().poll(cx).map(|()| Heard::Nothing)
        })
        .await;
        let answered = match answered {
            Heard::Answer(answered) => answered,
            Heard::Nothing => return Err(Failure::TimedOut { uploading: upload.is_some() }),
            Heard::End => {
                // The worker closed before hyper took the request out of its queue; dropped, hyper hands it back.
                let Self { connection, heard, .. } = *self;
                drop(connection);
                return match answer.await {
                    Err(error) => Err(failure(error, heard.get())),
                    Ok(_) => Err(Failure::TimedOut { uploading: true }),
                };
            }
        };
        match answered {
            Ok(response) => {
                self.established.spoke(clock::now_ms());
                self.idle_ms = advertised_idle(response.headers());
                Ok((response, self))
            }
            Err(error) => {
                let failure = failure(error, self.heard.get());
                if matches!(failure, Failure::Broken { .. }) {
                    self.lost(if began.elapsed() >= LONG_WAIT { Loss::Grave } else { Loss::Light });
                }
                Err(failure)
            }
        }
    }

    /// The worker ended it in the middle of something.
    pub fn lost(self: Box<Self>, loss: Loss) {
        self.established.lost(loss);
    }

    /// It was found to have ended while it was idle.
    pub(super) fn found_dead(self: Box<Self>, now_ms: u64) {
        if self.idle_for(now_ms) < JUST_USED_MS {
            self.lost(Loss::Light);
        }
    }

    /// After a 101: the bare socket, what the worker already sent behind its answer's head, and the guards that count
    /// the connection. `None`: the connection ended instead.
    pub async fn into_tunnel(mut self: Box<Self>) -> Option<(WorkerIo, Bytes, InUse)> {
        poll_fn(|cx| self.connection.poll_without_shutdown(cx)).await.ok()?;
        let lease = *self;
        let parts = lease.connection.into_parts();
        let in_use = InUse { established: lease.established, _slot: lease.slot };
        Some((parts.io.into_inner().into_inner(), parts.read_buf, in_use))
    }

    /// Goes on reading and writing while the answer's body is read; ready once the connection is over.
    pub fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // hyper's must not be polled again after its end.
        self.over = self.over || self.connection.poll_without_shutdown(cx).is_ready();
        if self.over { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Puts the connection back, if it is fit for another request.
    pub fn give_back(mut self: Box<Self>, thread: &Thread, cx: &mut Context<'_>) {
        // The poll lets hyper see the end of the answer, and anything odd behind it.
        if self.poll_connection(cx).is_ready() || !self.sender.is_ready() || self.idle_ms == 0 {
            return;
        }
        self.slot = None;
        self.idle_since_ms = thread.now_ms();
        thread.pools.borrow_mut().entry(self.worker().serial).or_default().put(self, thread);
    }

    /// Whether it can carry another request, as far as anybody can see.
    pub(super) fn alive(&mut self, cx: &mut Context<'_>) -> bool {
        self.link == self.worker().links() && self.poll_connection(cx).is_pending()
    }

    /// How long nothing has used it.
    pub(super) fn idle_for(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.idle_since_ms)
    }

    /// How long nothing may use it.
    pub(super) fn idle_limit_ms(&self) -> u64 {
        self.idle_ms
    }
}

/// The worker's `Keep-Alive: timeout=N` less one second, in ms; 0: not to be reused.
fn advertised_idle(headers: &HeaderMap) -> u64 {
    let Some(value) = headers.get("keep-alive") else { return IDLE_MS };
    let timeout = value
        .to_str()
        .ok()
        .and_then(|text| text.split(',').find_map(|part| part.trim().strip_prefix("timeout=")?.parse::<u64>().ok()));
    timeout.map_or(IDLE_MS, |seconds| seconds.saturating_sub(1).saturating_mul(1_000))
}

/// A connection to `worker`: an idle one (idle for at most `max_idle`), else a new one.
///
/// # Errors
/// See [`ConnectError`]. A refused connect also looks through this thread's idle connections, so that *gone* is told from
/// *leaving* at once.
pub async fn lease(
    thread: &Rc<Thread>,
    worker: &Arc<Worker>,
    max_idle: Duration,
    timeout: Duration,
) -> Result<Box<Lease>, ConnectError> {
    let max_idle = u64::try_from(max_idle.as_millis()).unwrap_or(u64::MAX);
    let idle = poll_fn(|cx| {
        let mut pools = thread.pools.borrow_mut();
        Poll::Ready(pools.get_mut(&worker.serial).and_then(|pool| pool.take(max_idle, thread.now_ms(), cx)))
    });
    if let Some(lease) = idle.await {
        return Ok(lease);
    }
    match tokio::time::timeout(timeout, connect(worker)).await.unwrap_or(Err(ConnectError::TimedOut)) {
        Ok(lease) => Ok(lease),
        Err(error) => {
            if matches!(error, ConnectError::Refused) {
                let mut pools = thread.pools.borrow_mut();
                if let Some(pool) = pools.get_mut(&worker.serial) {
                    pool.drop_dead(thread.now_ms());
                }
                drop(pools);
                worker.connect_refused();
            }
            Err(error)
        }
    }
}

async fn connect(worker: &Arc<Worker>) -> Result<Box<Lease>, ConnectError> {
    let link = worker.links();
    let io = open(worker).await.map_err(classify)?;
    worker.connected();
    let established = worker.connection();
    let heard = Rc::new(Cell::new(false));
    let io = Heeded::new(io, heard.clone());
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES)
        .max_header_size(HEAD_BYTES)
        .max_headers(HEAD_FIELDS)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|error| ConnectError::Io(io::Error::other(error)))?;
    Ok(Box::new(Lease {
        connection,
        sender,
        established,
        link,
        slot: None,
        heard,
        used: false,
        idle_ms: IDLE_MS,
        idle_since_ms: 0,
        over: false,
    }))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::affinity::cookie::WorkerId;
    use crate::config::Address;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn a_request_queued_on_a_connection_that_ends_comes_back() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let worker = Worker::new("u", address, "w".to_owned(), WorkerId(1), Metrics::new().worker("u", "w"));
        let lease = connect(&worker).await.unwrap();
        let (mut accepted, _) = listener.accept().await.unwrap();
        accepted.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let patience = Duration::from_secs(30);
        let Ok((_, lease)) = lease.exchange(Request::new(Outgoing::EMPTY), patience, false).await else { panic!() };
        // Unread, it would make a reset of the end.
        assert!(accepted.read(&mut [0; 1024]).await.unwrap() > 0);
        drop(accepted);
        // The end must be there before the request is: one look of the reactor.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let sent = lease.exchange(Request::new(Outgoing::EMPTY), patience, false);
        let failed = tokio::time::timeout(Duration::from_secs(5), sent).await.expect("at once").err();
        assert!(matches!(failed, Some(Failure::Unsent(_))));
    }
}
