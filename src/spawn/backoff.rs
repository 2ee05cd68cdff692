//! How long a worker that has ended waits until it is started again. Pure: time is an argument.

use std::time::Duration;

/// A process that lived for this long has proven itself.
const PROVEN: Duration = Duration::from_secs(60);

/// The second wait; each further one is twice as long. The first start follows at once.
const FIRST: Duration = Duration::from_millis(200);

/// The longest wait before a start.
const LONGEST: Duration = Duration::from_secs(30);

/// Number of ends in a row that make a crash loop.
const LOOP: u32 = 3;

/// Counts the ends of one worker in a row.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Backoff {
    ends: u32,
}

impl Backoff {
    /// Records the end of a process that lived for `lived`; returns the time until the next one is started.
    pub(super) fn ended(&mut self, lived: Duration) -> Duration {
        if lived >= PROVEN {
            self.ends = 0;
        }
        self.ends = self.ends.saturating_add(1);
        match self.ends {
            1 => Duration::ZERO,
            ends => FIRST.saturating_mul(1 << (ends - 2).min(16)).min(LONGEST),
        }
    }

    /// Whether the worker ends again and again.
    pub(super) fn is_crash_loop(self) -> bool {
        self.ends >= LOOP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_until_a_process_has_proven_itself() {
        let mut backoff = Backoff::default();
        let short = Duration::from_millis(50);
        let waits: Vec<_> = (0..6).map(|_| backoff.ended(short).as_millis()).collect();
        assert_eq!(waits, [0, 200, 400, 800, 1600, 3200]);
        assert!(backoff.is_crash_loop());
        for _ in 0..100 {
            assert!(backoff.ended(short) <= LONGEST);
        }
        assert_eq!(backoff.ended(PROVEN), Duration::ZERO);
        assert!(!backoff.is_crash_loop());
    }
}
