//! Logs: one subscriber, and how a full thing says so without flooding (invariant 14).

mod level;
mod lines;

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::clock;
use crate::config::{Log, LogFormat};

pub use level::{Level, level, say_level, set_level};
pub(crate) use lines::dropped;

/// Sends logs to standard error, in the format systemd and people read, or as one JSON object a line. `RUST_LOG` beats the
/// level. A second subscriber (tests start several servers in a process) is no error: the first one serves.
pub fn start(config: &Log) {
    let log = tracing_subscriber::fmt().with_env_filter(level::begin(&config.level));
    // Without a thread for it a slow reader of the log would hold up clients; better that than no log.
    let out = lines::start().map_or_else(|_| BoxMakeWriter::new(std::io::stderr), BoxMakeWriter::new);
    match config.format {
        LogFormat::Text => {
            // Colours are for people: in a journal or a file they are noise between a key and its value.
            let log = log.with_writer(out).with_ansi(std::io::stderr().is_terminal()).with_filter_reloading();
            let handle = log.reload_handle();
            if log.try_init().is_ok() {
                level::changes_by(move |filter| _ = handle.reload(filter));
            }
        }
        LogFormat::Json => {
            let log = log.json().flatten_event(true).with_current_span(false).with_span_list(false);
            let log = log.with_writer(out).with_filter_reloading();
            let handle = log.reload_handle();
            if log.try_init().is_ok() {
                level::changes_by(move |filter| _ = handle.reload(filter));
            }
        }
    }
}

/// Before the process ends: what was logged gets a second to be written.
pub fn flush() {
    lines::flush();
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
