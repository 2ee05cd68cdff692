//! When a thread closes each of the tunnels it has left to close: evenly over the time left, at a random moment in each
//! slot.
//!
//! The length of a slot is the time left divided by the number of tunnels left, computed anew at the start of each
//! slot, so that tunnels which end on their own or arrive meanwhile are included. Each thread spreads its own tunnels;
//! since each thread is even, so is the total. Pure: time and chance are arguments (ARCHITECTURE.md, invariant 12).
//! Left out: the choice of the tunnel, and closing it.

/// Slots of one thread for one worker. Times are in µs: with thousands of closes per second, milliseconds are too
/// coarse.
#[derive(Debug)]
pub(crate) struct Spread {
    until_us: u64,
    /// End of the present slot, in µs.
    slot_ends_us: u64,
    /// Moment inside the present slot at which the next tunnel is closed, in µs.
    next_us: u64,
    left: usize,
}

impl Spread {
    /// Starts now, with `left` tunnels to close by `until_us`. `chance`, from 0 to 1, picks the moment in the first
    /// slot.
    pub(crate) fn new(now_us: u64, until_us: u64, left: usize, chance: f64) -> Self {
        let mut spread = Self { until_us, slot_ends_us: now_us, next_us: now_us, left };
        spread.begin(now_us, chance);
        spread
    }

    /// Returns when to close the next tunnel, in µs; `None` if no tunnel is left.
    pub(crate) fn next_us(&self) -> Option<u64> {
        (self.left > 0).then_some(self.next_us)
    }

    /// Records that a tunnel was closed, and begins the next slot.
    pub(crate) fn closed(&mut self, chance: f64) {
        self.left = self.left.saturating_sub(1);
        self.begin(self.slot_ends_us, chance);
    }

    /// Sets the number of tunnels left after a new count. If it has grown, the present slot is too long and begins
    /// again.
    pub(crate) fn recount(&mut self, now_us: u64, left: usize, chance: f64) {
        let grew = left > self.left;
        self.left = left;
        if grew {
            self.begin(now_us, chance);
        }
    }

    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a random moment of a slot: microseconds of a day have 37 bits, and none is negative"
    )]
    fn begin(&mut self, from_us: u64, chance: f64) {
        let length = self.until_us.saturating_sub(from_us) / u64::try_from(self.left).unwrap_or(u64::MAX).max(1);
        self.slot_ends_us = from_us.saturating_add(length);
        self.next_us = from_us.saturating_add((length as f64 * chance.clamp(0.0, 1.0)) as u64);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pseudo-random numbers from 0 to 1, derived from a seed.
    fn chances(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed;
        move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            (crate::random::mix(state) >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    /// Returns all moments at which one thread closes a tunnel, in µs from the start.
    fn moments(count: usize, until_us: u64, chance: &mut impl FnMut() -> f64) -> Vec<u64> {
        let mut spread = Spread::new(0, until_us, count, chance());
        let mut all = Vec::new();
        while let Some(next) = spread.next_us() {
            all.push(next);
            spread.closed(chance());
        }
        all
    }

    const SECOND: u64 = 1_000_000;

    /// Returns the largest number of these sorted moments that fall into any interval of one second.
    fn busiest_second(all: &[u64]) -> usize {
        let in_second_from = |(i, from): (usize, &u64)| all[i..].partition_point(|at| *at < from + SECOND);
        all.iter().enumerate().map(in_second_from).max().unwrap_or(0)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// 9,000 tunnels over 60 s, shared unevenly by 1 to 16 threads: 150 per second on average, never more than 180.
        #[test]
        fn nine_thousand_over_a_minute(seed in any::<u64>(), threads in 1usize..=16, share in 0usize..100) {
            let mut chance = chances(seed);
            let mut all = Vec::new();
            let mut left = 9_000;
            for thread in 1..=threads {
                let mine = if thread == threads { left } else { left * share / 100 };
                left -= mine;
                all.extend(moments(mine, 60 * SECOND, &mut chance));
            }
            all.sort_unstable();
            prop_assert_eq!(all.len(), 9_000);
            prop_assert!(all.last().is_some_and(|last| *last <= 60 * SECOND));
            let busiest = busiest_second(&all);
            prop_assert!(busiest <= 180, "{busiest}");
        }

        /// Halfway, tunnels leave or more arrive: those left are spread evenly over the time left.
        #[test]
        fn changes_of_the_count_are_included(seed in any::<u64>(), tenths in prop::sample::select(vec![1, 5, 20, 50])) {
            let mut chance = chances(seed);
            let mut spread = Spread::new(0, 60 * SECOND, 2_000, chance());
            let (mut all, mut left, mut changed) = (Vec::new(), 2_000usize, false);
            while let Some(next) = spread.next_us() {
                if next > 30 * SECOND && !changed {
                    changed = true;
                    left = left * tenths / 10;
                    spread.recount(30 * SECOND, left, chance());
                    continue;
                }
                all.push(next);
                left -= 1;
                spread.closed(chance());
            }
            prop_assert_eq!(left, 0);
            let late: Vec<u64> = all.into_iter().filter(|at| *at >= 31 * SECOND).collect();
            let mean = late.len() as f64 / 29.0;
            let busiest = busiest_second(&late);
            prop_assert!((busiest as f64) <= mean * 1.2 + 2.0, "{busiest} of {mean}");
            prop_assert!(late.last().is_some_and(|last| *last <= 60 * SECOND));
        }
    }

    #[test]
    fn spread_resumes_when_tunnels_arrive() {
        let mut spread = Spread::new(0, SECOND, 0, 0.5);
        assert_eq!(spread.next_us(), None);
        spread.recount(SECOND / 2, 1, 0.5);
        assert_eq!(spread.next_us(), Some(SECOND * 3 / 4));
        spread.closed(0.5);
        spread.recount(2 * SECOND, 3, 0.5);
        assert_eq!(spread.next_us(), Some(2 * SECOND), "at once when the time is over");
    }
}
