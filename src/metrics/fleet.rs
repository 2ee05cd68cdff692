//! Series of the fleet: lookups of pins in Redis, writes, errors, messages among stickyds.

use std::sync::Arc;

use prometheus::register_histogram_with_registry as histogram;
use prometheus::register_int_counter_vec_with_registry as counters;
use prometheus::{Histogram, IntCounter, IntCounterVec};

use super::catalogue::Registrar;
use super::families::{Families, Family, value};

/// Results of lookups of pins.
const LOOKUPS: [&str; 8] = ["hit", "miss", "timeout", "open", "wrong", "unknown_worker", "bad_seal", "ended"];

/// Kinds of errors of Redis.
const ERRORS: [&str; 10] =
    ["timeout", "connection", "auth", "readonly", "oom", "evicted", "loading", "misconf", "clusterdown", "other"];

/// Results of messages among stickyds.
const MESSAGES: [&str; 4] = ["sent", "received", "dropped", "bad_seal"];

/// Results of checks of a user's sockets.
const USERS: [&str; 3] = ["within", "over", "unknown"];

/// Counters of the fleet.
pub(crate) struct FleetSeries {
    lookups: IntCounterVec,
    errors: IntCounterVec,
    messages: IntCounterVec,
    users: IntCounterVec,
    pub(crate) writes: IntCounter,
    pub(crate) writes_failed: IntCounter,
    pub(crate) writes_dropped: IntCounter,
    pub(crate) seconds: Histogram,
}

impl FleetSeries {
    #[rustfmt::skip]
    pub(crate) fn new(r: &Registrar) -> prometheus::Result<Arc<Self>> {
        let writes = counters!("stickyd_fleet_writes_total",
            "Changes of shared pins by result: ok, failed (an error of the Redis), dropped (too many waited).",
            &["result"], r)?;
        let all = Self {
            lookups: counters!("stickyd_fleet_lookups_total",
                "Lookups of unpinned sessions in the fleet's Redis, by result; wrong counts hits that the worker \
                 refused once more.", &["result"], r)?,
            errors: counters!("stickyd_fleet_redis_errors_total",
                "Errors of the fleet's Redis, by kind.", &["kind"], r)?,
            messages: counters!("stickyd_fleet_messages_total",
                "Messages among the stickyds of the fleet, by result.", &["result"], r)?,
            users: counters!("stickyd_fleet_user_checks_total",
                "Checks of the number of sockets that a user has on all stickyds, by result: within the limit, over \
                 it, unknown (the Redis did not answer in time, so that the own count holds).", &["result"], r)?,
            writes: writes.with_label_values(&["ok"]),
            writes_failed: writes.with_label_values(&["failed"]),
            writes_dropped: writes.with_label_values(&["dropped"]),
            seconds: histogram!("stickyd_fleet_redis_seconds",
                "Time from sending commands together to the last reply of the fleet's Redis.",
                vec![0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0], r)?,
        };
        LOOKUPS.iter().for_each(|result| all.lookups.with_label_values(&[*result]).inc_by(0));
        ERRORS.iter().for_each(|kind| all.errors.with_label_values(&[*kind]).inc_by(0));
        MESSAGES.iter().for_each(|result| all.messages.with_label_values(&[*result]).inc_by(0));
        USERS.iter().for_each(|result| all.users.with_label_values(&[*result]).inc_by(0));
        Ok(Arc::new(all))
    }

    /// Counts a lookup, by a result of [`LOOKUPS`].
    pub(crate) fn looked_up(&self, result: &'static str) {
        self.lookups.with_label_values(&[result]).inc();
    }

    /// Number of lookups with this result.
    pub(crate) fn lookups(&self, result: &'static str) -> u64 {
        self.lookups.with_label_values(&[result]).get()
    }

    /// Number of all lookups.
    pub(crate) fn all_lookups(&self) -> u64 {
        LOOKUPS.iter().filter(|result| **result != "wrong").map(|result| self.lookups(result)).sum()
    }

    pub(crate) fn error(&self, kind: &'static str) {
        self.errors.with_label_values(&[kind]).inc();
    }

    /// Counts a check of a user's sockets, by a result of [`USERS`].
    pub(crate) fn user_checked(&self, result: &'static str) {
        self.users.with_label_values(&[result]).inc();
    }

    pub(crate) fn message(&self, result: &'static str) {
        self.messages.with_label_values(&[result]).inc();
    }
}

const MEMBERS: Family = Family {
    name: "stickyd_fleet_members",
    help: "Stickyds of the fleet that have shown themselves in the last 15 s, this one included.",
};
const UP: Family =
    Family { name: "stickyd_fleet_redis_up", help: "1 while the fleet's Redis answers in time, else 0." };
const OPEN: Family =
    Family { name: "stickyd_fleet_circuit_open", help: "1 while requests do not wait for the fleet's Redis, else 0." };
const QUEUE: Family = Family {
    name: "stickyd_fleet_queue",
    help: "Changes of shared pins and messages that wait for the fleet's Redis.",
};
const TICKETS: Family = Family {
    name: "stickyd_fleet_ticket_keys",
    help: "Keys of TLS session tickets that the stickyds of the fleet share; while there is none, each one uses its own.",
};
const SKEW: Family = Family {
    name: "stickyd_fleet_clock_skew_seconds",
    help: "Difference of a stickyd's clock to that of the Redis; up to 64 members.",
};

impl Families {
    /// Adds how many stickyds the fleet has.
    pub(crate) fn fleet_members(&mut self, count: usize) {
        self.gauge(&MEMBERS, &[], value(count as u64));
    }

    /// Adds the state of one Redis.
    pub(crate) fn fleet_redis(&mut self, shard: &str, is_up: bool, queue: usize) {
        let at = [("shard", shard)];
        self.gauge(&UP, &at, f64::from(u8::from(is_up)));
        self.gauge(&OPEN, &at, f64::from(u8::from(!is_up)));
        self.gauge(&QUEUE, &at, value(queue as u64));
    }

    /// Adds how many shared keys of TLS session tickets there are.
    pub(crate) fn fleet_tickets(&mut self, count: usize) {
        self.gauge(&TICKETS, &[], value(count as u64));
    }

    /// Adds the clock of one stickyd.
    pub(crate) fn fleet_skew(&mut self, member: &str, seconds: f64) {
        self.gauge(&SKEW, &[("member", member)], seconds);
    }
}
