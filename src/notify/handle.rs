//! How the admin listener asks the notifier: its state, and test messages.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

/// Orders that wait for the notifier.
const ORDERS: usize = 16;

/// Answer to an order for test messages; the error is for the operator.
pub(super) type TestAnswer = oneshot::Sender<Result<Vec<TestOutcome>, String>>;

/// An order to the notifier.
pub(crate) enum NotifyOrder {
    Show(oneshot::Sender<NotifyState>),
    /// Send a test message to this receiver, or to all.
    Test(Option<String>, TestAnswer),
}

/// What became of a test message.
#[derive(Debug)]
pub(crate) struct TestOutcome {
    pub(crate) name: String,
    /// Why it was not sent; `None`: it was.
    pub(crate) error: Option<String>,
    pub(crate) took: Duration,
}

/// The notifier, as operators see it.
#[derive(Debug, Default)]
pub(crate) struct NotifyState {
    pub(crate) receivers: Vec<ReceiverState>,
    pub(crate) problems: Vec<ProblemState>,
    /// Host, interval, and the last outcome: how long ago, and why it failed.
    pub(crate) heartbeat: Option<BeatState>,
}

/// A receiver, as operators see it.
#[derive(Debug)]
pub(crate) struct ReceiverState {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) host: String,
    pub(crate) topics: Vec<&'static str>,
    pub(crate) waiting: usize,
    /// Time until the next attempt.
    pub(crate) next: Option<Duration>,
    /// The last outcome: how long ago, its word, and why it failed.
    pub(crate) last: Option<(Duration, &'static str, String)>,
}

/// A problem, as operators see it.
#[derive(Debug)]
pub(crate) struct ProblemState {
    pub(crate) event: &'static str,
    pub(crate) what: String,
    pub(crate) lasted: Duration,
    pub(crate) told: bool,
}

/// The heartbeat, as operators see it.
#[derive(Debug, Clone)]
pub(crate) struct BeatState {
    pub(crate) host: String,
    pub(crate) every: Duration,
    /// How long ago the last request ended, and why it failed if it did.
    pub(crate) last: Option<(Duration, Option<String>)>,
}

/// Sends orders to the notifier. Cheap to clone.
#[derive(Clone)]
pub(crate) struct NotifyHandle(mpsc::Sender<NotifyOrder>);

impl NotifyHandle {
    /// A handle, and where its orders arrive.
    pub(crate) fn new() -> (Self, mpsc::Receiver<NotifyOrder>) {
        let (sender, orders) = mpsc::channel(ORDERS);
        (Self(sender), orders)
    }

    /// Returns the state of the notifier; `None` if stickyd is stopping.
    pub(crate) async fn show(&self) -> Option<NotifyState> {
        let (answer, said) = oneshot::channel();
        self.0.send(NotifyOrder::Show(answer)).await.ok()?;
        said.await.ok()
    }

    /// Sends a test message to one receiver, or to all. `None` if stickyd is stopping.
    pub(crate) async fn test(&self, name: Option<String>) -> Option<Result<Vec<TestOutcome>, String>> {
        let (answer, said) = oneshot::channel();
        self.0.send(NotifyOrder::Test(name, answer)).await.ok()?;
        said.await.ok()
    }
}
