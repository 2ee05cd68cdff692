//! Every series that stickyd exports; no other file names a series (ARCHITECTURE.md, invariant 11).
//!
//! Hot paths hold resolved counters ([`UpstreamSeries`], [`WorkerSeries`]), so counting a request costs one atomic
//! addition and no label lookup. What mirrors live state is made at each scrape ([`families`]). Cardinality is bounded
//! by the config: labels are upstreams, workers and closed sets of words, never anything a client chooses. Every
//! combination of such words begins at 0 with its upstream, worker or listener, so that no increase is missed.

mod bus;
pub(crate) mod catalogue;
mod clients;
mod dns;
mod events;
pub(crate) mod families;
mod fleet;
mod http2;
pub(crate) mod labels;
mod limits;
pub(crate) mod liveness;
pub(crate) mod process;
mod queue;
pub(crate) mod responses;
mod rules;
pub(crate) mod socket_labels;
mod sockets;
mod spawn;
mod upstream;
pub(crate) mod worker;

use std::sync::Arc;

use prometheus::register_int_counter_vec_with_registry as counters;
use prometheus::register_int_counter_with_registry as counter;
use prometheus::register_int_gauge_vec_with_registry as gauges;
use prometheus::register_int_gauge_with_registry as gauge;
use prometheus::{Encoder, IntCounter, IntCounterVec, IntGauge, TextEncoder};

use crate::events::Events;
use catalogue::Registrar;
use families::Families;

pub(crate) use bus::{BusSample, BusSeries};
pub(crate) use clients::ClientSeries;
pub(crate) use dns::NameSeries;
pub(crate) use fleet::FleetSeries;
pub(crate) use http2::Http2Series;
pub(crate) use labels::{Discovery, GuardLabel, SourceLabel};
pub(crate) use limits::{LimitLabel, LimitSeries};
pub(crate) use liveness::{EmitResult, EmitVia};
pub(crate) use queue::{MailResult, QueueSeries};
pub(crate) use responses::AnsweredBy;
pub(crate) use rules::RuleSeries;
pub(crate) use sockets::{SocketCarrier, SocketsSeries, Way};
pub(crate) use upstream::{UpstreamSeries, UpstreamsSeries};
pub(crate) use worker::WorkerSeries;

/// All series, registered once at start.
pub struct Metrics {
    /// What has happened; here, because everything that counts also has events to tell.
    pub events: Arc<Events>,
    pub(crate) registry: Registrar,
    pub(crate) upstreams: UpstreamsSeries,
    /// Series of the DNS names among the workers.
    pub names: NameSeries,
    /// Series of the connections of clients.
    pub clients: ClientSeries,
    /// Series of HTTP/2 streams and their faults.
    pub http2: Http2Series,
    /// Series of limits: how often each was reached, and how close others are.
    pub limits: LimitSeries,
    /// Series of the bus.
    pub bus: BusSeries,
    /// Series of the fleet.
    pub(crate) fleet: Arc<FleetSeries>,
    /// Series of the queue for users whose clients are away.
    pub(crate) queue: QueueSeries,
    pub(crate) sockets: SocketsSeries,
    /// Series of connection quality: round-trips, sockets that owe an answer, broadcasts.
    pub care: liveness::CareSeries,
    pub(crate) rules: rules::RuleMetrics,
    /// Series of the workers that stickyd starts itself.
    pub spawn: spawn::SpawnSeries,
    /// Notifications by receiver and result.
    pub(crate) notifications: IntCounterVec,
    /// Spans of traces by result.
    pub(crate) spans: IntCounterVec,
    pub(crate) responses: responses::ResponsesSeries,
    pub(crate) workers: worker::WorkersSeries,
    pub(crate) pins: IntGauge,
    pub(crate) pins_limit: IntGauge,
    pub(crate) replay: IntGauge,
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
    /// Number of reloads by result (`ok`, `failed`).
    pub reloads: IntCounterVec,
}

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
            spans: counters!("stickyd_spans_total",
                "Spans of traces by result: sent, failed (the receiver did not take them), dropped (the queue was full, \
                 [telemetry] was removed, or stickyd stopped). A build without the feature otel makes none.", &["result"], r)?,
            events: Events::new(),
            responses: responses::ResponsesSeries::new(&r)?,
            workers: worker::WorkersSeries::default(),
            pins: gauge!("stickyd_pins", "Sessions pinned to a worker now.", r)?,
            pins_limit: gauge!("stickyd_pins_limit", "Maximum number of pins.", r)?,
            replay: gauge!("stickyd_replay_bytes", "Bytes of request bodies held for replay.", r)?,
            pins_evicted: counter!("stickyd_pins_evicted_total",
                "Idle pins evicted to make room for newer ones.", r)?,
            pins_refused: counter!("stickyd_pins_refused_total",
                "Pins not stored because the table, or the quota of an address, was full.", r)?,
            pool_full: counter!("stickyd_worker_pool_full_total",
                "Idle connections to workers closed because the pool was full.", r)?,
            unrouted: counter!("stickyd_unrouted_total", "Requests that no route matched.", r)?,
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
            reloads: counters!("stickyd_reloads_total", "Reloads by result.", &["result"], r)?,
            upstreams: UpstreamsSeries::new(&r)?,
            names: NameSeries::new(&r)?,
            clients: ClientSeries::new(&r)?,
            http2: Http2Series::new(&r)?,
            limits: LimitSeries::new(&r)?,
            bus: BusSeries::new(&r)?,
            fleet: FleetSeries::new(&r)?,
            queue: QueueSeries::new(&r)?,
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
            (&self.clients.errors, &["proxy", "tls", "http", "http2"][..]),
            (&self.http2.floods, &["resets", "useless"]),
            (&self.reloads, &["ok", "failed"]),
            (&self.spans, &["sent", "failed", "dropped"]),
        ] {
            for word in words {
                series.with_label_values(&[word]);
            }
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

    /// Adds the families that mirror what the metrics hold outside of the registry.
    fn show(&self, live: &mut Families) {
        self.show_certificates(live);
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
