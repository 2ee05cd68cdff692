//! One try at one worker: a connection, the exchange, what may go again at once, and what ejection hears of it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::{Request, Response};

use super::ask::Kind;
use super::body::Outgoing;
use super::open_poll::OpenPoll;
use super::{Job, retry};
use crate::clock;
use crate::metrics::Limit;
use crate::telemetry::say_full;
use crate::upstream::connect::{self, Failure, Lease, Terms};
use crate::upstream::dial::ConnectError;
use crate::upstream::eject::{self, Outcome};
use crate::upstream::gate::{self, Full};
use crate::upstream::unread::Unread;
use crate::upstream::worker::{Count, Worker};

/// A request with a sid goes out only on a connection idle for less than this: it must not race the worker's close,
/// because it cannot be sent twice (design.md §8).
const SESSION_IDLE: Duration = Duration::from_secs(2);

/// And only while its worker has answered somebody within this. When a stalled Node process wakes, its timers run before it
/// reads: connections that were idle when the stall began are closed at 5 s, with the request that waits in them. One
/// made during the stall has no such timer. A worker with less to do than this pays a connect that it can afford.
const LIVELY_MS: u64 = 100;

/// A killed process's connections end before its listener does, moments later: a request resent at once would be accepted by
/// nobody, and lost.
const DYING: Duration = Duration::from_millis(20);

/// Between two looks at a unix socket whose backlog is full.
const LOOK: Duration = Duration::from_millis(20);

/// Why an attempt failed; the request comes back when nothing of it was sent.
#[allow(clippy::large_enum_variant, reason = "moved once; rare but for its size, which nothing stores")]
pub enum Missed {
    /// No connection.
    Connect(ConnectError, Request<Outgoing>),
    /// The connection broke, or the answer was none. What was sent may have been acted upon.
    Broken,
    /// A new connection broke before a byte of the answer: here is the request again, for another worker.
    Lost(Request<Outgoing>),
    /// What the client sent as its body was none.
    BadBody,
    /// No answer in time.
    TimedOut,
    /// An operator ended the session while its poll waited.
    Ended,
}

/// What one try brought: the answer's head, the connection it came over, and the request's place in its worker's count.
pub type Answered = (Response<Unread>, Box<Lease>, Count);

/// One try at one worker. A request that comes back unsent (its idle connection had just closed) goes again, on a
/// new connection, to the same worker; so does one that may be resent ([`retry`]). What it comes to is what ejection hears.
#[allow(
    clippy::manual_async_fn,
    reason = "an async fn keeps what it is given twice, and all of it is moved once a request"
)]
pub fn attempt(
    job: &Job,
    worker: &Arc<Worker>,
    mut request: Request<Outgoing>,
) -> impl Future<Output = Result<Answered, Missed>> {
    async move {
        let mut max_idle = max_idle(job, worker);
        loop {
            let lease = match reach(job, worker, max_idle).await {
                Ok(lease) => lease,
                Err(error) => return Err(unreached(job, worker, error, request)),
            };
            let kept = lease.is_used();
            let keep = retry::is_resendable(job, &request);
            let terms = Terms { patience: patience(job), is_poll: job.ask.is_poll(), keep };
            let in_flight = worker.request();
            let answered = match lease.begin(request, terms) {
                Ok(exchange) => OpenPoll::new(job, worker, pin!(exchange)).await.ok_or(Missed::Ended)?,
                Err(failure) => Err(failure),
            };
            let failure = match answered {
                Ok((response, lease)) => {
                    came_to(job, worker, Outcome::of(response.status().as_u16()));
                    return Ok((response, lease, in_flight));
                }
                Err(failure) => failure,
            };
            request = again(job, worker, failure, kept, max_idle)?;
            if job.resent.get() {
                tokio::time::sleep(DYING).await;
            }
            // A second round is on a new connection, and leads to no third.
            max_idle = Duration::ZERO;
        }
    }
}

/// For how long a connection may have been idle.
fn max_idle(job: &Job, worker: &Worker) -> Duration {
    match job.ask.kind {
        Kind::Session { .. } if worker.silent_for(clock::now_ms()) > LIVELY_MS => Duration::ZERO,
        Kind::Session { .. } => SESSION_IDLE,
        Kind::Ordinary | Kind::Handshake | Kind::Birth | Kind::UnknownSid | Kind::Preflight(_) => Duration::MAX,
    }
}

/// How long the worker may take to begin its answer.
fn patience(job: &Job) -> Duration {
    let config = &job.upstream.config;
    match job.ask.kind {
        Kind::Session { .. } => config.response_timeout.max(job.upstream.session_ttl()),
        Kind::Ordinary | Kind::Handshake | Kind::Birth | Kind::UnknownSid | Kind::Preflight(_) => {
            config.response_timeout
        }
    }
}

/// The request for another round at the same worker, or what the failure is to `forward`.
#[allow(clippy::result_large_err, reason = "moved once, and only where an attempt failed")]
fn again(
    job: &Job,
    worker: &Worker,
    failure: Failure,
    kept: bool,
    max_idle: Duration,
) -> Result<Request<Outgoing>, Missed> {
    match failure {
        Failure::Unsent(back) if !max_idle.is_zero() => Ok(*back),
        // A new connection that ends before it takes anything is none: something accepts in the worker's place.
        Failure::Unsent(back) => {
            let error = ConnectError::Io(std::io::ErrorKind::ConnectionAborted.into());
            Err(unreached(job, worker, error, *back))
        }
        Failure::Broken { error, heard, head } => {
            tracing::debug!(worker = %worker.name, %error, heard, "no valid answer");
            let again = head.filter(|_| !heard).and_then(|head| retry::request(&head));
            match again.filter(|_| retry::may_resend(job, clock::now_ms())) {
                // The end of a kept connection may be a race, and nobody's fault.
                Some(again) if kept => Ok(again),
                Some(again) => {
                    broken(job, worker);
                    Err(Missed::Lost(again))
                }
                None if error.is_clients() => Err(Missed::BadBody),
                None => Err(broken(job, worker)),
            }
        }
        Failure::TimedOut { uploading } => {
            worker.series.timeouts.inc();
            // An open poll is silent by nature, and a client that has not sent all may have only itself to wait for.
            if !uploading && !job.ask.is_poll() {
                came_to(job, worker, Outcome::TimedOut);
            }
            Err(Missed::TimedOut)
        }
    }
}

/// A connection, once there is room for one. A session has no other worker: where the backlog of a unix socket is full, it
/// waits as the kernel makes a connect over TCP wait.
async fn reach(job: &Job, worker: &Arc<Worker>, max_idle: Duration) -> Result<Box<Lease>, ConnectError> {
    let config = &job.upstream.config;
    if job.ask.upgrade.is_some() && config.max_tunnels.is_some_and(|most| worker.tunnels() >= most) {
        job.conn.thread.shared.metrics.limits.reached(Limit::MaxTunnels);
        say_full!("worker {} has as many WebSockets as it may (max_tunnels)", worker.name);
        return Err(ConnectError::Busy(Full::Queue));
    }
    let slot = gate::enter(worker, config.queue, config.queue_timeout).await.map_err(ConnectError::Busy)?;
    let leased = connect::lease(&job.conn.thread, worker, max_idle, config.connect_timeout).await;
    let mut lease = match leased {
        Err(ConnectError::Full) if matches!(job.ask.kind, Kind::Session { .. }) => {
            Box::pin(reach_when_free(job, worker)).await?
        }
        leased => leased?,
    };
    lease.occupy(slot, job.conn.held.get().cloned());
    Ok(lease)
}

async fn reach_when_free(job: &Job, worker: &Arc<Worker>) -> Result<Box<Lease>, ConnectError> {
    let connect_timeout = job.upstream.config.connect_timeout;
    let free = async {
        loop {
            tokio::time::sleep(LOOK).await;
            match connect::lease(&job.conn.thread, worker, Duration::ZERO, connect_timeout).await {
                Err(ConnectError::Full) => {}
                leased => return leased,
            }
        }
    };
    tokio::time::timeout(connect_timeout, free).await.unwrap_or(Err(ConnectError::Full))
}

fn unreached(job: &Job, worker: &Worker, error: ConnectError, request: Request<Outgoing>) -> Missed {
    tracing::debug!(worker = %worker.name, %error, "no connection");
    // Being full is no failure.
    if matches!(&error, ConnectError::Io(error) if is_ours(error)) {
        say_full!("a worker cannot be reached, and it is not its fault: {error}");
    } else if !matches!(error, ConnectError::Busy(_) | ConnectError::Reserved) {
        worker.series.connect_failures.inc();
        came_to(job, worker, Outcome::Connect);
    }
    Missed::Connect(error, request)
}

/// No descriptor, or no local port: says nothing of the worker, and must not eject it.
fn is_ours(error: &std::io::Error) -> bool {
    const EMFILE_ENFILE_EADDRNOTAVAIL: [i32; 3] = [24, 23, 99];
    error.raw_os_error().is_some_and(|code| EMFILE_ENFILE_EADDRNOTAVAIL.contains(&code))
}

fn broken(job: &Job, worker: &Worker) -> Missed {
    worker.series.broken.inc();
    came_to(job, worker, Outcome::Broken);
    Missed::Broken
}

/// Tells ejection; the share of errors is of requests that could have gone elsewhere.
fn came_to(job: &Job, worker: &Worker, outcome: Outcome) {
    let in_window = !matches!(job.ask.kind, Kind::Session { .. });
    eject::note(&job.upstream, worker, outcome, in_window, job.conn.thread.now_ms());
}
