//! The series of one upstream, resolved once, so that a request costs an atomic add and no label lookup.

use std::sync::Arc;

use prometheus::{Histogram, IntCounter};

use super::Metrics;
use super::labels::{Discovery, GuardLabel, SourceLabel};
use super::responses::ResponseSeries;
use super::worker::Tally;
use crate::websocket::round_trip::Half;

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
        let [bytes_up, bytes_down] = self.sockets.upstream(name).bodies.clone();
        let refusal = |fate| self.refusals.with_label_values(&[name, fate]);
        let retry = |kind| self.retries.with_label_values(&[name, kind]);
        UpstreamSeries {
            affinity: SourceLabel::ALL.map(|s| self.affinity.with_label_values(&[name, s.word()])),
            guarded: GuardLabel::ALL.map(|g| self.guarded.with_label_values(&[name, g.word()])),
            discoveries: Discovery::ALL.map(|d| self.discoveries.with_label_values(&[name, d.word()])),
            request_seconds: self.request_seconds.with_label_values(&[name]),
            poll_seconds: self.poll_seconds.with_label_values(&[name]),
            responses: self.responses.upstream(name),
            refusals_forwarded: refusal("forwarded"),
            refusals_healed: refusal("healed"),
            refusals_own: refusal("own"),
            probes: self.attempts.with_label_values(&[name, "probe"]),
            attempts: self.attempts.with_label_values(&[name, "request"]),
            learned: self.learned.with_label_values(&[name, "learned"]),
            unlearned: self.learned.with_label_values(&[name, "unlearned"]),
            drained_tunnels: self.drained.with_label_values(&[name, "tunnel"]),
            drained_polling: self.drained.with_label_values(&[name, "polling"]),
            upgrades_asked: self.upgrades.with_label_values(&[name, "asked"]),
            upgrades_granted: self.upgrades.with_label_values(&[name, "granted"]),
            bytes_up,
            bytes_down,
            passed_on: retry("passed_on"),
            resent: retry("resent"),
            retries_over_budget: self.retries_refused.with_label_values(&[name]),
            round_trips: self.care.round_trips(name),
        }
    }
}
