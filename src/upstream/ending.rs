//! When the sessions of one worker end because an operator says so: from when, until when, and which of them at what moment.
//!
//! An [`Ending`] begins with the word *drain* or *maint*, or with a worker's removal from the file, and goes with *ready*.
//! Without an `until` sessions stay until they end by themselves. Pure: time and chance are arguments (invariant 12). Left
//! out: ending anything (`crate::drain`), and what an operator may say (`super::admin`).

use std::num::NonZeroU8;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::config;

/// Slots the time of a drain has for polling sessions: what fits into a pin's spare byte, beside *none*.
const SLOTS: u8 = 254;

/// 2³² / golden ratio: multiples of it, modulo 2³², fall as evenly as any sequence can that does not know its length.
const GOLDEN: u32 = 0x9e37_79b9;

/// What an operator's word means for the sessions of one worker.
#[derive(Debug)]
pub struct Ending {
    /// When it was said ([`crate::clock::now_ms`]).
    pub since_ms: u64,
    /// By when the last session is ended; as early as `since_ms`: all at once. `None`: they end by themselves.
    pub until_ms: Option<u64>,
    /// Sessions it had then.
    pub sessions_at_start: u32,
    /// What its tunnels are told.
    pub farewell: config::Farewell,
    /// Its pins have slots (of those that need some).
    numbered: AtomicBool,
    /// It was said that it began.
    announced: AtomicBool,
    /// It was said that nothing is left.
    said_over: AtomicBool,
}

/// A session's place in the time of a drain. One byte, never 0, so that a pin with one is no larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(NonZeroU8);

impl Slot {
    /// Not numbered: due at the end.
    pub const NONE: Self = Self(NonZeroU8::MIN);

    /// The place of the `count`th session numbered (from 0): spread evenly, however many there will be.
    pub fn of(count: u32) -> Self {
        Self::at(count.wrapping_mul(GOLDEN))
    }

    /// `part` of 2³² of the way.
    fn at(part: u32) -> Self {
        let index = (u64::from(part) * u64::from(SLOTS)) >> 32;
        let number = u8::try_from(index).unwrap_or(SLOTS - 1).saturating_add(2);
        NonZeroU8::new(number).map_or(Self::NONE, Self)
    }

    /// Which one, from 0.
    fn index(self) -> Option<u8> {
        self.0.get().checked_sub(2)
    }
}

impl Ending {
    /// One that begins now.
    pub fn new(since_ms: u64, until_ms: Option<u64>, sessions: u32, farewell: config::Farewell) -> Self {
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

    /// The same one, to be over by `until_ms`.
    pub fn bounded(&self, until_ms: Option<u64>, farewell: config::Farewell) -> Self {
        Self::new(self.since_ms, until_ms, self.sessions_at_start, farewell)
    }

    /// Whether its time is up.
    pub fn is_over(&self, now_ms: u64) -> bool {
        self.until_ms.is_some_and(|until| until <= now_ms)
    }

    /// When a polling session is to be ended. `jitter`: a part of 2³², always the same for that session.
    pub fn due_ms(&self, slot: Slot, jitter: u32) -> Option<u64> {
        let until = self.until_ms?;
        let Some(index) = slot.index() else { return Some(until) };
        let span = u128::from(until.saturating_sub(self.since_ms));
        let part = (u128::from(index) << 32) + u128::from(jitter);
        let after = (span * part / u128::from(SLOTS)) >> 32;
        Some(self.since_ms.saturating_add(u64::try_from(after).unwrap_or(u64::MAX)))
    }

    /// The slot of a session that comes to be known while this is under way: `chance` (of 2³²) in the time left.
    pub fn late_slot(&self, now_ms: u64, chance: u32) -> Slot {
        let Some(until) = self.until_ms else { return Slot::NONE };
        let span = u128::from(until.saturating_sub(self.since_ms)).max(1);
        let passed = u128::from(now_ms.saturating_sub(self.since_ms)).min(span);
        let passed = (passed << 32) / span;
        let part = passed + ((((1u128 << 32) - passed) * u128::from(chance)) >> 32);
        Slot::at(u32::try_from(part).unwrap_or(u32::MAX))
    }

    /// Whether its pins are still to be numbered; yes once only.
    pub fn take_unnumbered(&self) -> bool {
        !self.numbered.swap(true, Relaxed)
    }

    /// Whether it is still to be said that it began; yes once only.
    pub fn take_unannounced(&self) -> bool {
        !self.announced.swap(true, Relaxed)
    }

    /// Whether it is still to be said that nothing is left; yes once only.
    pub fn take_unsaid(&self) -> bool {
        !self.said_over.swap(true, Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ending(since: u64, span: Option<u64>) -> Ending {
        Ending::new(since, span.map(|span| since + span), 0, config::Drain::default().farewell)
    }

    #[test]
    fn slots_take_no_room() {
        assert_eq!(size_of::<Option<Slot>>(), 1);
        assert_eq!((Slot::at(0).index(), Slot::at(u32::MAX).index(), Slot::NONE.index()), (Some(0), Some(253), None));
    }

    #[test]
    fn without_a_time_nothing_is_ever_due() {
        let ending = ending(5, None);
        assert_eq!((ending.due_ms(Slot::of(3), 7), ending.is_over(u64::MAX)), (None, false));
        assert_eq!(ending.late_slot(9, 1), Slot::NONE);
        assert!(!ending.take_unnumbered());
    }

    proptest! {
        /// 9,000 polling sessions over 60 s: no second has more than 1.2 times the mean, wherever it begins.
        #[test]
        fn polling_sessions_are_ended_evenly(jitters in prop::collection::vec(any::<u32>(), 9_000), from in 0u64..59_000) {
            let ending = ending(1_000, Some(60_000));
            let due = |(n, jitter): (u32, &u32)| ending.due_ms(Slot::of(n), *jitter).unwrap() - 1_000;
            let due: Vec<u64> = (0..).zip(&jitters).map(due).collect();
            let in_second = due.iter().filter(|due| (from..from + 1_000).contains(*due)).count();
            prop_assert!((120..=180).contains(&in_second), "{in_second}");
            prop_assert!(due.iter().all(|due| *due <= 60_000));
        }

        #[test]
        fn late_ones_fall_into_the_time_left(passed in 0u64..=60_000, chance in any::<u32>(), jitter in any::<u32>()) {
            let ending = ending(1_000, Some(60_000));
            let due = ending.due_ms(ending.late_slot(1_000 + passed, chance), jitter).unwrap();
            // A slot is 237 ms long.
            prop_assert!(due + 237 > 1_000 + passed && due <= 61_000, "{due}");
        }

        #[test]
        fn at_once_is_at_once(chance in any::<u32>(), count in any::<u32>()) {
            let ending = ending(1_000, Some(0));
            prop_assert!(ending.is_over(1_000));
            prop_assert_eq!(ending.due_ms(Slot::of(count), chance), Some(1_000));
        }
    }
}
