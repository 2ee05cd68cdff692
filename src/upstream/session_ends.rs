//! The end of a worker's sessions by an operator's action: from when, until when, and which session ends at what
//! moment.
//!
//! An [`Ending`] begins with a *drain* or *maint*, or when a worker is removed from the file; *ready* cancels it.
//! Without an `until`, sessions stay until they end by themselves. The code is pure: time and chance are arguments
//! (ARCHITECTURE.md, invariant 12). Actually ending sessions (`crate::drain`) and the states that operators can set
//! (`super::admin`) are not part of this module.

use std::num::NonZeroU8;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::clock::Millis;
use crate::config;

/// Number of slots into which the time of a drain is divided for polling sessions. It is what fits into a spare byte of
/// a pin, next to *none*.
const SLOTS: u8 = 254;

/// Time in which a worker that is replaced still takes what a client sent before it learned of its session's end. It
/// allows for the way of the answer to the client and of the request back, and for a busy client.
pub(crate) const LATE_REQUESTS: Duration = Duration::from_secs(3);

/// 2³² / golden ratio. Its multiples modulo 2³² are spread as evenly as those of any sequence whose length is not known
/// in advance.
const GOLDEN: u32 = 0x9e37_79b9;

/// When and how the sessions of one worker end.
#[derive(Debug)]
pub struct Ending {
    /// When the drain or maint began ([`crate::clock::now_ms`]).
    pub since_ms: Millis,
    /// Deadline for the last session; equal to `since_ms` if all end at once. `None`: sessions end by themselves.
    pub until_ms: Option<Millis>,
    /// Number of sessions of the worker when the ending began.
    pub sessions_at_start: u32,
    /// How the worker's tunnels are closed.
    pub farewell: config::CloseNotice,
    /// Whether the pins that need a slot have been given one.
    numbered: AtomicBool,
    /// Whether the begin of the ending was announced already.
    announced: AtomicBool,
    /// Whether the end of the last session was announced already.
    said_over: AtomicBool,
}

/// A session's position in the time of a drain. It is one byte and never 0, so that an optional slot takes no more room
/// in a pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndSlot(NonZeroU8);

impl EndSlot {
    /// The slot of sessions without a number, which end at the deadline.
    pub const NONE: Self = Self(NonZeroU8::MIN);

    /// Returns the slot of session number `count`, from 0. The slots are spread evenly, however many sessions follow.
    pub fn of(count: u32) -> Self {
        Self::at(count.wrapping_mul(GOLDEN))
    }

    /// Returns the slot at the fraction `part` / 2³² of the time.
    fn at(part: u32) -> Self {
        let index = (u64::from(part) * u64::from(SLOTS)) >> 32;
        let number = u8::try_from(index).unwrap_or(SLOTS - 1).saturating_add(2);
        NonZeroU8::new(number).map_or(Self::NONE, Self)
    }

    /// Returns the number of the slot, from 0; `None` for [`Self::NONE`].
    fn index(self) -> Option<u8> {
        self.0.get().checked_sub(2)
    }
}

impl Ending {
    /// Creates an ending that begins at `since_ms`.
    pub fn new(since_ms: Millis, until_ms: Option<Millis>, sessions: u32, farewell: config::CloseNotice) -> Self {
        Self {
            since_ms,
            until_ms,
            sessions_at_start: sessions,
            farewell,
            numbered: AtomicBool::new(until_ms.is_none()),
            announced: AtomicBool::new(false),
            said_over: AtomicBool::new(false),
        }
    }

    /// Returns the same ending with the deadline `until_ms`.
    pub fn bounded(&self, until_ms: Option<Millis>, farewell: config::CloseNotice) -> Self {
        Self::new(self.since_ms, until_ms, self.sessions_at_start, farewell)
    }

    /// Whether the deadline has passed.
    pub fn is_over(&self, now_ms: Millis) -> bool {
        self.until_ms.is_some_and(|until| until <= now_ms)
    }

    /// Returns when a polling session is to be ended. `jitter` is a fraction of 2³² that is always the same for that
    /// session.
    pub fn due_ms(&self, slot: EndSlot, jitter: u32) -> Option<Millis> {
        let until = self.until_ms?;
        let Some(index) = slot.index() else { return Some(until) };
        let span = u128::from(until.since(self.since_ms));
        let part = (u128::from(index) << 32) + u128::from(jitter);
        let after = (span * part / u128::from(SLOTS)) >> 32;
        Some(self.since_ms.plus_ms(u64::try_from(after).unwrap_or(u64::MAX)))
    }

    /// Returns the slot of a session that becomes known during the drain: at the fraction `chance` / 2³² of the time
    /// that is left.
    pub fn late_slot(&self, now_ms: Millis, chance: u32) -> EndSlot {
        let Some(until) = self.until_ms else { return EndSlot::NONE };
        let span = u128::from(until.since(self.since_ms)).max(1);
        let passed = u128::from(now_ms.since(self.since_ms)).min(span);
        let passed = (passed << 32) / span;
        let part = passed + ((((1u128 << 32) - passed) * u128::from(chance)) >> 32);
        EndSlot::at(u32::try_from(part).unwrap_or(u32::MAX))
    }

    /// Whether the pins still need slots; returns `true` only once.
    pub fn take_unnumbered(&self) -> bool {
        !self.numbered.swap(true, Relaxed)
    }

    /// Whether the begin of the ending is still to be announced; returns `true` only once.
    pub fn take_unannounced(&self) -> bool {
        !self.announced.swap(true, Relaxed)
    }

    /// Whether the end of the last session is still to be announced; returns `true` only once.
    pub fn take_unsaid(&self) -> bool {
        !self.said_over.swap(true, Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ending(since: u64, span: Option<u64>) -> Ending {
        let since = Millis::new(since);
        Ending::new(since, span.map(|span| since.plus_ms(span)), 0, config::Drain::default().farewell)
    }

    #[test]
    fn an_optional_slot_is_one_byte() {
        assert_eq!(size_of::<Option<EndSlot>>(), 1);
        assert_eq!(
            (EndSlot::at(0).index(), EndSlot::at(u32::MAX).index(), EndSlot::NONE.index()),
            (Some(0), Some(253), None)
        );
    }

    #[test]
    fn without_a_deadline_no_session_is_due() {
        let ending = ending(5, None);
        assert_eq!((ending.due_ms(EndSlot::of(3), 7), ending.is_over(Millis::new(u64::MAX))), (None, false));
        assert_eq!(ending.late_slot(Millis::new(9), 1), EndSlot::NONE);
        assert!(!ending.take_unnumbered());
    }

    proptest! {
        /// With 9,000 polling sessions over 60 s, any second has at most 1.2 times the mean, wherever it begins.
        #[test]
        fn polling_sessions_are_ended_evenly(
            jitters in prop::collection::vec(any::<u32>(), 9_000), from in 0u64..59_000,
        ) {
            let ending = ending(1_000, Some(60_000));
            let due = |(n, jitter): (u32, &u32)| ending.due_ms(EndSlot::of(n), *jitter).unwrap().get() - 1_000;
            let due: Vec<u64> = (0..).zip(&jitters).map(due).collect();
            let in_second = due.iter().filter(|due| (from..from + 1_000).contains(*due)).count();
            prop_assert!((120..=180).contains(&in_second), "{in_second}");
            prop_assert!(due.iter().all(|due| *due <= 60_000));
        }

        #[test]
        fn late_sessions_end_in_the_time_left(passed in 0u64..=60_000, chance in any::<u32>(), jitter in any::<u32>()) {
            let ending = ending(1_000, Some(60_000));
            let due = ending.due_ms(ending.late_slot(Millis::new(1_000 + passed), chance), jitter).unwrap().get();
            // A slot is 237 ms long.
            prop_assert!(due + 237 > 1_000 + passed && due <= 61_000, "{due}");
        }

        #[test]
        fn an_immediate_ending_is_over_at_once(chance in any::<u32>(), count in any::<u32>()) {
            let ending = ending(1_000, Some(0));
            prop_assert!(ending.is_over(Millis::new(1_000)));
            prop_assert_eq!(ending.due_ms(EndSlot::of(count), chance), Some(Millis::new(1_000)));
        }
    }
}
