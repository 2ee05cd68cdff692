//! What the sessions of an upstream have in common: how long they live without activity, and how large their bodies may
//! be. Requests whose own session is not known here need these numbers.
//!
//! An answer alone proves nothing: a page that echoes what a client sends can look like a handshake. The numbers of a
//! handshake therefore wait until its session comes back and its worker accepts it. They are bounded, and forgotten
//! unless sessions confirm them again. Pure: time is an argument.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::clock::Millis;
use crate::keys::Key;
use crate::locks::lock;

/// Longest time that is learned for all sessions of an upstream. Sessions that live longer keep their own time.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Largest payload that is learned, in bytes: ten times Engine.IO's default.
const LARGEST: u64 = 10_000_000;

/// How long numbers are used without being confirmed: at least this long, and at most twice as long. A worker whose
/// settings have changed is an application that was deployed anew.
const PERIOD_MS: u64 = 30 * 60 * 1_000;

/// Maximum number of sessions whose numbers wait for the session to come back.
const WAITING: usize = 64;

/// Numbers of a handshake; the largest of each counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SessionNumbers {
    /// Sum of pingInterval and pingTimeout.
    pub session: Duration,
    /// maxPayload in bytes; 0 if the worker gave none.
    pub payload: u64,
}

impl SessionNumbers {
    fn bounded(self) -> Self {
        Self { session: self.session.min(LONGEST), payload: self.payload.min(LARGEST) }
    }

    fn max(self, other: Self) -> Self {
        Self { session: self.session.max(other.session), payload: self.payload.max(other.payload) }
    }
}

/// The numbers learned for an upstream.
#[derive(Default)]
pub(crate) struct LearnedNumbers {
    periods: Mutex<Periods>,
    /// The largest numbers of both periods, so that requests need no lock.
    largest: AtomicNumbers,
    /// The largest numbers of the present period, so that most handshakes need no lock.
    present: AtomicNumbers,
    waiting: Mutex<VecDeque<(Key, SessionNumbers)>>,
    /// Length of `waiting`, so that a request can see without a lock that nothing waits.
    waits: AtomicUsize,
}

/// Numbers that are read without a lock: milliseconds and bytes, 0 if unknown.
#[derive(Default)]
struct AtomicNumbers {
    session_ms: AtomicU64,
    payload: AtomicU64,
}

impl AtomicNumbers {
    fn get(&self) -> SessionNumbers {
        let session = Duration::from_millis(self.session_ms.load(Relaxed));
        SessionNumbers { session, payload: self.payload.load(Relaxed) }
    }

    /// Sets the numbers, and writes nothing if they are the same, because every request reads this cache line.
    fn set(&self, numbers: SessionNumbers) {
        if self.get() != numbers {
            self.session_ms.store(u64::try_from(numbers.session.as_millis()).unwrap_or(u64::MAX), Relaxed);
            self.payload.store(numbers.payload, Relaxed);
        }
    }
}

#[derive(Default)]
struct Periods {
    began: Millis,
    now: SessionNumbers,
    before: SessionNumbers,
}

impl LearnedNumbers {
    /// Largest numbers that sessions confirmed lately; zeros if there are none.
    pub(crate) fn largest(&self) -> SessionNumbers {
        self.largest.get()
    }

    /// Keeps the numbers of a new session until it comes back, if they would teach anything in this period.
    pub(crate) fn begin(&self, session: Key, numbers: SessionNumbers) {
        let (numbers, known) = (numbers.bounded(), self.present.get());
        if known.max(numbers) == known {
            return;
        }
        let mut waiting = lock(&self.waiting);
        waiting.retain(|(known, _)| *known != session);
        if waiting.len() >= WAITING {
            waiting.pop_front();
        }
        waiting.push_back((session, numbers));
        self.waits.store(waiting.len(), Relaxed);
    }

    /// Learns the numbers of a session that came back and was accepted. Without sessions that wait this is one load.
    pub(crate) fn came_back(&self, session: Key, now_ms: Millis) {
        if self.waits.load(Relaxed) == 0 {
            return;
        }
        let mut waiting = lock(&self.waiting);
        let Some(place) = waiting.iter().position(|(known, _)| *known == session) else { return };
        let Some((_, numbers)) = waiting.remove(place) else { return };
        self.waits.store(waiting.len(), Relaxed);
        drop(waiting);
        self.change(now_ms, |now| *now = now.max(numbers));
    }

    /// Forgets numbers that were not confirmed for too long. The control thread calls this a few times per second.
    pub(crate) fn refresh(&self, now_ms: Millis) {
        self.change(now_ms, |_| {});
    }

    /// Changes the numbers of the present period, which begins anew if it has lasted long enough.
    fn change(&self, now_ms: Millis, change: impl FnOnce(&mut SessionNumbers)) {
        let mut periods = lock(&self.periods);
        let passed = now_ms.since(periods.began) / PERIOD_MS;
        if passed > 0 {
            let now = std::mem::take(&mut periods.now);
            periods.before = if passed == 1 { now } else { SessionNumbers::default() };
            periods.began = now_ms;
        }
        change(&mut periods.now);
        self.present.set(periods.now);
        self.largest.set(periods.now.max(periods.before));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    fn numbers(seconds: u64, payload: u64) -> SessionNumbers {
        SessionNumbers { session: Duration::from_secs(seconds), payload }
    }

    fn at(learned: &LearnedNumbers, now_ms: Millis) -> SessionNumbers {
        learned.refresh(now_ms);
        learned.largest()
    }

    #[test]
    fn only_sessions_that_came_back_teach() {
        let (learned, now) = (LearnedNumbers::default(), Millis::new(0));
        learned.begin(Key(1, 1), numbers(90, 5));
        assert_eq!(at(&learned, now), SessionNumbers::default());
        learned.came_back(Key(2, 2), now);
        assert_eq!(at(&learned, now), SessionNumbers::default());
        learned.came_back(Key(1, 1), now);
        assert_eq!(at(&learned, now), numbers(90, 5));
        learned.begin(Key(3, 3), numbers(85, 9));
        learned.came_back(Key(3, 3), now);
        assert_eq!(at(&learned, now), numbers(90, 9), "the largest of each");
    }

    #[test]
    fn numbers_are_bounded_and_forgotten() {
        let learned = LearnedNumbers::default();
        learned.begin(Key(1, 1), numbers(172_800, u64::MAX));
        learned.came_back(Key(1, 1), Millis::new(0));
        assert_eq!(at(&learned, Millis::new(0)), numbers(3_600, LARGEST));
        for minute in 1..29 {
            let now = Millis::new(minute * MINUTE);
            learned.refresh(now);
            learned.begin(Key(2, minute), numbers(45, 1_000_000));
            learned.came_back(Key(2, minute), now);
        }
        assert_eq!(at(&learned, Millis::new(31 * MINUTE)), numbers(3_600, LARGEST));
        learned.refresh(Millis::new(32 * MINUTE));
        learned.begin(Key(3, 3), numbers(45, 1_000_000));
        learned.came_back(Key(3, 3), Millis::new(32 * MINUTE));
        assert_eq!(at(&learned, Millis::new(62 * MINUTE)), numbers(45, 1_000_000), "the odd ones are forgotten");
        assert_eq!(at(&learned, Millis::new(300 * MINUTE)), SessionNumbers::default());
    }

    #[test]
    fn what_waits_is_bounded() {
        let learned = LearnedNumbers::default();
        for i in 0..1_000 {
            learned.begin(Key(1, i), numbers(100 + i, 0));
        }
        assert_eq!(lock(&learned.waiting).len(), WAITING);
        learned.came_back(Key(1, 0), Millis::new(0));
        assert_eq!(at(&learned, Millis::new(0)), SessionNumbers::default());
    }
}
