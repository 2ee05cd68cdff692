//! The queue between the data threads, which finish spans, and the task that sends them.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::trace::v1::Span;
use prometheus::{IntCounter, IntCounterVec};
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::locks::lock;
use crate::telemetry::say_full;

/// Maximum number of spans that wait to be sent. With the longest texts of clients each takes less than 4,000 bytes
/// (`span::tests`), all together less than 16 MB.
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
        let Err(why) = self.queue.try_send(span) else { return };
        self.dropped.inc();
        match why {
            TrySendError::Full(_) => {
                say_full!("spans of traces are dropped: the queue is full; lower `sample`, or check the receiver");
            }
            // stickyd stops, and the last spans have been sent.
            TrySendError::Closed(_) => tracing::debug!("a span of traces is dropped: stickyd stops"),
        }
    }

    /// Returns the end of the queue, the first time.
    pub(super) fn take_receiver(&self) -> Option<mpsc::Receiver<Span>> {
        lock(&self.taken).take()
    }
}
