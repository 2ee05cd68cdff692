//! Series of live sockets: how many there are, how they start and end, how long they live, and what they carry.
//!
//! A socket that ends adds its numbers to the totals; live sockets are added up on each scrape. So a socket that lives
//! for a day is not counted only at its end, and a message costs nothing beyond its socket's own counters.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use prometheus::register_histogram_vec_with_registry as histograms;
use prometheus::register_int_counter_vec_with_registry as counters;
use prometheus::register_int_gauge_vec_with_registry as gauges;
use prometheus::register_int_gauge_with_registry as gauge;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::socket_labels::{EndReason, Transport};
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

/// Series of all sockets together.
pub(crate) struct SocketsSeries {
    pub(crate) live: IntGaugeVec,
    pub(crate) listed: IntGauge,
    pub(crate) limit: IntGauge,
    pub(crate) opened: IntCounterVec,
    pub(crate) upgraded: IntCounterVec,
    pub(crate) unlisted: IntCounterVec,
    pub(crate) closed: IntCounterVec,
    pub(crate) codes: IntCounterVec,
    pub(crate) lives: HistogramVec,
    pub(crate) messages: IntCounterVec,
    pub(crate) bytes: IntCounterVec,
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
    /// Messages and bytes of sockets that have ended, up and down.
    ended: [EndedTotals; 2],
    messages: [IntCounter; 2],
    bytes: [IntCounter; 2],
}

/// What one socket has carried in one direction.
#[derive(Debug, Clone, Copy, Default)]
pub struct Carried {
    /// Messages; bodies of a polling session.
    pub messages: u64,
    /// Number of payload bytes.
    pub bytes: u64,
    /// The code of the Close frame that went this way, if one did.
    pub code: Option<u16>,
}

#[derive(Default)]
struct EndedTotals {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl SocketSeries {
    /// Counts one socket that starts.
    pub fn opened(&self, transport: Transport) {
        if let Some(counter) = self.opened.get(transport as usize) {
            counter.inc();
        }
    }

    /// Counts one socket that has ended.
    pub fn closed(&self, transport: Transport, ways: [Carried; 2], why: EndReason, age_s: u32) {
        if let Some(counter) =
            EndReason::ALL.iter().position(|one| *one == why).and_then(|place| self.closed.get(place))
        {
            counter.inc();
        }
        if let Some(lives) = self.lives.get(transport as usize) {
            lives.observe(age_s.into());
        }
        for ((way, codes), ended) in ways.into_iter().zip(&self.codes).zip(&self.ended) {
            if let Some(code) = way.code.and_then(|code| codes.get(place_of(code))) {
                code.inc();
            }
            ended.messages.fetch_add(way.messages, Relaxed);
            ended.bytes.fetch_add(way.bytes, Relaxed);
        }
    }

    /// Sets the totals. `live` holds messages and bytes of live sockets, up and down. A counter never decreases, even
    /// if a socket that has just ended was counted twice.
    pub(crate) fn show(&self, live: [(u64, u64); 2]) {
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
    pub(crate) fn new(r: &Registry) -> prometheus::Result<Self> {
        let lives = histograms!("stickyd_socket_lifetime_seconds",
                "Lifetime of sockets that ended, by the transport they had last.",
            &["upstream", "transport"], LIVES.to_vec(), r)?;
        Ok(Self {
            live: gauges!("stickyd_sockets",
                "Live sockets on the list: tunnels and polling sessions, each counted once.",
                &["upstream", "worker", "transport"], r)?,
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
            messages: counters!("stickyd_socket_messages_total",
                "Messages of sockets, up (from clients) and down (to clients); for polling sessions, bodies.",
                &["upstream", "direction"], r)?,
            bytes: counters!("stickyd_socket_bytes_total",
                "Bytes of sockets, up (from clients) and down (to clients), live sockets included.",
                &["upstream", "direction"], r)?,
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
            ended: Default::default(),
            messages: WAYS.map(|way| self.messages.with_label_values(&[name, way])),
            bytes: WAYS.map(|way| self.bytes.with_label_values(&[name, way])),
        });
        known.insert(name.to_owned(), series.clone());
        series
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_codes_map_to_a_few_labels() {
        for (code, word) in
            [(1000, "1000"), (1006, "other"), (1015, "other"), (3001, "3xxx"), (4999, "4xxx"), (65_535, "other")]
        {
            assert_eq!(CODES[place_of(code)], word);
        }
    }
}
