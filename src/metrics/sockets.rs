//! Series of live sockets: how many there are, how they start and end, how long they live, and what they carry.
//!
//! A message is added to the totals when it passes, without a read-modify-write operation: each thread has numbers of
//! its own ([`Carried`]), which a scrape adds up. So a socket that lives for a day is not counted only at its end, and
//! a scrape costs the same with ten sockets and with a million. Left out: the sockets that live now, by worker
//! (`worker`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use prometheus::register_histogram_vec_with_registry as histograms;
use prometheus::register_int_counter_vec_with_registry as counters;
use prometheus::register_int_gauge_with_registry as gauge;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};

use super::catalogue::Registrar;
use super::families::{Families, Family, value};
use super::socket_labels::{EndReason, Transport};
use super::worker::Tally;
use crate::locks::lock;

/// Values of the `code` label: the codes named in RFC 6455 §7.4 and the IANA registry, the two ranges for applications,
/// and all others.
const CODES: [&str; 16] = [
    "1000", "1001", "1002", "1003", "1005", "1007", "1008", "1009", "1010", "1011", "1012", "1013", "1014", "3xxx",
    "4xxx", "other",
];

/// Buckets of a socket's lifetime in seconds: from a failed upgrade to a week.
const LIVES: [f64; 12] =
    [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0, 259_200.0, 604_800.0];

const WAYS: [&str; 2] = ["up", "down"];

/// Number of threads that have numbers of their own; further threads share the last ones.
const THREADS: usize = 64;

const MESSAGES: Family = Family {
    name: "stickyd_socket_messages_total",
    help: "Messages of sockets, up (from clients) and down (to clients); for polling sessions, bodies.",
};
const ALL_BYTES: Family = Family {
    name: "stickyd_bytes_total",
    help: "Bytes of bodies and tunnels, up (from clients) and down (to clients); a body is counted when its request \
           is over, a tunnel while it lives.",
};
const BYTES: Family = Family {
    name: "stickyd_socket_bytes_total",
    help: "Bytes of sockets, up (from clients) and down (to clients), live sockets included.",
};

/// Series of all sockets together.
pub(crate) struct SocketsSeries {
    pub(crate) listed: IntGauge,
    pub(crate) limit: IntGauge,
    pub(crate) opened: IntCounterVec,
    pub(crate) upgraded: IntCounterVec,
    pub(crate) unlisted: IntCounterVec,
    pub(crate) closed: IntCounterVec,
    pub(crate) codes: IntCounterVec,
    pub(crate) lives: HistogramVec,
    pub(crate) by_upstream: Mutex<HashMap<String, Arc<SocketSeries>>>,
}

/// Resolved counters of the sockets of one upstream.
pub struct SocketSeries {
    opened: [IntCounter; 3],
    /// Number of sessions that moved from polling to a WebSocket.
    pub upgraded: IntCounter,
    /// Number of sockets not listed because the list was full.
    pub unlisted: IntCounter,
    closed: [IntCounter; EndReason::ALL.len()],
    codes: [[IntCounter; CODES.len()]; 2],
    lives: [Histogram; 3],
    carried: Mutex<AllCarried>,
    /// Bytes of all bodies, up and down, those of polling sessions included.
    pub(super) bodies: [Arc<Tally>; 2],
}

/// Direction in which traffic goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the worker.
    Up,
    /// From the worker to the client.
    Down,
}

/// What the sockets of one worker have carried, as counted by each thread.
pub(crate) struct Carried(Box<[ThreadTotals]>);

/// What all sockets of an upstream have carried.
#[derive(Default)]
struct AllCarried {
    /// What the sockets of present workers have carried.
    workers: Vec<Arc<Carried>>,
    /// What the sockets of workers carried that are gone: up and down, each as messages, and bytes by carrier.
    gone: [[u64; 3]; 2],
}

/// What one thread has counted, up and down. It fills a cache line, so that threads do not slow down each other.
#[derive(Default)]
#[repr(align(64))]
struct ThreadTotals([WayTotals; 2]);

/// What one thread has counted in one direction.
#[derive(Default)]
struct WayTotals {
    messages: AtomicU64,
    /// Bytes by carrier: of polling sessions, and of tunnels.
    bytes: [AtomicU64; 2],
}

/// What carries messages of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketCarrier {
    /// Bodies of requests and answers, which are counted among all bodies, too.
    Bodies,
    /// The tunnel of a WebSocket.
    Tunnel,
}

thread_local! {
    /// Place of this thread's numbers in [`Carried`].
    static PLACE: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Relaxed).min(THREADS - 1)
    };
}

impl Carried {
    fn new() -> Self {
        Self((0..THREADS).map(|_| ThreadTotals::default()).collect())
    }

    #[inline]
    pub(super) fn add(&self, way: Way, by: SocketCarrier, messages: u64, bytes: u64) {
        let place = PLACE.with(|place| *place);
        let Some(totals) = self.0.get(place).and_then(|totals| totals.0.get(way as usize)) else { return };
        let Some(all_bytes) = totals.bytes.get(by as usize) else { return };
        if place < THREADS - 1 {
            // Only this thread writes here.
            totals.messages.store(totals.messages.load(Relaxed).wrapping_add(messages), Relaxed);
            all_bytes.store(all_bytes.load(Relaxed).wrapping_add(bytes), Relaxed);
        } else {
            totals.messages.fetch_add(messages, Relaxed);
            all_bytes.fetch_add(bytes, Relaxed);
        }
    }

    /// Returns the sum over all threads of one of the numbers of one direction.
    fn sum(&self, way: Way, of: impl Fn(&WayTotals) -> u64) -> u64 {
        self.0.iter().filter_map(|totals| totals.0.get(way as usize)).map(of).sum()
    }

    /// Returns the bytes of one direction.
    pub(super) fn bytes(&self, way: Way) -> u64 {
        self.sum(way, |totals| totals.bytes.iter().map(|bytes| bytes.load(Relaxed)).sum())
    }

    /// Returns the messages of one direction, and its bytes by carrier.
    fn totals(&self, way: Way) -> [u64; 3] {
        let bytes = |by: SocketCarrier| {
            self.sum(way, |totals| totals.bytes.get(by as usize).map_or(0, |bytes| bytes.load(Relaxed)))
        };
        let messages = self.sum(way, |totals| totals.messages.load(Relaxed));
        [messages, bytes(SocketCarrier::Bodies), bytes(SocketCarrier::Tunnel)]
    }
}

impl AllCarried {
    fn totals(&self, way: Way) -> [u64; 3] {
        let gone = self.gone.get(way as usize).copied().unwrap_or_default();
        self.workers.iter().map(|carried| carried.totals(way)).fold(gone, added)
    }
}

fn added(one: [u64; 3], other: [u64; 3]) -> [u64; 3] {
    let ([a, b, c], [d, e, f]) = (one, other);
    [a.wrapping_add(d), b.wrapping_add(e), c.wrapping_add(f)]
}

impl SocketSeries {
    /// Counts one socket that starts.
    pub fn opened(&self, transport: Transport) {
        if let Some(counter) = self.opened.get(transport as usize) {
            counter.inc();
        }
    }

    /// Returns the numbers of a worker that has its first socket.
    pub(super) fn join(&self) -> Arc<Carried> {
        let carried = Arc::new(Carried::new());
        lock(&self.carried).workers.push(carried.clone());
        carried
    }

    /// Keeps what the sockets of a worker have carried that is gone.
    pub(super) fn leave(&self, carried: &Arc<Carried>) {
        let mut all = lock(&self.carried);
        all.workers.retain(|one| !Arc::ptr_eq(one, carried));
        for way in [Way::Up, Way::Down] {
            if let Some(gone) = all.gone.get_mut(way as usize) {
                *gone = added(*gone, carried.totals(way));
            }
        }
    }

    /// Returns the bytes of bodies and tunnels so far.
    pub fn all_bytes(&self, way: Way) -> u64 {
        let [up, down] = &self.bodies;
        let bodies = if way == Way::Up { up } else { down };
        let [_, _, tunnels] = lock(&self.carried).totals(way);
        bodies.get() + tunnels
    }

    /// Counts one socket that has ended; `codes` are those of the Close frames that went up and down, if any did.
    pub fn closed(&self, transport: Transport, codes: [Option<u16>; 2], why: EndReason, age_s: u32) {
        if let Some(counter) =
            EndReason::ALL.iter().position(|one| *one == why).and_then(|place| self.closed.get(place))
        {
            counter.inc();
        }
        if let Some(lives) = self.lives.get(transport as usize) {
            lives.observe(age_s.into());
        }
        for (code, counters) in codes.into_iter().zip(&self.codes) {
            if let Some(counter) = code.and_then(|code| counters.get(place_of(code))) {
                counter.inc();
            }
        }
    }

    /// Returns the number of sockets that started, and of those that ended.
    pub fn turnover(&self) -> (u64, u64) {
        (self.opened.iter().map(IntCounter::get).sum(), self.closed.iter().map(IntCounter::get).sum())
    }
}

fn place_of(code: u16) -> usize {
    let word = code.to_string();
    let place = |word: &str| CODES.iter().position(|one| *one == word);
    let class = match code {
        3000..=3999 => "3xxx",
        4000..=4999 => "4xxx",
        _ => "other",
    };
    place(&word).or_else(|| place(class)).unwrap_or(CODES.len() - 1)
}

impl SocketsSeries {
    #[rustfmt::skip]
    pub(crate) fn new(r: &Registrar) -> prometheus::Result<Self> {
        let lives = histograms!("stickyd_socket_lifetime_seconds",
                "Lifetime of sockets that ended, by the transport they had last.",
            &["upstream", "transport"], LIVES.to_vec(), r)?;
        Ok(Self {
            listed: gauge!("stickyd_sockets_listed", "Entries on the list of sockets.", r)?,
            limit: gauge!("stickyd_sockets_limit",
                "Maximum number of entries on the list of sockets; sockets above it live without being listed.", r)?,
            opened: counters!("stickyd_sockets_opened_total",
                "Sockets that started, by the transport they started with.", &["upstream", "transport"], r)?,
            upgraded: counters!("stickyd_sockets_upgraded_total",
                "Polling sessions that moved to a WebSocket.", &["upstream"], r)?,
            unlisted: counters!("stickyd_sockets_unlisted_total",
                "Sockets not listed because the list was full.", &["upstream"], r)?,
            closed: counters!("stickyd_sockets_closed_total",
                "Sockets that ended, by reason: client and worker (ended by that side), client_gone and worker_gone \
                 (its connection broke), refused (the worker lost the session), expired (no more requests \
                 came, or its pin was evicted), idle, drained, operator, stopped, dead (the client stopped answering).",
                &["upstream", "reason"], r)?,
            codes: counters!("stickyd_close_codes_total",
                "Close frames of sockets that ended, up (from clients) and down (to clients), by code; 1005 means a \
                 Close without a code.",
                &["upstream", "direction", "code"], r)?,
            lives,
            by_upstream: Mutex::default(),
        })
    }

    /// Returns the counters of an upstream, which all its workers share.
    pub(crate) fn upstream(&self, name: &str) -> Arc<SocketSeries> {
        let mut known = lock(&self.by_upstream);
        if let Some(series) = known.get(name) {
            return series.clone();
        }
        let series = Arc::new(SocketSeries {
            opened: Transport::ALL.map(|one| self.opened.with_label_values(&[name, one.word()])),
            upgraded: self.upgraded.with_label_values(&[name]),
            unlisted: self.unlisted.with_label_values(&[name]),
            closed: EndReason::ALL.map(|one| self.closed.with_label_values(&[name, one.word()])),
            codes: WAYS.map(|way| CODES.map(|code| self.codes.with_label_values(&[name, way, code]))),
            lives: Transport::ALL.map(|one| self.lives.with_label_values(&[name, one.word()])),
            carried: Mutex::default(),
            bodies: Default::default(),
        });
        known.insert(name.to_owned(), series.clone());
        series
    }

    /// Adds what the sockets of each upstream have carried.
    pub(super) fn show(&self, live: &mut Families) {
        for (upstream, series) in &*lock(&self.by_upstream) {
            for (word, way) in WAYS.into_iter().zip([Way::Up, Way::Down]) {
                let labels = [("upstream", upstream.as_str()), ("direction", word)];
                let [messages, bodies, tunnels] = lock(&series.carried).totals(way);
                live.counter(&MESSAGES, &labels, value(messages));
                live.counter(&BYTES, &labels, value(bodies + tunnels));
                live.counter(&ALL_BYTES, &labels, value(series.all_bytes(way)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_of_all_threads_are_added_up() {
        let carried = Carried::new();
        // More threads than there are places.
        std::thread::scope(|scope| {
            for _ in 0..THREADS + 16 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        carried.add(Way::Up, SocketCarrier::Tunnel, 1, 10);
                        carried.add(Way::Up, SocketCarrier::Bodies, 1, 5);
                        carried.add(Way::Down, SocketCarrier::Bodies, 0, 7);
                    }
                });
            }
        });
        let all = 100 * (THREADS as u64 + 16);
        let sum = |way| {
            let [bodies, tunnels] = [0, 1].map(|by: usize| carried.sum(way, |totals| totals.bytes[by].load(Relaxed)));
            (carried.sum(way, |totals| totals.messages.load(Relaxed)), bodies, tunnels)
        };
        assert_eq!((sum(Way::Up), sum(Way::Down)), ((2 * all, 5 * all, 10 * all), (0, 7 * all, 0)));
    }

    #[test]
    fn close_codes_map_to_a_few_labels() {
        for (code, word) in
            [(1000, "1000"), (1006, "other"), (1015, "other"), (3001, "3xxx"), (4999, "4xxx"), (65_535, "other")]
        {
            assert_eq!(CODES[place_of(code)], word);
        }
    }
}
