//! Round-trips of a tunnel's two legs, from the pings that pass by.
//!
//! A ping that goes down and its pong that comes up measure the client's leg, a ping that goes up the worker's: WebSocket's
//! own (RFC 6455 §5.5.2), matched by their payload, and Engine.IO's `2` and `3`. So Engine.IO 4, whose servers ping, measures
//! the client's leg, and Engine.IO 3, whose clients ping, the worker's. A leg nobody pings over is not measured, and nothing
//! is shown for it. Pure: time is an argument, in [`Tenths`]; whoever calls reads a clock for pings and pongs only.
//!
//! Where several pings of one payload wait for their answers, no answer tells which one it is for: none is measured until
//! one ping waits alone. Left out: Engine.IO's polling, where a ping waits for the next poll and measures that.

use std::time::Duration;

use super::frames::{Mark, Signal};

/// Tenths of a millisecond, wrapping after five days.
pub type Tenths = u32;

/// After this a ping is not waited for any more: 60 s.
const LOST: Tenths = 600_000;

/// Which half of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Between the client and stickyd.
    Client,
    /// Between stickyd and the worker.
    Worker,
}

impl Half {
    /// The `leg` label.
    pub fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Worker => "worker",
        }
    }
}

/// What was measured of both halves, and the pings that wait for their answer.
#[derive(Debug, Clone, Default)]
pub struct RoundTrips {
    /// Between the client and stickyd.
    pub client: Leg,
    /// Between stickyd and the worker.
    pub worker: Leg,
}

impl RoundTrips {
    /// Whether a signal is a ping or a pong: only then is it worth a look at the clock. `engine_io`: its text messages are
    /// Engine.IO's packets.
    pub fn is_about(signal: Signal, engine_io: bool) -> bool {
        match signal {
            Signal::Ping(_) | Signal::Pong(_) => true,
            Signal::Text(packet) => engine_io && matches!(packet, b'2' | b'3'),
            Signal::Close(_) => false,
        }
    }

    /// A ping or a pong passed. `from`: the half it came over. Which half that measured, and how long it took.
    pub fn pass(&mut self, from: Half, signal: Signal, now: Tenths) -> Option<(Half, Duration)> {
        let (here, there) = match from {
            Half::Client => (&mut self.client, &mut self.worker),
            Half::Worker => (&mut self.worker, &mut self.client),
        };
        let took = match signal {
            Signal::Ping(mark) => {
                there.asked(mark, now);
                None
            }
            Signal::Text(b'2') => {
                there.asked(ENGINE_IO, now);
                None
            }
            Signal::Pong(mark) => here.answered(mark, now),
            Signal::Text(b'3') => here.answered(ENGINE_IO, now),
            Signal::Close(_) | Signal::Text(_) => None,
        };
        took.map(|took| (from, tenths(took)))
    }
}

/// Engine.IO's pings have no payload that could tell them apart.
const ENGINE_IO: Mark = Mark(0x0002_0003);

/// One half of a tunnel, in twelve bytes: tens of thousands of tunnels have two.
#[derive(Debug, Clone, Default)]
pub struct Leg {
    /// When the last ping passed.
    asked: Tenths,
    /// How many pings of its payload wait for an answer, up to 3, and under it 14 bits of its mark.
    waiting: u16,
    /// The last, the smoothed and the longest, in tenths of a millisecond, at most 6.5 s; 0: none was measured.
    last: u16,
    smoothed: u16,
    longest: u16,
}

/// What is known of a leg that was measured. Each at most 6.5 s: beyond that it only says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Of the last ping.
    pub last: Duration,
    /// The past weighs seven eighths, as in TCP (RFC 6298 §2).
    pub smoothed: Duration,
    /// Of all.
    pub longest: Duration,
}

impl Leg {
    /// A ping that asks over this leg.
    pub fn asked(&mut self, mark: Mark, now: Tenths) {
        let mark = short(mark);
        let (known, waiting) = (self.waiting & MARK, self.waiting >> COUNT_AT);
        let alone = waiting == 0 || known != mark || now.wrapping_sub(self.asked) > LOST;
        let count = if alone { 1 } else { (waiting + 1).min(3) };
        self.waiting = count << COUNT_AT | mark;
        self.asked = now;
    }

    /// The answer to one. How long it took, if it can only be that one's.
    fn answered(&mut self, mark: Mark, now: Tenths) -> Option<u16> {
        let waiting = self.waiting >> COUNT_AT;
        if waiting == 0 || self.waiting & MARK != short(mark) {
            return None;
        }
        self.waiting = (waiting - 1) << COUNT_AT | short(mark);
        if waiting > 1 {
            return None;
        }
        let took = u16::try_from(now.wrapping_sub(self.asked)).unwrap_or(u16::MAX).max(1);
        self.last = took;
        self.longest = self.longest.max(took);
        self.smoothed = if self.smoothed == 0 { took } else { smooth(self.smoothed, took) };
        Some(took)
    }

    /// How long a ping has been waiting for its answer.
    pub fn waits_since(&self, now: Tenths) -> Option<Duration> {
        (self.waiting >> COUNT_AT > 0).then(|| Duration::from_micros(u64::from(now.wrapping_sub(self.asked)) * 100))
    }

    /// What was measured; `None` while nothing was.
    pub fn measured(&self) -> Option<Measured> {
        (self.last != 0).then(|| Measured {
            last: tenths(self.last),
            smoothed: tenths(self.smoothed),
            longest: tenths(self.longest),
        })
    }
}

const COUNT_AT: u32 = 14;
const MARK: u16 = (1 << COUNT_AT) - 1;

fn short(mark: Mark) -> u16 {
    let folded = mark.0 ^ mark.0 >> COUNT_AT ^ mark.0 >> (2 * COUNT_AT);
    u16::try_from(folded & u32::from(MARK)).unwrap_or(MARK)
}

fn smooth(before: u16, now: u16) -> u16 {
    let mixed = (7 * u32::from(before) + u32::from(now) + 4) / 8;
    u16::try_from(mixed).unwrap_or(u16::MAX).max(1)
}

fn tenths(count: u16) -> Duration {
    Duration::from_micros(u64::from(count) * 100)
}

/// How good a connection is, by its smoothed round-trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    /// Up to the first threshold.
    Excellent,
    /// Up to the second.
    Good,
    /// Beyond.
    Poor,
}

impl Quality {
    /// In this order everywhere.
    pub const ALL: [Self; 3] = [Self::Excellent, Self::Good, Self::Poor];

    /// The word for it in the API and in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Excellent => "excellent",
            Self::Good => "good",
            Self::Poor => "poor",
        }
    }
}

/// Where one quality ends and the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// The longest smoothed round-trip that is excellent; default 80 ms.
    pub excellent: Duration,
    /// The longest that is good; default 250 ms.
    pub good: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { excellent: Duration::from_millis(80), good: Duration::from_millis(250) }
    }
}

impl Thresholds {
    /// The quality of a smoothed round-trip.
    pub fn quality(self, smoothed: Duration) -> Quality {
        match smoothed {
            short if short <= self.excellent => Quality::Excellent,
            middle if middle <= self.good => Quality::Good,
            _ => Quality::Poor,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn two_legs_have_twenty_four_bytes() {
        assert_eq!(size_of::<RoundTrips>(), 24);
    }

    /// What passes: from which half, what, and so many tenths after what was before it.
    type Pass = (bool, u8, u8, u32);

    fn signal(kind: u8, payload: u8) -> Signal {
        match kind {
            0 => Signal::Ping(Mark::of(&[payload])),
            1 => Signal::Pong(Mark::of(&[payload])),
            2 => Signal::Text(b'2'),
            _ => Signal::Text(b'3'),
        }
    }

    /// The whole story of one half, kept in lists: pings asked over it, newest last.
    #[derive(Default)]
    struct Naive {
        asked: Vec<(u64, Option<u8>)>,
        took: Vec<u64>,
    }

    impl Naive {
        fn asks(&mut self, payload: Option<u8>, now: u64) {
            if self.asked.last().is_some_and(|(at, last)| *last != payload || now - at > u64::from(LOST)) {
                self.asked.clear();
            }
            // The oldest of four is forgotten.
            if self.asked.len() == 3 {
                self.asked.remove(0);
            }
            self.asked.push((now, payload));
        }

        fn answers(&mut self, payload: Option<u8>, now: u64) -> Option<u64> {
            if self.asked.last()?.1 != payload {
                return None;
            }
            let alone = self.asked.len() == 1;
            let (at, _) = self.asked.remove(0);
            if alone {
                self.took.push((now - at).clamp(1, 65_535));
            }
            alone.then(|| now - at)
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_list_of_all_that_passed(
            passed in prop::collection::vec((any::<bool>(), 0u8..4, 0u8..3, prop_oneof![0u32..3_000, 0u32..900_000]), 0..60),
            from in any::<u32>(),
        ) {
            let mut trips = RoundTrips::default();
            let (mut client, mut worker) = (Naive::default(), Naive::default());
            let mut now = 0u64;
            let passed: Vec<Pass> = passed;
            for (of_client, kind, payload, later) in passed {
                now += u64::from(later);
                let clock = from.wrapping_add(u32::try_from(now).unwrap());
                let half = if of_client { Half::Client } else { Half::Worker };
                let measured = trips.pass(half, signal(kind, payload), clock);
                let (here, there) = if of_client { (&mut client, &mut worker) } else { (&mut worker, &mut client) };
                let payload = (kind < 2).then_some(payload);
                let known = if kind % 2 == 0 {
                    there.asks(payload, now);
                    None
                } else {
                    here.answers(payload, now)
                };
                let known = known.map(|took| (half, Duration::from_micros(took.clamp(1, 65_535) * 100)));
                prop_assert_eq!(measured, known);
            }
            for (leg, naive) in [(&trips.client, &client), (&trips.worker, &worker)] {
                let (last, longest) = (naive.took.last(), naive.took.iter().max());
                let told = leg.measured();
                let count = |time: Duration| u64::try_from(time.as_micros() / 100).unwrap();
                prop_assert_eq!(told.map(|told| count(told.last)), last.copied());
                prop_assert_eq!(told.map(|told| count(told.longest)), longest.copied());
                // The smoothed one never leaves the range of what was measured.
                let least = naive.took.iter().min();
                let smoothed = told.map(|told| count(told.smoothed));
                prop_assert!(smoothed >= least.copied() && smoothed <= longest.copied(), "{:?}", smoothed);
            }
        }
    }

    #[test]
    fn the_smoothed_one_follows() {
        let mut leg = Leg::default();
        for (took, smoothed) in [(800, 800), (1_600, 900), (100, 800)] {
            leg.asked(Mark(7), 0);
            leg.answered(Mark(7), took);
            assert_eq!(leg.measured().map(|told| told.smoothed), Some(tenths(smoothed)));
        }
    }

    #[test]
    fn thresholds_belong_to_the_better_quality() {
        let of = |ms| Thresholds::default().quality(Duration::from_millis(ms));
        assert_eq!([of(80), of(81), of(250), of(251)].map(Quality::word), ["excellent", "good", "good", "poor"]);
    }
}
