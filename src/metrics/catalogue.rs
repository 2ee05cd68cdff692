//! Every family of series with its kind, labels and help text, for `stickyd reference`.
//!
//! Registered families are noted when they are registered ([`Registrar`]); those that exist only for a scrape are taken
//! from one whose upstream, worker and name have something of everything. So nothing is listed twice by hand.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use prometheus::Registry;
use prometheus::core::Collector;
use prometheus::proto::MetricType;

use super::families::Families;
use super::process::{OwnProcess, WorkerProcess};
use super::worker::WorkerSample;
use super::{BusSample, Metrics};
use crate::locks::lock;

/// A family of series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MetricFacts {
    /// Name of the family.
    pub(crate) name: String,
    /// Kind: counter, gauge, histogram or summary.
    pub(crate) kind: &'static str,
    /// Names of the labels, sorted.
    pub(crate) labels: Vec<String>,
    /// What it counts or measures, as in `# HELP`.
    pub(crate) help: String,
}

/// A registry that notes what is registered: the registry itself shows no family that has no series yet.
#[derive(Clone, Default)]
pub(crate) struct Registrar {
    registry: Registry,
    noted: Arc<Mutex<Vec<MetricFacts>>>,
}

impl Registrar {
    /// Registers a family and notes its description.
    pub(crate) fn register(&self, family: Box<dyn Collector>) -> prometheus::Result<()> {
        let kinds: BTreeMap<String, MetricType> =
            family.collect().into_iter().map(|family| (family.name().to_owned(), family.get_field_type())).collect();
        for desc in family.desc() {
            let mut labels = desc.variable_labels.clone();
            labels.sort();
            let kind = kinds.get(&desc.fq_name).copied().map_or("gauge", word);
            let (name, help) = (desc.fq_name.clone(), desc.help.clone());
            lock(&self.noted).push(MetricFacts { name, kind, labels, help });
        }
        self.registry.register(family)
    }
}

impl Deref for Registrar {
    type Target = Registry;

    fn deref(&self) -> &Registry {
        &self.registry
    }
}

fn word(kind: MetricType) -> &'static str {
    match kind {
        MetricType::COUNTER => "counter",
        MetricType::HISTOGRAM => "histogram",
        MetricType::SUMMARY => "summary",
        MetricType::GAUGE | MetricType::UNTYPED => "gauge",
    }
}

/// Returns the facts of every family, sorted by name.
pub(crate) fn metrics() -> Vec<MetricFacts> {
    let metrics = Metrics::new();
    let mut all = lock(&metrics.registry.noted).clone();
    for family in example(&metrics) {
        let mut labels: Vec<String> = Vec::new();
        for label in family.get_metric().iter().flat_map(|metric| metric.get_label()) {
            if !labels.iter().any(|known| known == label.name()) {
                labels.push(label.name().to_owned());
            }
        }
        let kind = word(family.get_field_type());
        all.push(MetricFacts { name: family.name().to_owned(), kind, labels, help: family.help().to_owned() });
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

/// The families that are made for a scrape in which nothing is missing.
fn example(metrics: &Metrics) -> Vec<prometheus::proto::MetricFamily> {
    let mut live = Families::default();
    metrics.begin_names("app");
    metrics.certificates_expire([("listener", "name", 0)].into_iter());
    metrics.care.saw([("app", 0, Default::default())].into_iter());
    metrics.spawn.begin("app", "w1");
    let series = metrics.worker("app", "w1");
    live.own_process(Some(OwnProcess { started_s: Some(0.0), ..OwnProcess::default() }), Some(0), 0);
    live.workers("app", Default::default(), 0);
    live.bus_workers("app", 0);
    live.dns_names("app", std::iter::once("resolved"));
    live.worker(&WorkerSample {
        upstream: "app",
        worker: "w1",
        series: &series,
        health: "up",
        admin: "ready",
        ejected: false,
        sessions: 0,
        tunnels: 0,
        in_flight: 0,
        waiting: 0,
        drain_left: 0,
        process: Some(WorkerProcess { cpu_s: 0.0, memory_bytes: 0, started_s: Some(0.0) }),
        is_spawned: false,
        bus: Some(BusSample { lag_ms: 0.0, lag_p99_ms: 0.0, heap_used: 0, heap_total: 0, clients: 0 }),
    });
    live.fleet_members(1);
    live.fleet_redis("redis", true, 0);
    live.fleet_skew("edge-1", 0.0);
    live.fleet_tickets(0);
    live.queue_stored("app", 0);
    metrics.spawn.show(&mut live);
    live.events(&metrics.events);
    metrics.show(&mut live);
    live.into_all().collect()
}
