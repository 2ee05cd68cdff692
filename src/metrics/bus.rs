//! Series of the bus: messages among workers, what did not reach them, and what linked processes say about themselves.

use prometheus::register_int_counter_vec_with_registry as counters;
use prometheus::register_int_counter_with_registry as counter;
use prometheus::register_int_gauge_with_registry as gauge;
use prometheus::{IntCounter, IntGauge};

use super::catalogue::Registrar;
use super::families::{Families, Family, value};

/// Counters of the hub of the bus.
pub struct BusSeries {
    pub(crate) messages: IntCounter,
    pub(crate) copies: IntCounter,
    pub(crate) dropped: IntCounter,
    pub(crate) slow: IntCounter,
    pub(crate) duplicates: IntCounter,
    pub(crate) unrecoverable: IntCounter,
    /// Messages between machines, by what became of them.
    pub(crate) far: FarSeries,
}

/// Counters of messages between the hubs of several machines.
pub(crate) struct FarSeries {
    pub(crate) sent: IntCounter,
    pub(crate) received: IntCounter,
    pub(crate) dropped: IntCounter,
    pub(crate) too_long: IntCounter,
    pub(crate) unreadable: IntCounter,
    /// Members of other machines.
    pub(crate) members: IntGauge,
}

impl FarSeries {
    fn new(r: &Registrar) -> prometheus::Result<Self> {
        let help = "Messages between the hubs of several machines, by result.";
        let all = counters!("stickyd_bus_fleet_messages_total", help, &["result"], r)?;
        let [sent, received, dropped, too_long, unreadable] =
            ["sent", "received", "dropped", "too_long", "unreadable"].map(|one| all.with_label_values(&[one]));
        let help = "Socket.IO servers on other machines that the bus reaches over the fleet.";
        let members = gauge!("stickyd_bus_fleet_workers", help, r)?;
        Ok(Self { sent, received, dropped, too_long, unreadable, members })
    }
}

impl BusSeries {
    #[rustfmt::skip]
    pub(crate) fn new(r: &Registrar) -> prometheus::Result<Self> {
        Ok(Self {
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
            far: FarSeries::new(r)?,
        })
    }
}

/// What the process of a worker says about itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BusSample {
    /// Mean delay of its event loop, and the delay that 1 % of the turns exceeded, in milliseconds.
    pub(crate) lag_ms: f64,
    pub(crate) lag_p99_ms: f64,
    pub(crate) heap_used: u64,
    pub(crate) heap_total: u64,
    /// Number of live Engine.IO clients.
    pub(crate) clients: u64,
}

const LINKED: Family =
    Family { name: "stickyd_bus_workers", help: "Socket.IO servers of workers that are linked to the bus." };
const LAG: Family = Family {
    name: "stickyd_worker_event_loop_lag_seconds",
    help: "Mean delay of the worker's event loop in the last five seconds, if it is linked to the bus.",
};
const LAG_P99: Family = Family {
    name: "stickyd_worker_event_loop_lag_p99_seconds",
    help: "Delay that 1 % of the turns of the worker's event loop exceeded in the last five seconds, if it is linked to \
           the bus.",
};
const HEAP_USED: Family = Family {
    name: "stickyd_worker_heap_used_bytes",
    help: "Bytes of JavaScript objects in the worker's heap, if it is linked to the bus.",
};
const HEAP_TOTAL: Family = Family {
    name: "stickyd_worker_heap_total_bytes",
    help: "Bytes that the worker's JavaScript heap has taken from the system, if it is linked to the bus.",
};
const CLIENTS: Family = Family {
    name: "stickyd_worker_engine_clients",
    help: "Engine.IO clients that the worker itself counts, if it is linked to the bus.",
};

impl Families {
    /// Adds how many Socket.IO servers of an upstream are linked.
    pub(crate) fn bus_workers(&mut self, upstream: &str, linked: usize) {
        self.gauge(&LINKED, &[("upstream", upstream)], value(linked as u64));
    }

    pub(super) fn bus_facts(&mut self, at: &[(&'static str, &str); 2], facts: &BusSample) {
        self.gauge(&LAG, at, facts.lag_ms / 1e3);
        self.gauge(&LAG_P99, at, facts.lag_p99_ms / 1e3);
        self.gauge(&HEAP_USED, at, value(facts.heap_used));
        self.gauge(&HEAP_TOTAL, at, value(facts.heap_total));
        self.gauge(&CLIENTS, at, value(facts.clients));
    }
}
