//! Monotonic time since the process began to serve, as integers that atomics can hold.
//!
//! Pure parts do not use this module; they take time as an argument (ARCHITECTURE.md, invariant 12).

use std::sync::LazyLock;
use std::time::{Duration, Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since the first call in this process.
pub fn now_ms() -> u64 {
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds from the first call in this process to `time`, without reading the clock; 0 if `time` is earlier.
pub fn ms_at(time: Instant) -> u64 {
    u64::try_from(time.saturating_duration_since(*START).as_millis()).unwrap_or(u64::MAX)
}

/// Seconds from the first call in this process to `time`, without reading the clock; 0 if `time` is earlier.
pub fn s_at(time: Instant) -> u32 {
    u32::try_from(time.saturating_duration_since(*START).as_secs()).unwrap_or(u32::MAX)
}

/// Microseconds since the first call in this process.
pub fn now_us() -> u64 {
    u64::try_from(START.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Tenths of a millisecond since the first call in this process, wrapping; the unit of
/// [`crate::websocket::round_trip`].
pub fn now_tenths() -> u32 {
    let [.., a, b, c, d] = (now_us() / 100).to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// Seconds since the first call in this process; stays at its maximum after 136 years.
pub fn now_s() -> u32 {
    u32::try_from(START.elapsed().as_secs()).unwrap_or(u32::MAX)
}

/// A duration in seconds, rounded up: a silence limit must never be shorter than what the session was promised.
pub fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX)
}
