//! What a worker is good for at the moment: whether it takes new sessions, and whether it serves its own.
//!
//! Health, admin state and ejection (docs/reference/routing.md §8) meet in two questions, [`Worker::takes_new`] and
//! [`Worker::serves`]; nothing else combines them.

use std::sync::atomic::Ordering::Relaxed;

use super::{Checks, SLOW_MS, Worker, WorkerHealth};
use crate::clock;
use crate::config::AdminState;
use crate::events::tell;

impl Worker {
    /// Whether the worker takes new sessions: up ∧ ready ∧ not ejected ∧ below its limit.
    pub fn takes_new(&self) -> bool {
        self.admin() == AdminState::Ready
            && self.health() == WorkerHealth::Up
            && !self.is_ejected()
            && self.gate.is_open()
    }

    /// Whether the worker takes new sessions and will not soon be replaced.
    pub fn takes_new_and_stays(&self) -> bool {
        !self.is_outdated() && self.takes_new()
    }

    /// Whether the worker takes new sessions if no worker satisfies [`Self::takes_new`]. Slow requests, an ejection and
    /// a reached limit are then ignored: slowness may be in the nature of the application, and if all workers are slow,
    /// ejected or full, a new session is better off with one of them than with none.
    pub fn takes_new_at_worst(&self) -> bool {
        self.admin() == AdminState::Ready && self.checks() == Checks::Passing && !self.refuses_connects()
    }

    /// Whether the worker will soon be replaced, so that sessions that begin now should prefer others.
    pub fn is_outdated(&self) -> bool {
        self.outdated.load(Relaxed)
    }

    /// Sets whether the worker will soon be replaced.
    pub(crate) fn set_outdated(&self, outdated: bool) {
        if self.outdated.swap(outdated, Relaxed) != outdated {
            self.mark_moved();
        }
    }

    /// Whether the worker is set aside after failures of live requests.
    pub fn is_ejected(&self) -> bool {
        self.eject.is_out(clock::now_ms)
    }

    /// Ends an ejection whose time is over, and logs it. The control thread calls this a few times per second.
    pub(crate) fn refresh_ejection(&self) {
        if self.eject.end_if_over(clock::now_ms()) {
            tell!(self.series.events, WorkerBack, info,
                upstream = %self.upstream, worker = %self.name, "worker is back from its ejection");
            self.mark_moved();
        }
    }

    /// Whether the worker serves its own sessions: not gone ∧ not in maint ∧ not past the deadline of its drain.
    pub fn serves(&self) -> bool {
        self.admin() != AdminState::Maint && !self.gone() && !self.admin.is_over()
    }

    /// Whether connects are refused and no established connection to the worker is left.
    pub fn gone(&self) -> bool {
        self.refused.load(Relaxed) && self.life.established() == 0
    }

    /// Whether the last connect was refused, so that idle connections to the worker need a check.
    pub fn refuses_connects(&self) -> bool {
        self.refused.load(Relaxed)
    }

    /// Whether some request has waited at the worker for longer than [`SLOW_MS`].
    pub fn has_slow(&self) -> bool {
        self.slow.total() > 0
    }

    /// Whether the worker accepts connections but does not answer.
    pub fn hung(&self) -> bool {
        self.checks() == Checks::TimingOut
            || (self.slow.are_of_several() && self.silent_for(clock::now_ms()) >= SLOW_MS)
    }

    /// Returns the worker's health, from its checks and connects.
    pub fn health(&self) -> WorkerHealth {
        if self.refused.load(Relaxed) {
            return if self.gone() { WorkerHealth::Gone } else { WorkerHealth::Leaving };
        }
        if self.hung() {
            return WorkerHealth::Hung;
        }
        match self.checks() {
            Checks::Passing => WorkerHealth::Up,
            Checks::Failing | Checks::TimingOut => WorkerHealth::Starting,
        }
    }

    /// Returns the verdict of the last health checks.
    pub fn checks(&self) -> Checks {
        match self.checks.load(Relaxed) {
            0 => Checks::Passing,
            1 => Checks::Failing,
            _ => Checks::TimingOut,
        }
    }

    /// Sets the verdict of the health checks. A worker that passes again gets its share back slowly.
    pub fn set_checks(&self, checks: Checks) {
        let before = self.checks.swap(checks as u8, Relaxed);
        if checks == Checks::Passing && before != Checks::Passing as u8 {
            self.eject.ease_in(clock::now_ms());
        }
        if before != checks as u8 {
            self.mark_moved();
        }
    }
}
