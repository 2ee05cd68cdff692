//! The series of one worker. Its counters are plain numbers, because most ports of a wide range have no process, and
//! a port that never had one must cost no series; a scrape turns the others into families.
//!
//! Counters are kept by upstream and name, so that a worker whose address changes under the same name goes on counting.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::bus::BusSample;
use super::families::{Families, Family, value};
use super::labels::AttemptOutcome;
use super::process::WorkerProcess;
use super::responses::{CLASSES, class_of};
use super::socket_labels::Transport;
use super::sockets::{Carried, SocketCarrier, SocketSeries, Way};
use crate::events::Events;
use crate::locks::lock;

/// Reasons of an ejection, in the order of the counters; values of the `reason` label.
const EJECTIONS: [AttemptOutcome; 4] =
    [AttemptOutcome::Connect, AttemptOutcome::Broken, AttemptOutcome::TimedOut, AttemptOutcome::ServerError];

/// A counter of one worker.
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
    /// Adds one to the number.
    pub fn inc(&self) {
        self.inc_by(1);
    }

    /// Adds `more` to the number.
    pub fn inc_by(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    /// Returns the number counted so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counters of one worker.
pub struct WorkerSeries {
    /// Counters of all sockets of the worker's upstream.
    pub sockets: Arc<SocketSeries>,
    /// Where events of the worker are told.
    pub events: Arc<Events>,
    classes: [Tally; CLASSES.len()],
    /// Number of connects that were refused, timed out or failed.
    pub connect_failures: Tally,
    /// Number of connections that broke, timed out or sent invalid data before the answer's head was complete.
    pub broken: Tally,
    /// Number of requests without an answer within the response time-out.
    pub timeouts: Tally,
    /// Number of ejections prevented by `max_share`.
    pub spared: Tally,
    /// Number of requests that waited for a connection (`max_connections`) and got one.
    pub queue_waited: Tally,
    /// Number of requests that found the queue full.
    pub queue_full: Tally,
    /// Number of requests that timed out in the queue.
    pub queue_timeouts: Tally,
    /// Number of times that a new process was seen at the worker's address.
    pub restarts: Tally,
    ejections: [Tally; EJECTIONS.len()],
    heads: Tally,
    /// Sum of the times until the heads of answers, in microseconds.
    head_us: Tally,
    live: [AtomicI64; Transport::ALL.len()],
    /// Number of sockets that started at the worker, and of those that ended.
    turnover: [Tally; 2],
    /// Number of requests with a session that the worker did not know, or that died with it.
    pub refusals: Tally,
    /// What the worker's sockets have carried; made with the first of them.
    carried: OnceLock<Arc<Carried>>,
}

impl WorkerSeries {
    pub(super) fn new(sockets: Arc<SocketSeries>, events: Arc<Events>) -> Self {
        Self {
            sockets,
            events,
            classes: Default::default(),
            connect_failures: Tally::default(),
            broken: Tally::default(),
            timeouts: Tally::default(),
            spared: Tally::default(),
            queue_waited: Tally::default(),
            queue_full: Tally::default(),
            queue_timeouts: Tally::default(),
            restarts: Tally::default(),
            ejections: Default::default(),
            heads: Tally::default(),
            head_us: Tally::default(),
            live: Default::default(),
            turnover: Default::default(),
            refusals: Tally::default(),
            carried: OnceLock::new(),
        }
    }

    /// Counts one answer by its status.
    pub fn answered(&self, status: u16) {
        if let Some(counter) = class_of(status).and_then(|class| self.classes.get(class)) {
            counter.inc();
        }
    }

    /// Counts the time from sending a request to the head of its answer.
    pub fn responded(&self, took: Duration) {
        self.heads.inc();
        self.head_us.inc_by(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// Counts a socket that starts on this transport.
    pub fn socket_starts(&self, transport: Transport) {
        let [started, _] = &self.turnover;
        started.inc();
        self.socket_lives(transport, 1);
    }

    /// Counts the end of a socket that was on this transport.
    pub fn socket_ends(&self, transport: Transport) {
        let [_, ended] = &self.turnover;
        ended.inc();
        self.socket_lives(transport, -1);
    }

    /// Returns the number of sockets that started at the worker, and of those that ended.
    pub fn turnover(&self) -> [u64; 2] {
        [0, 1].map(|index: usize| self.turnover.get(index).map_or(0, Tally::get))
    }

    /// Counts messages and bytes that a socket of the worker has carried.
    #[inline]
    pub fn carried(&self, way: Way, by: SocketCarrier, messages: u32, bytes: u64) {
        self.carried.get_or_init(|| self.sockets.join()).add(way, by, messages.into(), bytes);
    }

    /// Returns the bytes that the worker's sockets have carried.
    pub fn socket_bytes(&self, way: Way) -> u64 {
        self.carried.get().map_or(0, |carried| carried.bytes(way))
    }

    /// Counts a socket that appears on this transport (`1`), or leaves it (`-1`).
    pub fn socket_lives(&self, transport: Transport, change: i64) {
        if let Some(live) = self.live.get(transport as usize) {
            live.fetch_add(change, Relaxed);
        }
    }

    /// Returns the number of sockets that live on this transport.
    pub fn live_sockets(&self, transport: Transport) -> u64 {
        let live = self.live.get(transport as usize).map_or(0, |live| live.load(Relaxed));
        u64::try_from(live).unwrap_or(0)
    }

    /// Returns the number of answers so far.
    pub fn requests(&self) -> u64 {
        self.classes.iter().map(Tally::get).sum()
    }

    /// Returns the number of attempts so far that got no answer.
    pub fn failures(&self) -> u64 {
        self.connect_failures.get() + self.broken.get() + self.timeouts.get()
    }

    /// Counts one ejection by its reason.
    pub fn ejected(&self, why: AttemptOutcome) {
        let index = EJECTIONS.iter().position(|reason| reason.word() == why.word());
        if let Some(counter) = index.and_then(|index| self.ejections.get(index)) {
            counter.inc();
        }
    }
}

/// The counters of all workers, by upstream and name.
#[derive(Default)]
pub(crate) struct WorkersSeries(Mutex<BTreeMap<(String, String), Arc<WorkerSeries>>>);

impl WorkersSeries {
    /// Returns the counters of a worker, which begin at 0.
    pub(super) fn of(&self, upstream: &str, worker: &str, new: impl FnOnce() -> WorkerSeries) -> Arc<WorkerSeries> {
        let mut known = lock(&self.0);
        let series = known.entry((upstream.to_owned(), worker.to_owned()));
        series.or_insert_with(|| Arc::new(new())).clone()
    }

    /// Removes the counters of a worker that no longer exists, so that addresses that come and go use up no memory.
    pub(super) fn forget(&self, upstream: &str, worker: &str) {
        let gone = lock(&self.0).remove(&(upstream.to_owned(), worker.to_owned()));
        if let Some((series, carried)) = gone.as_ref().and_then(|series| Some((series, series.carried.get()?))) {
            series.sockets.leave(carried);
        }
    }
}

/// One worker as it is at a scrape.
pub(crate) struct WorkerSample<'a> {
    pub(crate) upstream: &'a str,
    pub(crate) worker: &'a str,
    pub(crate) series: &'a WorkerSeries,
    /// Name of the health, and of the admin state.
    pub(crate) health: &'static str,
    pub(crate) admin: &'static str,
    pub(crate) ejected: bool,
    pub(crate) sessions: u64,
    pub(crate) tunnels: u64,
    pub(crate) in_flight: u64,
    /// Number of requests that wait for a connection.
    pub(crate) waiting: u64,
    /// Number of sessions that are left, if they are to end.
    pub(crate) drain_left: u64,
    pub(crate) process: Option<WorkerProcess>,
    /// Whether stickyd starts the worker, so that its restarts are known with their reasons.
    pub(crate) is_spawned: bool,
    /// What the process says about itself, if it is linked to the bus.
    pub(crate) bus: Option<BusSample>,
}

impl WorkerSample<'_> {
    /// Adds the load of another worker that has the same name.
    pub(crate) fn add_load(&mut self, other: &Self) {
        self.sessions += other.sessions;
        self.tunnels += other.tunnels;
        self.in_flight += other.in_flight;
        self.waiting += other.waiting;
        self.drain_left += other.drain_left;
    }
}

/// Health of a worker that passes its checks.
const UP: &str = "up";

/// Values of the `health` label, and of the `admin` label.
pub(crate) const HEALTHS: [&str; 5] = [UP, "starting", "hung", "leaving", "gone"];
const ADMINS: [&str; 4] = ["ready", "drain", "maint", "removed"];

/// Value of the `health` label of `stickyd_workers` for ports of a range that never had a process.
const UNUSED: &str = "unused";

const WORKERS: Family = Family {
    name: "stickyd_workers",
    help: "Workers by health; unused are ports of a range on which no process has listened yet, which have no other \
           series.",
};
const HEALTH: Family =
    Family { name: "stickyd_worker_health", help: "1 for the present health of the worker, 0 for all others." };
const ADMIN: Family =
    Family { name: "stickyd_worker_admin", help: "1 for the present admin state of the worker, 0 for all others." };
const IS_UP: Family = Family { name: "stickyd_worker_up", help: "1 if the health of the worker is up, else 0." };
pub(super) const RESTARTS: Family = Family {
    name: "stickyd_worker_restarts_total",
    help: "New processes seen at the worker's address; of workers that stickyd starts itself, by the reason: exit, \
           signal, memory, roll.",
};
const REQUESTS: Family = Family {
    name: "stickyd_requests_total",
    help: "Answers of workers by status class, without refused attempts of discovery.",
};
const RESPONSE: Family = Family {
    name: "stickyd_worker_response_seconds",
    help: "Time from sending a request to the worker until the head of its answer, without long polls.",
};
const FAILED: Family = Family {
    name: "stickyd_worker_failures_total",
    help: "Attempts at the worker that got no answer, by kind: connect, broken, timeout.",
};
const EJECTED: Family = Family {
    name: "stickyd_ejections_total",
    help: "Ejections of workers after live failures, by reason: connect, broken, timeout (consecutive failures), \
           errors (share of failures in the window).",
};
const SPARED: Family =
    Family { name: "stickyd_ejections_spared_total", help: "Ejections of the worker prevented by max_share." };
const IS_EJECTED: Family = Family { name: "stickyd_worker_ejected", help: "1 while the worker is ejected, else 0." };
const QUEUED: Family = Family {
    name: "stickyd_queued_total",
    help: "Requests that found a worker at max_connections: waited (got a connection), full (the queue was full), \
           timeout (got no connection in time).",
};
const WAITING: Family = Family {
    name: "stickyd_queue_waiting",
    help: "Requests waiting now for a connection to the worker (max_connections).",
};
const SESSIONS: Family =
    Family { name: "stickyd_sessions", help: "Live sessions of the worker: pins and WebSocket-first tunnels." };
const TUNNELS: Family = Family { name: "stickyd_tunnels", help: "Live tunnels to the worker." };
const IN_FLIGHT: Family = Family {
    name: "stickyd_requests_in_flight",
    help: "Requests sent to the worker and not fully answered, without tunnels.",
};
const DRAIN_LEFT: Family = Family {
    name: "stickyd_drain_sessions_left",
    help: "Live sessions of a worker that is drained, in maint or removed; 0 for all others.",
};
const SOCKETS: Family = Family {
    name: "stickyd_sockets",
    help: "Live sockets by transport: tunnels and polling sessions, each counted once.",
};

impl Families {
    /// Adds the number of workers of an upstream in each state of health, and of ports that were never used.
    pub(crate) fn workers(&mut self, upstream: &str, counts: [u64; HEALTHS.len()], unused: u64) {
        for (health, count) in HEALTHS.into_iter().zip(counts).chain([(UNUSED, unused)]) {
            self.gauge(&WORKERS, &[("upstream", upstream), ("health", health)], value(count));
        }
    }

    /// Adds all series of one worker.
    pub(crate) fn worker(&mut self, one: &WorkerSample<'_>) {
        let at = [("upstream", one.upstream), ("worker", one.worker)];
        self.state_set(&HEALTH, &at, ("health", &HEALTHS), one.health);
        self.state_set(&ADMIN, &at, ("admin", &ADMINS), one.admin);
        self.gauge(&IS_UP, &at, value((one.health == UP).into()));
        self.gauge(&IS_EJECTED, &at, value(one.ejected.into()));
        for (family, count) in [
            (&WAITING, one.waiting),
            (&SESSIONS, one.sessions),
            (&TUNNELS, one.tunnels),
            (&IN_FLIGHT, one.in_flight),
            (&DRAIN_LEFT, one.drain_left),
        ] {
            self.gauge(family, &at, value(count));
        }
        self.worker_counters(&at, one.series);
        if !one.is_spawned {
            self.counter(&RESTARTS, &at, value(one.series.restarts.get()));
        }
        if let Some(process) = &one.process {
            self.worker_process(&at, process);
        }
        if let Some(facts) = &one.bus {
            self.bus_facts(&at, facts);
        }
    }

    fn worker_counters(&mut self, at: &[(&'static str, &str); 2], series: &WorkerSeries) {
        let [upstream, worker] = *at;
        let ejections = EJECTIONS.iter().map(|why| why.word()).zip(&series.ejections);
        let by_word = CLASSES.into_iter().zip(&series.classes).map(|(class, count)| (&REQUESTS, "class", class, count));
        let by_word = by_word.chain(ejections.map(|(why, count)| (&EJECTED, "reason", why, count)));
        let by_word = by_word.chain([
            (&FAILED, "kind", "connect", &series.connect_failures),
            (&FAILED, "kind", "broken", &series.broken),
            (&FAILED, "kind", "timeout", &series.timeouts),
            (&QUEUED, "result", "waited", &series.queue_waited),
            (&QUEUED, "result", "full", &series.queue_full),
            (&QUEUED, "result", "timeout", &series.queue_timeouts),
        ]);
        for (family, label, word, count) in by_word {
            self.counter(family, &[upstream, worker, (label, word)], value(count.get()));
        }
        self.counter(&SPARED, at, value(series.spared.get()));
        self.summary(&RESPONSE, at, value(series.head_us.get()) / 1e6, series.heads.get());
        for transport in Transport::ALL {
            let live = series.live_sockets(transport);
            self.gauge(&SOCKETS, &[upstream, worker, ("transport", transport.word())], value(live));
        }
    }
}
