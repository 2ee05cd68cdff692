//! Every series that stickyd exports; no other file names a series (ARCHITECTURE.md, invariant 11).
//!
//! Hot paths hold resolved counters ([`UpstreamSeries`], [`WorkerSeries`]), so counting a request costs one atomic
//! addition and no label lookup. What mirrors live state is made at each scrape ([`families`]). Cardinality is bounded
//! by the config: labels are upstreams, workers and closed sets of words, never anything a client chooses. Every
//! combination of such words begins at 0 with its upstream, worker or listener, so that no increase is missed.

mod bus;
pub(crate) mod catalogue;
mod events;
pub(crate) mod families;
mod fleet;
pub(crate) mod labels;
mod limits;
pub(crate) mod liveness;
pub(crate) mod process;
pub(crate) mod responses;
mod rules;
pub(crate) mod socket_labels;
mod sockets;
mod spawn;
mod upstream;
pub(crate) mod worker;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use prometheus::register_histogram_vec_with_registry as histograms;
use prometheus::register_int_counter_vec_with_registry as counters;
use prometheus::register_int_counter_with_registry as counter;
use prometheus::register_int_gauge_vec_with_registry as gauges;
use prometheus::register_int_gauge_with_registry as gauge;
use prometheus::{Encoder, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, TextEncoder};

use crate::events::Events;
use crate::locks::lock;
use catalogue::Registrar;
use families::{Families, Family, value};

pub(crate) use bus::{BusSample, BusSeries};
pub(crate) use fleet::FleetSeries;
pub(crate) use labels::{Discovery, GuardLabel, SourceLabel};
pub(crate) use limits::{LimitLabel, LimitSeries};
pub(crate) use responses::AnsweredBy;
pub(crate) use rules::RuleSeries;
pub(crate) use sockets::{SocketCarrier, SocketsSeries, Way};
pub(crate) use upstream::UpstreamSeries;
pub(crate) use worker::WorkerSeries;

/// All series, registered once at start.
pub struct Metrics {
    /// What has happened; here, because everything that counts also has events to tell.
    pub events: Arc<Events>,
    pub(crate) registry: Registrar,
    /// Series of limits: how often each was reached, and how close others are.
    pub limits: LimitSeries,
    /// Series of the bus.
    pub bus: BusSeries,
    /// Series of the fleet.
    pub(crate) fleet: Arc<FleetSeries>,
    pub(crate) sockets: SocketsSeries,
    /// Series of connection quality: round-trips, sockets that owe an answer, broadcasts.
    pub care: liveness::CareSeries,
    pub(crate) rules: rules::RuleMetrics,
    /// Series of the workers that stickyd starts itself.
    pub spawn: spawn::SpawnSeries,
    /// Notifications by receiver and result.
    pub(crate) notifications: IntCounterVec,
    pub(crate) shared_addresses: IntGaugeVec,
    pub(crate) responses: responses::ResponsesSeries,
    pub(crate) workers: worker::WorkersSeries,
    pub(crate) request_seconds: HistogramVec,
    pub(crate) poll_seconds: HistogramVec,
    pub(crate) affinity: IntCounterVec,
    pub(crate) refusals: IntCounterVec,
    pub(crate) discoveries: IntCounterVec,
    pub(crate) guarded: IntCounterVec,
    pub(crate) attempts: IntCounterVec,
    pub(crate) learned: IntCounterVec,
    pub(crate) upgrades: IntCounterVec,
    pub(crate) retries: IntCounterVec,
    pub(crate) retries_refused: IntCounterVec,
    accepted: IntCounterVec,
    pub(crate) pins: IntGauge,
    pub(crate) pins_limit: IntGauge,
    pub(crate) replay: IntGauge,
    pub(crate) clients: IntGauge,
    pub(crate) config_ok: IntGauge,
    pub(crate) log_dropped: IntCounter,
    pub(crate) history_dropped: IntGauge,
    pub(crate) history_bytes: IntGauge,
    pub(crate) config_loaded: IntGauge,
    /// Number of pins evicted to make room for newer ones.
    pub pins_evicted: IntCounter,
    /// Number of pins not stored because the table, or the quota of an address, was full.
    pub pins_refused: IntCounter,
    /// Number of idle connections to workers closed because the pool was full.
    pub pool_full: IntCounter,
    /// Number of requests that no route matched.
    pub unrouted: IntCounter,
    tls_handshakes: IntCounterVec,
    /// Unix times at which certificates expire, by listener and name.
    certificates: Mutex<BTreeMap<(String, String), u64>>,
    /// Number of client connections that ended with an HTTP, TLS or PROXY protocol error.
    pub client_errors: IntCounterVec,
    /// Number of HTTP/2 streams open now, tunnels included.
    pub http2_streams: IntGauge,
    /// Number of HTTP/2 streams opened by clients.
    pub http2_streams_total: IntCounter,
    /// Number of HTTP/2 streams reset by clients.
    pub http2_resets: IntCounter,
    /// Requests over HTTP/2 with a malformed head.
    pub http2_malformed: IntCounter,
    /// Number of HTTP/2 connections closed because the client sent too many frames of a kind (`resets`, `useless`).
    pub http2_floods: IntCounterVec,
    pub(crate) drained: IntCounterVec,
    /// Number of reloads by result (`ok`, `failed`).
    pub reloads: IntCounterVec,
    /// Number of DNS lookups by upstream and result (`ok`, `empty`, `failed`, `timeout`).
    pub dns_lookups: IntCounterVec,
    /// Number of times the addresses of a DNS name have changed, by upstream.
    pub dns_changes: IntCounterVec,
}

/// Upper bounds of the buckets for requests in seconds: from a cached answer to a slow report.
const REQUEST_SECONDS: [f64; 15] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Upper bounds of the buckets for long polls in seconds: Socket.IO's workers end them after 20 to 60 s.
const POLL_SECONDS: [f64; 12] = [1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 45.0, 60.0, 90.0, 120.0];

/// Values of the `result` label of lookups of DNS names.
const LOOKUPS: [&str; 4] = ["ok", "empty", "failed", "timeout"];

/// Values of the `state` label of DNS names.
const NAME_STATES: [&str; 3] = ["resolved", "kept", "unresolved"];

const DNS_NAMES: Family = Family {
    name: "stickyd_dns_names",
    help: "DNS names of workers by state: resolved, kept (the last lookup returned nothing, the previous addresses \
           stay), unresolved (no lookup has returned an address yet).",
};
const CERTIFICATES: Family = Family {
    name: "stickyd_tls_certificate_expiry_timestamp_seconds",
    help: "Unix time at which a certificate expires; the name is the first one in the certificate.",
};

impl Metrics {
    /// Creates all series and registers them.
    #[allow(clippy::panic, reason = "reached only by a literal or a name in this module, at start, in every test")]
    pub fn new() -> Self {
        Self::register().unwrap_or_else(|error| panic!("a metric could not be registered: {error}"))
    }

    /// Registers every series. Formatted as a table, one entry per series.
    #[rustfmt::skip]
    fn register() -> prometheus::Result<Self> {
        let r = Registrar::default();
        let build = gauges!("stickyd_build_info", "Always 1; the label holds the version.", &["version"], r)?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let all = Self {
            notifications: counters!("stickyd_notifications_total",
                "Notifications by receiver and result: sent, retried (an attempt failed and is repeated), refused by the \
                 receiver, expired (not delivered within an hour), dropped (the queue was full), limited (per_hour).",
                &["to", "result"], r)?,
            events: Events::new(),
            responses: responses::ResponsesSeries::new(&r)?,
            workers: worker::WorkersSeries::default(),
            request_seconds: histograms!("stickyd_request_duration_seconds",
                "Time from the head of a request to the last byte of its answer, without tunnels and long polls.",
                &["upstream"], REQUEST_SECONDS.to_vec(), r)?,
            poll_seconds: histograms!("stickyd_poll_duration_seconds",
                "Time from the head of a long poll to the last byte of its answer; most of it is the worker's \
                 silence.",
                &["upstream"], POLL_SECONDS.to_vec(), r)?,
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
            accepted: counters!("stickyd_connections_accepted_total",
                "Client connections accepted, including those closed at once because a limit was reached.",
                &["listener"], r)?,
            pins: gauge!("stickyd_pins", "Sessions pinned to a worker now.", r)?,
            pins_limit: gauge!("stickyd_pins_limit", "Maximum number of pins.", r)?,
            replay: gauge!("stickyd_replay_bytes", "Bytes of request bodies held for replay.", r)?,
            clients: gauge!("stickyd_client_connections",
                "Client connections open, tunnels included; each tunnel over HTTP/2 counts as one more.", r)?,
            pins_evicted: counter!("stickyd_pins_evicted_total",
                "Idle pins evicted to make room for newer ones.", r)?,
            pins_refused: counter!("stickyd_pins_refused_total",
                "Pins not stored because the table, or the quota of an address, was full.", r)?,
            pool_full: counter!("stickyd_worker_pool_full_total",
                "Idle connections to workers closed because the pool was full.", r)?,
            unrouted: counter!("stickyd_unrouted_total", "Requests that no route matched.", r)?,
            client_errors: counters!("stickyd_client_errors_total",
                "Client connections ended by an error, by kind: proxy (PROXY header), tls, http, http2.", &["kind"], r)?,
            http2_streams: gauge!("stickyd_http2_streams",
                "HTTP/2 streams open: requests and tunnels.", r)?,
            http2_streams_total: counter!("stickyd_http2_streams_opened_total",
                "HTTP/2 streams opened by clients: requests and tunnels.", r)?,
            http2_resets: counter!("stickyd_http2_resets_total", "HTTP/2 streams reset by clients.", r)?,
            http2_malformed: counter!("stickyd_http2_malformed_total",
                "Requests over HTTP/2 that were reset because their heads were malformed.", r)?,
            http2_floods: counters!("stickyd_http2_floods_total",
                "HTTP/2 connections closed because the client sent too many resets, useless frames or mistakes.",
                &["frames"], r)?,
            tls_handshakes: counters!("stickyd_tls_handshakes_total",
                "TLS handshakes by version, result (ok, failed, timeout) and whether a session was resumed.",
                &["listener", "version", "result", "resumed"], r)?,
            config_ok: gauge!("stickyd_config_ok",
                "1 if the configuration file, as last checked, is the running one; 0 if it is invalid or missing.", r)?,
            config_loaded: gauge!("stickyd_config_loaded_timestamp_seconds",
                "Unix time at which the running configuration was loaded.", r)?,
            history_dropped: gauge!("stickyd_history_dropped",
                "Workers that share one series in the history, because there is no memory for their own ([history] memory).",
                r)?,
            history_bytes: gauge!("stickyd_history_bytes", "Memory that the history of workers and upstreams takes.", r)?,
            log_dropped: counter!("stickyd_log_lines_dropped_total",
                "Log lines dropped because standard error was blocked or too slow.", r)?,
            drained: counters!("stickyd_drain_closed_total",
                "Sessions ended because their worker was drained, put into maint or removed: tunnels closed, polling \
                 sessions refused.",
                &["upstream", "kind"], r)?,
            reloads: counters!("stickyd_reloads_total", "Reloads by result.", &["result"], r)?,
            dns_lookups: counters!("stickyd_dns_lookups_total",
                "Lookups of DNS names of workers, by result.", &["upstream", "result"], r)?,
            dns_changes: counters!("stickyd_dns_changes_total",
                "Lookups of DNS names that returned other addresses than the one before.", &["upstream"], r)?,
            shared_addresses: gauges!("stickyd_shared_addresses",
                "Workers that refused sessions of their own in the last 10 minutes, so that several processes seem to \
                 share their address.",
                &["upstream"], r)?,
            certificates: Mutex::default(),
            limits: LimitSeries::new(&r)?,
            bus: BusSeries::new(&r)?,
            fleet: FleetSeries::new(&r)?,
            sockets: SocketsSeries::new(&r)?,
            care: liveness::CareSeries::new(&r)?,
            spawn: spawn::SpawnSeries::register(&r)?,
            rules: rules::RuleMetrics::new(&r)?,
            registry: r,
        };
        all.begin_at_zero();
        Ok(all)
    }

    /// Creates the series of closed sets of words that belong to no upstream, worker or listener.
    fn begin_at_zero(&self) {
        for (series, words) in [
            (&self.client_errors, &["proxy", "tls", "http", "http2"][..]),
            (&self.http2_floods, &["resets", "useless"]),
            (&self.reloads, &["ok", "failed"]),
        ] {
            for word in words {
                series.with_label_values(&[word]);
            }
        }
    }

    /// Creates the series of a listener, which begin at 0.
    pub(crate) fn begin_listener(&self, listener: &str, has_tls: bool) {
        self.accepted.with_label_values(&[listener]);
        let versions = [("1.2", "ok"), ("1.2", "failed"), ("1.3", "ok"), ("1.3", "failed")];
        let made =
            versions.into_iter().flat_map(|(version, result)| [(version, result, "no"), (version, result, "yes")]);
        for (version, result, resumed) in made.chain([("none", "failed", "no"), ("none", "timeout", "no")]) {
            if has_tls {
                self.tls_handshakes.with_label_values(&[listener, version, result, resumed]);
            }
        }
    }

    /// Returns the counter of connections that a listener has accepted.
    pub(crate) fn accepted(&self, listener: &str) -> IntCounter {
        self.accepted.with_label_values(&[listener])
    }

    /// Creates the series of an upstream's DNS names, which begin at 0.
    pub(crate) fn begin_names(&self, upstream: &str) {
        self.dns_changes.with_label_values(&[upstream]);
        for result in LOOKUPS {
            self.dns_lookups.with_label_values(&[upstream, result]);
        }
    }

    /// Returns the counters of one worker. They are the same for all workers of this name, one after the other.
    pub fn worker(&self, upstream: &str, worker: &str) -> Arc<WorkerSeries> {
        self.workers.of(upstream, worker, || WorkerSeries::new(self.sockets.upstream(upstream), self.events.clone()))
    }

    /// Removes the counters of a worker that no longer exists.
    pub fn forget_worker(&self, upstream: &str, worker: &str) {
        self.workers.forget(upstream, worker);
    }

    /// Resolves the counters of one affinity rule.
    pub fn rule(&self, upstream: &str, rule: &str) -> RuleSeries {
        self.rules.of(upstream, rule)
    }

    /// Counts one TLS handshake of a client; `version` is `none` if the handshake did not get that far.
    pub fn tls_handshake(&self, listener: &str, version: &str, result: &str, resumed: bool) {
        let resumed = if resumed { "yes" } else { "no" };
        self.tls_handshakes.with_label_values(&[listener, version, result, resumed]).inc();
    }

    /// Replaces the expiry times of certificates, given as listener, name and Unix time. Of several certificates with
    /// the same name (ECDSA and RSA) the earliest expiry counts.
    pub fn certificates_expire<'a>(&self, all: impl Iterator<Item = (&'a str, &'a str, u64)>) {
        let mut earliest = BTreeMap::new();
        for (listener, name, until) in all {
            let known = earliest.entry((listener.to_owned(), name.to_owned())).or_insert(until);
            *known = until.min(*known);
        }
        *lock(&self.certificates) = earliest;
    }

    /// Returns listener, name and expiry (Unix time) of every certificate.
    pub(crate) fn certificates(&self) -> Vec<(String, String, u64)> {
        let known = lock(&self.certificates);
        known.iter().map(|((listener, name), until)| (listener.clone(), name.clone(), *until)).collect()
    }

    /// Adds the families that mirror what the metrics hold outside of the registry.
    fn show(&self, live: &mut Families) {
        for ((listener, name), until) in &*lock(&self.certificates) {
            live.gauge(&CERTIFICATES, &[("listener", listener), ("name", name)], value(*until));
        }
        live.events(&self.events);
        self.care.show(live);
        self.sockets.show(live);
    }

    /// Every series as text, in Prometheus' exposition format 0.0.4; `live` are those made for this scrape.
    pub(crate) fn encode(&self, mut live: Families) -> Vec<u8> {
        self.show(&mut live);
        let mut all = self.registry.gather();
        all.extend(live.into_all());
        all.sort_by(|one, other| one.name().cmp(other.name()));
        let mut text = Vec::with_capacity(64 * 1024);
        if let Err(error) = TextEncoder::new().encode(&all, &mut text) {
            tracing::error!(%error, "metrics could not be encoded");
        }
        text
    }
}

impl Families {
    /// Adds the DNS names of an upstream: the number of its names in each state.
    pub(crate) fn dns_names<'a>(&mut self, upstream: &str, states: impl Iterator<Item = &'a str> + Clone) {
        for word in NAME_STATES {
            let count = states.clone().filter(|state| *state == word).count();
            self.gauge(&DNS_NAMES, &[("upstream", upstream), ("state", word)], value(count as u64));
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

pub(crate) fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
