//! Series of the connections of clients: accepted, secured by TLS, ended by an error; and certificates of listeners.

use std::collections::BTreeMap;
use std::sync::Mutex;

use prometheus::register_int_counter_vec_with_registry as counters;
use prometheus::register_int_gauge_with_registry as gauge;
use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::Metrics;
use super::catalogue::Registrar;
use super::families::{Families, Family, value};
use crate::locks::lock;

const CERTIFICATES: Family = Family {
    name: "stickyd_tls_certificate_expiry_timestamp_seconds",
    help: "Unix time at which a certificate expires; the name is the first one in the certificate.",
};

/// Counters of the connections of clients.
pub struct ClientSeries {
    pub(crate) open: IntGauge,
    accepted: IntCounterVec,
    /// Number of client connections that ended with an HTTP, TLS or PROXY protocol error.
    pub errors: IntCounterVec,
    tls_handshakes: IntCounterVec,
    /// Unix times at which certificates expire, by listener and name.
    certificates: Mutex<BTreeMap<(String, String), u64>>,
}

impl ClientSeries {
    #[rustfmt::skip]
    pub(crate) fn new(r: &Registrar) -> prometheus::Result<Self> {
        Ok(Self {
            open: gauge!("stickyd_client_connections",
                "Client connections open, tunnels included; each tunnel over HTTP/2 counts as one more.", r)?,
            accepted: counters!("stickyd_connections_accepted_total",
                "Client connections accepted, including those closed at once because a limit was reached.",
                &["listener"], r)?,
            errors: counters!("stickyd_client_errors_total",
                "Client connections ended by an error, by kind: proxy (PROXY header), tls, http, http2.", &["kind"], r)?,
            tls_handshakes: counters!("stickyd_tls_handshakes_total",
                "TLS handshakes by version, result (ok, failed, timeout) and whether a session was resumed.",
                &["listener", "version", "result", "resumed"], r)?,
            certificates: Mutex::default(),
        })
    }
}

impl Metrics {
    /// Creates the series of a listener, which begin at 0.
    pub(crate) fn begin_listener(&self, listener: &str, has_tls: bool) {
        self.clients.accepted.with_label_values(&[listener]);
        let versions = [("1.2", "ok"), ("1.2", "failed"), ("1.3", "ok"), ("1.3", "failed")];
        let made =
            versions.into_iter().flat_map(|(version, result)| [(version, result, "no"), (version, result, "yes")]);
        for (version, result, resumed) in made.chain([("none", "failed", "no"), ("none", "timeout", "no")]) {
            if has_tls {
                self.clients.tls_handshakes.with_label_values(&[listener, version, result, resumed]);
            }
        }
    }

    /// Returns the counter of connections that a listener has accepted.
    pub(crate) fn accepted(&self, listener: &str) -> IntCounter {
        self.clients.accepted.with_label_values(&[listener])
    }

    /// Counts one TLS handshake of a client; `version` is `none` if the handshake did not get that far.
    pub fn tls_handshake(&self, listener: &str, version: &str, result: &str, resumed: bool) {
        let resumed = if resumed { "yes" } else { "no" };
        self.clients.tls_handshakes.with_label_values(&[listener, version, result, resumed]).inc();
    }

    /// Replaces the expiry times of certificates, given as listener, name and Unix time. Of several certificates with
    /// the same name (ECDSA and RSA) the earliest expiry counts.
    pub fn certificates_expire<'a>(&self, all: impl Iterator<Item = (&'a str, &'a str, u64)>) {
        let mut earliest = BTreeMap::new();
        for (listener, name, until) in all {
            let known = earliest.entry((listener.to_owned(), name.to_owned())).or_insert(until);
            *known = until.min(*known);
        }
        *lock(&self.clients.certificates) = earliest;
    }

    /// Returns listener, name and expiry (Unix time) of every certificate.
    pub(crate) fn certificates(&self) -> Vec<(String, String, u64)> {
        let known = lock(&self.clients.certificates);
        known.iter().map(|((listener, name), until)| (listener.clone(), name.clone(), *until)).collect()
    }

    /// Adds when each certificate expires.
    pub(super) fn show_certificates(&self, live: &mut Families) {
        for ((listener, name), until) in &*lock(&self.clients.certificates) {
            live.gauge(&CERTIFICATES, &[("listener", listener), ("name", name)], value(*until));
        }
    }
}
