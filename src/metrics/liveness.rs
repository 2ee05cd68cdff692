//! Series of connection quality: round-trip times, sockets that owe an answer, and broadcasts.

use prometheus::register_histogram_vec_with_registry as histograms;
use prometheus::register_int_counter_vec_with_registry as counters;
use prometheus::register_int_gauge_vec_with_registry as gauges;
use prometheus::{Histogram, HistogramVec, IntCounter, IntGaugeVec, Registry};

use crate::broadcast::{Fate, FateCounts};
use crate::websocket::round_trip::{Half, Quality};

/// Buckets of round-trip times in seconds: from the same network up to the longest time that is measured.
const TRIPS: [f64; 13] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 6.0];

/// Series of connection quality and of broadcasts.
pub struct CareSeries {
    trips: HistogramVec,
    suspects: IntGaugeVec,
    qualities: IntGaugeVec,
    broadcast: [IntCounter; Fate::ALL.len()],
}

impl CareSeries {
    #[rustfmt::skip]
    pub(crate) fn new(r: &Registry) -> prometheus::Result<Self> {
        let trips = histograms!("stickyd_round_trip_seconds",
                "Round-trip times of pings in WebSockets, by the leg they measured (client or worker); times above \
                 6.5 s are recorded as 6.5 s.",
            &["upstream", "leg"], TRIPS.to_vec(), r)?;
        let broadcast = counters!("stickyd_broadcast_sockets_total",
            "Recipients of broadcasts by result: reached, denied (broadcast is not allowed), polling, not_ready, \
             other_kind (the broadcast has no text or no event for it), closing, slow.",
            &["result"], r)?;
        Ok(Self {
            trips,
            suspects: gauges!("stickyd_sockets_suspect",
                "WebSockets whose client has not answered a Ping of stickyd or its worker, or a ping of Engine.IO.",
                &["upstream"], r)?,
            qualities: gauges!("stickyd_sockets_quality",
                "WebSockets whose client leg was measured, by quality (round_trip): excellent, good, poor.",
                &["upstream", "quality"], r)?,
            broadcast: Fate::ALL.map(|fate| broadcast.with_label_values(&[fate.word()])),
        })
    }

    /// Returns the histograms of an upstream's two legs: the client's, the worker's.
    pub(crate) fn round_trips(&self, upstream: &str) -> [Histogram; 2] {
        [Half::Client, Half::Worker].map(|half| self.trips.with_label_values(&[upstream, half.word()]))
    }

    /// Sets the gauges to the present state: per upstream the number of suspect sockets, and sockets by quality.
    pub fn show<'a>(&self, all: impl Iterator<Item = (&'a str, i64, [i64; Quality::ALL.len()])>) {
        self.suspects.reset();
        self.qualities.reset();
        for (upstream, suspects, qualities) in all {
            self.suspects.with_label_values(&[upstream]).set(suspects);
            for (quality, count) in Quality::ALL.into_iter().zip(qualities) {
                self.qualities.with_label_values(&[upstream, quality.word()]).set(count);
            }
        }
    }

    /// Counts the recipients of a broadcast that is over, by result.
    pub fn broadcast(&self, counts: &FateCounts) {
        for (counter, count) in self.broadcast.iter().zip(counts) {
            counter.inc_by(u64::from(*count));
        }
    }
}
