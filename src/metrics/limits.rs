//! What limits did, and how near they are.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::{gauge, vec_or_empty};
use crate::descriptors;
use crate::state::Shared;

/// A limit that turns somebody away or cuts somebody off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the key of its name")]
pub enum Limit {
    Connections,
    /// `connections`; who was idle made room.
    IdleConnections,
    ConnectionsPerAddress,
    Descriptors,
    TunnelsPerAddress,
    MaxTunnels,
    MaxBody,
    TargetBytes,
    HeadTimeout,
    RequestsPerConnection,
    RequestTimeout,
    /// `min_rate`, of a body.
    SlowBody,
    /// `min_rate`, of an answer.
    SlowReader,
}

impl Limit {
    const ALL: [Self; 13] = [
        Self::Connections,
        Self::IdleConnections,
        Self::ConnectionsPerAddress,
        Self::Descriptors,
        Self::TunnelsPerAddress,
        Self::MaxTunnels,
        Self::MaxBody,
        Self::TargetBytes,
        Self::HeadTimeout,
        Self::RequestsPerConnection,
        Self::RequestTimeout,
        Self::SlowBody,
        Self::SlowReader,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::IdleConnections => "idle_connections",
            Self::ConnectionsPerAddress => "connections_per_address",
            Self::Descriptors => "reserved_descriptors",
            Self::TunnelsPerAddress => "tunnels_per_address",
            Self::MaxTunnels => "max_tunnels",
            Self::MaxBody => "max_body",
            Self::TargetBytes => "target_bytes",
            Self::HeadTimeout => "head_timeout",
            Self::RequestsPerConnection => "requests_per_connection",
            Self::RequestTimeout => "request_timeout",
            Self::SlowBody => "min_rate_body",
            Self::SlowReader => "min_rate_answer",
        }
    }
}

/// The series of limits.
pub struct LimitSeries {
    reached: [IntCounter; 13],
    connections: IntGauge,
    descriptors: IntGauge,
    descriptors_limit: IntGauge,
}

impl LimitSeries {
    #[rustfmt::skip]
    pub(super) fn new(r: &Registry) -> Self {
        let reached = register!(r, IntCounterVec, "stickyd_limited_total", "Clients turned away, requests refused and transfers cut, by the limit that did it.", &["limit"]);
        Self {
            reached: Limit::ALL.map(|limit| reached.with_label_values(&[limit.word()])),
            connections: register!(r, IntGauge, "stickyd_client_connections_limit", "Client connections at most."),
            descriptors: register!(r, IntGauge, "stickyd_descriptors", "Descriptors open."),
            descriptors_limit: register!(r, IntGauge, "stickyd_descriptors_limit", "Descriptors this process may have."),
        }
    }

    /// Counts what a limit did.
    pub fn reached(&self, limit: Limit) {
        if let Some(counter) = self.reached.get(limit as usize) {
            counter.inc();
        }
    }

    pub(super) fn show(&self, shared: &Shared) {
        self.connections.set(gauge(shared.caps.connections()));
        self.descriptors.set(gauge(descriptors::open()));
        self.descriptors_limit.set(i64::try_from(descriptors::limit()).unwrap_or(i64::MAX));
    }
}
