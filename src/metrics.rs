//! Every series stickyd exports; no other file names one (invariant 11).
//!
//! Hot paths hold resolved counters ([`UpstreamSeries`], [`WorkerSeries`]), so a request costs an atomic add and no label
//! lookup. Gauges that mirror live state are set when somebody scrapes. Cardinality is bounded by the config: labels are
//! upstreams, workers and closed sets of words, never anything a client chooses.

mod words;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

pub use words::{Discovery, Source};

use crate::state::Shared;
use crate::upstream::worker::Worker;

/// The `class` and `kind` labels of a worker's counters.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const FAILURES: [&str; 3] = ["connect", "broken", "timeout"];

/// All series, registered once.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    seconds: HistogramVec,
    affinity: IntCounterVec,
    refusals: IntCounterVec,
    discoveries: IntCounterVec,
    attempts: IntCounterVec,
    learned: IntCounterVec,
    upgrades: IntCounterVec,
    bytes: IntCounterVec,
    failures: IntCounterVec,
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
    /// Pins that made room for newer ones.
    pub pins_evicted: IntCounter,
    /// Pins not stored because the table or an address's quota was full.
    pub pins_refused: IntCounter,
    /// Idle connections to workers closed for want of room.
    pub pool_full: IntCounter,
    /// Requests no route fitted.
    pub unrouted: IntCounter,
    /// Client connections that ended with an HTTP or TLS error.
    pub client_errors: IntCounterVec,
    /// HTTP/2 streams open, tunnels included.
    pub http2_streams: IntGauge,
    /// HTTP/2 streams clients opened.
    pub http2_streams_total: IntCounter,
    /// HTTP/2 streams clients took back.
    pub http2_resets: IntCounter,
    /// HTTP/2 connections closed for what their clients sent too much of (`resets`, `useless`).
    pub http2_floods: IntCounterVec,
    /// Reloads by result (`ok`, `failed`).
    pub reloads: IntCounterVec,
}

/// The counters of one upstream.
pub struct UpstreamSeries {
    affinity: [IntCounter; 6],
    discoveries: [IntCounter; 8],
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
    /// WebSocket upgrades clients asked for.
    pub upgrades_asked: IntCounter,
    /// WebSocket upgrades a worker granted.
    pub upgrades_granted: IntCounter,
    /// Body and tunnel bytes from clients.
    pub bytes_up: IntCounter,
    /// Body and tunnel bytes to clients.
    pub bytes_down: IntCounter,
}

impl UpstreamSeries {
    /// Counts an affinity decision.
    pub fn decided(&self, source: Source) {
        if let Some(counter) = self.affinity.get(source as usize) {
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
    classes: [IntCounter; 5],
    /// Connects refused, timed out or failed.
    pub connect_failures: IntCounter,
    /// Connections that broke, timed out or sent rubbish before the answer's head was whole.
    pub broken: IntCounter,
    /// No answer within the response time-out.
    pub timeouts: IntCounter,
}

impl WorkerSeries {
    /// Counts an answer by its status.
    pub fn answered(&self, status: u16) {
        if let Some(counter) = self.classes.get(usize::from(status / 100).wrapping_sub(1)) {
            counter.inc();
        }
    }
}

macro_rules! register {
    ($registry:expr, $kind:ident, $name:literal, $help:literal $(, $labels:expr)?) => {{
        // A name clash is a mistake in this file that every test meets at once; the series then counts unexported.
        let series = register!(@new $kind, $name, $help $(, $labels)?);
        if let Err(error) = $registry.register(Box::new(series.clone())) {
            tracing::error!(%error, series = $name, "a metric could not be registered");
        }
        series
    }};
    (@new IntCounterVec, $name:literal, $help:literal, $labels:expr) => {
        vec_or_empty(IntCounterVec::new(Opts::new($name, $help), $labels))
    };
    (@new IntGaugeVec, $name:literal, $help:literal, $labels:expr) => {
        vec_or_empty(IntGaugeVec::new(Opts::new($name, $help), $labels))
    };
    (@new IntGauge, $name:literal, $help:literal) => {
        vec_or_empty(IntGauge::new($name, $help))
    };
    (@new IntCounter, $name:literal, $help:literal) => {
        vec_or_empty(IntCounter::new($name, $help))
    };
    (@new HistogramVec, $name:literal, $help:literal, $labels:expr) => {
        vec_or_empty(HistogramVec::new(
            HistogramOpts::new($name, $help)
                .buckets(vec![0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 600.0, 3600.0, 86400.0]),
            $labels,
        ))
    };
}

/// Names and help texts above are literals that prometheus accepts.
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
            attempts: register!(r, IntCounterVec, "stickyd_discovery_attempts_total", "What discovery sent to workers: real requests and PUT probes.", &["upstream", "kind"]),
            learned: register!(r, IntCounterVec, "stickyd_handshakes_total", "Engine.IO polling handshakes, learned or released unlearned.", &["upstream", "result"]),
            upgrades: register!(r, IntCounterVec, "stickyd_upgrades_total", "WebSocket upgrades asked for and granted.", &["upstream", "step"]),
            bytes: register!(r, IntCounterVec, "stickyd_bytes_total", "Body and tunnel bytes, up (from clients) and down (to clients).", &["upstream", "direction"]),
            failures: register!(r, IntCounterVec, "stickyd_worker_failures_total", "Attempts that got no answer, by kind.", &["upstream", "worker", "kind"]),
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
            reloads: register!(r, IntCounterVec, "stickyd_reloads_total", "Reloads by result.", &["result"]),
            registry: r,
        }
    }

    /// Resolves the counters of an upstream.
    pub fn upstream(&self, name: &str) -> UpstreamSeries {
        let refusal = |fate| self.refusals.with_label_values(&[name, fate]);
        let seconds = |kind| self.seconds.with_label_values(&[name, kind]);
        UpstreamSeries {
            affinity: Source::ALL.map(|s| self.affinity.with_label_values(&[name, s.word()])),
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
            upgrades_asked: self.upgrades.with_label_values(&[name, "asked"]),
            upgrades_granted: self.upgrades.with_label_values(&[name, "granted"]),
            bytes_up: self.bytes.with_label_values(&[name, "up"]),
            bytes_down: self.bytes.with_label_values(&[name, "down"]),
        }
    }

    /// Resolves the counters of a worker.
    pub fn worker(&self, upstream: &str, worker: &str) -> WorkerSeries {
        let [connect_failures, broken, timeouts] =
            FAILURES.map(|kind| self.failures.with_label_values(&[upstream, worker, kind]));
        WorkerSeries {
            classes: CLASSES.map(|class| self.requests.with_label_values(&[upstream, worker, class])),
            connect_failures,
            broken,
            timeouts,
        }
    }

    /// Takes a worker's counters out, which is no more: addresses that come and go must not fill the memory.
    pub fn forget_worker(&self, worker: &Worker) {
        // A counter that was never asked for is not there, which is no error.
        for class in CLASSES {
            let _ = self.requests.remove_label_values(&[&*worker.upstream, &worker.name, class]);
        }
        for kind in FAILURES {
            let _ = self.failures.remove_label_values(&[&*worker.upstream, &worker.name, kind]);
        }
    }

    /// The exposition text of everything, with gauges read from live state now.
    pub fn render(&self, shared: &Shared) -> Vec<u8> {
        self.generations.reset();
        for gauge in [&self.sessions, &self.tunnels, &self.in_flight, &self.states, &self.admin_states] {
            gauge.reset();
        }
        for worker in shared.snapshot.load().workers() {
            self.show_worker(worker);
        }
        self.pins.set(gauge(shared.pins.len()));
        self.pins_limit.set(gauge(shared.pins.capacity()));
        self.replay.set(gauge(shared.replay.held()));
        self.clients.set(gauge(shared.clients.load(std::sync::atomic::Ordering::Relaxed)));
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
