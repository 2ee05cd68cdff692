//! Round trips of a tunnel's two legs, measured from the pings that pass.
//!
//! A ping that goes down and its pong that comes up measure the client's leg; a ping that goes up measures the
//! worker's. Both WebSocket pings (RFC 6455 §5.5.2), matched by their payload, and Engine.IO's `2` and `3` count. So
//! Engine.IO 4, where the server pings, measures the client's leg, and Engine.IO 3, where the client pings, the
//! worker's. A leg without pings is not measured, and no value is shown for it. This module is pure: the time is an
//! argument, in [`Tenths`], and the caller reads the clock only for pings and pongs.
//!
//! If several pings with the same payload are unanswered, a pong does not tell which of them it answers. Then none is
//! measured until a ping is alone again. Out of scope: Engine.IO's polling, where a ping waits for the next poll, so
//! that a round trip would measure the wait.

use std::time::Duration;

use super::frames::{Mark, Signal};

/// A time in tenths of a millisecond, which wraps after five days.
pub(crate) type Tenths = u32;

/// A ping that is unanswered for longer than this counts as lost: 60 s.
const LOST: Tenths = 600_000;

/// One of the two halves of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// The half between the client and stickyd.
    Client,
    /// The half between stickyd and the worker.
    Worker,
}

impl Half {
    /// The value of the `leg` label in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Worker => "worker",
        }
    }
}

/// The measured round trips of both halves, and the pings that are unanswered.
#[derive(Debug, Clone, Default)]
pub struct RoundTrips {
    /// The leg between the client and stickyd.
    pub client: Leg,
    /// The leg between stickyd and the worker.
    pub worker: Leg,
}

impl RoundTrips {
    /// Whether a signal is a ping or a pong; only these need the clock. `engine_io`: text messages are Engine.IO
    /// packets.
    pub fn is_about(signal: Signal, engine_io: bool) -> bool {
        match signal {
            Signal::Ping(_) | Signal::Pong(_) => true,
            Signal::Text(packet) => engine_io && matches!(packet, b'2' | b'3'),
            Signal::Close(_) => false,
        }
    }

    /// Notes a ping or a pong that came over the half `from`. Returns the half that was measured and its round trip, if
    /// it was the answer to a single ping.
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

/// The common mark of Engine.IO's pings, which have no payload that could tell them apart.
const ENGINE_IO: Mark = Mark(0x0002_0003);

/// The round trips of one half, in twelve bytes, because each of tens of thousands of tunnels has two.
#[derive(Debug, Clone, Default)]
pub struct Leg {
    /// When the last ping passed.
    asked: Tenths,
    /// The number of unanswered pings with the same payload, up to 3, in the upper two bits, and 14 bits of their mark.
    waiting: u16,
    /// The last round trip, in tenths of a millisecond, at most 6.5 s; 0 if none was measured. `smoothed` and `longest`
    /// have the same unit and range.
    last: u16,
    smoothed: u16,
    longest: u16,
}

/// The round trips of a leg that was measured, each capped at 6.5 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Round trip of the last ping.
    pub last: Duration,
    /// Smoothed round trip: earlier ones weigh seven eighths, as in TCP (RFC 6298 §2).
    pub smoothed: Duration,
    /// The longest round trip so far.
    pub longest: Duration,
}

impl Leg {
    /// Notes a ping that was sent over this leg.
    pub fn asked(&mut self, mark: Mark, now: Tenths) {
        let mark = short(mark);
        let (known, waiting) = (self.waiting & MARK, self.waiting >> COUNT_AT);
        let alone = waiting == 0 || known != mark || now.wrapping_sub(self.asked) > LOST;
        let count = if alone { 1 } else { (waiting + 1).min(3) };
        self.waiting = count << COUNT_AT | mark;
        self.asked = now;
    }

    /// Notes a pong. Returns its round trip if only one ping was unanswered.
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

    /// How long the last unanswered ping has been waiting for its pong.
    pub fn waits_since(&self, now: Tenths) -> Option<Duration> {
        (self.waiting >> COUNT_AT > 0).then(|| Duration::from_micros(u64::from(now.wrapping_sub(self.asked)) * 100))
    }

    /// The round trips of this leg; `None` if none was measured.
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

/// The quality of a connection, by its smoothed round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    /// At most [`Thresholds::excellent`], by default 80 ms.
    Excellent,
    /// At most [`Thresholds::good`], by default 250 ms.
    Good,
    /// Longer than [`Thresholds::good`] allows.
    Poor,
}

impl Quality {
    /// All qualities, in the order used everywhere.
    pub const ALL: [Self; 3] = [Self::Excellent, Self::Good, Self::Poor];

    /// The name of this quality in the API and in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Excellent => "excellent",
            Self::Good => "good",
            Self::Poor => "poor",
        }
    }
}

/// The limits between the three qualities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// The longest smoothed round trip that is excellent; the default is 80 ms.
    pub excellent: Duration,
    /// The longest smoothed round trip that is good; the default is 250 ms.
    pub good: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { excellent: Duration::from_millis(80), good: Duration::from_millis(250) }
    }
}

impl Thresholds {
    /// The quality of a connection with this smoothed round trip.
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
    fn two_legs_take_twenty_four_bytes() {
        assert_eq!(size_of::<RoundTrips>(), 24);
    }

    /// A signal that passes: whether it comes from the client, its kind, its payload, and the tenths since the one
    /// before.
    type Pass = (bool, u8, u8, u32);

    fn signal(kind: u8, payload: u8) -> Signal {
        match kind {
            0 => Signal::Ping(Mark::of(&[payload])),
            1 => Signal::Pong(Mark::of(&[payload])),
            2 => Signal::Text(b'2'),
            _ => Signal::Text(b'3'),
        }
    }

    /// A naive model of one half: a list of the unanswered pings, newest last, and a list of the round trips.
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
            // Only three pings are remembered, so the oldest is dropped.
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
        fn round_trips_agree_with_a_naive_model(
            passed in prop::collection::vec(
                (any::<bool>(), 0u8..4, 0u8..3, prop_oneof![0u32..3_000, 0u32..900_000]),
                0..60,
            ),
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
                // The smoothed round trip never leaves the range of the measured ones.
                let least = naive.took.iter().min();
                let smoothed = told.map(|told| count(told.smoothed));
                prop_assert!(smoothed >= least.copied() && smoothed <= longest.copied(), "{:?}", smoothed);
            }
        }
    }

    #[test]
    fn the_smoothed_round_trip_follows_new_ones() {
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
