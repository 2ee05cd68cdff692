//! Passive ejection: a worker whose live requests fail is set aside for a while, then its share of new sessions grows
//! back slowly.
//!
//! Two rules eject a worker, both based on the outcome of clients' own requests: too many failures in a row (no
//! connect, a broken connection, no response in time) without a response in between, or too large a share of failures
//! and server errors among the requests in a sliding window. Both need several client addresses that saw the failures
//! ([`witnesses`]): a page that always fails must not let one client eject workers. Health checks, probes, refusals
//! during discovery, open polls and failures caused by clients never count; their callers do not report them here. Each
//! further ejection is twice as long; a worker that stays well is forgiven step by step. An ejected worker keeps its
//! sessions and gets no new ones (docs/reference/routing.md §8).
//!
//! [`EjectionState`] is pure: time is an argument (ARCHITECTURE.md, invariant 12). [`note`] is the only function here
//! that knows the pool; it limits how much of the pool may be ejected. Which outcomes are reported is decided in
//! `proxy::forward`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::worker::{Worker, WorkerHealth};
use super::{Member, Upstream};
use crate::clock::{AtomicMillis, Millis};
use crate::config::{self, AdminState};
use crate::events::tell;
use crate::locks::lock;
pub(crate) use crate::metrics::labels::AttemptOutcome;
use crate::telemetry::{say_full, say_rarely};
pub(crate) use witnesses::ClientKey;
use witnesses::Witnesses;

#[cfg(test)]
mod tests;
mod witnesses;

/// Number of parts of a worker's full share of new sessions, used while its share grows back.
pub(crate) const WHOLE: u32 = 1_000;

/// Part of [`WHOLE`] with which a returning worker begins: it needs some traffic to show whether it is well.
const FIRST: u32 = WHOLE / 10;

/// Multiple of the last ejection's length for which a worker must stay well to be forgiven one step of growth. The
/// ejections of a worker that is ill for a fifth of the time keep growing.
const FORGIVES: u64 = 4;

/// Which outcomes eject a worker, and for how long; all times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EjectionRules {
    /// Number of failures in a row that ejects a worker; 0 disables this rule.
    pub failures: u32,
    /// Percentage of errors and failures in the window that ejects a worker; 0 disables this rule.
    pub errors: u32,
    /// Minimum number of requests in the window for the percentage to count.
    pub volume: u32,
    /// Length of one of the window's [`CELLS`], in milliseconds.
    pub cell_ms: u64,
    /// Length of the first ejection, in milliseconds.
    pub time_ms: u64,
    /// Maximum length of an ejection, in milliseconds.
    pub max_time_ms: u64,
    /// Maximum percentage of the pool that may be ejected at the same time.
    pub max_share: u32,
    /// Time over which a returning worker's share grows back, in milliseconds; 0: it gets its full share at once.
    pub slow_start_ms: u64,
}

impl EjectionRules {
    /// Derives the rules from an upstream's configuration.
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

    /// Returns the number of the window cell that contains the time `now_ms`.
    pub fn slot(&self, now_ms: Millis) -> u32 {
        u32::try_from(now_ms.get() / self.cell_ms).unwrap_or(u32::MAX)
    }

    /// Whether one more of `pool` workers may be ejected while `out` of them are.
    pub fn leaves_enough(&self, pool: usize, out: usize) -> bool {
        (out + 1).saturating_mul(100) <= pool.saturating_mul(self.max_share as usize)
    }
}

/// What live traffic has shown of one worker. It is shared between threads. A good response costs a load and a relaxed
/// add, on a cache line that the worker's other counters need anyway; only failures cost more.
#[derive(Debug, Default)]
pub struct EjectionState {
    /// Number of failures since the last response.
    row: AtomicU32,
    last_failure: AtomicMillis,
    requests: Window,
    errors: Window,
    /// End of the ejection; none if the worker is not ejected.
    until: AtomicMillis,
    /// Start of the time in which the worker's share grows back; none if it has its full share.
    back: AtomicMillis,
    past: Mutex<Past>,
    /// The clients that saw the failures; locked only at a failure.
    witnesses: Mutex<Witnesses>,
}

/// The record of past ejections, from which the length of the next one follows.
#[derive(Debug, Default)]
struct Past {
    /// Number of times that the length of the next ejection is doubled.
    steps: u32,
    /// Length of the last ejection in milliseconds.
    last_ms: u64,
    /// End of the last ejection.
    until: Millis,
}

/// What the outcome of a request means for its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EjectionVerdict {
    /// The worker goes on as it is.
    Stays,
    /// The worker would be ejected, but too few client addresses saw its failures.
    TooFewClients,
    /// The worker is to be ejected for this reason.
    Ejects(AttemptOutcome),
}

impl EjectionState {
    /// Counts the outcome of a request. If the worker is to be ejected, the counts are reset.
    ///
    /// `in_window` tells whether the request also counts for the percentage. Requests with a session do not, because
    /// the choice of their worker is fixed. `client` sent the request.
    pub fn note(
        &self,
        outcome: AttemptOutcome,
        in_window: bool,
        client: ClientKey,
        now_ms: Millis,
        rules: &EjectionRules,
    ) -> EjectionVerdict {
        let good = outcome == AttemptOutcome::Answer;
        if in_window {
            self.requests.note(rules.slot(now_ms));
        }
        if matches!(outcome, AttemptOutcome::Answer | AttemptOutcome::ServerError) {
            // The load avoids a needless write to the cache line of a healthy worker.
            if self.row.load(Relaxed) != 0 {
                self.row.store(0, Relaxed);
            }
            if good {
                return EjectionVerdict::Stays;
            }
        }
        self.judge(outcome, in_window, client, now_ms, rules)
    }

    fn judge(
        &self,
        outcome: AttemptOutcome,
        in_window: bool,
        client: ClientKey,
        now_ms: Millis,
        rules: &EjectionRules,
    ) -> EjectionVerdict {
        let witness = (outcome != AttemptOutcome::Connect).then_some(client);
        let slot = rules.slot(now_ms);
        let mut witnesses = lock(&self.witnesses);
        let mut row = false;
        if outcome != AttemptOutcome::ServerError {
            let length = self.one_more_failure(now_ms, rules);
            witnesses.add_to_row(witness, length == 1);
            row = rules.failures > 0 && length >= rules.failures;
        }
        let mut share = false;
        if in_window {
            self.errors.note(slot);
            witnesses.add_to_window(witness, slot);
            share = self.errors_reach(slot, rules);
        }
        let in_a_row = row && witnesses.confirm_row(rules.failures);
        let by_share = share && {
            let (requests, errors) = (self.requests.count(slot), self.errors.count(slot));
            witnesses.confirm_window(requests, errors, slot, rules)
        };
        drop(witnesses);
        if in_a_row || by_share {
            self.forget();
        }
        match (in_a_row, by_share) {
            (true, _) => EjectionVerdict::Ejects(outcome),
            (false, true) => EjectionVerdict::Ejects(AttemptOutcome::ServerError),
            (false, false) if row || share => EjectionVerdict::TooFewClients,
            (false, false) => EjectionVerdict::Stays,
        }
    }

    /// Adds a failure to the row and returns the row's length. A row ends with a response, or after a whole window
    /// without a failure.
    fn one_more_failure(&self, now_ms: Millis, rules: &EjectionRules) -> u32 {
        let window_ms = rules.cell_ms.saturating_mul(u64::from(CELLS));
        let last = self.last_failure.replace(now_ms);
        if last.is_none_or(|last| now_ms.since(last) > window_ms) {
            self.row.store(0, Relaxed);
        }
        self.row.fetch_add(1, Relaxed).saturating_add(1)
    }

    fn errors_reach(&self, slot: u32, rules: &EjectionRules) -> bool {
        let (requests, errors) = (self.requests.count(slot), self.errors.count(slot));
        rules.errors > 0 && requests >= u64::from(rules.volume) && errors * 100 >= requests * u64::from(rules.errors)
    }

    fn forget(&self) {
        self.row.store(0, Relaxed);
        self.requests.clear();
        self.errors.clear();
        lock(&self.witnesses).clear();
    }

    /// Ejects the worker from now on. Returns the length of the ejection in milliseconds.
    pub fn begin(&self, now_ms: Millis, rules: &EjectionRules) -> u64 {
        let mut past = lock(&self.past);
        let well_ms = now_ms.since(past.until);
        let forgiven = well_ms.checked_div(past.last_ms.saturating_mul(FORGIVES)).unwrap_or(0);
        past.steps = past.steps.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
        let ms = rules.time_ms.saturating_mul(1_u64 << past.steps.min(40)).min(rules.max_time_ms).max(1);
        let until = now_ms.plus_ms(ms);
        *past = Past { steps: past.steps.saturating_add(1).min(40), last_ms: ms, until };
        self.until.set(Some(until));
        ms
    }

    /// Whether the worker is ejected at the time `now`, which is evaluated only if an ejection has begun.
    pub fn is_out(&self, now: impl FnOnce() -> Millis) -> bool {
        self.until.get().is_some_and(|until| now() < until)
    }

    /// Ends an ejection whose time is over, and starts the growth of the worker's share. Returns `true` once per
    /// ejection.
    pub fn end_if_over(&self, now_ms: Millis) -> bool {
        let over = self.until.get().filter(|until| *until <= now_ms);
        let ended = over.is_some_and(|until| self.until.change(Some(until), None));
        if ended {
            self.back.set(over);
        }
        ended
    }

    /// Returns the remaining time of the ejection in milliseconds; `None` if the worker is not ejected.
    pub fn left_ms(&self, now_ms: Millis) -> Option<u64> {
        let left = self.until.get()?.since(now_ms);
        (left > 0).then_some(left)
    }

    /// Starts the slow growth of the worker's share, after a time without new sessions.
    pub fn ease_in(&self, now_ms: Millis) {
        self.back.set(Some(now_ms));
    }

    /// Resets the counts because a new process listens at the address, and the old one's failures are not its own. A
    /// first ejection ends together with the process that caused it. A worker that is ejected in one life after the
    /// other stays ejected to the end, otherwise it would flap for ever.
    pub fn new_life(&self, now_ms: Millis) {
        self.forget();
        self.ease_in(now_ms);
        if lock(&self.past).steps <= 1 {
            self.until.set(None);
        }
    }

    /// Returns how many parts of [`WHOLE`] of its share the worker may get at the time `now`, which is evaluated only
    /// while the share grows back. It grows from the end of an ejection, also before [`Self::end_if_over`] sees it.
    pub fn part(&self, now: impl FnOnce() -> Millis, rules: &EjectionRules) -> u32 {
        let Some(back) = self.until.get().or_else(|| self.back.get()) else { return WHOLE };
        let gone = now().since(back);
        if gone >= rules.slow_start_ms {
            self.back.change(Some(back), None);
            return WHOLE;
        }
        let part = gone.saturating_mul(u64::from(WHOLE)).checked_div(rules.slow_start_ms);
        part.and_then(|part| u32::try_from(part).ok()).unwrap_or(WHOLE).clamp(FIRST, WHOLE)
    }

    /// Returns the number of requests in the window.
    pub fn requests(&self, now_ms: Millis, rules: &EjectionRules) -> u64 {
        self.requests.count(rules.slot(now_ms))
    }
}

/// Number of cells of a [`Window`].
pub(crate) const CELLS: u32 = 10;

/// A counter over a sliding time window that is divided into cells. It is shared between threads without a lock; the
/// number of the current cell is an argument.
#[derive(Debug, Default)]
pub struct Window {
    /// Each cell holds the slot that it counts in the upper half, and the count in the lower half.
    cells: [AtomicU64; CELLS as usize],
}

impl Window {
    /// Counts one event in `slot`.
    pub fn note(&self, slot: u32) {
        let Some(cell) = self.cells.get((slot % CELLS) as usize) else { return };
        let fresh = u64::from(slot) << 32;
        let old = cell.load(Relaxed);
        if old >> 32 == u64::from(slot) {
            // A single add instead of a compare-and-swap loop, as every request passes here. At worst a thread that is
            // late by a whole window counts one event in the wrong cell.
            cell.fetch_add(1, Relaxed);
            return;
        }
        // A cell that is slightly ahead was written by a thread with a later clock, and the event counts there. Any
        // other cell is old, or from a window of another length, and starts anew.
        let next = |old: u64| {
            let ahead = (old >> 32).saturating_sub(u64::from(slot));
            if (1..u64::from(CELLS)).contains(&ahead) || ahead == 0 && old >= fresh { old + 1 } else { fresh + 1 }
        };
        let _ = cell.fetch_update(Relaxed, Relaxed, |old| Some(next(old)));
    }

    /// Returns the number of events in `slot` and in the cells before it.
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

/// Counts the outcome of a live request at a worker, and ejects the worker if its rules require it and enough of the
/// pool stays.
pub(crate) fn note(
    upstream: &Upstream,
    worker: &Worker,
    outcome: AttemptOutcome,
    in_window: bool,
    client: ClientKey,
    now_ms: Millis,
) {
    match worker.eject.note(outcome, in_window, client, now_ms, &upstream.eject) {
        EjectionVerdict::Stays => {}
        EjectionVerdict::Ejects(why) => eject(upstream, worker, why, now_ms),
        EjectionVerdict::TooFewClients => say_rarely!(upstream = %worker.upstream, worker = %worker.name,
            "failing worker not ejected: too few client addresses saw its failures (behind a proxy, name it in the \
             listener's trusted_proxies)"),
    }
}

#[cold]
fn eject(upstream: &Upstream, worker: &Worker, why: AttemptOutcome, now_ms: Millis) {
    // The lock keeps two threads from both using the last ejection that `max_share` allows. Ejections are rare.
    let _one_by_one = lock(&upstream.carried.ejecting);
    if worker.eject.left_ms(now_ms).is_some() {
        return;
    }
    // Workers that get no new sessions for another reason are not counted as part of the pool: they cannot replace this
    // one.
    let usable = |other: &Worker| other.admin() == AdminState::Ready && other.health() == WorkerHealth::Up;
    let others = || upstream.members.iter().map(|Member { worker, .. }| worker).filter(|w| w.serial != worker.serial);
    let pool = 1 + others().filter(|other| usable(other)).count();
    let out = others().filter(|other| usable(other) && other.eject.left_ms(now_ms).is_some()).count();
    if !upstream.eject.leaves_enough(pool, out) {
        worker.series.spared.inc();
        say_full!(upstream = %worker.upstream, worker = %worker.name, why = why.word(), ejected = out, of = pool,
            "failing worker not ejected: too much of the pool would be ejected (max_share)");
        return;
    }
    let ms = worker.eject.begin(now_ms, &upstream.eject);
    worker.mark_moved();
    worker.series.ejected(why);
    worker.notes.ejected(why.word(), now_ms, ms);
    tell!(worker.series.events, WorkerEjected, warn,
        upstream = %worker.upstream, worker = %worker.name, why = why.word(), seconds = ms.div_ceil(1_000),
        "worker ejected: it keeps its sessions and gets no new ones");
}
