//! What all clients count together: sessions and how they ended, separately for each step of the demo.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Number of steps: the clients connect, a worker is killed, stickyd is restarted.
pub(crate) const STEPS: usize = 3;

/// How a client learns that its session has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    /// The answer was 400 with the text "Session ID unknown".
    Unknown,
    /// The WebSocket was closed.
    Closed,
    /// The connection was refused or broken, or the answer was another error.
    Failed,
}

/// The figures of one step.
#[derive(Clone, Copy, Default)]
pub(crate) struct Count {
    /// Number of sessions that were alive when the step began.
    pub(crate) before: u64,
    /// Number of these sessions that ended during the step.
    pub(crate) ended_of_before: u64,
    pub(crate) opened: u64,
    pub(crate) unknown: u64,
    pub(crate) closed: u64,
    pub(crate) failed: u64,
    pub(crate) answers: u64,
}

impl Count {
    /// Number of sessions that ended during the step, those that began in it included.
    pub(crate) fn ended(&self) -> u64 {
        self.unknown + self.closed + self.failed
    }

    /// Number of sessions that are alive at the end of the step.
    pub(crate) fn live(&self) -> u64 {
        self.before + self.opened - self.ended()
    }
}

/// The figures of all steps, shared by all clients.
#[derive(Default)]
pub(crate) struct Tally(Mutex<Steps>);

#[derive(Clone, Copy, Default)]
struct Steps {
    now: usize,
    counts: [Count; STEPS],
}

impl Steps {
    fn current(&mut self) -> Option<&mut Count> {
        self.counts.get_mut(self.now)
    }
}

impl Tally {
    /// Returns the figures of the steps that have begun.
    pub(crate) fn begun(&self) -> Vec<Count> {
        let steps = *self.lock();
        steps.counts.into_iter().take(steps.now + 1).collect()
    }

    /// Begins the next step: from now on, its figures are counted.
    pub(crate) fn begin_step(&self) {
        let mut steps = self.lock();
        let before = steps.current().map_or(0, |count| count.live());
        steps.now += 1;
        if let Some(count) = steps.current() {
            count.before = before;
        }
    }

    /// Counts a session that has just been opened.
    pub(crate) fn open(&self) -> Session<'_> {
        let mut steps = self.lock();
        if let Some(count) = steps.current() {
            count.opened += 1;
        }
        Session { tally: self, step: steps.now }
    }

    fn lock(&self) -> MutexGuard<'_, Steps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open session of one client.
pub(crate) struct Session<'a> {
    tally: &'a Tally,
    /// The step in which it was opened.
    step: usize,
}

impl Session<'_> {
    /// Counts a message that the worker has answered.
    pub(crate) fn count_answer(&self) {
        if let Some(count) = self.tally.lock().current() {
            count.answers += 1;
        }
    }

    /// Counts the end of the session.
    pub(crate) fn end(self, end: End) {
        let mut steps = self.tally.lock();
        let old = self.step < steps.now;
        let Some(count) = steps.current() else { return };
        match end {
            End::Unknown => count.unknown += 1,
            End::Closed => count.closed += 1,
            End::Failed => count.failed += 1,
        }
        count.ended_of_before += u64::from(old);
    }
}
