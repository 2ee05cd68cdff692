//! One attempt at one worker: getting a connection, the exchange, what is resent at once, and the outcome reported to
//! ejection.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::{Request, Response, StatusCode};
use rustix::io::Errno;

use super::hints::HintedExchange;
use super::last_requests::{self, PollGoodbye};
use super::open_poll::OpenPoll;
use super::second_worker::{self, HandshakeStep};
use super::{Job, own_connection, retry};
use crate::affinity::ask::RequestKind;
use crate::body::Outgoing;
use crate::clock;
use crate::metrics::LimitLabel;
use crate::telemetry::say_full;
use crate::traces::AttemptSpan;
use crate::upstream::connections::connect::{self, ExchangeTerms, Failure, Lease};
use crate::upstream::connections::dial::ConnectError;
use crate::upstream::connections::limit::{self, NoConnection};
use crate::upstream::eject::{self, AttemptOutcome};
use crate::upstream::exchange::connection_auth;
use crate::upstream::exchange::response_body::Unread;
use crate::upstream::worker::{Count, Worker};

/// A request with a sid uses only a connection that was idle for less than this. It must not race the worker's close,
/// because it cannot be sent twice (docs/reference/routing.md §9).
const SESSION_IDLE: Duration = Duration::from_secs(2);

/// A request with a sid uses an idle connection only if the worker has answered some request within this time, in
/// milliseconds. When a stalled Node process wakes up, its timers run before it reads: connections that were idle when
/// the stall began are closed after 5 s, together with the request that waits in them. A connection made during the
/// stall has no such timer. A worker that answers less often than this can afford the extra connect.
const LIVELY_MS: u64 = 100;

/// Pause before a request is resent. The connections of a killed process end moments before its listener does, so a
/// request resent at once would be accepted by a process that never reads it, and be lost.
const DYING: Duration = Duration::from_millis(20);

/// Pause between two connect attempts to a unix socket whose backlog is full.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// Why an attempt failed.
pub(crate) enum Missed {
    /// There was no connection to the worker; the request is unchanged.
    Connect(ConnectError),
    /// The connection broke, or what came was not a valid response. The worker may have acted on what was sent.
    Broken,
    /// A new connection broke before the first byte of a response, or a handshake stayed unanswered on it. The request
    /// is made anew for another worker.
    Lost,
    /// The client's body was malformed or broke off.
    BadBody,
    /// The worker did not respond in time.
    TimedOut,
    /// An operator ended the session while its poll was waiting.
    Ended,
}

/// The result of a successful attempt: the response, the connection that carries its body, and the request's place in
/// the worker's count of requests in flight.
pub(crate) type AttemptResponse = (Box<Response<Unread>>, Box<Lease>, Count);

/// Makes one attempt at one worker. A request that was not sent, because its idle connection had just closed, goes to
/// the same worker again over a new connection; so does one that may be resent ([`retry`]). The final outcome is
/// reported to ejection. The request is lent, because it is large; it is empty once it was sent.
#[allow(
    clippy::manual_async_fn,
    reason = "an async fn stores its arguments twice in its future, and each request moves the whole future once"
)]
pub(crate) fn attempt(
    job: &Job,
    worker: &Arc<Worker>,
    request: &mut Request<Outgoing>,
) -> impl Future<Output = Result<AttemptResponse, Missed>> {
    async move {
        let mut max_idle = max_idle(job, worker);
        let goodbye = PollGoodbye::of(job, request);
        let mut span = job.trace.attempt(request, &worker.name, &worker.address);
        loop {
            let mut lease = match reach(job, worker, max_idle).await {
                Ok(lease) => lease,
                Err(error) => {
                    span.failed(word(&error));
                    return Err(unreached(job, worker, error));
                }
            };
            if connection_auth::has_credentials(request.headers()) {
                own_connection::mark(job, &mut lease);
            }
            let kept = lease.is_used();
            let keep = retry::is_resendable(job, request);
            let takes_interim = job.ask.upgrade.is_none() && job.conn.takes_interim();
            let (client, is_poll) = (job.client.key(), job.ask.is_poll());
            let terms = ExchangeTerms { client, patience: patience(job), is_poll, keep, takes_interim };
            let in_flight = worker.request();
            let sent = Instant::now();
            let begun = lease.begin(request, terms).map(|exchange| HintedExchange::new(job, exchange));
            let answered = match begun {
                Ok(exchange) if second_worker::may_ask(job, keep, kept) => {
                    match Box::pin(second_worker::exchange(job, worker, request, exchange)).await {
                        HandshakeStep::Over(answered) => answered,
                        HandshakeStep::GivenUp => {
                            came_to(job, worker, AttemptOutcome::TimedOut);
                            span.failed("given_up");
                            return Err(Missed::Lost);
                        }
                    }
                }
                Ok(mut exchange) => match OpenPoll::new(job, worker, Pin::new(&mut exchange)).await {
                    Some(answered) => answered,
                    None => {
                        last_requests::keep_session(job, worker, exchange.into_inner(), goodbye);
                        span.failed("session_ended");
                        return Err(Missed::Ended);
                    }
                },
                Err(failure) => Err(failure),
            };
            let failure = match answered {
                Ok((response, mut lease)) => {
                    if lease.is_authenticated() {
                        own_connection::mark(job, &mut lease);
                    }
                    if !job.ask.is_poll() {
                        worker.series.responded(lease.answered_at.duration_since(sent));
                    }
                    // A 101 is reported once it is checked (`upgrade::check`).
                    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                        came_to(job, worker, AttemptOutcome::of(response.status().as_u16()));
                    }
                    span.answered(response.status());
                    return Ok((response, lease, in_flight));
                }
                Err(failure) => failure,
            };
            again(job, worker, request, failure, kept, max_idle, &mut span)?;
            if job.resent.get() {
                tokio::time::sleep(DYING).await;
            }
            // The second round uses a new connection, and there is no third.
            max_idle = Duration::ZERO;
        }
    }
}

/// The word for a failed connect in traces.
fn word(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::Refused => "connection_refused",
        ConnectError::TimedOut => "connect_timeout",
        ConnectError::Full | ConnectError::Busy(_) => "worker_full",
        ConnectError::Reserved => "no_descriptor",
        ConnectError::Io(_) => "connect_failed",
    }
}

/// The longest time that a connection may have been idle and still be used for this request.
fn max_idle(job: &Job, worker: &Worker) -> Duration {
    match job.ask.kind {
        // An authenticated connection is used however long it was idle: on any other one the client is unknown.
        _ if own_connection::check_any(job, worker) => Duration::MAX,
        RequestKind::Session { .. }
            if worker.silent_for(job.tied_at.take().map_or_else(clock::now_ms, clock::ms_at)) > LIVELY_MS =>
        {
            Duration::ZERO
        }
        RequestKind::Session { .. } => SESSION_IDLE,
        RequestKind::Ordinary
        | RequestKind::Handshake
        | RequestKind::Birth
        | RequestKind::UnknownSid
        | RequestKind::Preflight(_) => Duration::MAX,
    }
}

/// How long the worker may take to begin its response.
fn patience(job: &Job) -> Duration {
    let config = &job.upstream.config;
    match job.ask.kind {
        RequestKind::Session { .. } if job.ttl_s > 0 => {
            config.response_timeout.max(Duration::from_secs(job.ttl_s.into()))
        }
        RequestKind::Session { .. } => config.response_timeout.max(job.upstream.session_ttl()),
        RequestKind::Ordinary
        | RequestKind::Handshake
        | RequestKind::Birth
        | RequestKind::UnknownSid
        | RequestKind::Preflight(_) => config.response_timeout,
    }
}

/// Makes the request anew if it goes to the same worker again, or returns the failure for `forward`. Ends the span of
/// the attempt, except for a request that was not sent: its attempt goes on over a new connection.
fn again(
    job: &Job,
    worker: &Worker,
    request: &mut Request<Outgoing>,
    failure: Failure,
    kept: bool,
    max_idle: Duration,
    span: &mut AttemptSpan,
) -> Result<(), Missed> {
    match failure {
        Failure::Unsent if !max_idle.is_zero() => Ok(()),
        // A new connection that ends before it takes a byte is a failed connect: something else accepts for the worker.
        Failure::Unsent => {
            span.failed("connect_failed");
            let error = ConnectError::Io(std::io::ErrorKind::ConnectionAborted.into());
            Err(unreached(job, worker, error))
        }
        Failure::Broken { error, heard, head } => {
            tracing::debug!(upstream = %job.upstream.config.name, worker = %worker.name, %error, answer_begun = heard,
                "worker gave no valid response");
            span.failed(if error.is_clients() { "client_body" } else { "connection_broken" });
            let again = head.filter(|_| !heard).and_then(|head| retry::request(&head));
            match again.filter(|_| retry::try_take_resend(job, clock::now_ms())) {
                // The end of a kept connection may be a race with its idle time-out, so it does not count against the
                // worker.
                Some(again) if kept => {
                    *request = again;
                    *span = job.trace.attempt(request, &worker.name, &worker.address);
                    Ok(())
                }
                Some(again) => {
                    *request = again;
                    broken(job, worker);
                    Err(Missed::Lost)
                }
                None if error.is_clients() => Err(Missed::BadBody),
                None => Err(broken(job, worker)),
            }
        }
        Failure::TimedOut { uploading } => {
            span.failed("timeout");
            worker.series.timeouts.inc();
            // An open poll is silent by nature. While the client has not sent its whole body, the delay may be the
            // client's.
            if !uploading && !job.ask.is_poll() {
                came_to(job, worker, AttemptOutcome::TimedOut);
            }
            Err(Missed::TimedOut)
        }
    }
}

/// Gets a connection once there is room for one. A session has only one possible worker: if the backlog of its unix
/// socket is full, the request waits, as the kernel makes a TCP connect wait.
async fn reach(job: &Job, worker: &Arc<Worker>, max_idle: Duration) -> Result<Box<Lease>, ConnectError> {
    let config = &job.upstream.config;
    if job.ask.upgrade.is_some() && config.max_tunnels.is_some_and(|most| worker.tunnels() >= most) {
        job.conn.thread.shared.metrics.limits.reached(LimitLabel::MaxTunnels);
        say_full!(upstream = %job.upstream.config.name, worker = %worker.name,
            "worker has reached its limit of WebSockets (max_tunnels)");
        return Err(ConnectError::Busy(NoConnection::Queue));
    }
    let slot = limit::enter(worker, config.queue, config.queue_timeout).await.map_err(ConnectError::Busy)?;
    if !max_idle.is_zero()
        && let Some(mut lease) = own_connection::take(job, worker)
    {
        lease.occupy(slot, job.conn.held.get().cloned());
        return Ok(lease);
    }
    let leased = connect::lease(&job.conn.thread.connections, worker, max_idle, config.connect_timeout).await;
    let mut lease = match leased {
        Err(ConnectError::Full) if matches!(job.ask.kind, RequestKind::Session { .. }) => {
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
            tokio::time::sleep(RECONNECT_PAUSE).await;
            match connect::lease(&job.conn.thread.connections, worker, Duration::ZERO, connect_timeout).await {
                Err(ConnectError::Full) => {}
                leased => return leased,
            }
        }
    };
    tokio::time::timeout(connect_timeout, free).await.unwrap_or(Err(ConnectError::Full))
}

fn unreached(job: &Job, worker: &Worker, error: ConnectError) -> Missed {
    tracing::debug!(upstream = %job.upstream.config.name, worker = %worker.name, %error, "no connection to worker");
    // Waiting in vain for a slot or a file descriptor is not a failure of the worker.
    if matches!(&error, ConnectError::Io(error) if is_ours(error)) {
        say_full!(upstream = %job.upstream.config.name, worker = %worker.name, %error,
            "cannot connect to worker: local descriptors or ports are used up");
    } else if !matches!(error, ConnectError::Busy(_) | ConnectError::Reserved) {
        worker.series.connect_failures.inc();
        came_to(job, worker, AttemptOutcome::Connect);
    }
    Missed::Connect(error)
}

/// Whether the error is local: no file descriptor or no local port is left. It must not eject the worker.
fn is_ours(error: &std::io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::ADDRNOTAVAIL))
}

fn broken(job: &Job, worker: &Worker) -> Missed {
    worker.series.broken.inc();
    came_to(job, worker, AttemptOutcome::Broken);
    Missed::Broken
}

/// Reports an outcome to ejection. Only requests that could have gone to another worker count for the error rate.
pub(super) fn came_to(job: &Job, worker: &Worker, outcome: AttemptOutcome) {
    let in_window = !matches!(job.ask.kind, RequestKind::Session { .. });
    eject::note(&job.upstream, worker, outcome, in_window, job.client.key(), job.conn.thread.now_ms());
}
