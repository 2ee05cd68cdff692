//! How a running stickyd is told to stop, and how its threads report that they have ended.

use tokio_util::sync::CancellationToken;

/// The two ways to stop: finish what is under way, or end at once. Cheap to clone and to hold.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Cancelled to let everything under way finish, within the deadlines.
    pub gently: CancellationToken,
    /// Cancelled to end at once, without waiting for anything.
    pub now: CancellationToken,
    /// Cancelled to end the control thread, after all data threads have ended.
    pub(crate) control: CancellationToken,
}

impl Stop {
    /// Stops the threads that already run, after a start that failed half-way.
    pub(crate) fn abandon(&self) {
        self.now.cancel();
        self.gently.cancel();
    }
}

/// Result of a stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StopOutcome {
    /// Number of connections and tunnels that were cut at the deadline.
    pub cut: usize,
    /// Whether a thread panicked or failed to start.
    pub panicked: bool,
}

impl StopOutcome {
    /// Adds the result of another thread.
    pub fn add(&mut self, other: Self) {
        self.cut += other.cut;
        self.panicked |= other.panicked;
    }
}
