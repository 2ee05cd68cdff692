//! Series of the DNS names among the workers.

use prometheus::IntCounterVec;
use prometheus::register_int_counter_vec_with_registry as counters;

use super::Metrics;
use super::catalogue::Registrar;
use super::families::{Families, Family, value};

/// Values of the `result` label of lookups of DNS names.
const LOOKUPS: [&str; 4] = ["ok", "empty", "failed", "timeout"];

/// Values of the `state` label of DNS names.
const NAME_STATES: [&str; 3] = ["resolved", "kept", "unresolved"];

const DNS_NAMES: Family = Family {
    name: "stickyd_dns_names",
    help: "DNS names of workers by state: resolved, kept (the last lookup returned nothing, the previous addresses \
           stay), unresolved (no lookup has returned an address yet).",
};

/// Counters of lookups of DNS names.
pub struct NameSeries {
    /// Number of DNS lookups by upstream and result (`ok`, `empty`, `failed`, `timeout`).
    pub lookups: IntCounterVec,
    /// Number of times the addresses of a DNS name have changed, by upstream.
    pub changes: IntCounterVec,
}

impl NameSeries {
    #[rustfmt::skip]
    pub(crate) fn new(r: &Registrar) -> prometheus::Result<Self> {
        Ok(Self {
            lookups: counters!("stickyd_dns_lookups_total",
                "Lookups of DNS names of workers, by result.", &["upstream", "result"], r)?,
            changes: counters!("stickyd_dns_changes_total",
                "Lookups of DNS names that returned other addresses than the one before.", &["upstream"], r)?,
        })
    }
}

impl Metrics {
    /// Creates the series of an upstream's DNS names, which begin at 0.
    pub(crate) fn begin_names(&self, upstream: &str) {
        self.names.changes.with_label_values(&[upstream]);
        for result in LOOKUPS {
            self.names.lookups.with_label_values(&[upstream, result]);
        }
    }
}

impl Families {
    /// Adds the DNS names of an upstream: the number of its names in each state.
    pub(crate) fn dns_names<'a>(&mut self, upstream: &str, states: impl Iterator<Item = &'a str> + Clone) {
        for word in NAME_STATES {
            let count = states.clone().filter(|state| *state == word).count();
            self.gauge(&DNS_NAMES, &[("upstream", upstream), ("state", word)], value(count as u64));
        }
    }
}
