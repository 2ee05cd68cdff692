//! Live sockets: how many, how they come, live and go, what they carry.
//!
//! What ends is counted by those who end; what is live is added up when somebody scrapes, so that a socket of a day is not
//! counted only at its end, and no message costs more than its socket's own numbers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::{gauge, vec_or_empty};
use crate::sockets::{End, SHARDS, Socket, Sockets, Transport, Way};

/// The `code` label: what RFC 6455 §7.4 and the IANA registry name, the classes applications choose from, and the rest.
const CODES: [&str; 16] = [
    "1000", "1001", "1002", "1003", "1005", "1007", "1008", "1009", "1010", "1011", "1012", "1013", "1014", "3xxx",
    "4xxx", "other",
];

/// Of a socket's life in seconds: from a failed upgrade to a week.
const LIVES: [f64; 12] =
    [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0, 259_200.0, 604_800.0];

const WAYS: [&str; 2] = ["up", "down"];

/// The series of sockets.
pub(super) struct SocketsSeries {
    live: IntGaugeVec,
    listed: IntGauge,
    limit: IntGauge,
    opened: IntCounterVec,
    upgraded: IntCounterVec,
    unlisted: IntCounterVec,
    closed: IntCounterVec,
    codes: IntCounterVec,
    lives: HistogramVec,
    messages: IntCounterVec,
    bytes: IntCounterVec,
    by_upstream: Mutex<HashMap<String, Arc<SocketSeries>>>,
}

/// The counters of the sockets of one upstream.
pub struct SocketSeries {
    opened: [IntCounter; 3],
    /// Sessions that moved from polling to a WebSocket.
    pub upgraded: IntCounter,
    /// Sockets the list had no room for.
    pub unlisted: IntCounter,
    closed: [IntCounter; End::ALL.len()],
    codes: [[IntCounter; CODES.len()]; 2],
    lives: [Histogram; 3],
    /// Of sockets that ended: messages and bytes, up and down.
    ended: [Carried; 2],
    messages: [IntCounter; 2],
    bytes: [IntCounter; 2],
}

#[derive(Default)]
struct Carried {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl SocketSeries {
    /// Counts a socket that begins.
    pub fn opened(&self, transport: Transport) {
        if let Some(counter) = self.opened.get(transport as usize) {
            counter.inc();
        }
    }

    /// Counts a socket that is no more.
    pub fn closed(&self, socket: &Socket, why: End, age_s: u32) {
        if let Some(counter) = End::ALL.iter().position(|one| *one == why).and_then(|place| self.closed.get(place)) {
            counter.inc();
        }
        if let Some(lives) = self.lives.get(socket.transport() as usize) {
            lives.observe(age_s.into());
        }
        for ((way, codes), ended) in [&socket.up, &socket.down].into_iter().zip(&self.codes).zip(&self.ended) {
            if let Some(code) = way.code().and_then(|code| codes.get(place_of(code))) {
                code.inc();
            }
            ended.messages.fetch_add(way.messages(), Relaxed);
            ended.bytes.fetch_add(way.bytes(), Relaxed);
        }
    }

    /// `live`: messages and bytes of those that live, up and down. A counter never goes back, also if one that just ended
    /// was counted twice.
    fn show(&self, live: [(u64, u64); 2]) {
        for (place, (messages, bytes)) in live.into_iter().enumerate() {
            let (Some(ended), Some(all), Some(all_bytes)) =
                (self.ended.get(place), self.messages.get(place), self.bytes.get(place))
            else {
                continue;
            };
            all.inc_by((ended.messages.load(Relaxed) + messages).saturating_sub(all.get()));
            all_bytes.inc_by((ended.bytes.load(Relaxed) + bytes).saturating_sub(all_bytes.get()));
        }
    }

    /// Sockets that began, and that ended.
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
    pub(super) fn new(r: &Registry) -> Self {
        let lives = HistogramVec::new(HistogramOpts::new("stickyd_socket_lifetime_seconds", "From a socket's beginning to its end, by the transport it had last.").buckets(LIVES.to_vec()), &["upstream", "transport"]);
        let lives = vec_or_empty(lives);
        if let Err(error) = r.register(Box::new(lives.clone())) {
            tracing::error!(%error, "a metric could not be registered");
        }
        Self {
            live: register!(r, IntGaugeVec, "stickyd_sockets", "Live sockets on the list: tunnels and polling sessions, each once.", &["upstream", "worker", "transport"]),
            listed: register!(r, IntGauge, "stickyd_sockets_listed", "Entries on the list of sockets."),
            limit: register!(r, IntGauge, "stickyd_sockets_limit", "Entries at most; sockets beyond live unlisted."),
            opened: register!(r, IntCounterVec, "stickyd_sockets_opened_total", "Sockets that began, by the transport they began with.", &["upstream", "transport"]),
            upgraded: register!(r, IntCounterVec, "stickyd_sockets_upgraded_total", "Polling sessions that moved to a WebSocket.", &["upstream"]),
            unlisted: register!(r, IntCounterVec, "stickyd_sockets_unlisted_total", "Sockets the list had no room for.", &["upstream"]),
            closed: register!(r, IntCounterVec, "stickyd_sockets_closed_total", "Sockets that ended, by reason: client, worker (said so), client_gone, worker_gone (without a word), refused (its worker lost it), expired (nobody asked for it any more), idle, drained, operator, stopped, dead (the client vanished).", &["upstream", "reason"]),
            codes: register!(r, IntCounterVec, "stickyd_close_codes_total", "Close frames of sockets that ended, up (from clients) and down (to clients), by code; 1005: none in it.", &["upstream", "direction", "code"]),
            lives,
            messages: register!(r, IntCounterVec, "stickyd_socket_messages_total", "Messages of sockets, up (from clients) and down (to clients); of polling sessions bodies.", &["upstream", "direction"]),
            bytes: register!(r, IntCounterVec, "stickyd_socket_bytes_total", "Bytes of sockets, up (from clients) and down (to clients), live ones included.", &["upstream", "direction"]),
            by_upstream: Mutex::default(),
        }
    }

    /// The counters of an upstream, the same for all its workers.
    pub(super) fn upstream(&self, name: &str) -> Arc<SocketSeries> {
        let mut known = self.by_upstream.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known.get(name) {
            return series.clone();
        }
        let series = Arc::new(SocketSeries {
            opened: Transport::ALL.map(|one| self.opened.with_label_values(&[name, one.word()])),
            upgraded: self.upgraded.with_label_values(&[name]),
            unlisted: self.unlisted.with_label_values(&[name]),
            closed: End::ALL.map(|one| self.closed.with_label_values(&[name, one.word()])),
            codes: WAYS.map(|way| CODES.map(|code| self.codes.with_label_values(&[name, way, code]))),
            lives: Transport::ALL.map(|one| self.lives.with_label_values(&[name, one.word()])),
            ended: Default::default(),
            messages: WAYS.map(|way| self.messages.with_label_values(&[name, way])),
            bytes: WAYS.map(|way| self.bytes.with_label_values(&[name, way])),
        });
        known.insert(name.to_owned(), series.clone());
        series
    }

    /// Adds up what is live now.
    pub(super) fn show(&self, sockets: &Sockets) {
        self.live.reset();
        self.listed.set(gauge(sockets.len()));
        self.limit.set(gauge(sockets.capacity()));
        let known = self.by_upstream.lock().unwrap_or_else(PoisonError::into_inner);
        // By worker's serial: names are looked up once a worker, not once a socket.
        let mut counts: HashMap<(u64, Transport), (Arc<Socket>, i64)> = HashMap::new();
        let mut carried: HashMap<&str, [(u64, u64); 2]> =
            known.keys().map(|name| (name.as_str(), Default::default())).collect();
        for socket in (0..SHARDS).flat_map(|shard| sockets.shard(shard)) {
            if let Some([up, down]) = carried.get_mut(&*socket.worker().upstream) {
                let add = |sum: &mut (u64, u64), way: &Way| *sum = (sum.0 + way.messages(), sum.1 + way.bytes());
                add(up, &socket.up);
                add(down, &socket.down);
            }
            counts.entry((socket.worker().serial, socket.transport())).or_insert_with(|| (socket, 0)).1 += 1;
        }
        for ((_, transport), (socket, count)) in counts {
            let worker = socket.worker();
            self.live.with_label_values(&[&*worker.upstream, &worker.name, transport.word()]).add(count);
        }
        for (name, series) in &*known {
            series.show(carried.get(name.as_str()).copied().unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_few_words() {
        for (code, word) in
            [(1000, "1000"), (1006, "other"), (1015, "other"), (3001, "3xxx"), (4999, "4xxx"), (65_535, "other")]
        {
            assert_eq!(CODES[place_of(code)], word);
        }
    }
}
