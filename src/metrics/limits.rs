//! Series of limits: how often each was reached, and how close others are.

use prometheus::register_int_counter_vec_with_registry as counters;
use prometheus::register_int_gauge_with_registry as gauge;
use prometheus::{IntCounter, IntGauge};

use super::catalogue::Registrar;

/// A limit that can reject a client, refuse a request or cut a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the key of its name")]
pub enum LimitLabel {
    Connections,
    /// `connections`, where ending an idle connection made room for the new one.
    IdleConnections,
    ConnectionsPerAddress,
    Descriptors,
    TunnelsPerAddress,
    MaxTunnels,
    MaxBody,
    TargetBytes,
    HeadBytes,
    HeadFields,
    HeadTimeout,
    RequestsPerConnection,
    RequestTimeout,
    /// `min_rate`, for a request body that arrives too slowly.
    SlowBody,
    /// `min_rate`, for an answer that the client reads too slowly.
    SlowReader,
}

impl LimitLabel {
    const ALL: [Self; 15] = [
        Self::Connections,
        Self::IdleConnections,
        Self::ConnectionsPerAddress,
        Self::Descriptors,
        Self::TunnelsPerAddress,
        Self::MaxTunnels,
        Self::MaxBody,
        Self::TargetBytes,
        Self::HeadBytes,
        Self::HeadFields,
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
            Self::HeadBytes => "head_bytes",
            Self::HeadFields => "head_fields",
            Self::HeadTimeout => "head_timeout",
            Self::RequestsPerConnection => "requests_per_connection",
            Self::RequestTimeout => "request_timeout",
            Self::SlowBody => "min_rate_body",
            Self::SlowReader => "min_rate_answer",
        }
    }
}

/// Series of all limits together.
pub struct LimitSeries {
    pub(crate) reached: [IntCounter; 15],
    pub(crate) connections: IntGauge,
    pub(crate) descriptors: IntGauge,
    pub(crate) descriptors_limit: IntGauge,
}

impl LimitSeries {
    #[rustfmt::skip]
    pub(crate) fn new(r: &Registrar) -> prometheus::Result<Self> {
        let reached = counters!("stickyd_limited_total",
            "Clients rejected, requests refused and transfers cut, by the limit that caused it.", &["limit"], r)?;
        Ok(Self {
            reached: LimitLabel::ALL.map(|limit| reached.with_label_values(&[limit.word()])),
            connections: gauge!("stickyd_client_connections_limit",
                "Maximum number of client connections.", r)?,
            descriptors: gauge!("stickyd_descriptors", "File descriptors open.", r)?,
            descriptors_limit: gauge!("stickyd_descriptors_limit",
                "Maximum number of file descriptors of this process.", r)?,
        })
    }

    /// Returns how often each limit was reached so far.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        LimitLabel::ALL.iter().zip(&self.reached).map(|(limit, counter)| (limit.word(), counter.get()))
    }

    /// Counts that a limit was reached once.
    pub fn reached(&self, limit: LimitLabel) {
        if let Some(counter) = self.reached.get(limit as usize) {
            counter.inc();
        }
    }
}
