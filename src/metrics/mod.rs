//! Every series that stickyd exports; no other file names a series (ARCHITECTURE.md, invariant 11).
//!
//! Hot paths hold resolved counters ([`UpstreamSeries`], [`WorkerSeries`]), so counting a request costs one atomic
//! addition and no label lookup. Gauges that mirror live state are set on each scrape. Cardinality is bounded by the
//! config: labels are upstreams, workers and closed sets of words, never anything a client chooses.

mod bus;
pub(crate) mod labels;
mod limits;
pub(crate) mod liveness;
mod rules;
pub(crate) mod socket_labels;
mod sockets;
mod upstream;
mod worker;

use prometheus::register_histogram_vec_with_registry as histograms;
use prometheus::register_int_counter_vec_with_registry as counters;
use prometheus::register_int_counter_with_registry as counter;
use prometheus::register_int_gauge_vec_with_registry as gauges;
use prometheus::register_int_gauge_with_registry as gauge;
use prometheus::{Encoder, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder};

pub(crate) use bus::BusSeries;
pub(crate) use labels::{Discovery, GuardLabel, SourceLabel};
pub(crate) use limits::{LimitLabel, LimitSeries};
pub(crate) use rules::RuleSeries;
pub(crate) use sockets::{Carried, SocketSeries, SocketsSeries};
pub(crate) use upstream::UpstreamSeries;
pub(crate) use worker::WorkerSeries;

/// All series, registered once at start.
pub struct Metrics {
    pub(crate) registry: Registry,
    /// Series of limits: how often each was reached, and how close others are.
    pub limits: LimitSeries,
    /// Series of the bus.
    pub bus: BusSeries,
    pub(crate) sockets: SocketsSeries,
    /// Series of connection quality: round-trips, sockets that owe an answer, broadcasts.
    pub care: liveness::CareSeries,
    pub(crate) rules: rules::RuleMetrics,
    pub(crate) requests: IntCounterVec,
    pub(crate) seconds: HistogramVec,
    pub(crate) affinity: IntCounterVec,
    pub(crate) refusals: IntCounterVec,
    pub(crate) discoveries: IntCounterVec,
    pub(crate) guarded: IntCounterVec,
    pub(crate) attempts: IntCounterVec,
    pub(crate) learned: IntCounterVec,
    pub(crate) upgrades: IntCounterVec,
    pub(crate) bytes: IntCounterVec,
    pub(crate) failures: IntCounterVec,
    pub(crate) ejections: IntCounterVec,
    pub(crate) spared: IntCounterVec,
    pub(crate) retries: IntCounterVec,
    pub(crate) queued: IntCounterVec,
    pub(crate) ejected: IntGaugeVec,
    pub(crate) waiting: IntGaugeVec,
    pub(crate) generations: IntGaugeVec,
    pub(crate) sessions: IntGaugeVec,
    pub(crate) tunnels: IntGaugeVec,
    pub(crate) in_flight: IntGaugeVec,
    pub(crate) states: IntGaugeVec,
    pub(crate) admin_states: IntGaugeVec,
    pub(crate) pins: IntGauge,
    pub(crate) pins_limit: IntGauge,
    pub(crate) replay: IntGauge,
    pub(crate) clients: IntGauge,
    pub(crate) config_ok: IntGauge,
    pub(crate) log_dropped: IntCounter,
    pub(crate) config_loaded: IntGauge,
    /// Number of pins evicted to make room for newer ones.
    pub pins_evicted: IntCounter,
    /// Number of pins not stored because the table, or the quota of an address, was full.
    pub pins_refused: IntCounter,
    /// Number of idle connections to workers closed because the pool was full.
    pub pool_full: IntCounter,
    /// Number of requests that no route matched.
    pub unrouted: IntCounter,
    pub(crate) tls_handshakes: IntCounterVec,
    pub(crate) certificates: IntGaugeVec,
    /// Number of client connections that ended with an HTTP, TLS or PROXY protocol error.
    pub client_errors: IntCounterVec,
    /// Number of HTTP/2 streams open now, tunnels included.
    pub http2_streams: IntGauge,
    /// Number of HTTP/2 streams opened by clients.
    pub http2_streams_total: IntCounter,
    /// Number of HTTP/2 streams reset by clients.
    pub http2_resets: IntCounter,
    /// Number of HTTP/2 connections closed because the client sent too many frames of a kind (`resets`, `useless`).
    pub http2_floods: IntCounterVec,
    pub(crate) drained: IntCounterVec,
    pub(crate) drain_left: IntGaugeVec,
    /// Number of reloads by result (`ok`, `failed`).
    pub reloads: IntCounterVec,
    /// Number of DNS lookups by upstream and result (`ok`, `empty`, `failed`, `timeout`).
    pub dns_lookups: IntCounterVec,
    /// Number of times the addresses of a DNS name have changed, by upstream.
    pub dns_changes: IntCounterVec,
    pub(crate) dns_names: IntGaugeVec,
}

/// Upper bounds of the buckets for durations, in seconds: from a request to a tunnel of a day.
const DURATIONS: [f64; 13] = [0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 600.0, 3600.0, 86400.0];

impl Metrics {
    /// Creates all series and registers them.
    #[allow(clippy::panic, reason = "reached only by a literal or a name in this module, at start, in every test")]
    pub fn new() -> Self {
        Self::register().unwrap_or_else(|error| panic!("a metric could not be registered: {error}"))
    }

    /// Registers every series. Formatted as a table, one entry per series.
    #[rustfmt::skip]
    fn register() -> prometheus::Result<Self> {
        let r = Registry::new();
        let build = gauges!("stickyd_build_info", "Always 1; the label holds the version.", &["version"], r)?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let worker = &["upstream", "worker"];
        Ok(Self {
            requests: counters!("stickyd_requests_total",
                "Answers of workers by status class, without refused attempts of discovery.",
                &["upstream", "worker", "class"], r)?,
            seconds: histograms!("stickyd_duration_seconds",
                "Time from the head of a request to the last byte, for requests, long polls and tunnels separately.",
                &["upstream", "kind"], DURATIONS.to_vec(), r)?,
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
                "Real requests and PUT probes that discovery sent to workers.", &["upstream", "kind"], r)?,
            learned: counters!("stickyd_handshakes_total",
                "Engine.IO polling handshakes, learned or released without learning.", &["upstream", "result"], r)?,
            upgrades: counters!("stickyd_upgrades_total",
                "WebSocket upgrades requested and granted.", &["upstream", "step"], r)?,
            bytes: counters!("stickyd_bytes_total",
                "Bytes of bodies and tunnels, up (from clients) and down (to clients).",
                &["upstream", "direction"], r)?,
            failures: counters!("stickyd_worker_failures_total",
                "Attempts that got no answer, by kind.", &["upstream", "worker", "kind"], r)?,
            ejections: counters!("stickyd_ejections_total",
                "Ejections of workers after live failures, by reason: connect, broken, timeout (consecutive \
                 failures), errors (share of failures in the window).",
                &["upstream", "worker", "reason"], r)?,
            spared: counters!("stickyd_ejections_spared_total",
                "Ejections prevented by max_share.", worker, r)?,
            retries: counters!("stickyd_retries_total",
                "Retries: passed_on (sent to another worker, the first was not reached), resent (a kept connection \
                 broke before any byte of the answer), over_budget (not retried, the budget was used up).",
                &["upstream", "kind"], r)?,
            queued: counters!("stickyd_queue_total",
                "Requests that found a worker at max_connections: waited (got a connection), full (the queue was \
                 full), timeout (got no connection in time).",
                &["upstream", "worker", "result"], r)?,
            ejected: gauges!("stickyd_worker_ejected", "1 while the worker is ejected.", worker, r)?,
            waiting: gauges!("stickyd_queue",
                "Requests waiting for a connection to the worker (max_connections).", worker, r)?,
            generations: gauges!("stickyd_worker_generation",
                "Generation of the worker: the number of its lives seen so far.", worker, r)?,
            sessions: gauges!("stickyd_sessions",
                "Live sessions: pins and WebSocket-first tunnels.", worker, r)?,
            tunnels: gauges!("stickyd_tunnels", "Live tunnels.", worker, r)?,
            in_flight: gauges!("stickyd_requests_in_flight",
                "Requests sent and not fully answered, without tunnels.", worker, r)?,
            states: gauges!("stickyd_worker_health",
                "1 for the present health of the worker.", &["upstream", "worker", "health"], r)?,
            admin_states: gauges!("stickyd_worker_admin",
                "1 for the present admin state of the worker.", &["upstream", "worker", "admin"], r)?,
            pins: gauge!("stickyd_pins", "Sessions pinned.", r)?,
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
                "Client connections ended by an error, by kind.", &["kind"], r)?,
            http2_streams: gauge!("stickyd_http2_streams",
                "HTTP/2 streams open: requests and tunnels.", r)?,
            http2_streams_total: counter!("stickyd_http2_streams_total",
                "HTTP/2 streams opened by clients: requests and tunnels.", r)?,
            http2_resets: counter!("stickyd_http2_resets_total", "HTTP/2 streams reset by clients.", r)?,
            http2_floods: counters!("stickyd_http2_floods_total",
                "HTTP/2 connections closed because the client sent too many resets or useless frames.",
                &["frames"], r)?,
            tls_handshakes: counters!("stickyd_tls_handshakes_total",
                "TLS handshakes by version, result (ok, failed, timeout) and whether a session was resumed.",
                &["listener", "version", "result", "resumed"], r)?,
            certificates: gauges!("stickyd_tls_certificate_expiry_timestamp_seconds",
                "Unix time at which a certificate expires; the name is the first one in the certificate.",
                &["listener", "name"], r)?,
            config_ok: gauge!("stickyd_config_ok",
                "1 if the configuration file, as last checked, is the running one; 0 if it is invalid or missing.", r)?,
            config_loaded: gauge!("stickyd_config_loaded_timestamp_seconds",
                "Unix time at which the running configuration was loaded.", r)?,
            log_dropped: counter!("stickyd_log_lines_dropped_total",
                "Log lines dropped because standard error was blocked or too slow.", r)?,
            drained: counters!("stickyd_drain_closed_total",
                "Sessions ended because their worker was drained, put into maint or removed: tunnels closed, polling \
                 sessions refused.",
                &["upstream", "kind"], r)?,
            drain_left: gauges!("stickyd_drain_sessions_left",
                "Live sessions of workers that are drained, in maint or removed.", worker, r)?,
            reloads: counters!("stickyd_reloads_total", "Reloads by result.", &["result"], r)?,
            dns_lookups: counters!("stickyd_dns_lookups_total",
                "Lookups of DNS names of workers, by result.", &["upstream", "result"], r)?,
            dns_changes: counters!("stickyd_dns_changes_total",
                "Lookups of DNS names that returned other addresses than the one before.", &["upstream"], r)?,
            dns_names: gauges!("stickyd_dns_names",
                "DNS names by state: resolved, kept (the last lookup returned nothing, the previous addresses stay), \
                 unresolved (no lookup has returned an address yet).",
                &["upstream", "state"], r)?,
            limits: LimitSeries::new(&r)?,
            bus: BusSeries::new(&r)?,
            sockets: SocketsSeries::new(&r)?,
            care: liveness::CareSeries::new(&r)?,
            rules: rules::RuleMetrics::new(&r)?,
            registry: r,
        })
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
        self.certificates.reset();
        for (listener, name, until) in all {
            let gauge = self.certificates.with_label_values(&[listener, name]);
            let until = i64::try_from(until).unwrap_or(i64::MAX);
            gauge.set(if gauge.get() == 0 { until } else { gauge.get().min(until) });
        }
    }

    /// Every series as text, in Prometheus' exposition format 0.0.4.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(16 * 1024);
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be encoded");
        }
        text
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
