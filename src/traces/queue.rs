//! The queue between the data threads, which finish spans, and the task that sends them.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::trace::v1::Span;
use prometheus::{IntCounter, IntCounterVec};
use tokio::sync::mpsc;

use crate::locks::lock;
use crate::telemetry::say_full;

/// Maximum number of spans that wait to be sent. With the longest texts of clients they take 8 MB.
const QUEUE: usize = 4_096;

/// Where finished spans go.
pub(crate) struct Traces {
    queue: mpsc::Sender<Span>,
    /// Taken once by the task that sends.
    taken: Mutex<Option<mpsc::Receiver<Span>>>,
    pub(super) sent: IntCounter,
    pub(super) failed: IntCounter,
    pub(super) dropped: IntCounter,
}

impl Traces {
    /// Creates the queue; `counts` has the label `result`.
    pub(crate) fn new(counts: &IntCounterVec) -> Arc<Self> {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let count = |result| counts.with_label_values(&[result]);
        Arc::new(Self {
            queue,
            taken: Mutex::new(Some(receiver)),
            sent: count("sent"),
            failed: count("failed"),
            dropped: count("dropped"),
        })
    }

    /// Puts a span into the queue, or drops it if the queue is full. Never waits.
    pub(super) fn put(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.dropped.inc();
            say_full!("spans of traces are dropped: their receiver takes too few");
        }
    }

    /// Returns the end of the queue, the first time.
    pub(super) fn take_receiver(&self) -> Option<mpsc::Receiver<Span>> {
        lock(&self.taken).take()
    }
}
