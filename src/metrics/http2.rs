//! Series of HTTP/2: streams, and what clients do wrong.

use prometheus::register_int_counter_vec_with_registry as counters;
use prometheus::register_int_counter_with_registry as counter;
use prometheus::register_int_gauge_with_registry as gauge;
use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::catalogue::Registrar;

/// Counters of streams of clients.
pub struct Http2Series {
    /// Number of HTTP/2 streams open now, tunnels included.
    pub streams: IntGauge,
    /// Number of HTTP/2 streams opened by clients.
    pub opened: IntCounter,
    /// Number of HTTP/2 streams reset by clients.
    pub resets: IntCounter,
    /// Requests over HTTP/2 with a malformed head.
    pub malformed: IntCounter,
    /// Number of HTTP/2 connections closed because the client sent too many frames of a kind (`resets`, `useless`).
    pub floods: IntCounterVec,
}

impl Http2Series {
    #[rustfmt::skip]
    pub(crate) fn new(r: &Registrar) -> prometheus::Result<Self> {
        Ok(Self {
            streams: gauge!("stickyd_http2_streams",
                "HTTP/2 streams open: requests and tunnels.", r)?,
            opened: counter!("stickyd_http2_streams_opened_total",
                "HTTP/2 streams opened by clients: requests and tunnels.", r)?,
            resets: counter!("stickyd_http2_resets_total", "HTTP/2 streams reset by clients.", r)?,
            malformed: counter!("stickyd_http2_malformed_total",
                "Requests over HTTP/2 that were reset because their heads were malformed.", r)?,
            floods: counters!("stickyd_http2_floods_total",
                "HTTP/2 connections closed because the client sent too many resets, useless frames or mistakes.",
                &["frames"], r)?,
        })
    }
}
