//! Sends finished spans to their receiver, in batches, on the control thread.
//!
//! One batch is under way at a time. A receiver that is away or busy gets a batch a few times, while the queue fills
//! and then drops; no request waits for any of it. Results are counted in `stickyd_spans_total`, and the log says when
//! sending begins to fail and when it works again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::otlp::{self, Taken};
use super::queue::Traces;
use crate::config::Telemetry;
use crate::outbound::{Outbound, OutboundSettings};
use crate::telemetry::{Rarely, say_full};

/// Maximum number of spans in one request to the receiver.
const BATCH: usize = 512;

/// Time for which spans are collected into one request.
const GATHER: Duration = Duration::from_secs(1);

/// Maximum number of requests per second to the receiver. It is a bound for a receiver that answers at once; requests
/// wait for each other's answers, so that the receiver sets the pace.
const PER_SECOND: u64 = 1_000;

/// Number of attempts to send one batch.
const ATTEMPTS: u32 = 4;

/// Wait before the second attempt; each further wait is twice as long.
const WAIT: Duration = Duration::from_secs(1);

/// Interval in milliseconds between two warnings of one kind: a receiver may refuse every batch.
const SAY_MS: u64 = 60_000;

/// Time that waiting spans get when stickyd stops.
const LAST: Duration = Duration::from_secs(2);

/// Sends spans as the present rules say until `stop`, and then what waits, for at most [`LAST`].
pub(crate) async fn keep(traces: Arc<Traces>, rules: impl Fn() -> Option<Arc<Telemetry>>, stop: CancellationToken) {
    let Some(mut spans) = traces.take_receiver() else { return };
    let mut sender = SpanSender::new(traces);
    let mut batch = Vec::new();
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST).await;
    };
    tokio::select! {
        () = send_all(&mut sender, &mut spans, &mut batch, &rules, &stop) => {}
        () = overdue => {}
    }
    let waiting = std::iter::from_fn(|| spans.try_recv().ok()).count();
    sender.lost(batch.len() + waiting);
}

/// Sends batches until `stop`, and then what is in the queue.
async fn send_all(
    sender: &mut SpanSender,
    spans: &mut mpsc::Receiver<Span>,
    batch: &mut Vec<Span>,
    rules: &impl Fn() -> Option<Arc<Telemetry>>,
    stop: &CancellationToken,
) {
    while gather(spans, batch, stop).await {
        sender.follow(rules());
        sender.send(std::mem::take(batch), stop).await;
    }
    sender.follow(rules());
    loop {
        while batch.len() < BATCH
            && let Ok(span) = spans.try_recv()
        {
            batch.push(span);
        }
        if batch.is_empty() {
            return;
        }
        sender.send(std::mem::take(batch), stop).await;
    }
}

/// Collects the next batch. Returns false once stickyd stops.
async fn gather(spans: &mut mpsc::Receiver<Span>, batch: &mut Vec<Span>, stop: &CancellationToken) -> bool {
    let collected = async {
        spans.recv_many(batch, BATCH).await;
        let more = async { while batch.len() < BATCH && spans.recv_many(batch, BATCH - batch.len()).await > 0 {} };
        // The error is the usual end: the time is over.
        let _ = tokio::time::timeout(GATHER, more).await;
    };
    stop.run_until_cancelled(collected).await.is_some()
}

/// The client of the present receiver.
struct SpanSender {
    traces: Arc<Traces>,
    /// The receiver that is configured now, and its client; no client if it could not be set up.
    receiver: Option<(Arc<Telemetry>, Option<Outbound>)>,
    /// Connections of the client.
    tasks: TaskTracker,
    /// Whether the log says that batches are not taken.
    is_failing: bool,
    failures: Rarely,
    rejections: Rarely,
    /// Number of spans in the batch that is under way.
    pending: usize,
}

impl SpanSender {
    fn new(traces: Arc<Traces>) -> Self {
        let (failures, rejections) = (Rarely::new(), Rarely::new());
        Self { traces, receiver: None, tasks: TaskTracker::new(), is_failing: false, failures, rejections, pending: 0 }
    }

    /// Follows a reloaded configuration.
    fn follow(&mut self, rules: Option<Arc<Telemetry>>) {
        let is_same = match (&self.receiver, &rules) {
            (Some((old, _)), Some(new)) => old == new,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if is_same {
            return;
        }
        self.receiver = rules.map(|rules| {
            let authorities = rules.target.authorities.clone();
            let settings = OutboundSettings { per_second: PER_SECOND, idle: 1, ..OutboundSettings::new(authorities) };
            let made = Outbound::new(&settings, &self.tasks);
            let made = made.inspect_err(|error| {
                tracing::error!(%error, "traces cannot be sent; stickyd_spans_total counts what is lost");
            });
            (rules, made.ok())
        });
    }

    /// Sends a batch, and counts what became of its spans. Once stickyd stops, one more attempt is made.
    async fn send(&mut self, spans: Vec<Span>, stop: &CancellationToken) {
        let (rules, client) = match &self.receiver {
            Some((rules, Some(client))) => (rules.clone(), client.clone()),
            // The log has had the reason since the configuration was read.
            Some((_, None)) => return self.traces.failed.inc_by(whole(spans.len())),
            None => {
                say_full!(count = spans.len(), "spans of traces are dropped: [telemetry] was removed");
                return self.traces.dropped.inc_by(whole(spans.len()));
            }
        };
        self.pending = spans.len();
        let body = Bytes::from(otlp::body(&rules, spans));
        let (mut wait, mut stopped) = (WAIT, false);
        for attempt in 1..=ATTEMPTS {
            match post(&rules, &client, body.clone()).await {
                Taken::Yes(rejected, why) => return self.taken(rejected, &why),
                Taken::Later(_, after) if attempt < ATTEMPTS && !stopped => {
                    let pause = tokio::time::sleep(after.unwrap_or(wait));
                    stopped = stop.run_until_cancelled(pause).await.is_none();
                    wait *= 2;
                }
                Taken::Later(why, _) | Taken::No(why) => return self.refused(&why),
            }
        }
    }

    fn taken(&mut self, rejected: u64, why: &str) {
        let count = self.take_pending();
        let rejected = rejected.min(count);
        self.traces.sent.inc_by(count - rejected);
        self.traces.failed.inc_by(rejected);
        if rejected > 0 && self.rejections.try_pass(SAY_MS) {
            tracing::warn!(rejected, why, "the receiver of traces has rejected spans");
        }
        if std::mem::replace(&mut self.is_failing, false) {
            tracing::info!("traces are sent again");
        }
    }

    fn refused(&mut self, why: &str) {
        let count = self.take_pending();
        self.traces.failed.inc_by(count);
        if !self.is_failing && self.failures.try_pass(SAY_MS) {
            self.is_failing = true;
            tracing::warn!(why, "traces are not sent; stickyd_spans_total counts what is lost");
        }
    }

    /// Takes the number of spans in the batch that was under way.
    fn take_pending(&mut self) -> u64 {
        whole(std::mem::take(&mut self.pending))
    }

    /// Counts spans that could not be sent before stickyd stopped.
    fn lost(&mut self, waiting: usize) {
        let count = self.take_pending().saturating_add(whole(waiting));
        self.traces.dropped.inc_by(count);
        if count > 0 {
            tracing::warn!(count, "spans of traces were not sent: stickyd stops");
        }
    }
}

fn whole(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

async fn post(rules: &Telemetry, client: &Outbound, body: Bytes) -> Taken {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = hyper::Method::POST;
    *request.uri_mut() = rules.target.url.clone();
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(otlp::PROTOBUF));
    for (name, value) in &rules.headers {
        request.headers_mut().append(name, value.clone());
    }
    match client.send(request).await {
        Ok(answer) => otlp::taken(answer.status, &answer.headers, &answer.body),
        Err(fault) => Taken::Later(fault.to_string(), None),
    }
}

#[cfg(test)]
mod tests;
