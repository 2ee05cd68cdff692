//! Series of the workers that stickyd starts itself.

use std::collections::BTreeMap;
use std::sync::Mutex;

use prometheus::register_histogram_vec_with_registry as histograms;
use prometheus::register_int_counter_vec_with_registry as counters;
use prometheus::register_int_gauge_vec_with_registry as gauges;
use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec};

use super::catalogue::Registrar;
use super::families::{Families, value};
use super::worker::RESTARTS;
use crate::locks::lock;

/// Upper bounds of the buckets for the time that a worker needs to become ready, in seconds.
const STARTS: [f64; 9] = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

/// Values of the label `reason`.
const REASONS: [&str; 4] = ["exit", "signal", "memory", "roll"];

/// Series of the workers that stickyd starts.
pub struct SpawnSeries {
    /// Counts by the upstream and the name of a worker, in the order of [`REASONS`].
    restarts: Mutex<BTreeMap<(String, String), [u64; REASONS.len()]>>,
    starts: HistogramVec,
    memory: IntGaugeVec,
    dropped: IntCounterVec,
}

impl SpawnSeries {
    #[rustfmt::skip]
    pub(super) fn register(r: &Registrar) -> prometheus::Result<Self> {
        let worker = &["upstream", "worker"];
        Ok(Self {
            restarts: Mutex::default(),
            starts: histograms!("stickyd_worker_start_seconds",
                "Time from the start of a spawned worker until its health checks passed.",
                &["upstream"], STARTS.to_vec(), r)?,
            memory: gauges!("stickyd_worker_memory_bytes",
                "Resident memory of the processes of a spawned worker, as read every five seconds.", worker, r)?,
            dropped: counters!("stickyd_worker_log_lines_dropped_total",
                "Lines of spawned workers that were not logged, because there were too many.", worker, r)?,
        })
    }

    /// Counts a process that ended or was replaced.
    pub fn restarted(&self, upstream: &str, worker: &str, reason: &str) {
        let mut all = lock(&self.restarts);
        let counts = all.entry((upstream.to_owned(), worker.to_owned())).or_default();
        REASONS.iter().zip(counts).filter(|(word, _)| **word == reason).for_each(|(_, count)| *count += 1);
    }

    /// Whether stickyd starts this worker itself.
    pub(crate) fn has(&self, upstream: &str, worker: &str) -> bool {
        lock(&self.restarts).contains_key(&(upstream.to_owned(), worker.to_owned()))
    }

    /// Adds the restarts of all workers by their reasons.
    pub(crate) fn show(&self, live: &mut Families) {
        for ((upstream, worker), counts) in &*lock(&self.restarts) {
            for (reason, count) in REASONS.iter().zip(counts) {
                let labels = [("upstream", upstream.as_str()), ("worker", worker), ("reason", reason)];
                live.counter(&RESTARTS, &labels, value(*count));
            }
        }
    }

    /// Records the time that a worker needed to become ready.
    pub fn started(&self, upstream: &str, seconds: f64) {
        self.starts.with_label_values(&[upstream]).observe(seconds);
    }

    /// Sets the memory of a worker.
    pub fn set_memory(&self, upstream: &str, worker: &str, bytes: u64) {
        self.memory.with_label_values(&[upstream, worker]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Counts lines that were not logged.
    pub fn dropped(&self, upstream: &str, worker: &str, lines: u64) {
        self.dropped.with_label_values(&[upstream, worker]).inc_by(lines);
    }

    /// Makes the counters of a worker visible before they first count, so that their increase can be seen.
    pub fn begin(&self, upstream: &str, worker: &str) {
        lock(&self.restarts).entry((upstream.to_owned(), worker.to_owned())).or_default();
        self.dropped.with_label_values(&[upstream, worker]);
    }

    /// Removes the series of a worker that no longer exists. A series that never existed is not an error.
    pub fn forget(&self, upstream: &str, worker: &str) {
        lock(&self.restarts).remove(&(upstream.to_owned(), worker.to_owned()));
        let _ = self.memory.remove_label_values(&[upstream, worker]);
        let _ = self.dropped.remove_label_values(&[upstream, worker]);
    }
}
