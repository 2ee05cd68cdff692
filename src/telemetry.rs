//! Logs: one subscriber, and how a full thing says so without flooding (invariant 14).

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tracing_subscriber::EnvFilter;

use crate::clock;

/// Sends logs to standard error, in the format systemd and people read. `RUST_LOG` beats `level`.
pub fn start(level: &str) {
    let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(level));
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("info"));
    // A second subscriber (tests start several servers in a process) is no error: the first one serves.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Colours are for people: in a journal or a file they are noise between a key and its value.
    let _ = log.with_ansi(std::io::stderr().is_terminal()).try_init();
}

/// Lets something be said once in a while.
pub struct Rarely(AtomicU64);

impl Rarely {
    /// Nothing said yet.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Whether it may be said now: the first time, and once every `every_ms` after that.
    pub fn may(&self, every_ms: u64) -> bool {
        let now = clock::now_ms() + every_ms;
        let last = self.0.load(Relaxed);
        now - last.min(now) >= every_ms && self.0.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
    }
}

impl Default for Rarely {
    fn default() -> Self {
        Self::new()
    }
}

/// A warning that something bounded is full: at most once a second from each place.
macro_rules! say_full {
    ($($what:tt)+) => {{
        static SAID: $crate::telemetry::Rarely = $crate::telemetry::Rarely::new();
        if SAID.may(1_000) {
            tracing::warn!($($what)+);
        }
    }};
}

/// A hint to the operator: at most once in ten minutes from each place.
macro_rules! say_rarely {
    ($($what:tt)+) => {{
        static SAID: $crate::telemetry::Rarely = $crate::telemetry::Rarely::new();
        if SAID.may(600_000) {
            tracing::warn!($($what)+);
        }
    }};
}

pub(crate) use {say_full, say_rarely};
