//! Notices applications that spread their messages themselves, so that clients get each of them twice.
//!
//! An application with a Redis subscriber or PM2 messages of its own calls `io.emit` in every worker for one event.
//! With the bus each of these calls reaches all clients. Such messages look the same: equal payloads from two or more
//! workers within a second. Once may be chance; [`OFTEN`] times in a minute is a warning.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use super::frame::MemberId;

/// Time within which equal messages of two workers count as one event.
const TOGETHER: Duration = Duration::from_secs(1);
/// Pairs of equal messages within [`WINDOW`] that cannot be chance.
const OFTEN: usize = 5;
/// Time in which pairs are counted, and after which a warning may come again.
const WINDOW: Duration = Duration::from_secs(60);
/// Messages that are compared with the next one.
const REMEMBERED: usize = 256;

/// Recent broadcasts of one group, by a hash of what they say.
#[derive(Debug, Default)]
pub(crate) struct Duplicates {
    hasher: RandomState,
    recent: VecDeque<(Instant, u64, MemberId)>,
    pairs: VecDeque<Instant>,
    warned: Option<Instant>,
}

impl Duplicates {
    /// Adds a broadcast. Returns whether it is time to warn: equal messages came from two workers again and again.
    pub(crate) fn add(&mut self, now: Instant, origin: MemberId, payload: &[u8]) -> bool {
        let hash = self.hasher.hash_one(payload);
        while self.recent.front().is_some_and(|(at, ..)| now.duration_since(*at) > TOGETHER) {
            self.recent.pop_front();
        }
        let pair = self.recent.iter().any(|(_, other, from)| *other == hash && *from != origin);
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back((now, hash, origin));
        pair && self.count_pair(now)
    }

    fn count_pair(&mut self, now: Instant) -> bool {
        self.pairs.push_back(now);
        while self.pairs.front().is_some_and(|at| now.duration_since(*at) > WINDOW) || self.pairs.len() > OFTEN {
            self.pairs.pop_front();
        }
        let again = self.warned.is_none_or(|at| now.duration_since(at) > WINDOW);
        let often = self.pairs.len() == OFTEN && again;
        if often {
            self.warned = Some(now);
        }
        often
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MemberId = MemberId(1);
    const B: MemberId = MemberId(2);

    #[test]
    fn equal_messages_of_two_workers_warn_once_a_minute() {
        let (mut seen, start) = (Duplicates::default(), Instant::now());
        let mut warnings = Vec::new();
        for second in 0..120 {
            let now = start + Duration::from_secs(second * 2);
            let text = format!("event {second}");
            assert!(!seen.add(now, A, text.as_bytes()));
            if seen.add(now + Duration::from_millis(500), B, text.as_bytes()) {
                warnings.push(second * 2);
            }
        }
        assert_eq!(warnings, [8, 70, 132, 194]);
    }

    #[test]
    fn one_worker_may_repeat_itself() {
        let (mut seen, now) = (Duplicates::default(), Instant::now());
        assert!((0..100).all(|_| !seen.add(now, A, b"tick")));
    }

    #[test]
    fn messages_more_than_a_second_apart_are_no_pair() {
        let (mut seen, mut now) = (Duplicates::default(), Instant::now());
        for turn in 0..50 {
            assert!(!seen.add(now, if turn % 2 == 0 { A } else { B }, b"tick"));
            now += Duration::from_millis(1_100);
        }
    }
}
