//! Logs: one subscriber, and how a full thing says so without flooding (invariant 14).

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tracing_subscriber::EnvFilter;

use crate::clock;

/// Sends logs to standard error, in the format systemd and people read. `RUST_LOG` beats `level`.
pub fn start(level: &str) {
    let from_environment =
        std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.is_empty()).and_then(|text| filter(&text).ok());
    let fixed = from_environment.is_some();
    let filter = from_environment.or_else(|| filter(level).ok()).unwrap_or_else(|| EnvFilter::new("info"));
    // A second subscriber (tests start several servers in a process) is no error: the first one serves.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Colours are for people: in a journal or a file they are noise between a key and its value.
    let log = log.with_ansi(std::io::stderr().is_terminal()).with_filter_reloading();
    let handle = log.reload_handle();
    if log.try_init().is_ok() && !fixed {
        let _ = SET_FILTER.set(Box::new(move |filter| _ = handle.reload(filter)));
    }
}

/// The filter a text means. h2 and rustls warn of what clients do, a line a frame (a PONG nobody asked for): a log is not
/// theirs to fill, and the metrics count them. A text that names these two has its way.
fn filter(text: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(format!("h2=off,rustls=off,{text}"))
}

/// Changes the filter of the one subscriber; the handle's own type names all of its layers.
static SET_FILTER: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// From now on logs at another level, unless `RUST_LOG` has said which.
pub fn set_level(level: &str) {
    if let (Some(set), Ok(filter)) = (SET_FILTER.get(), filter(level)) {
        set(filter);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_cannot_make_libraries_talk() {
        for (text, has) in [
            ("info", &["h2=off", "rustls=off", "info"][..]),
            ("h2=trace,info", &["h2=trace", "rustls=off", "info"]),
            ("stickyd::affinity=debug", &["h2=off", "stickyd::affinity=debug"]),
        ] {
            let filter = filter(text).unwrap().to_string();
            let said: Vec<_> = filter.split(',').collect();
            assert!(has.iter().all(|one| said.contains(one)), "{text}: {filter}");
            assert_eq!(said.iter().filter(|one| one.starts_with("h2=")).count(), 1, "{text}: {filter}");
        }
        assert!(filter("=nonsense=").is_err());
    }
}
