//! Series of the bus: messages among workers, and what did not reach them.

use prometheus::register_int_counter_with_registry as counter;
use prometheus::register_int_gauge_vec_with_registry as gauges;
use prometheus::{IntCounter, IntGaugeVec, Registry};

/// Series of the hub.
pub struct BusSeries {
    pub(crate) workers: IntGaugeVec,
    pub(crate) messages: IntCounter,
    pub(crate) copies: IntCounter,
    pub(crate) dropped: IntCounter,
    pub(crate) slow: IntCounter,
    pub(crate) duplicates: IntCounter,
    pub(crate) unrecoverable: IntCounter,
}

impl BusSeries {
    #[rustfmt::skip]
    pub(crate) fn new(r: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            workers: gauges!("stickyd_bus_workers",
                "Socket.IO servers of workers that are linked to the bus.", &["upstream"], r)?,
            messages: counter!("stickyd_bus_messages_total", "Messages that workers published on the bus.", r)?,
            copies: counter!("stickyd_bus_copies_total",
                "Copies of published messages that the bus queued for other workers.", r)?,
            dropped: counter!("stickyd_bus_dropped_total",
                "Messages that a worker missed because it did not read them, or was away for too long.", r)?,
            slow: counter!("stickyd_bus_slow_total",
                "Links that were cut because the worker left 8 MB unread.", r)?,
            duplicates: counter!("stickyd_bus_duplicates_total",
                "Warnings that several workers send the same messages.", r)?,
            unrecoverable: counter!("stickyd_bus_recovery_dropped_total",
                "Messages and sessions that were dropped early because a group holds 64 MB of them.", r)?,
        })
    }
}
