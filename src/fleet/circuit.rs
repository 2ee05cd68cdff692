//! When requests stop waiting for Redis: after five failures in a row, or where half of at least twenty uses within a
//! second failed. Pure: time is an argument. Left out: what closes the circuit again (a PING, in `shard`).

use std::time::{Duration, Instant};

/// Failures in a row after which the circuit opens.
const IN_A_ROW: u32 = 5;

/// Uses within [`WINDOW`] from which on the share of failures counts.
const USES: u32 = 20;

const WINDOW: Duration = Duration::from_secs(1);

/// Counts of recent uses.
#[derive(Debug, Default)]
pub(crate) struct Circuit {
    in_a_row: u32,
    window: Option<Instant>,
    uses: u32,
    failures: u32,
}

impl Circuit {
    /// Counts one use; returns whether the circuit opens now.
    pub(crate) fn count(&mut self, failed: bool, now: Instant) -> bool {
        if self.window.is_none_or(|begun| now.saturating_duration_since(begun) >= WINDOW) {
            (self.window, self.uses, self.failures) = (Some(now), 0, 0);
        }
        self.uses += 1;
        self.failures += u32::from(failed);
        self.in_a_row = if failed { self.in_a_row + 1 } else { 0 };
        let opens = self.in_a_row >= IN_A_ROW || (self.uses >= USES && self.failures * 2 >= self.uses);
        if opens {
            *self = Self::default();
        }
        opens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_failures_in_a_row_open_it() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        for _ in 0..4 {
            assert!(!circuit.count(true, now));
        }
        assert!(!circuit.count(false, now));
        let opened: Vec<_> = (0..5).map(|_| circuit.count(true, now)).collect();
        assert_eq!(opened, [false, false, false, false, true]);
    }

    #[test]
    fn half_of_twenty_within_a_second_open_it() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        let opened = (0..40).position(|i| circuit.count(i % 2 == 0, now));
        assert_eq!(opened, Some(19));
        let spread = |i: u32| now + Duration::from_millis(100) * i;
        assert!(!(0..40).any(|i| circuit.count(i % 2 == 0, spread(i))), "ten per second are too few to tell");
    }
}
