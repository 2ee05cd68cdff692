//! Every series stickyd exports; no other file names one (invariant 11).
//!
//! Hot paths hold resolved counters ([`UpstreamSeries`], [`WorkerSeries`]), so a request costs an atomic add and no label
//! lookup. Gauges that mirror live state are set when somebody scrapes. Cardinality is bounded by the config: labels are
//! upstreams, workers and closed sets of words, never anything a client chooses.

#[macro_use]
mod macros;
mod care;
mod limits;
mod rules;
mod sockets;
mod words;

use std::sync::Arc;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

pub use limits::{Limit, LimitSeries};
pub use rules::RuleSeries;
pub use sockets::SocketSeries;
pub use words::{Discovery, Guard, Source};

use crate::state::Shared;
use crate::tunnel::round_trip::Half;
use crate::upstream::eject::Outcome;
use crate::upstream::worker::Worker;

/// The `class` and `kind` labels of a worker's counters.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const FAILURES: [&str; 3] = ["connect", "broken", "timeout"];

/// The `result` label of a worker's queue.
const QUEUED: [&str; 3] = ["waited", "full", "timeout"];

/// All series, registered once.
pub struct Metrics {
    registry: Registry,
    /// What limits did.
    pub limits: LimitSeries,
    sockets: sockets::SocketsSeries,
    /// Of connections as they live: round-trips, suspects, what was said to many.
    pub care: care::CareSeries,
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
    /// Pins that made room for newer ones.
    pub pins_evicted: IntCounter,
    /// Pins not stored because the table or an address's quota was full.
    pub pins_refused: IntCounter,
    /// Idle connections to workers closed for want of room.
    pub pool_full: IntCounter,
    /// Requests no route fitted.
    pub unrouted: IntCounter,
    tls_handshakes: IntCounterVec,
    certificates: IntGaugeVec,
    /// Client connections that ended with an HTTP, TLS or PROXY protocol error.
    pub client_errors: IntCounterVec,
    /// HTTP/2 streams open, tunnels included.
    pub http2_streams: IntGauge,
    /// HTTP/2 streams clients opened.
    pub http2_streams_total: IntCounter,
    /// HTTP/2 streams clients took back.
    pub http2_resets: IntCounter,
    /// HTTP/2 connections closed for what their clients sent too much of (`resets`, `useless`).
    pub http2_floods: IntCounterVec,
    drained: IntCounterVec,
    drain_left: IntGaugeVec,
    /// Reloads by result (`ok`, `failed`).
    pub reloads: IntCounterVec,
    /// Lookups of DNS names by upstream and result (`ok`, `empty`, `failed`, `timeout`).
    pub dns_lookups: IntCounterVec,
    /// How often the addresses of a name have changed, by upstream.
    pub dns_changes: IntCounterVec,
    dns_names: IntGaugeVec,
}

/// The counters of one upstream.
pub struct UpstreamSeries {
    affinity: [IntCounter; 7],
    discoveries: [IntCounter; 8],
    guarded: [IntCounter; 6],
    /// Answers whole, tunnels and polls apart.
    pub request_seconds: Histogram,
    /// Long polls: mostly the worker's silence.
    pub poll_seconds: Histogram,
    /// Life times of tunnels.
    pub tunnel_seconds: Histogram,
    /// A worker's own "I do not know this session" that reached a client.
    pub refusals_forwarded: IntCounter,
    /// Requests that a worker refused and whose session was found at another, unseen by the client.
    pub refusals_healed: IntCounter,
    /// Refusals stickyd wrote: the session's worker is gone, or all refused it less than a second ago.
    pub refusals_own: IntCounter,
    /// `PUT` probes sent.
    pub probes: IntCounter,
    /// Real requests sent during discovery.
    pub attempts: IntCounter,
    /// Handshakes learned.
    pub learned: IntCounter,
    /// Handshakes released unlearned.
    pub unlearned: IntCounter,
    /// Tunnels ended because an operator said so.
    pub drained_tunnels: IntCounter,
    /// The same of sessions without a tunnel.
    pub drained_polling: IntCounter,
    /// WebSocket upgrades clients asked for.
    pub upgrades_asked: IntCounter,
    /// WebSocket upgrades a worker granted.
    pub upgrades_granted: IntCounter,
    /// Body and tunnel bytes from clients.
    pub bytes_up: IntCounter,
    /// Body and tunnel bytes to clients.
    pub bytes_down: IntCounter,
    /// Requests passed to another worker because the first could not be reached.
    pub passed_on: IntCounter,
    /// Requests sent again because their kept connection broke before a byte of an answer.
    pub resent: IntCounter,
    /// Requests that failed because the retry budget was used up.
    pub retries_over_budget: IntCounter,
    /// Of tunnels' legs: the client's, the worker's.
    round_trips: [Histogram; 2],
}

impl UpstreamSeries {
    /// Of one leg of its tunnels.
    pub fn round_trip(&self, half: Half) -> &Histogram {
        let [client, worker] = &self.round_trips;
        if half == Half::Client { client } else { worker }
    }

    /// Counts an affinity decision.
    pub fn decided(&self, source: Source) {
        if let Some(counter) = self.affinity.get(source as usize) {
            counter.inc();
        }
    }

    /// Counts a request that was turned away.
    pub fn turned(&self, by: Guard) {
        if let Some(counter) = self.guarded.get(by as usize) {
            counter.inc();
        }
    }

    /// Counts a discovery's end.
    pub fn discovered(&self, result: Discovery) {
        if let Some(counter) = self.discoveries.get(result as usize) {
            counter.inc();
        }
    }
}

/// The counters of one worker.
pub struct WorkerSeries {
    /// Of all sockets of its upstream.
    pub sockets: Arc<SocketSeries>,
    classes: [IntCounter; 5],
    /// Connects refused, timed out or failed.
    pub connect_failures: IntCounter,
    /// Connections that broke, timed out or sent rubbish before the answer's head was whole.
    pub broken: IntCounter,
    /// No answer within the response time-out.
    pub timeouts: IntCounter,
    /// Ejections that `max_share` prevented.
    pub spared: IntCounter,
    /// Requests that got a connection after they had waited for one (`max_connections`).
    pub queue_waited: IntCounter,
    /// Requests that found the queue full.
    pub queue_full: IntCounter,
    /// Requests that waited in vain.
    pub queue_timeouts: IntCounter,
    ejections: [IntCounter; 4],
}

impl WorkerSeries {
    /// Counts an answer by its status.
    pub fn answered(&self, status: u16) {
        if let Some(counter) = self.classes.get(usize::from(status / 100).wrapping_sub(1)) {
            counter.inc();
        }
    }

    /// Answers so far.
    pub fn requests(&self) -> u64 {
        self.classes.iter().map(IntCounter::get).sum()
    }

    /// Attempts so far that got no answer.
    pub fn failures(&self) -> u64 {
        self.connect_failures.get() + self.broken.get() + self.timeouts.get()
    }

    /// Counts an ejection by its reason.
    pub fn ejected(&self, why: Outcome) {
        let index = EJECTIONS.iter().position(|reason| reason.word() == why.word());
        if let Some(counter) = index.and_then(|index| self.ejections.get(index)) {
            counter.inc();
        }
    }
}

/// The reasons of an ejection; the `reason` label.
const EJECTIONS: [Outcome; 4] = [Outcome::Connect, Outcome::Broken, Outcome::TimedOut, Outcome::ServerError];

/// Names and help texts here are literals that prometheus accepts.
#[allow(clippy::panic, reason = "reached only by a malformed literal in this file, at start, in every test")]
fn vec_or_empty<T>(made: prometheus::Result<T>) -> T {
    made.unwrap_or_else(|error| panic!("metric literal: {error}"))
}

impl Metrics {
    /// Registers everything; a table, one series a line.
    #[rustfmt::skip]
    pub fn new() -> Self {
        let r = Registry::new();
        let build =
            register!(r, IntGaugeVec, "stickyd_build_info", "Always 1; the version is the label.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let worker = &["upstream", "worker"];
        Self {
            requests: register!(r, IntCounterVec, "stickyd_requests_total", "Answers of workers by status class; refused attempts of discovery are not in it.", &["upstream", "worker", "class"]),
            seconds: register!(r, HistogramVec, "stickyd_duration_seconds", "From head to last byte: requests, long polls and tunnels apart.", &["upstream", "kind"]),
            affinity: register!(r, IntCounterVec, "stickyd_affinity_total", "Requests by what chose their worker.", &["upstream", "source"]),
            refusals: register!(r, IntCounterVec, "stickyd_refusals_total", "Session-unknown answers: forwarded (from the worker that owned it, or from all), healed (requests a worker refused whose session was found at another), own (the worker is gone, or nobody knew the session a moment ago).", &["upstream", "fate"]),
            discoveries: register!(r, IntCounterVec, "stickyd_discoveries_total", "Unpinned sids looked for, by result.", &["upstream", "result"]),
            guarded: register!(r, IntCounterVec, "stickyd_guarded_total", "Requests turned away before any worker heard of them: origin, network (403), rate_… (of one address on a route) and upstream_… (of all) requests and handshakes (429).", &["upstream", "guard"]),
            attempts: register!(r, IntCounterVec, "stickyd_discovery_attempts_total", "What discovery sent to workers: real requests and PUT probes.", &["upstream", "kind"]),
            learned: register!(r, IntCounterVec, "stickyd_handshakes_total", "Engine.IO polling handshakes, learned or released unlearned.", &["upstream", "result"]),
            upgrades: register!(r, IntCounterVec, "stickyd_upgrades_total", "WebSocket upgrades asked for and granted.", &["upstream", "step"]),
            bytes: register!(r, IntCounterVec, "stickyd_bytes_total", "Body and tunnel bytes, up (from clients) and down (to clients).", &["upstream", "direction"]),
            failures: register!(r, IntCounterVec, "stickyd_worker_failures_total", "Attempts that got no answer, by kind.", &["upstream", "worker", "kind"]),
            ejections: register!(r, IntCounterVec, "stickyd_ejections_total", "Workers set aside after live failures, by reason: connect, broken, timeout (failures in a row), errors (share of the window).", &["upstream", "worker", "reason"]),
            spared: register!(r, IntCounterVec, "stickyd_ejections_spared_total", "Ejections that max_share prevented.", worker),
            retries: register!(r, IntCounterVec, "stickyd_retries_total", "Requests tried again: passed_on (to another worker, none was reached), resent (a kept connection broke before a byte of the answer), over_budget (not tried again, the budget was used up).", &["upstream", "kind"]),
            queued: register!(r, IntCounterVec, "stickyd_queue_total", "Requests that found a worker at max_connections: waited (and got through), full (no room in the queue), timeout (waited in vain).", &["upstream", "worker", "result"]),
            ejected: register!(r, IntGaugeVec, "stickyd_worker_ejected", "1 while the worker is ejected.", worker),
            waiting: register!(r, IntGaugeVec, "stickyd_queue", "Requests that wait for a connection to the worker (max_connections).", worker),
            generations: register!(r, IntGaugeVec, "stickyd_worker_generation", "Lives of the worker seen so far.", worker),
            sessions: register!(r, IntGaugeVec, "stickyd_sessions", "Live sessions: pins and WebSocket-first tunnels.", worker),
            tunnels: register!(r, IntGaugeVec, "stickyd_tunnels", "Live tunnels.", worker),
            in_flight: register!(r, IntGaugeVec, "stickyd_requests_in_flight", "Requests sent and not fully answered, tunnels not counted.", worker),
            states: register!(r, IntGaugeVec, "stickyd_worker_health", "1 for the state the worker is in.", &["upstream", "worker", "health"]),
            admin_states: register!(r, IntGaugeVec, "stickyd_worker_admin", "1 for what the operator says of the worker.", &["upstream", "worker", "admin"]),
            pins: register!(r, IntGauge, "stickyd_pins", "Sessions pinned."),
            pins_limit: register!(r, IntGauge, "stickyd_pins_limit", "Pins at most."),
            replay: register!(r, IntGauge, "stickyd_replay_bytes", "Request bodies held for replay."),
            clients: register!(r, IntGauge, "stickyd_client_connections", "Client connections open, tunnels included; each tunnel over HTTP/2 counts beside its connection."),
            pins_evicted: register!(r, IntCounter, "stickyd_pins_evicted_total", "Idle pins that made room for newer ones."),
            pins_refused: register!(r, IntCounter, "stickyd_pins_refused_total", "Pins not stored because the table or an address's quota was full."),
            pool_full: register!(r, IntCounter, "stickyd_worker_pool_full_total", "Idle worker connections closed because the pool had no room for them."),
            unrouted: register!(r, IntCounter, "stickyd_unrouted_total", "Requests no route fitted."),
            client_errors: register!(r, IntCounterVec, "stickyd_client_errors_total", "Client connections ended by an error, by kind.", &["kind"]),
            http2_streams: register!(r, IntGauge, "stickyd_http2_streams", "HTTP/2 streams open: requests and tunnels."),
            http2_streams_total: register!(r, IntCounter, "stickyd_http2_streams_total", "HTTP/2 streams clients opened: requests and tunnels."),
            http2_resets: register!(r, IntCounter, "stickyd_http2_resets_total", "HTTP/2 streams clients took back."),
            http2_floods: register!(r, IntCounterVec, "stickyd_http2_floods_total", "HTTP/2 connections closed because their clients sent too many resets, or frames of no use.", &["frames"]),
            tls_handshakes: register!(r, IntCounterVec, "stickyd_tls_handshakes_total", "TLS handshakes of clients, by version, result (ok, failed, timeout) and whether a session was resumed.", &["listener", "version", "result", "resumed"]),
            certificates: register!(r, IntGaugeVec, "stickyd_tls_certificate_expiry_timestamp_seconds", "Last second a certificate is valid in, since 1970; the name is the first it is for.", &["listener", "name"]),
            config_ok: register!(r, IntGauge, "stickyd_config_ok", "1: the configuration's file, as it was last looked at, is what runs; 0: it has a mistake or is gone."),
            config_loaded: register!(r, IntGauge, "stickyd_config_loaded_timestamp_seconds", "When the configuration that runs was loaded, in Unix time."),
            log_dropped: register!(r, IntCounter, "stickyd_log_lines_dropped_total", "Log lines dropped because standard error did not take them in time."),
            drained: register!(r, IntCounterVec, "stickyd_drain_closed_total", "Sessions ended because their worker was drained, put to maint or removed: tunnels closed, polling sessions refused.", &["upstream", "kind"]),
            drain_left: register!(r, IntGaugeVec, "stickyd_drain_sessions_left", "Live sessions of workers that are drained, in maint or removed.", worker),
            reloads: register!(r, IntCounterVec, "stickyd_reloads_total", "Reloads by result.", &["result"]),
            dns_lookups: register!(r, IntCounterVec, "stickyd_dns_lookups_total", "Lookups of DNS names among the workers, by result.", &["upstream", "result"]),
            dns_changes: register!(r, IntCounterVec, "stickyd_dns_changes_total", "Lookups that showed other addresses than the one before.", &["upstream"]),
            dns_names: register!(r, IntGaugeVec, "stickyd_dns_names", "DNS names by state: resolved, kept (the last lookup gave nothing, the addresses before stay), unresolved (it never had an address).", &["upstream", "state"]),
            limits: LimitSeries::new(&r),
            sockets: sockets::SocketsSeries::new(&r),
            care: care::CareSeries::new(&r),
            rules: rules::RuleMetrics::new(&r),
            registry: r,
        }
    }

    /// Resolves the counters of an upstream.
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

    /// Resolves the counters of an affinity rule.
    pub fn rule(&self, upstream: &str, rule: &str) -> RuleSeries {
        self.rules.of(upstream, rule)
    }

    /// Counts a client's TLS handshake; `version` is `none` where it came to none.
    pub fn tls_handshake(&self, listener: &str, version: &str, result: &str, resumed: bool) {
        let resumed = if resumed { "yes" } else { "no" };
        self.tls_handshakes.with_label_values(&[listener, version, result, resumed]).inc();
    }

    /// Shows until when certificates are valid: of all listeners, each with the name and the second. Those of before are
    /// gone. Of several under one name (ECDSA and RSA) the earliest date counts.
    pub fn certificates_expire<'a>(&self, all: impl Iterator<Item = (&'a str, &'a str, u64)>) {
        self.certificates.reset();
        for (listener, name, until) in all {
            let gauge = self.certificates.with_label_values(&[listener, name]);
            let until = i64::try_from(until).unwrap_or(i64::MAX);
            gauge.set(if gauge.get() == 0 { until } else { gauge.get().min(until) });
        }
    }

    /// Resolves the counters of a worker.
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

    /// Takes a worker's counters out, which is no more: addresses that come and go must not fill the memory.
    pub fn forget_worker(&self, worker: &Worker) {
        let by_worker = [(&self.requests, &CLASSES[..]), (&self.failures, &FAILURES), (&self.queued, &QUEUED)];
        let by_worker = by_worker.into_iter().flat_map(|(series, words)| words.iter().map(move |word| (series, *word)));
        let ejections = EJECTIONS.iter().map(|why| (&self.ejections, why.word()));
        // A counter that was never asked for is not there, which is no error.
        for (series, word) in by_worker.chain(ejections) {
            let _ = series.remove_label_values(&[&*worker.upstream, &worker.name, word]);
        }
        let _ = self.spared.remove_label_values(&[&*worker.upstream, &worker.name]);
    }

    /// The exposition text of everything, with gauges read from live state now.
    pub fn render(&self, shared: &Shared) -> Vec<u8> {
        self.generations.reset();
        self.dns_names.reset();
        for name in shared.unresolved.names(&shared.snapshot.load()) {
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
        self.pins.set(gauge(shared.pins.len()));
        self.pins_limit.set(gauge(shared.pins.capacity()));
        self.replay.set(gauge(shared.replay.held()));
        self.clients.set(gauge(shared.clients.load(std::sync::atomic::Ordering::Relaxed)));
        self.limits.show(shared);
        self.sockets.show(&shared.sockets);
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
