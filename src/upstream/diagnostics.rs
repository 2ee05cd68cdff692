//! Facts about a worker that are shown to operators and decide nothing: its last check and its last ejection.
//!
//! They are written where they happen (on the control thread; a rare ejection on a data thread) and read on request.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

use crate::clock::Millis;
use crate::locks::lock;

/// The last health check and the last ejection of one worker.
#[derive(Default)]
pub struct Notes(Mutex<Last>);

#[derive(Default)]
struct Last {
    check: Option<LastCheck>,
    ejection: Option<Ejection>,
}

/// The result of a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastCheck {
    /// When the check ended ([`crate::clock::now_ms`]).
    pub at_ms: Millis,
    /// The outcome: `passed`, `failed`, `timed out` or `refused`.
    pub outcome: &'static str,
    /// What was received instead of what the check expects; `None` if the outcome says it all.
    pub detail: Option<String>,
    /// The numbers of equal outcomes in a row, after this check.
    pub rows: Rows,
    /// Number of passed checks in a row that make the worker up.
    pub rise: u32,
}

/// Numbers of checks in a row with the same outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rows {
    /// Number of checks in a row that passed.
    pub passed: u32,
    /// Number of checks in a row that did not pass, for any reason.
    pub failed: u32,
    /// Number of checks in a row that timed out.
    pub timed_out: u32,
}

/// An ejection of a worker, over or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// When the ejection began ([`crate::clock::now_ms`]).
    pub at_ms: Millis,
    /// The reason: `connect`, `broken`, `timeout` or `errors`.
    pub why: &'static str,
    /// Planned length of the ejection in milliseconds.
    pub for_ms: u64,
}

impl Notes {
    /// Records the result of a health check.
    pub fn checked(&self, check: LastCheck) {
        self.lock().check = Some(check);
    }

    /// Records that the worker was ejected.
    pub fn ejected(&self, why: &'static str, at_ms: Millis, for_ms: u64) {
        self.lock().ejection = Some(Ejection { at_ms, why, for_ms });
    }

    /// Returns the last check; `None` before the first.
    pub fn check(&self) -> Option<LastCheck> {
        self.lock().check.clone()
    }

    /// Returns the last ejection; `None` if there was none.
    pub fn ejection(&self) -> Option<Ejection> {
        self.lock().ejection
    }

    fn lock(&self) -> MutexGuard<'_, Last> {
        lock(&self.0)
    }
}

/// Counts refusals within ten seconds. Packed: start of the window (ms) in the upper 56 bits, count in the lower 8.
#[derive(Debug, Default)]
pub(crate) struct RefusalWindow(AtomicU64);

impl RefusalWindow {
    /// Adds a refusal; returns whether it is the third one within the window.
    pub(crate) fn add(&self, now: Millis) -> bool {
        const WINDOW_MS: u64 = 10_000;
        let old = self.0.load(Relaxed);
        let (start, count) = (Millis::new(old >> 8), old & 0xff);
        let (start, count) = if now.since(start) > WINDOW_MS { (now, 1) } else { (start, (count + 1).min(255)) };
        self.0.store(start.get() << 8 | count, Relaxed);
        count == 3
    }
}
