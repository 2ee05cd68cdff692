//! Connections to workers: per thread, per worker, kept alive, each driven by the task that uses it.
//!
//! A [`Lease`] is one HTTP/1.1 connection, on loan to one request. There is no task per connection: whoever waits for the
//! answer (and later, whoever reads its body) polls the connection, which saves two task switches a request and makes a
//! client's disconnect cancel the attempt by itself: the lease is dropped, the worker sees the connection close.
//!
//! Out of scope: idle ones (`pool`), the socket below (`dial`), retries, and which worker (that is `proxy::attempt` and
//! `affinity`).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::answer::IDLE_MS;
use super::dial::{ConnectError, classify, open};
pub use super::exchange::{Failure, Terms};
use super::gate::Slot;
use super::held::Held;
use super::io::WorkerIo;
use super::life::Loss;
use super::sending::Sending;
use super::unread::Unread;
use super::waits::{Waits, Watched};
use super::worker::{Established, Worker};
use crate::metrics::Limit;
use crate::telemetry::say_full;
use crate::thread::Thread;

/// An idle connection that ends so soon after its use was not ended by any worker's time-out for idle ones.
const JUST_USED_MS: u64 = 1_000;

/// One connection to a worker, on loan.
pub struct Lease {
    pub(super) io: WorkerIo,
    /// For an answer, and the buffers it is read and written with.
    pub(super) wait: Watched,
    pub(super) established: Established,
    /// What of a request is not written yet.
    pub(super) sending: Option<Box<Sending>>,
    /// The worker took not all of a request.
    pub(super) cut_short: bool,
    /// The last read found more than it had room for.
    pub(super) fast: bool,
    /// Of a client whose connection carries many answers: what is held for it.
    pub(super) held: Option<Rc<Held>>,
    /// It has carried a request before.
    pub(super) used: bool,
    /// By which of its worker's links it was made.
    link: u32,
    /// While it is in use, and where that is limited.
    slot: Option<Slot>,
    /// Idle time after which it is not used again; 0: it is not used again at all.
    pub(super) idle_ms: u64,
    idle_since_ms: u64,
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

    /// It is in use from now on, until it is given back or ends; `held`: for whom, where that client's connection carries many
    /// answers.
    pub fn occupy(&mut self, slot: Slot, held: Option<Rc<Held>>) {
        (self.slot, self.held) = (Some(slot), held);
    }

    /// It has carried a request before: the worker may be closing it just now.
    pub fn is_used(&self) -> bool {
        self.used
    }

    /// The worker ended it in the middle of something.
    pub fn lost(self, loss: Loss) {
        self.established.lost(loss);
    }

    /// It was found to have ended while it was idle.
    pub(super) fn found_dead(self, now_ms: u64) {
        if self.idle_for(now_ms) < JUST_USED_MS {
            self.lost(Loss::Light);
        }
    }

    /// After a 101: the bare socket, what the worker already sent behind its answer's head, and the guards that count
    /// the connection.
    pub fn into_tunnel(self, behind: Unread) -> (WorkerIo, Bytes, InUse) {
        (self.io, behind.into_rest(), InUse { established: self.established, _slot: self.slot })
    }

    /// Puts the connection back, if it is fit for another request; `unread` is what came of its last answer.
    pub fn give_back(mut self: Box<Self>, unread: &Unread, thread: &Thread) {
        let is_done = self.sending.is_none() && !self.cut_short && unread.is_clean();
        if !is_done || self.idle_ms == 0 || !self.is_quiet() {
            return;
        }
        (self.slot, self.held) = (None, None);
        self.idle_since_ms = thread.now_ms();
        thread.pools.borrow_mut().entry(self.worker().serial).or_default().put(self, thread);
    }

    /// Neither has it ended nor has anything come that nobody asked for, as far as the reactor has seen.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.io.is_quiet()
    }

    /// Whether it can carry another request, as far as anybody can see.
    pub(super) fn alive(&mut self) -> bool {
        self.link == self.worker().links() && self.is_quiet()
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
    let idle = thread.pools.borrow_mut().get_mut(&worker.serial).and_then(|pool| pool.take(max_idle, thread.now_ms()));
    if let Some(lease) = idle {
        return Ok(lease);
    }
    // Boxed: few requests connect, and a future is as large as its largest branch.
    let connected = Box::pin(tokio::time::timeout(timeout, connect(&thread.waits, worker))).await;
    match connected.unwrap_or(Err(ConnectError::TimedOut)) {
        Ok(lease) if !thread.shared.caps.has_descriptor_for_worker(lease.io.descriptor()) => {
            thread.shared.metrics.limits.reached(Limit::Descriptors);
            say_full!(
                "requests are turned away: the descriptors that are left are for checks and admin (reserved_descriptors)"
            );
            Err(ConnectError::Reserved)
        }
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

async fn connect(waits: &Rc<Waits>, worker: &Arc<Worker>) -> Result<Box<Lease>, ConnectError> {
    let link = worker.links();
    let io = open(worker).await.map_err(classify)?;
    worker.connected();
    Ok(Box::new(Lease {
        io,
        wait: Watched::new(waits),
        established: worker.connection(),
        sending: None,
        cut_short: false,
        fast: false,
        held: None,
        used: false,
        link,
        slot: None,
        idle_ms: IDLE_MS,
        idle_since_ms: 0,
    }))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use hyper::Request;

    use super::*;
    use crate::affinity::cookie::WorkerId;
    use crate::config::Address;
    use crate::metrics::Metrics;
    use crate::proxy::body::Outgoing;
    use crate::upstream::unread::Next;

    #[tokio::test]
    async fn a_request_for_a_connection_that_has_ended_comes_back() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let worker = Worker::new("u", address, "w".to_owned(), WorkerId(1), Metrics::new().worker("u", "w"));
        let lease = connect(&Waits::new(), &worker).await.unwrap();
        let (mut accepted, _) = listener.accept().await.unwrap();
        accepted.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let terms = Terms { patience: Duration::from_secs(30), is_poll: false, keep: false };
        let Ok((_, lease)) = lease.exchange(Request::new(Outgoing::EMPTY), terms).await else { panic!() };
        // Unread, it would make a reset of the end.
        assert!(accepted.read(&mut [0; 1024]).await.unwrap() > 0);
        drop(accepted);
        // The end must be there before the request is: one look of the reactor.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let sent = lease.exchange(Request::new(Outgoing::EMPTY), terms);
        let failed = tokio::time::timeout(Duration::from_secs(5), sent).await.expect("at once").err();
        assert!(matches!(failed, Some(Failure::Unsent(_))));
    }

    #[tokio::test]
    async fn an_answer_is_read_in_small_pieces_while_its_client_takes_little() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let worker = Worker::new("u", address, "w".to_owned(), WorkerId(1), Metrics::new().worker("u", "w"));
        let mut lease = connect(&Waits::new(), &worker).await.unwrap();
        let held = Rc::<Held>::default();
        held.more(1 << 20);
        lease.held = Some(held.clone());
        let (mut accepted, _) = listener.accept().await.unwrap();
        // All of it is there before anything is read; kernels hold more than this for a socket.
        let answer = [&b"HTTP/1.1 200 OK\r\nContent-Length: 150000\r\n\r\n"[..], &[b'x'; 150_000]].concat();
        accepted.write_all(&answer).await.unwrap();
        let terms = Terms { patience: Duration::from_secs(30), is_poll: false, keep: false };
        let Ok((response, mut lease)) = lease.exchange(Request::new(Outgoing::EMPTY), terms).await else { panic!() };
        let (mut unread, mut pieces) = (response.into_body(), Vec::new());
        loop {
            match unread.advance().unwrap() {
                Next::Frame(frame) => pieces.push(frame.into_data().unwrap().len()),
                Next::End => break,
                Next::More => {
                    if pieces.len() == 10 {
                        held.less(1 << 20);
                    }
                    let read = std::future::poll_fn(|cx| lease.poll_more(cx, unread.expected()));
                    unread.came(tokio::time::timeout(Duration::from_secs(5), read).await.unwrap().unwrap());
                }
            }
        }
        assert!(pieces[..10].iter().all(|piece| *piece <= 4_096), "{pieces:?}");
        assert!(pieces[10..].iter().any(|piece| *piece > 16_384), "{pieces:?}");
        assert_eq!(pieces.iter().sum::<usize>(), 150_000);
    }
}
