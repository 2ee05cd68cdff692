//! Series of connection quality: round-trip times, sockets that owe an answer, and broadcasts.

use std::collections::BTreeMap;
use std::sync::Mutex;

use prometheus::register_histogram_vec_with_registry as histograms;
use prometheus::register_int_counter_vec_with_registry as counters;
use prometheus::{Histogram, HistogramVec, IntCounter};

use super::catalogue::Registrar;
use super::families::{Families, Family};
use crate::broadcast::{Fate, FateCounts};
use crate::locks::lock;
use crate::websocket::round_trip::{Half, Quality};

/// Buckets of round-trip times in seconds: from the same network up to the longest time that is measured.
const TRIPS: [f64; 13] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 6.0];

const SUSPECTS: Family = Family {
    name: "stickyd_sockets_suspect",
    help: "WebSockets whose client has not answered a Ping of stickyd or its worker, or a ping of Engine.IO.",
};
const QUALITIES: Family = Family {
    name: "stickyd_sockets_quality",
    help: "WebSockets whose client leg was measured, by quality (round_trip): excellent, good, poor.",
};

/// Series of connection quality and of broadcasts.
pub struct CareSeries {
    trips: HistogramVec,
    /// Suspect sockets, and sockets by quality, of each upstream.
    seen: Mutex<BTreeMap<String, (u32, [u32; Quality::ALL.len()])>>,
    broadcast: [IntCounter; Fate::ALL.len()],
    /// Messages of the backend, by way and by result.
    emits: [[IntCounter; EmitResult::ALL.len()]; EmitVia::ALL.len()],
}

/// Ways of the backend's messages to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EmitVia {
    Redis,
    Bus,
    Frames,
}

impl EmitVia {
    const ALL: [Self; 3] = [Self::Redis, Self::Bus, Self::Frames];

    fn word(self) -> &'static str {
        match self {
            Self::Redis => "redis-adapter",
            Self::Bus => "bus",
            Self::Frames => "frames",
        }
    }
}

/// Results of the backend's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EmitResult {
    Published,
    Failed,
    /// Refused: too many are under way, or were sent in a second.
    Limited,
}

impl EmitResult {
    const ALL: [Self; 3] = [Self::Published, Self::Failed, Self::Limited];

    fn word(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Failed => "failed",
            Self::Limited => "limited",
        }
    }
}

impl CareSeries {
    #[rustfmt::skip]
    pub(crate) fn new(r: &Registrar) -> prometheus::Result<Self> {
        let trips = histograms!("stickyd_round_trip_seconds",
                "Round-trip times of pings in WebSockets, by the leg they measured (client or worker); times above \
                 6.5 s are recorded as 6.5 s.",
            &["upstream", "leg"], TRIPS.to_vec(), r)?;
        let broadcast = counters!("stickyd_broadcast_sockets_total",
            "Recipients of broadcasts by result: reached, denied (broadcast is not allowed), polling, not_ready, \
             other_kind (the broadcast has no text or no event for it), closing, slow.",
            &["result"], r)?;
        let emits = counters!("stickyd_emits_total",
            "Messages of the backend (POST /api/v1/emit) by the way of the upstream, and by result: published, failed, \
             limited (too many were under way, or were sent in a second).",
            &["via", "result"], r)?;
        Ok(Self {
            emits: EmitVia::ALL.map(|via| {
                EmitResult::ALL.map(|result| emits.with_label_values(&[via.word(), result.word()]))
            }),
            trips,
            seen: Mutex::default(),
            broadcast: Fate::ALL.map(|fate| broadcast.with_label_values(&[fate.word()])),
        })
    }

    /// Returns the histograms of an upstream's two legs: the client's, the worker's.
    pub(crate) fn round_trips(&self, upstream: &str) -> [Histogram; 2] {
        [Half::Client, Half::Worker].map(|half| self.trips.with_label_values(&[upstream, half.word()]))
    }

    /// Replaces the present state: per upstream the number of suspect sockets, and sockets by quality.
    pub fn saw<'a>(&self, all: impl Iterator<Item = (&'a str, u32, [u32; Quality::ALL.len()])>) {
        *lock(&self.seen) = all.map(|(name, suspects, qualities)| (name.to_owned(), (suspects, qualities))).collect();
    }

    /// Adds what was last seen.
    pub(super) fn show(&self, live: &mut Families) {
        for (upstream, (suspects, qualities)) in &*lock(&self.seen) {
            live.gauge(&SUSPECTS, &[("upstream", upstream)], (*suspects).into());
            for (quality, count) in Quality::ALL.into_iter().zip(qualities) {
                live.gauge(&QUALITIES, &[("upstream", upstream), ("quality", quality.word())], (*count).into());
            }
        }
    }

    /// Counts a message of the backend.
    pub(crate) fn emitted(&self, via: EmitVia, result: EmitResult) {
        if let Some(counter) = self.emits.get(via as usize).and_then(|of| of.get(result as usize)) {
            counter.inc();
        }
    }

    /// Counts the recipients of a broadcast that is over, by result.
    pub fn broadcast(&self, counts: &FateCounts) {
        for (counter, count) in self.broadcast.iter().zip(counts) {
            counter.inc_by(u64::from(*count));
        }
    }
}
