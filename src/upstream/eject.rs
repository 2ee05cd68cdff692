//! Passive ejection: a worker whose live requests fail is set aside for a while, then eased back in.
//!
//! Two verdicts, both from what clients' own requests came to: so many failures in a row (no connect, a connection that
//! broke, no answer in time) with no answer in between, or too large a share of failures and server errors among the
//! requests of a sliding window. Health checks, probes, discovery's refusals, open polls and what clients break themselves
//! never count: their callers do not bring it here. Each further ejection is twice as long; staying well is forgiven step
//! by step. An ejected worker keeps its sessions and gets no new ones (design.md §7).
//!
//! [`Eject`] is pure: time comes as an argument (invariant 12). [`note`] below is the one place that knows the pool, for the
//! bound on how much of it may be out. Left out: what a request is and which outcome counts (`proxy::forward`).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::worker::{Health, Worker};
use super::{Member, Upstream};
use crate::config::{self, AdminState};
use crate::telemetry::say_full;

#[cfg(test)]
mod tests;

/// Weights are counted in this many parts while somebody is eased in.
pub const WHOLE: u32 = 1_000;

/// A worker that is eased in begins with this part of [`WHOLE`]: some traffic, or nobody would see whether it is well.
const FIRST: u32 = WHOLE / 10;

/// Staying well for this many times the last ejection forgives one step of growth: a worker that is ill for a fifth of its
/// time goes on growing.
const FORGIVES: u64 = 4;

/// What a live request came to at a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer.
    Answer,
    /// 500, 502, 503 or 504: an answer, but a bad one.
    ServerError,
    /// No connection.
    Connect,
    /// The connection broke before the answer's head was whole, or what came was no answer.
    Broken,
    /// No answer in time.
    TimedOut,
}

impl Outcome {
    /// By the status of an answer.
    pub fn of(status: u16) -> Self {
        if matches!(status, 500 | 502..=504) { Self::ServerError } else { Self::Answer }
    }

    /// The word for it as the reason of an ejection, in metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Answer | Self::ServerError => "errors",
            Self::Connect => "connect",
            Self::Broken => "broken",
            Self::TimedOut => "timeout",
        }
    }
}

/// Which outcomes eject, and for how long; times in ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Failures in a row; 0: never by that.
    pub failures: u32,
    /// Percent of errors and failures in the window; 0: never by that.
    pub errors: u32,
    /// Requests in the window below which no share is judged.
    pub volume: u32,
    /// One of the window's [`CELLS`].
    pub cell_ms: u64,
    /// The first ejection.
    pub time_ms: u64,
    /// No ejection is longer.
    pub max_time_ms: u64,
    /// Percent of the pool that may be out.
    pub max_share: u32,
    /// How long a worker that is back is eased in; 0: not at all.
    pub slow_start_ms: u64,
}

impl Rules {
    /// Of an upstream's config.
    pub fn of(config: &config::Upstream) -> Self {
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let eject = &config.eject;
        let on = u32::from(eject.on);
        Self {
            failures: eject.failures * on,
            errors: eject.errors * on,
            volume: eject.volume,
            cell_ms: (ms(eject.window) / u64::from(CELLS)).max(1),
            time_ms: ms(eject.time),
            max_time_ms: ms(eject.max_time),
            max_share: eject.max_share,
            slow_start_ms: ms(config.slow_start),
        }
    }

    /// The cell of a moment.
    pub fn slot(&self, now_ms: u64) -> u32 {
        u32::try_from(now_ms / self.cell_ms).unwrap_or(u32::MAX)
    }

    /// Whether one more of `pool` workers may be ejected when `out` are.
    pub fn leaves_enough(&self, pool: usize, out: usize) -> bool {
        (out + 1).saturating_mul(100) <= pool.saturating_mul(self.max_share as usize)
    }
}

/// What live traffic says of one worker. Shared between threads: an answer costs a load and a relaxed add, on a line that
/// the worker's other counters own already; only failures do more.
#[derive(Debug, Default)]
pub struct Eject {
    /// Failures since the last answer.
    row: AtomicU32,
    last_failure_ms: AtomicU64,
    requests: Window,
    errors: Window,
    /// Out until then; 0: not out.
    until_ms: AtomicU64,
    /// Back since then, and not yet at its whole share; 0: nothing to ease in.
    back_ms: AtomicU64,
    past: Mutex<Past>,
}

/// What is remembered of ejections.
#[derive(Debug, Default)]
struct Past {
    /// Steps of growth.
    steps: u32,
    last_ms: u64,
    until_ms: u64,
}

/// Whether a worker is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// It is not.
    In,
    /// It is.
    Out,
    /// It was until now; said once.
    Back,
}

impl Eject {
    /// Adds what a request came to. `Some`: the worker is to be ejected, and the evidence is used up.
    ///
    /// `in_window`: the request counts for the share, too. One of a session does not: its worker is not a choice.
    pub fn note(&self, outcome: Outcome, in_window: bool, now_ms: u64, rules: &Rules) -> Option<Outcome> {
        let good = outcome == Outcome::Answer;
        if in_window {
            self.requests.note(rules.slot(now_ms));
        }
        if matches!(outcome, Outcome::Answer | Outcome::ServerError) {
            // A load, so that the line of a healthy worker is not written for nothing.
            if self.row.load(Relaxed) != 0 {
                self.row.store(0, Relaxed);
            }
            if good {
                return None;
            }
        }
        self.judge(outcome, in_window, now_ms, rules)
    }

    fn judge(&self, outcome: Outcome, in_window: bool, now_ms: u64, rules: &Rules) -> Option<Outcome> {
        if in_window {
            self.errors.note(rules.slot(now_ms));
        }
        let in_a_row = outcome != Outcome::ServerError && self.one_more_failure(now_ms, rules) && rules.failures > 0;
        let by_share = in_window && self.errors_reach(now_ms, rules);
        if in_a_row || by_share {
            self.forget();
        }
        if in_a_row { Some(outcome) } else { by_share.then_some(Outcome::ServerError) }
    }

    /// A row ends with an answer, or with a whole window without a failure.
    fn one_more_failure(&self, now_ms: u64, rules: &Rules) -> bool {
        let window_ms = rules.cell_ms.saturating_mul(u64::from(CELLS));
        let last = self.last_failure_ms.swap(now_ms, Relaxed);
        if now_ms.saturating_sub(last) > window_ms {
            self.row.store(0, Relaxed);
        }
        self.row.fetch_add(1, Relaxed).saturating_add(1) >= rules.failures
    }

    fn errors_reach(&self, now_ms: u64, rules: &Rules) -> bool {
        let slot = rules.slot(now_ms);
        let (requests, errors) = (self.requests.count(slot), self.errors.count(slot));
        rules.errors > 0 && requests >= u64::from(rules.volume) && errors * 100 >= requests * u64::from(rules.errors)
    }

    fn forget(&self) {
        self.row.store(0, Relaxed);
        self.requests.clear();
        self.errors.clear();
    }

    /// Sets it aside from now on; returns for how long, ms.
    pub fn begin(&self, now_ms: u64, rules: &Rules) -> u64 {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let well_ms = now_ms.saturating_sub(past.until_ms);
        let forgiven = well_ms.checked_div(past.last_ms.saturating_mul(FORGIVES)).unwrap_or(0);
        past.steps = past.steps.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
        let ms = rules.time_ms.saturating_mul(1_u64 << past.steps.min(40)).min(rules.max_time_ms).max(1);
        let until_ms = now_ms.saturating_add(ms);
        *past = Past { steps: past.steps.saturating_add(1).min(40), last_ms: ms, until_ms };
        self.until_ms.store(until_ms, Relaxed);
        ms
    }

    /// Whether it is out at `now`, which is asked only of a worker that was ejected.
    pub fn look(&self, now: impl FnOnce() -> u64) -> Look {
        let until = self.until_ms.load(Relaxed);
        if until == 0 {
            return Look::In;
        }
        let now_ms = now();
        if now_ms < until {
            return Look::Out;
        }
        if self.until_ms.compare_exchange(until, 0, Relaxed, Relaxed).is_err() {
            return Look::In;
        }
        self.ease_in(now_ms);
        Look::Back
    }

    /// Milliseconds it will still be out.
    pub fn left_ms(&self, now_ms: u64) -> Option<u64> {
        let left = self.until_ms.load(Relaxed).saturating_sub(now_ms);
        (left > 0).then_some(left)
    }

    /// It was not to be used, and is again: its share grows from here.
    pub fn ease_in(&self, now_ms: u64) {
        self.back_ms.store(now_ms.max(1), Relaxed);
    }

    /// Another process listens there now: the old one's failures are not its own. The first ejection ends with the process
    /// it was for; a worker that was ejected life after life serves its time, or it would flap for ever.
    pub fn new_life(&self, now_ms: u64) {
        self.forget();
        self.ease_in(now_ms);
        if self.past.lock().unwrap_or_else(PoisonError::into_inner).steps <= 1 {
            self.until_ms.store(0, Relaxed);
        }
    }

    /// Parts of [`WHOLE`] of its share it may have at `now`, which is asked only while it is eased in.
    pub fn part(&self, now: impl FnOnce() -> u64, rules: &Rules) -> u32 {
        let back = self.back_ms.load(Relaxed);
        if back == 0 {
            return WHOLE;
        }
        let gone = now().saturating_sub(back);
        if gone >= rules.slow_start_ms {
            let _ = self.back_ms.compare_exchange(back, 0, Relaxed, Relaxed);
            return WHOLE;
        }
        let part = gone.saturating_mul(u64::from(WHOLE)).checked_div(rules.slow_start_ms);
        part.and_then(|part| u32::try_from(part).ok()).unwrap_or(WHOLE).clamp(FIRST, WHOLE)
    }

    /// Requests of the window that counted for the share.
    pub fn requests(&self, now_ms: u64, rules: &Rules) -> u64 {
        self.requests.count(rules.slot(now_ms))
    }
}

/// Cells of a [`Window`].
pub const CELLS: u32 = 10;

/// Counts over a sliding time, in cells. Shared between threads, without a lock; which cell is now is an argument.
#[derive(Debug, Default)]
pub struct Window {
    /// Each: the slot it counts for in the upper half, the count in the lower.
    cells: [AtomicU64; CELLS as usize],
}

impl Window {
    /// Counts one in `slot`.
    pub fn note(&self, slot: u32) {
        let Some(cell) = self.cells.get((slot % CELLS) as usize) else { return };
        let fresh = u64::from(slot) << 32;
        let old = cell.load(Relaxed);
        if old >> 32 == u64::from(slot) {
            // One add, not a loop: this is on the way of every request. At worst a thread that is late by a whole window
            // counts one for the wrong cell.
            cell.fetch_add(1, Relaxed);
            return;
        }
        // A little ahead is another thread's clock, and counts there; anything else is old, or of a window of another length.
        let next = |old: u64| {
            let ahead = (old >> 32).saturating_sub(u64::from(slot));
            if (1..u64::from(CELLS)).contains(&ahead) || ahead == 0 && old >= fresh { old + 1 } else { fresh + 1 }
        };
        let _ = cell.fetch_update(Relaxed, Relaxed, |old| Some(next(old)));
    }

    /// What was counted in `slot` and the cells before it.
    pub fn count(&self, slot: u32) -> u64 {
        let recent = |cell: &AtomicU64| {
            let cell = cell.load(Relaxed);
            let at = u32::try_from(cell >> 32).unwrap_or(u32::MAX);
            if at.abs_diff(slot) < CELLS { cell & u64::from(u32::MAX) } else { 0 }
        };
        self.cells.iter().map(recent).sum()
    }

    fn clear(&self) {
        for cell in &self.cells {
            cell.store(0, Relaxed);
        }
    }
}

/// Adds what a live request came to at a worker, and ejects it where that is called for and enough of the pool stays.
pub fn note(upstream: &Upstream, worker: &Worker, outcome: Outcome, in_window: bool, now_ms: u64) {
    if let Some(why) = worker.eject.note(outcome, in_window, now_ms, &upstream.eject) {
        eject(upstream, worker, why, now_ms);
    }
}

#[cold]
fn eject(upstream: &Upstream, worker: &Worker, why: Outcome, now_ms: u64) {
    // Two threads must not both take the last place; a verdict is rare.
    let _one_by_one = upstream.carried.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
    if worker.eject.left_ms(now_ms).is_some() {
        return;
    }
    // Workers that are out for another reason are no part of the pool: they cannot stand in for this one.
    let usable = |other: &Worker| other.admin() == AdminState::Ready && other.health() == Health::Up;
    let others = || upstream.members.iter().map(|Member { worker, .. }| worker).filter(|w| w.serial != worker.serial);
    let pool = 1 + others().filter(|other| usable(other)).count();
    let out = others().filter(|other| usable(other) && other.eject.left_ms(now_ms).is_some()).count();
    if !upstream.eject.leaves_enough(pool, out) {
        worker.series.spared.inc();
        say_full!(upstream = %worker.upstream, worker = %worker.name, why = why.word(), ejected = out, of = pool,
            "this worker fails, but no more of the pool may be ejected (max_share)");
        return;
    }
    let ms = worker.eject.begin(now_ms, &upstream.eject);
    worker.series.ejected(why);
    worker.notes.ejected(why.word(), now_ms, ms);
    tracing::warn!(upstream = %worker.upstream, worker = %worker.name, why = why.word(), seconds = ms.div_ceil(1_000),
        "worker ejected: it keeps its sessions and gets no new ones");
}
