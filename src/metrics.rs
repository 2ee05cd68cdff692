//! Every series that stickyd exports; no other file names a series (ARCHITECTURE.md, invariant 11).
//!
//! Hot paths hold resolved counters ([`UpstreamSeries`], [`WorkerSeries`]), so counting a request costs one atomic
//! addition and no label lookup. Gauges that mirror live state are set on each scrape. Cardinality is bounded by the
//! config: labels are upstreams, workers and closed sets of words, never anything a client chooses.

#[macro_use]
mod macros;
pub mod labels;
mod limits;
pub mod liveness;
mod rules;
mod sockets;

use std::sync::Arc;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

pub use labels::{Discovery, Guard, Source};
pub use limits::{Limit, LimitSeries};
pub use rules::RuleSeries;
pub use sockets::SocketSeries;

use crate::state::Shared;
use crate::upstream::eject::Outcome;
use crate::upstream::worker::Worker;
use crate::websocket::round_trip::Half;

/// Values of the `class` label of a worker's requests; `FAILURES` has those of the `kind` label of its failures.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const FAILURES: [&str; 3] = ["connect", "broken", "timeout"];

/// Values of the `result` label of a worker's queue.
const QUEUED: [&str; 3] = ["waited", "full", "timeout"];

/// All series, registered once at start.
pub struct Metrics {
    registry: Registry,
    /// Series of limits: how often each was reached, and how close others are.
    pub limits: LimitSeries,
    sockets: sockets::SocketsSeries,
    /// Series of connection quality: round-trips, sockets that owe an answer, broadcasts.
    pub care: liveness::CareSeries,
    rules: rules::RuleMetrics,
    requests: IntCounterVec,
    seconds: HistogramVec,
    affinity: IntCounterVec,
    refusals: IntCounterVec,
    discoveries: IntCounterVec,
    guarded: IntCounterVec,
    attempts: IntCounterVec,
    learned: IntCounterVec,
    upgrades: IntCounterVec,
    bytes: IntCounterVec,
    failures: IntCounterVec,
    ejections: IntCounterVec,
    spared: IntCounterVec,
    retries: IntCounterVec,
    queued: IntCounterVec,
    ejected: IntGaugeVec,
    waiting: IntGaugeVec,
    generations: IntGaugeVec,
    sessions: IntGaugeVec,
    tunnels: IntGaugeVec,
    in_flight: IntGaugeVec,
    states: IntGaugeVec,
    admin_states: IntGaugeVec,
    pins: IntGauge,
    pins_limit: IntGauge,
    replay: IntGauge,
    clients: IntGauge,
    config_ok: IntGauge,
    log_dropped: IntCounter,
    config_loaded: IntGauge,
    /// Number of pins evicted to make room for newer ones.
    pub pins_evicted: IntCounter,
    /// Number of pins not stored because the table, or the quota of an address, was full.
    pub pins_refused: IntCounter,
    /// Number of idle connections to workers closed because the pool was full.
    pub pool_full: IntCounter,
    /// Number of requests that no route matched.
    pub unrouted: IntCounter,
    tls_handshakes: IntCounterVec,
    certificates: IntGaugeVec,
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
    drained: IntCounterVec,
    drain_left: IntGaugeVec,
    /// Number of reloads by result (`ok`, `failed`).
    pub reloads: IntCounterVec,
    /// Number of DNS lookups by upstream and result (`ok`, `empty`, `failed`, `timeout`).
    pub dns_lookups: IntCounterVec,
    /// Number of times the addresses of a DNS name have changed, by upstream.
    pub dns_changes: IntCounterVec,
    dns_names: IntGaugeVec,
}

/// Resolved counters of one upstream.
pub struct UpstreamSeries {
    affinity: [IntCounter; 7],
    discoveries: [IntCounter; 8],
    guarded: [IntCounter; 6],
    /// Time from the head of a request to the last byte of its answer, without tunnels and long polls.
    pub request_seconds: Histogram,
    /// Duration of long polls, most of which is the worker's silence.
    pub poll_seconds: Histogram,
    /// Lifetime of tunnels, from the request's head to the last byte.
    pub tunnel_seconds: Histogram,
    /// Number of refusals by workers ("I do not know this session") that were forwarded to a client.
    pub refusals_forwarded: IntCounter,
    /// Number of requests refused by one worker whose session was found at another, unseen by the client.
    pub refusals_healed: IntCounter,
    /// Number of refusals written by stickyd: the worker is gone, or every worker refused the sid less than a second
    /// ago.
    pub refusals_own: IntCounter,
    /// Number of `PUT` probes sent by discovery.
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
    /// Bytes of bodies and tunnels received from clients.
    pub bytes_up: IntCounter,
    /// Bytes of bodies and tunnels sent to clients.
    pub bytes_down: IntCounter,
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
    pub fn decided(&self, source: Source) {
        if let Some(counter) = self.affinity.get(source as usize) {
            counter.inc();
        }
    }

    /// Counts one request that a guard rejected.
    pub fn turned(&self, by: Guard) {
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

/// Resolved counters of one worker.
pub struct WorkerSeries {
    /// Counters of all sockets of the worker's upstream.
    pub sockets: Arc<SocketSeries>,
    classes: [IntCounter; 5],
    /// Number of connects that were refused, timed out or failed.
    pub connect_failures: IntCounter,
    /// Number of connections that broke, timed out or sent invalid data before the answer's head was complete.
    pub broken: IntCounter,
    /// Number of requests without an answer within the response time-out.
    pub timeouts: IntCounter,
    /// Number of ejections prevented by `max_share`.
    pub spared: IntCounter,
    /// Number of requests that waited for a connection (`max_connections`) and got one.
    pub queue_waited: IntCounter,
    /// Number of requests that found the queue full.
    pub queue_full: IntCounter,
    /// Number of requests that timed out in the queue.
    pub queue_timeouts: IntCounter,
    ejections: [IntCounter; 4],
}

impl WorkerSeries {
    /// Counts one answer by its status.
    pub fn answered(&self, status: u16) {
        if let Some(counter) = self.classes.get(usize::from(status / 100).wrapping_sub(1)) {
            counter.inc();
        }
    }

    /// Returns the number of answers so far.
    pub fn requests(&self) -> u64 {
        self.classes.iter().map(IntCounter::get).sum()
    }

    /// Returns the number of attempts so far that got no answer.
    pub fn failures(&self) -> u64 {
        self.connect_failures.get() + self.broken.get() + self.timeouts.get()
    }

    /// Counts one ejection by its reason.
    pub fn ejected(&self, why: Outcome) {
        let index = EJECTIONS.iter().position(|reason| reason.word() == why.word());
        if let Some(counter) = index.and_then(|index| self.ejections.get(index)) {
            counter.inc();
        }
    }
}

/// Reasons of an ejection, in the order of the counters; values of the `reason` label.
const EJECTIONS: [Outcome; 4] = [Outcome::Connect, Outcome::Broken, Outcome::TimedOut, Outcome::ServerError];

/// Returns the series. The names and help texts passed in are literals that prometheus accepts.
#[allow(clippy::panic, reason = "reached only by a malformed literal in this file, at start, in every test")]
fn vec_or_empty<T>(made: prometheus::Result<T>) -> T {
    made.unwrap_or_else(|error| panic!("metric literal: {error}"))
}

impl Metrics {
    /// Registers every series. Formatted as a table, one entry per series.
    #[rustfmt::skip]
    pub fn new() -> Self {
        let r = Registry::new();
        let build =
register!(r, IntGaugeVec, "stickyd_build_info", "Always 1; the label holds the version.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let worker = &["upstream", "worker"];
        Self {
            requests: register!(r, IntCounterVec, "stickyd_requests_total",
                "Answers of workers by status class, without refused attempts of discovery.",
                &["upstream", "worker", "class"]),
            seconds: register!(r, HistogramVec, "stickyd_duration_seconds",
                "Time from the head of a request to the last byte, for requests, long polls and tunnels separately.",
                &["upstream", "kind"]),
            affinity: register!(r, IntCounterVec, "stickyd_affinity_total",
                "Requests by the source that chose their worker.", &["upstream", "source"]),
            refusals: register!(r, IntCounterVec, "stickyd_refusals_total",
                "Refusals (session unknown): forwarded (by the session's worker, or by all workers), healed (refused \
                 by one worker, found at another), own (the worker is gone, or all workers refused a moment ago).",
                &["upstream", "fate"]),
            discoveries: register!(r, IntCounterVec, "stickyd_discoveries_total",
                "Discoveries of the owner of an unpinned sid, by result.", &["upstream", "result"]),
            guarded: register!(r, IntCounterVec, "stickyd_guarded_total",
                "Requests rejected by a guard before reaching a worker: origin and network (status 403), rate_* (per \
                 address and route) and upstream_* (all clients together) for requests and handshakes (status 429).",
                &["upstream", "guard"]),
            attempts: register!(r, IntCounterVec, "stickyd_discovery_attempts_total",
                "Real requests and PUT probes that discovery sent to workers.", &["upstream", "kind"]),
            learned: register!(r, IntCounterVec, "stickyd_handshakes_total",
                "Engine.IO polling handshakes, learned or released without learning.", &["upstream", "result"]),
            upgrades: register!(r, IntCounterVec, "stickyd_upgrades_total",
                "WebSocket upgrades requested and granted.", &["upstream", "step"]),
            bytes: register!(r, IntCounterVec, "stickyd_bytes_total",
                "Bytes of bodies and tunnels, up (from clients) and down (to clients).", &["upstream", "direction"]),
            failures: register!(r, IntCounterVec, "stickyd_worker_failures_total",
                "Attempts that got no answer, by kind.", &["upstream", "worker", "kind"]),
            ejections: register!(r, IntCounterVec, "stickyd_ejections_total",
                "Ejections of workers after live failures, by reason: connect, broken, timeout (consecutive \
                 failures), errors (share of failures in the window).",
                &["upstream", "worker", "reason"]),
            spared: register!(r, IntCounterVec, "stickyd_ejections_spared_total",
                "Ejections prevented by max_share.", worker),
            retries: register!(r, IntCounterVec, "stickyd_retries_total",
                "Retries: passed_on (sent to another worker, the first was not reached), resent (a kept connection \
                 broke before any byte of the answer), over_budget (not retried, the budget was used up).",
                &["upstream", "kind"]),
            queued: register!(r, IntCounterVec, "stickyd_queue_total",
                "Requests that found a worker at max_connections: waited (got a connection), full (the queue was \
                 full), timeout (got no connection in time).",
                &["upstream", "worker", "result"]),
            ejected: register!(r, IntGaugeVec, "stickyd_worker_ejected", "1 while the worker is ejected.", worker),
            waiting: register!(r, IntGaugeVec, "stickyd_queue",
                "Requests waiting for a connection to the worker (max_connections).", worker),
            generations: register!(r, IntGaugeVec, "stickyd_worker_generation",
                "Generation of the worker: the number of its lives seen so far.", worker),
            sessions: register!(r, IntGaugeVec, "stickyd_sessions",
                "Live sessions: pins and WebSocket-first tunnels.", worker),
            tunnels: register!(r, IntGaugeVec, "stickyd_tunnels", "Live tunnels.", worker),
            in_flight: register!(r, IntGaugeVec, "stickyd_requests_in_flight",
                "Requests sent and not fully answered, without tunnels.", worker),
            states: register!(r, IntGaugeVec, "stickyd_worker_health",
                "1 for the present health of the worker.", &["upstream", "worker", "health"]),
            admin_states: register!(r, IntGaugeVec, "stickyd_worker_admin",
                "1 for the present admin state of the worker.", &["upstream", "worker", "admin"]),
            pins: register!(r, IntGauge, "stickyd_pins", "Sessions pinned."),
            pins_limit: register!(r, IntGauge, "stickyd_pins_limit", "Maximum number of pins."),
            replay: register!(r, IntGauge, "stickyd_replay_bytes", "Bytes of request bodies held for replay."),
            clients: register!(r, IntGauge, "stickyd_client_connections",
                "Client connections open, tunnels included; each tunnel over HTTP/2 counts as one more."),
            pins_evicted: register!(r, IntCounter, "stickyd_pins_evicted_total",
                "Idle pins evicted to make room for newer ones."),
            pins_refused: register!(r, IntCounter, "stickyd_pins_refused_total",
                "Pins not stored because the table, or the quota of an address, was full."),
            pool_full: register!(r, IntCounter, "stickyd_worker_pool_full_total",
                "Idle connections to workers closed because the pool was full."),
            unrouted: register!(r, IntCounter, "stickyd_unrouted_total", "Requests that no route matched."),
            client_errors: register!(r, IntCounterVec, "stickyd_client_errors_total",
                "Client connections ended by an error, by kind.", &["kind"]),
            http2_streams: register!(r, IntGauge, "stickyd_http2_streams",
                "HTTP/2 streams open: requests and tunnels."),
            http2_streams_total: register!(r, IntCounter, "stickyd_http2_streams_total",
                "HTTP/2 streams opened by clients: requests and tunnels."),
            http2_resets: register!(r, IntCounter, "stickyd_http2_resets_total", "HTTP/2 streams reset by clients."),
            http2_floods: register!(r, IntCounterVec, "stickyd_http2_floods_total",
                "HTTP/2 connections closed because the client sent too many resets or useless frames.", &["frames"]),
            tls_handshakes: register!(r, IntCounterVec, "stickyd_tls_handshakes_total",
                "TLS handshakes by version, result (ok, failed, timeout) and whether a session was resumed.",
                &["listener", "version", "result", "resumed"]),
            certificates: register!(r, IntGaugeVec, "stickyd_tls_certificate_expiry_timestamp_seconds",
                "Unix time at which a certificate expires; the name is the first one in the certificate.",
                &["listener", "name"]),
            config_ok: register!(r, IntGauge, "stickyd_config_ok",
                "1 if the configuration file, as last checked, is the running one; 0 if it is invalid or missing."),
            config_loaded: register!(r, IntGauge, "stickyd_config_loaded_timestamp_seconds",
                "Unix time at which the running configuration was loaded."),
            log_dropped: register!(r, IntCounter, "stickyd_log_lines_dropped_total",
                "Log lines dropped because standard error was blocked or too slow."),
            drained: register!(r, IntCounterVec, "stickyd_drain_closed_total",
                "Sessions ended because their worker was drained, put into maint or removed: tunnels closed, polling \
                 sessions refused.",
                &["upstream", "kind"]),
            drain_left: register!(r, IntGaugeVec, "stickyd_drain_sessions_left",
                "Live sessions of workers that are drained, in maint or removed.", worker),
            reloads: register!(r, IntCounterVec, "stickyd_reloads_total", "Reloads by result.", &["result"]),
            dns_lookups: register!(r, IntCounterVec, "stickyd_dns_lookups_total",
                "Lookups of DNS names of workers, by result.", &["upstream", "result"]),
            dns_changes: register!(r, IntCounterVec, "stickyd_dns_changes_total",
                "Lookups of DNS names that returned other addresses than the one before.", &["upstream"]),
            dns_names: register!(r, IntGaugeVec, "stickyd_dns_names",
                "DNS names by state: resolved, kept (the last lookup returned nothing, the previous addresses stay), \
                 unresolved (no lookup has returned an address yet).",
                &["upstream", "state"]),
            limits: LimitSeries::new(&r),
            sockets: sockets::SocketsSeries::new(&r),
            care: liveness::CareSeries::new(&r),
            rules: rules::RuleMetrics::new(&r),
            registry: r,
        }
    }

    /// Resolves the counters of one upstream.
    pub fn upstream(&self, name: &str) -> UpstreamSeries {
        let refusal = |fate| self.refusals.with_label_values(&[name, fate]);
        let seconds = |kind| self.seconds.with_label_values(&[name, kind]);
        let retry = |kind| self.retries.with_label_values(&[name, kind]);
        UpstreamSeries {
            affinity: Source::ALL.map(|s| self.affinity.with_label_values(&[name, s.word()])),
            guarded: Guard::ALL.map(|g| self.guarded.with_label_values(&[name, g.word()])),
            discoveries: Discovery::ALL.map(|d| self.discoveries.with_label_values(&[name, d.word()])),
            request_seconds: seconds("request"),
            poll_seconds: seconds("poll"),
            tunnel_seconds: seconds("tunnel"),
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
            bytes_up: self.bytes.with_label_values(&[name, "up"]),
            bytes_down: self.bytes.with_label_values(&[name, "down"]),
            passed_on: retry("passed_on"),
            resent: retry("resent"),
            retries_over_budget: retry("over_budget"),
            round_trips: self.care.round_trips(name),
        }
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

    /// Resolves the counters of one worker.
    pub fn worker(&self, upstream: &str, worker: &str) -> WorkerSeries {
        let [connect_failures, broken, timeouts] =
            FAILURES.map(|kind| self.failures.with_label_values(&[upstream, worker, kind]));
        let [queue_waited, queue_full, queue_timeouts] =
            QUEUED.map(|result| self.queued.with_label_values(&[upstream, worker, result]));
        WorkerSeries {
            sockets: self.sockets.upstream(upstream),
            classes: CLASSES.map(|class| self.requests.with_label_values(&[upstream, worker, class])),
            connect_failures,
            broken,
            timeouts,
            spared: self.spared.with_label_values(&[upstream, worker]),
            queue_waited,
            queue_full,
            queue_timeouts,
            ejections: EJECTIONS.map(|why| self.ejections.with_label_values(&[upstream, worker, why.word()])),
        }
    }

    /// Removes the counters of a worker that no longer exists, so that addresses that come and go do not use up memory.
    pub fn forget_worker(&self, worker: &Worker) {
        let by_worker = [(&self.requests, &CLASSES[..]), (&self.failures, &FAILURES), (&self.queued, &QUEUED)];
        let by_worker = by_worker.into_iter().flat_map(|(series, words)| words.iter().map(move |word| (series, *word)));
        let ejections = EJECTIONS.iter().map(|why| (&self.ejections, why.word()));
        // A counter that was never resolved does not exist; that is not an error.
        for (series, word) in by_worker.chain(ejections) {
            let _ = series.remove_label_values(&[&*worker.upstream, &worker.name, word]);
        }
        let _ = self.spared.remove_label_values(&[&*worker.upstream, &worker.name]);
    }

    /// Returns the exposition text of all series; gauges are read from live state now.
    pub fn render(&self, shared: &Shared) -> Vec<u8> {
        self.generations.reset();
        self.dns_names.reset();
        for name in shared.unresolved.names(shared.snapshot.load().named()) {
            self.dns_names.with_label_values(&[name.upstream.as_str(), name.state.word()]).inc();
        }
        for gauge in [
            &self.ejected,
            &self.waiting,
            &self.sessions,
            &self.tunnels,
            &self.in_flight,
            &self.states,
            &self.admin_states,
            &self.drain_left,
        ] {
            gauge.reset();
        }
        for worker in shared.snapshot.load().workers() {
            self.show_worker(worker);
        }
        self.pins.set(gauge(shared.sessions.pins.len()));
        self.pins_limit.set(gauge(shared.sessions.pins.capacity()));
        self.replay.set(gauge(shared.replay.held()));
        self.clients.set(gauge(shared.clients.load(std::sync::atomic::Ordering::Relaxed)));
        self.limits.show(shared);
        self.sockets.show(&shared.sessions.sockets);
        let config = shared.config.now();
        let dropped = crate::telemetry::dropped();
        self.log_dropped.inc_by(dropped.saturating_sub(self.log_dropped.get()));
        self.config_ok.set(i64::from(config.error.is_none()));
        let loaded = config.loaded.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.config_loaded.set(i64::try_from(loaded.as_secs()).unwrap_or(i64::MAX));
        let mut text = Vec::with_capacity(16 * 1024);
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be encoded");
        }
        text
    }

    fn show_worker(&self, worker: &Worker) {
        let labels = &[&*worker.upstream, worker.name.as_str()];
        self.generations.with_label_values(labels).set(i64::from(worker.generation()));
        self.sessions.with_label_values(labels).set(i64::from(worker.sessions()));
        self.tunnels.with_label_values(labels).set(i64::from(worker.tunnels()));
        self.in_flight.with_label_values(labels).set(i64::from(worker.in_flight()));
        self.ejected.with_label_values(labels).set(i64::from(worker.ejected()));
        self.waiting.with_label_values(labels).set(i64::from(worker.gate.waiting()));
        if worker.admin.ending().is_some() {
            self.drain_left.with_label_values(labels).set(i64::from(worker.sessions()));
        }
        let health = worker.health().word();
        self.states.with_label_values(&[&*worker.upstream, &worker.name, health]).set(1);
        self.admin_states.with_label_values(&[&*worker.upstream, &worker.name, worker.admin.word()]).set(1);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
