//! Monotonic time since the process began to serve, as small values that atomics can hold.
//!
//! Pure parts take a [`Millis`] or [`Seconds`] as an argument and read no clock (ARCHITECTURE.md, invariant 12).
//! Spans of time are not points: they are a `Duration`, or in small structs an integer with its unit in the name.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A point of time, in milliseconds since the start of the process. An `Option` of it is as small as the value itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Millis(NonZeroU64);

impl Millis {
    /// The start of the process.
    pub const START: Self = Self(NonZeroU64::MIN);

    /// The point of time this many milliseconds after the start.
    #[inline]
    pub const fn new(ms: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(ms))
    }

    /// Milliseconds from the start to this point of time.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0.get() - 1
    }

    /// Milliseconds from `earlier` to this point of time; 0 if `earlier` is later.
    #[inline]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.get().saturating_sub(earlier.0.get())
    }

    /// The point of time this many milliseconds later.
    #[inline]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// The point of time that is later by `time`.
    #[inline]
    pub fn saturating_add(self, time: Duration) -> Self {
        self.plus_ms(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    /// The same point of time, in whole seconds.
    #[inline]
    pub fn seconds(self) -> Seconds {
        Seconds::new(u32::try_from(self.get() / 1_000).unwrap_or(u32::MAX))
    }
}

impl Default for Millis {
    fn default() -> Self {
        Self::START
    }
}

/// A point of time, in seconds since the start of the process; it stays at its maximum after 136 years. An `Option` of
/// it is as small as the value itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Seconds(NonZeroU32);

impl Seconds {
    /// The start of the process.
    pub const START: Self = Self(NonZeroU32::MIN);

    /// The point of time this many seconds after the start.
    #[inline]
    pub const fn new(s: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(s))
    }

    /// Seconds from the start to this point of time.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0.get() - 1
    }

    /// Seconds from `earlier` to this point of time; 0 if `earlier` is later.
    #[inline]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.get().saturating_sub(earlier.0.get())
    }

    /// The point of time this many seconds later.
    #[inline]
    pub const fn plus_s(self, s: u32) -> Self {
        Self(self.0.saturating_add(s))
    }
}

impl Default for Seconds {
    fn default() -> Self {
        Self::START
    }
}

/// A point of time that threads share, or none. All accesses are relaxed.
#[derive(Debug, Default)]
pub(crate) struct AtomicMillis(AtomicU64);

impl AtomicMillis {
    /// Creates it without a point of time.
    pub(crate) const fn none() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Creates it with this point of time.
    pub(crate) const fn new(time: Millis) -> Self {
        Self(AtomicU64::new(time.0.get()))
    }

    /// The point of time, if there is one.
    #[inline]
    pub(crate) fn get(&self) -> Option<Millis> {
        NonZeroU64::new(self.0.load(Relaxed)).map(Millis)
    }

    /// Stores a point of time, or none.
    #[inline]
    pub(crate) fn set(&self, time: Option<Millis>) {
        self.0.store(time.map_or(0, |time| time.0.get()), Relaxed);
    }

    /// Stores a point of time and returns the one before.
    #[inline]
    pub(crate) fn replace(&self, time: Millis) -> Option<Millis> {
        NonZeroU64::new(self.0.swap(time.0.get(), Relaxed)).map(Millis)
    }

    /// Stores `to` if the point of time is still `from`; returns whether it was.
    #[inline]
    pub(crate) fn change(&self, from: Option<Millis>, to: Option<Millis>) -> bool {
        let raw = |time: Option<Millis>| time.map_or(0, |time| time.0.get());
        self.0.compare_exchange(raw(from), raw(to), Relaxed, Relaxed).is_ok()
    }
}

/// A point of time in seconds that threads share, or none. All accesses are relaxed.
#[derive(Debug, Default)]
pub(crate) struct AtomicSeconds(AtomicU32);

impl AtomicSeconds {
    /// The point of time, if there is one.
    #[inline]
    pub(crate) fn get(&self) -> Option<Seconds> {
        NonZeroU32::new(self.0.load(Relaxed)).map(Seconds)
    }

    /// Stores a point of time.
    #[inline]
    pub(crate) fn set(&self, time: Seconds) {
        self.0.store(time.0.get(), Relaxed);
    }
}

/// Milliseconds since the first call in this process.
pub fn now_ms() -> Millis {
    Millis::new(u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// Milliseconds from the first call in this process to `time`, without reading the clock; 0 if `time` is earlier.
pub(crate) fn ms_at(time: Instant) -> Millis {
    Millis::new(u64::try_from(time.saturating_duration_since(*START).as_millis()).unwrap_or(u64::MAX))
}

/// Seconds from the first call in this process to `time`, without reading the clock; 0 if `time` is earlier.
pub(crate) fn s_at(time: Instant) -> Seconds {
    Seconds::new(u32::try_from(time.saturating_duration_since(*START).as_secs()).unwrap_or(u32::MAX))
}

/// Microseconds since the first call in this process.
pub(crate) fn now_us() -> u64 {
    u64::try_from(START.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Tenths of a millisecond since the first call in this process, wrapping; the unit of
/// [`crate::websocket::round_trip`].
pub(crate) fn now_tenths() -> u32 {
    let [.., a, b, c, d] = (now_us() / 100).to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// Seconds since the first call in this process.
pub fn now_s() -> Seconds {
    Seconds::new(u32::try_from(START.elapsed().as_secs()).unwrap_or(u32::MAX))
}

/// A duration in seconds, rounded up: a silence limit must never be shorter than what the session was promised.
pub(crate) fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_points_of_time_take_no_more_room() {
        assert_eq!((size_of::<Option<Millis>>(), size_of::<Option<Seconds>>()), (8, 4));
    }

    #[test]
    fn points_of_time_never_wrap() {
        let (early, late) = (Millis::new(5), Millis::new(u64::MAX));
        assert_eq!((Millis::new(0), early.get(), early.since(late)), (Millis::START, 5, 0));
        assert_eq!((early.plus_ms(u64::MAX), late.saturating_add(Duration::MAX)), (late, late));
        assert_eq!((Millis::new(61_999).seconds(), late.seconds()), (Seconds::new(61), Seconds::new(u32::MAX)));
        assert_eq!((Seconds::new(7).since(Seconds::new(5)), Seconds::new(5).since(Seconds::new(7))), (2, 0));
    }
}
