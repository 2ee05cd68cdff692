//! The series of one worker, resolved once, and their end when the worker goes.

use std::sync::Arc;

use prometheus::IntCounter;

use super::labels::AttemptOutcome;
use super::{Metrics, SocketSeries};

/// Values of the `class` label of a worker's requests; `FAILURES` has those of the `kind` label of its failures.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const FAILURES: [&str; 3] = ["connect", "broken", "timeout"];
/// Values of the `result` label of a worker's queue.
const QUEUED: [&str; 3] = ["waited", "full", "timeout"];

/// Resolved counters of one worker.
pub struct WorkerSeries {
    /// Counters of all sockets of the worker's upstream.
    pub sockets: Arc<SocketSeries>,
    classes: [IntCounter; 5],
    /// Number of connects that were refused, timed out or failed.
    pub connect_failures: IntCounter,
    /// Number of connections that broke, timed out or sent invalid data before the answer's head was complete.
    pub broken: IntCounter,
    /// Number of requests without an answer within the response time-out.
    pub timeouts: IntCounter,
    /// Number of ejections prevented by `max_share`.
    pub spared: IntCounter,
    /// Number of requests that waited for a connection (`max_connections`) and got one.
    pub queue_waited: IntCounter,
    /// Number of requests that found the queue full.
    pub queue_full: IntCounter,
    /// Number of requests that timed out in the queue.
    pub queue_timeouts: IntCounter,
    ejections: [IntCounter; 4],
}

impl WorkerSeries {
    /// Counts one answer by its status.
    pub fn answered(&self, status: u16) {
        if let Some(counter) = self.classes.get(usize::from(status / 100).wrapping_sub(1)) {
            counter.inc();
        }
    }

    /// Returns the number of answers so far.
    pub fn requests(&self) -> u64 {
        self.classes.iter().map(IntCounter::get).sum()
    }

    /// Returns the number of attempts so far that got no answer.
    pub fn failures(&self) -> u64 {
        self.connect_failures.get() + self.broken.get() + self.timeouts.get()
    }

    /// Counts one ejection by its reason.
    pub fn ejected(&self, why: AttemptOutcome) {
        let index = EJECTIONS.iter().position(|reason| reason.word() == why.word());
        if let Some(counter) = index.and_then(|index| self.ejections.get(index)) {
            counter.inc();
        }
    }
}

/// Reasons of an ejection, in the order of the counters; values of the `reason` label.
const EJECTIONS: [AttemptOutcome; 4] =
    [AttemptOutcome::Connect, AttemptOutcome::Broken, AttemptOutcome::TimedOut, AttemptOutcome::ServerError];

impl Metrics {
    /// Resolves the counters of one worker.
    pub fn worker(&self, upstream: &str, worker: &str) -> WorkerSeries {
        let [connect_failures, broken, timeouts] =
            FAILURES.map(|kind| self.failures.with_label_values(&[upstream, worker, kind]));
        let [queue_waited, queue_full, queue_timeouts] =
            QUEUED.map(|result| self.queued.with_label_values(&[upstream, worker, result]));
        WorkerSeries {
            sockets: self.sockets.upstream(upstream),
            classes: CLASSES.map(|class| self.requests.with_label_values(&[upstream, worker, class])),
            connect_failures,
            broken,
            timeouts,
            spared: self.spared.with_label_values(&[upstream, worker]),
            queue_waited,
            queue_full,
            queue_timeouts,
            ejections: EJECTIONS.map(|why| self.ejections.with_label_values(&[upstream, worker, why.word()])),
        }
    }

    /// Removes the counters of a worker that no longer exists, so that addresses that come and go do not use up memory.
    pub fn forget_worker(&self, upstream: &str, worker: &str) {
        let by_worker = [(&self.requests, &CLASSES[..]), (&self.failures, &FAILURES), (&self.queued, &QUEUED)];
        let by_worker = by_worker.into_iter().flat_map(|(series, words)| words.iter().map(move |word| (series, *word)));
        let ejections = EJECTIONS.iter().map(|why| (&self.ejections, why.word()));
        // A counter that was never resolved does not exist; that is not an error.
        for (series, word) in by_worker.chain(ejections) {
            let _ = series.remove_label_values(&[upstream, worker, word]);
        }
        let _ = self.spared.remove_label_values(&[upstream, worker]);
    }
}
