//! Logs: one subscriber, whose lines show only printable characters, and rate-limited warnings for everything bounded
//! that is full (ARCHITECTURE.md, invariant 14).

pub(crate) mod access_file;
mod level;
mod shown;
pub(crate) mod writer;

use std::io::IsTerminal;

use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::clock::{self, AtomicMillis};
use crate::config::{Log, LogFormat};

pub(crate) use level::{Level, level, say_level, set_level};
pub(crate) use writer::dropped;

/// Sends logs to standard error, as text that systemd and people can read, or as one JSON object per line. `RUST_LOG`
/// overrides the configured level. A second subscriber is not an error (tests start several servers in one process):
/// the first one stays in use.
pub fn start(config: &Log) {
    let log = tracing_subscriber::fmt().with_env_filter(level::begin(&config.level));
    // Without a writer thread, a slow reader of the log holds up clients; that is still better than no log.
    let out = writer::start().map_or_else(|_| BoxMakeWriter::new(std::io::stderr), BoxMakeWriter::new);
    match config.format {
        LogFormat::Text => {
            // Colours only on a terminal: in a journal or a file the escape codes get between a key and its value.
            let log = log.fmt_fields(shown::ShownFields).with_writer(out);
            let log = log.with_ansi(std::io::stderr().is_terminal()).with_filter_reloading();
            let handle = log.reload_handle();
            if log.try_init().is_ok() {
                level::changes_by(move |filter| _ = handle.reload(filter));
            }
        }
        LogFormat::Json => {
            let log = log.json().flatten_event(true).with_current_span(false).with_span_list(false);
            let log = log.with_writer(shown::ShownJson(out)).with_filter_reloading();
            let handle = log.reload_handle();
            if log.try_init().is_ok() {
                level::changes_by(move |filter| _ = handle.reload(filter));
            }
        }
    }
}

/// Waits up to a second for pending log lines to be written. Called before the process ends.
pub fn flush() {
    writer::flush();
}

/// Rate limit for messages that would otherwise repeat.
pub(crate) struct Rarely(AtomicMillis);

impl Rarely {
    /// Creates a limit that lets the first message pass.
    pub(crate) const fn new() -> Self {
        Self(AtomicMillis::none())
    }

    /// Returns whether the message may be logged now: true the first time, then once per `every_ms` milliseconds.
    pub(crate) fn try_pass(&self, every_ms: u64) -> bool {
        let (now, last) = (clock::now_ms(), self.0.get());
        last.is_none_or(|last| now.since(last) >= every_ms) && self.0.change(last, Some(now))
    }
}

impl Default for Rarely {
    fn default() -> Self {
        Self::new()
    }
}

/// Logs a warning that something bounded is full, at most once a second per call site.
macro_rules! say_full {
    ($($what:tt)+) => {{
        static SAID: $crate::telemetry::Rarely = $crate::telemetry::Rarely::new();
        if SAID.try_pass(1_000) {
            tracing::warn!($($what)+);
        }
    }};
}

/// Logs a hint to the operator, at most once in ten minutes per call site.
macro_rules! say_rarely {
    ($($what:tt)+) => {{
        static SAID: $crate::telemetry::Rarely = $crate::telemetry::Rarely::new();
        if SAID.try_pass(600_000) {
            tracing::warn!($($what)+);
        }
    }};
}

pub(crate) use {say_full, say_rarely};
