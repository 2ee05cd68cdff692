//! The series of one upstream, resolved once, so that a request costs an atomic add and no label lookup.

use std::sync::Arc;

use prometheus::register_histogram_vec_with_registry as histograms;
use prometheus::register_int_counter_vec_with_registry as counters;
use prometheus::register_int_gauge_vec_with_registry as gauges;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec};

use super::Metrics;
use super::catalogue::Registrar;
use super::labels::{Discovery, GuardLabel, SourceLabel};
use super::responses::ResponseSeries;
use super::worker::Tally;
use crate::websocket::round_trip::Half;

/// Upper bounds of the buckets for requests in seconds: from a cached answer to a slow report.
const REQUEST_SECONDS: [f64; 15] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Upper bounds of the buckets for long polls in seconds: Socket.IO's workers end them after 20 to 60 s.
const POLL_SECONDS: [f64; 12] = [1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 45.0, 60.0, 90.0, 120.0];

/// Series of all upstreams together.
pub(crate) struct UpstreamsSeries {
    affinity: IntCounterVec,
    refusals: IntCounterVec,
    discoveries: IntCounterVec,
    guarded: IntCounterVec,
    attempts: IntCounterVec,
    learned: IntCounterVec,
    upgrades: IntCounterVec,
    retries: IntCounterVec,
    retries_refused: IntCounterVec,
    drained: IntCounterVec,
    pub(crate) shared_addresses: IntGaugeVec,
    request_seconds: HistogramVec,
    poll_seconds: HistogramVec,
}

impl UpstreamsSeries {
    #[rustfmt::skip]
    pub(crate) fn new(r: &Registrar) -> prometheus::Result<Self> {
        Ok(Self {
            affinity: counters!("stickyd_affinity_total",
                "Requests by the source that chose their worker.", &["upstream", "source"], r)?,
            refusals: counters!("stickyd_refusals_total",
                "Refusals (session unknown): forwarded (by the session's worker, or by all workers), healed (refused \
                 by one worker, found at another), own (the worker is gone, or all workers refused a moment ago).",
                &["upstream", "fate"], r)?,
            discoveries: counters!("stickyd_discoveries_total",
                "Discoveries of the owner of an unpinned sid, by result.", &["upstream", "result"], r)?,
            guarded: counters!("stickyd_guarded_total",
                "Requests rejected by a guard before reaching a worker: origin and network (status 403), rate_* (per \
                 address and route) and upstream_* (all clients together) for requests and handshakes (status 429).",
                &["upstream", "guard"], r)?,
            attempts: counters!("stickyd_discovery_attempts_total",
                "Real requests and probes that discovery sent to workers.", &["upstream", "kind"], r)?,
            learned: counters!("stickyd_handshakes_total",
                "Engine.IO polling handshakes, learned or released without learning.", &["upstream", "result"], r)?,
            upgrades: counters!("stickyd_upgrades_total",
                "WebSocket upgrades requested and granted.", &["upstream", "step"], r)?,
            retries: counters!("stickyd_retries_total",
                "Requests sent again: passed_on (sent to another worker, the first was not reached), resent (a kept \
                 connection broke before any byte of the answer).",
                &["upstream", "kind"], r)?,
            retries_refused: counters!("stickyd_retries_refused_total",
                "Requests not sent again because the retry budget was used up (retry_budget).", &["upstream"], r)?,
            drained: counters!("stickyd_drain_closed_total",
                "Sessions ended because their worker was drained, put into maint or removed: tunnels closed, polling \
                 sessions refused.",
                &["upstream", "kind"], r)?,
            shared_addresses: gauges!("stickyd_shared_addresses",
                "Workers that refused sessions of their own in the last 10 minutes, so that several processes seem to \
                 share their address.",
                &["upstream"], r)?,
            request_seconds: histograms!("stickyd_request_duration_seconds",
                "Time from the head of a request to the last byte of its answer, without tunnels and long polls.",
                &["upstream"], REQUEST_SECONDS.to_vec(), r)?,
            poll_seconds: histograms!("stickyd_poll_duration_seconds",
                "Time from the head of a long poll to the last byte of its answer; most of it is the worker's \
                 silence.",
                &["upstream"], POLL_SECONDS.to_vec(), r)?,
        })
    }
}

/// Resolved counters of one upstream.
pub struct UpstreamSeries {
    affinity: [IntCounter; 8],
    discoveries: [IntCounter; 8],
    guarded: [IntCounter; GuardLabel::ALL.len()],
    /// Time from the head of a request to the last byte of its answer, without tunnels and long polls.
    pub request_seconds: Histogram,
    /// Duration of long polls, most of which is the worker's silence.
    pub poll_seconds: Histogram,
    /// Answers to clients, by who wrote them.
    pub responses: ResponseSeries,
    /// Number of refusals by workers ("I do not know this session") that were forwarded to a client.
    pub refusals_forwarded: IntCounter,
    /// Number of requests refused by one worker whose session was found at another, unseen by the client.
    pub refusals_healed: IntCounter,
    /// Number of refusals written by stickyd: the worker is gone, or every worker refused the sid less than a second
    /// ago.
    pub refusals_own: IntCounter,
    /// Number of probes sent by discovery.
    pub probes: IntCounter,
    /// Number of real requests sent by discovery.
    pub attempts: IntCounter,
    /// Number of handshakes whose session was learned.
    pub learned: IntCounter,
    /// Number of handshakes released without learning their session.
    pub unlearned: IntCounter,
    /// Number of tunnels ended by a drain or maint, or because their worker was removed.
    pub drained_tunnels: IntCounter,
    /// Number of polling sessions ended by a drain or maint, or because their worker was removed.
    pub drained_polling: IntCounter,
    /// Number of WebSocket upgrades requested by clients.
    pub upgrades_asked: IntCounter,
    /// Number of WebSocket upgrades granted by a worker.
    pub upgrades_granted: IntCounter,
    /// Bytes of bodies received from clients.
    pub bytes_up: Arc<Tally>,
    /// Bytes of bodies sent to clients.
    pub bytes_down: Arc<Tally>,
    /// Number of requests passed to another worker because the first could not be reached.
    pub passed_on: IntCounter,
    /// Number of requests sent again because a kept connection broke before any byte of the answer.
    pub resent: IntCounter,
    /// Number of requests that failed because the retry budget was used up.
    pub retries_over_budget: IntCounter,
    /// Round-trip times of tunnels, on the client's leg and on the worker's leg.
    round_trips: [Histogram; 2],
}

impl UpstreamSeries {
    /// Returns the histogram of round-trip times on one leg of the upstream's tunnels.
    pub fn round_trip(&self, half: Half) -> &Histogram {
        let [client, worker] = &self.round_trips;
        if half == Half::Client { client } else { worker }
    }

    /// Counts one affinity decision.
    pub fn decided(&self, source: SourceLabel) {
        if let Some(counter) = self.affinity.get(source as usize) {
            counter.inc();
        }
    }

    /// Counts one request that a guard rejected.
    pub fn turned(&self, by: GuardLabel) {
        if let Some(counter) = self.guarded.get(by as usize) {
            counter.inc();
        }
    }

    /// Counts one finished discovery.
    pub fn discovered(&self, result: Discovery) {
        if let Some(counter) = self.discoveries.get(result as usize) {
            counter.inc();
        }
    }
}

impl Metrics {
    /// Resolves the counters of one upstream.
    pub fn upstream(&self, name: &str) -> UpstreamSeries {
        let all = &self.upstreams;
        let [bytes_up, bytes_down] = self.sockets.upstream(name).bodies.clone();
        let refusal = |fate| all.refusals.with_label_values(&[name, fate]);
        let retry = |kind| all.retries.with_label_values(&[name, kind]);
        UpstreamSeries {
            affinity: SourceLabel::ALL.map(|s| all.affinity.with_label_values(&[name, s.word()])),
            guarded: GuardLabel::ALL.map(|g| all.guarded.with_label_values(&[name, g.word()])),
            discoveries: Discovery::ALL.map(|d| all.discoveries.with_label_values(&[name, d.word()])),
            request_seconds: all.request_seconds.with_label_values(&[name]),
            poll_seconds: all.poll_seconds.with_label_values(&[name]),
            responses: self.responses.upstream(name),
            refusals_forwarded: refusal("forwarded"),
            refusals_healed: refusal("healed"),
            refusals_own: refusal("own"),
            probes: all.attempts.with_label_values(&[name, "probe"]),
            attempts: all.attempts.with_label_values(&[name, "request"]),
            learned: all.learned.with_label_values(&[name, "learned"]),
            unlearned: all.learned.with_label_values(&[name, "unlearned"]),
            drained_tunnels: all.drained.with_label_values(&[name, "tunnel"]),
            drained_polling: all.drained.with_label_values(&[name, "polling"]),
            upgrades_asked: all.upgrades.with_label_values(&[name, "asked"]),
            upgrades_granted: all.upgrades.with_label_values(&[name, "granted"]),
            bytes_up,
            bytes_down,
            passed_on: retry("passed_on"),
            resent: retry("resent"),
            retries_over_budget: all.retries_refused.with_label_values(&[name]),
            round_trips: self.care.round_trips(name),
        }
    }
}
