//! What an operator may want to know of a worker and nothing decides by: its last check, its last ejection.
//!
//! Written where these happen (the control thread; the rare ejection on a data thread), read when somebody asks.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The last of each.
#[derive(Default)]
pub struct Notes(Mutex<Last>);

#[derive(Default)]
struct Last {
    check: Option<Check>,
    ejection: Option<Ejection>,
}

/// How a health check came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// When it was over ([`crate::clock::now_ms`]).
    pub at_ms: u64,
    /// `passed`, `failed`, `timed out` or `refused`.
    pub outcome: &'static str,
    /// What came instead of what was expected.
    pub detail: Option<String>,
    /// The rows it ended.
    pub rows: Rows,
    /// Checks in a row that make the worker up.
    pub rise: u32,
}

/// Checks in a row with the same outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rows {
    /// Passed.
    pub passed: u32,
    /// Did not pass, in whatever way.
    pub failed: u32,
    /// Timed out.
    pub timed_out: u32,
}

/// An ejection, over or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// When it began ([`crate::clock::now_ms`]).
    pub at_ms: u64,
    /// `connect`, `broken`, `timeout` or `errors`.
    pub why: &'static str,
    /// How long it was to be, ms.
    pub for_ms: u64,
}

impl Notes {
    /// A check is over.
    pub fn checked(&self, check: Check) {
        self.lock().check = Some(check);
    }

    /// It was ejected.
    pub fn ejected(&self, why: &'static str, at_ms: u64, for_ms: u64) {
        self.lock().ejection = Some(Ejection { at_ms, why, for_ms });
    }

    /// The last check; `None` before the first.
    pub fn check(&self) -> Option<Check> {
        self.lock().check.clone()
    }

    /// The last ejection.
    pub fn ejection(&self) -> Option<Ejection> {
        self.lock().ejection
    }

    fn lock(&self) -> MutexGuard<'_, Last> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
