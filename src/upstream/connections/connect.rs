//! Connections to workers: per thread and worker, kept alive, each driven by the task that uses it.
//!
//! A [`Lease`] is one HTTP/1.1 connection, on loan to one request. There is no task per connection: the task that waits
//! for the response, and later reads its body, polls the connection. This saves two task switches per request. It also
//! makes a client's disconnect cancel the attempt: the lease is dropped, and the worker sees its connection close.
//!
//! Idle connections (`pool`), the socket below (`dial`), retries (`proxy::attempt`) and the choice of the worker
//! (`affinity`) are not part of this module.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::WorkerConnections;
use super::dial::{ConnectError, classify, open};
use super::limit::ConnectionSlot;
use super::own::{self, LeaseOwner, OWN_IDLE_MS};
use super::response_timeout::{ResponseWait, ResponseWaits};
use crate::clock::Millis;
use crate::metrics::LimitLabel;
use crate::net::held::UnsentBytes;
use crate::net::worker_io::WorkerIo;
use crate::telemetry::say_full;
use crate::upstream::exchange::request_writer::RequestWriter;
use crate::upstream::exchange::response_body::Unread;
use crate::upstream::exchange::response_head::{Head, IDLE_MS};
pub(crate) use crate::upstream::exchange::{ExchangeTerms, Failure};
use crate::upstream::restarts::Loss;
use crate::upstream::worker::{Established, Worker};

/// Idle time, in milliseconds, below which the end of a connection is taken for a loss: no worker's idle time-out is
/// that short.
const JUST_USED_MS: u64 = 1_000;

/// One connection to a worker, on loan to a request or idle in a pool.
pub struct Lease {
    pub(crate) io: WorkerIo,
    /// The wait for the response, and access to the thread's shared buffers.
    pub(crate) wait: ResponseWait,
    pub(crate) established: Established,
    /// What is still to be written of a request; `None` if all of it was sent.
    pub(crate) sending: Option<Box<RequestWriter>>,
    /// Whether the worker stopped reading before the whole request was sent.
    pub(crate) cut_short: bool,
    /// Whether the last read filled its buffer, so that more is probably waiting.
    pub(crate) fast: bool,
    /// Bytes held for the client, if the client's connection carries many responses.
    pub(crate) held: Option<Rc<UnsentBytes>>,
    /// Whether the connection has carried a request before.
    pub(crate) used: bool,
    /// When the head of the last response came, or the connection was made.
    pub(crate) answered_at: Instant,
    /// Whether the connection is authenticated, or being authenticated: it then carries requests of one client only.
    pub(crate) authenticates: bool,
    /// The client that the connection belongs to, while it carries a request.
    owner: Option<LeaseOwner>,
    /// Value of [`Worker::links`] when the connection was made.
    link: u32,
    /// The place among the worker's connections in use, while this one is in use and their number is limited.
    slot: Option<ConnectionSlot>,
    /// Idle time in milliseconds after which the connection is not used again; 0: it is never used again.
    pub(crate) idle_ms: u64,
    idle_since_ms: Millis,
}

/// The guards that count a connection which became a tunnel.
pub struct InUse {
    established: Established,
    _slot: Option<ConnectionSlot>,
}

impl InUse {
    /// Reports that the tunnel's connection ended unexpectedly.
    pub fn lost(self) {
        self.established.lost(Loss::Grave);
    }
}

impl Lease {
    /// Returns the worker at the other end of the connection.
    pub fn worker(&self) -> &Arc<Worker> {
        self.established.worker()
    }

    /// Marks the connection as in use until it is given back or dropped. `held` counts the bytes held for the client,
    /// if the client's connection carries many responses.
    pub fn occupy(&mut self, slot: ConnectionSlot, held: Option<Rc<UnsentBytes>>) {
        (self.slot, self.held) = (Some(slot), held);
    }

    /// Whether the connection is authenticated, or being authenticated, so that only one client may use it.
    pub fn is_authenticated(&self) -> bool {
        self.authenticates
    }

    /// Makes this the connection of one client for good. It never enters a pool.
    pub fn belong_to(&mut self, owner: LeaseOwner) {
        owner.remember(self.worker());
        self.authenticates = true;
        self.owner = Some(owner);
    }

    /// Returns for how many milliseconds the connection may be idle after a response.
    pub(crate) fn idle_after(&self, head: &Head) -> u64 {
        let is_long = self.authenticates && !head.advertised && head.idle_ms != 0;
        if is_long { OWN_IDLE_MS } else { head.idle_ms }
    }

    /// Whether the connection has carried a request before, so that the worker may be closing it right now.
    pub fn is_used(&self) -> bool {
        self.used
    }

    /// Drops the connection after the worker ended it in the middle of a response.
    pub fn lost(self) {
        let client = self.wait.client();
        self.established.lost(Loss::Light(client));
    }

    /// Drops a connection that was found to have ended while it was idle.
    pub(crate) fn found_dead(self, now_ms: Millis) {
        if self.idle_for(now_ms) < JUST_USED_MS {
            self.lost();
        }
    }

    /// Turns the connection into a tunnel after a 101. Returns the bare socket, the bytes that the worker sent after
    /// the response head, and the guards that count the connection.
    pub fn into_tunnel(self, behind: Unread) -> (WorkerIo, Bytes, InUse) {
        (self.io, behind.into_rest(), InUse { established: self.established, _slot: self.slot })
    }

    /// Puts the connection back into the pool if it can carry another request. `unread` is the state of the last
    /// response body.
    pub fn give_back(mut self: Box<Self>, unread: &Unread, connections: &WorkerConnections) {
        let is_done = self.sending.is_none() && !self.cut_short && unread.is_clean();
        if !is_done || self.idle_ms == 0 || !self.check_quiet() {
            return;
        }
        (self.slot, self.held) = (None, None);
        self.idle_since_ms = connections.now_ms();
        if self.authenticates {
            // Without an owner, as after a probe, it is closed.
            if let Some(owner) = self.owner.take() {
                owner.put(self);
            }
            return;
        }
        let mut pools = connections.pools.borrow_mut();
        pools.entry(self.worker().serial).or_default().put(self, &connections.metrics);
    }

    /// Whether the connection has neither ended nor received unexpected bytes, as far as the reactor has seen.
    pub(crate) fn check_quiet(&mut self) -> bool {
        self.io.check_quiet()
    }

    /// Whether the connection can carry another request, as far as is known.
    pub(crate) fn check_alive(&mut self) -> bool {
        self.link == self.worker().links() && self.check_quiet()
    }

    /// Returns for how many milliseconds the connection has been idle.
    pub(crate) fn idle_for(&self, now_ms: Millis) -> u64 {
        now_ms.since(self.idle_since_ms)
    }

    /// Returns the idle time in milliseconds after which the connection is not used again.
    pub(crate) fn idle_limit_ms(&self) -> u64 {
        self.idle_ms
    }
}

/// Returns a connection to `worker`: an idle one that was idle for less than `max_idle`, otherwise a new one.
///
/// # Errors
/// See [`ConnectError`]. A refused connect also checks this thread's idle connections, so that *gone* and *leaving* are
/// told apart at once.
pub(crate) async fn lease(
    connections: &WorkerConnections,
    worker: &Arc<Worker>,
    max_idle: Duration,
    timeout: Duration,
) -> Result<Box<Lease>, ConnectError> {
    let max_idle = u64::try_from(max_idle.as_millis()).unwrap_or(u64::MAX);
    let now_ms = connections.now_ms();
    let idle = connections.pools.borrow_mut().get_mut(&worker.serial).and_then(|pool| pool.take(max_idle, now_ms));
    if let Some(lease) = idle {
        return Ok(lease);
    }
    // Boxed, because few requests connect and a future is as large as its largest branch.
    let connected = Box::pin(tokio::time::timeout(timeout, connect(&connections.waits, worker))).await;
    match connected.unwrap_or(Err(ConnectError::TimedOut)) {
        Ok(lease) if !connections.descriptors.has_for_worker(lease.io.descriptor()) => {
            connections.metrics.limits.reached(LimitLabel::Descriptors);
            say_full!(upstream = %worker.upstream, worker = %worker.name,
                "request rejected: the remaining descriptors are reserved (reserved_descriptors)");
            Err(ConnectError::Reserved)
        }
        Ok(lease) => Ok(lease),
        Err(error) => {
            if matches!(error, ConnectError::Refused) {
                let mut pools = connections.pools.borrow_mut();
                if let Some(pool) = pools.get_mut(&worker.serial) {
                    pool.drop_dead(connections.now_ms());
                }
                drop(pools);
                own::sweep(&mut connections.own.borrow_mut(), connections.now_ms());
                worker.connect_refused();
            }
            Err(error)
        }
    }
}

async fn connect(waits: &Rc<ResponseWaits>, worker: &Arc<Worker>) -> Result<Box<Lease>, ConnectError> {
    let link = worker.links();
    let io = open(worker).await.map_err(classify)?;
    worker.connected();
    Ok(Box::new(Lease {
        io,
        wait: ResponseWait::new(waits),
        established: worker.connection(),
        sending: None,
        cut_short: false,
        fast: false,
        held: None,
        used: false,
        answered_at: Instant::now(),
        authenticates: false,
        owner: None,
        link,
        slot: None,
        idle_ms: IDLE_MS,
        idle_since_ms: Millis::START,
    }))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use hyper::Request;

    use super::*;
    use crate::body::Outgoing;
    use crate::config::Address;
    use crate::cookie::WorkerId;
    use crate::metrics::Metrics;
    use crate::upstream::exchange::response_body::BodyStep;

    const TERMS: ExchangeTerms = ExchangeTerms {
        client: [1; 16],
        patience: Duration::from_secs(30),
        is_poll: false,
        keep: false,
        takes_interim: false,
    };

    #[tokio::test]
    async fn a_request_is_returned_if_its_connection_has_ended() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let worker = Worker::new("u", address, "w".to_owned(), WorkerId(1), Metrics::new().worker("u", "w"));
        let lease = connect(&ResponseWaits::new(), &worker).await.unwrap();
        let (mut accepted, _) = listener.accept().await.unwrap();
        accepted.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let Ok((_, lease)) = lease.exchange(Request::new(Outgoing::EMPTY), TERMS).await else { panic!() };
        // Unread bytes would turn the close into a reset.
        assert!(accepted.read(&mut [0; 1024]).await.unwrap() > 0);
        drop(accepted);
        // Gives the reactor time to see the close before the request is sent.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let sent = lease.exchange(Request::new(Outgoing::EMPTY), TERMS);
        let failed = tokio::time::timeout(Duration::from_secs(5), sent).await.expect("it fails at once").err();
        assert!(matches!(failed, Some(Failure::Unsent)));
    }

    #[tokio::test]
    async fn reads_are_small_while_much_is_held_for_the_client() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let worker = Worker::new("u", address, "w".to_owned(), WorkerId(1), Metrics::new().worker("u", "w"));
        let mut lease = connect(&ResponseWaits::new(), &worker).await.unwrap();
        let held = Rc::<UnsentBytes>::default();
        held.more(1 << 20);
        lease.held = Some(held.clone());
        let (mut accepted, _) = listener.accept().await.unwrap();
        // All of it is sent before anything is read; the kernel's socket buffers hold more than this.
        let answer = [&b"HTTP/1.1 200 OK\r\nContent-Length: 150000\r\n\r\n"[..], &[b'x'; 150_000]].concat();
        accepted.write_all(&answer).await.unwrap();
        let Ok((response, mut lease)) = lease.exchange(Request::new(Outgoing::EMPTY), TERMS).await else { panic!() };
        let (mut unread, mut pieces) = (response.into_body(), Vec::new());
        loop {
            match unread.advance().unwrap() {
                BodyStep::Frame(frame) => pieces.push(frame.into_data().unwrap().len()),
                BodyStep::End => break,
                BodyStep::More => {
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
