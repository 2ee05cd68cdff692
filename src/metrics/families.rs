//! Families of series that exist only for one scrape: made from what is live at that moment, encoded, and dropped.
//!
//! So a series never outlives its worker, no gauge has to be reset before it is set, and two scrapes at once do not
//! disturb each other. Left out: counters of hot paths that need no worker (the registry of the parent module).

use std::collections::BTreeMap;

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType, Summary};

/// Name and help text of a family.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
}

/// Names and values of a series' labels.
pub(crate) type Labels<'a> = [(&'static str, &'a str)];

/// The families of one scrape, sorted by name.
#[derive(Default)]
pub(crate) struct Families(BTreeMap<&'static str, MetricFamily>);

impl Families {
    /// Adds a series of a counter.
    pub(crate) fn counter(&mut self, family: &Family, labels: &Labels<'_>, value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        let mut metric = metric(labels);
        metric.set_counter(counter);
        self.add(family, MetricType::COUNTER, metric);
    }

    /// Adds a series of a gauge.
    pub(crate) fn gauge(&mut self, family: &Family, labels: &Labels<'_>, value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = metric(labels);
        metric.set_gauge(gauge);
        self.add(family, MetricType::GAUGE, metric);
    }

    /// Adds a gauge that is 1 for the present state and 0 for all others (a state set, as OpenMetrics defines it).
    pub(crate) fn state_set(
        &mut self,
        family: &Family,
        labels: &Labels<'_>,
        (label, states): (&'static str, &[&str]),
        present: &str,
    ) {
        for state in states {
            let mut labels = labels.to_vec();
            labels.push((label, state));
            self.gauge(family, &labels, if *state == present { 1.0 } else { 0.0 });
        }
    }

    /// Adds a summary without quantiles: `_sum` and `_count`.
    pub(crate) fn summary(&mut self, family: &Family, labels: &Labels<'_>, sum: f64, count: u64) {
        let mut summary = Summary::default();
        summary.set_sample_sum(sum);
        summary.set_sample_count(count);
        let mut metric = metric(labels);
        metric.set_summary(summary);
        self.add(family, MetricType::SUMMARY, metric);
    }

    /// Returns all families, sorted by their names.
    pub(crate) fn into_all(self) -> impl Iterator<Item = MetricFamily> {
        self.0.into_values()
    }

    fn add(&mut self, family: &Family, kind: MetricType, metric: Metric) {
        let all = self.0.entry(family.name).or_insert_with(|| {
            let mut all = MetricFamily::default();
            all.set_name(family.name.to_owned());
            all.set_help(family.help.to_owned());
            all.set_field_type(kind);
            all
        });
        all.mut_metric().push(metric);
    }
}

/// Returns a metric with these labels, in the order of their names, as the registry has them.
fn metric(labels: &Labels<'_>) -> Metric {
    let mut pairs: Vec<LabelPair> = labels
        .iter()
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        })
        .collect();
    pairs.sort_by(|one, other| one.name().cmp(other.name()));
    Metric::from_label(pairs)
}

/// Returns a count as a value of a series.
#[allow(clippy::cast_precision_loss, reason = "the exposition format has no other numbers than f64")]
pub(crate) fn value(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, TextEncoder};

    use super::*;

    #[test]
    fn families_are_written_with_sorted_labels() {
        let mut families = Families::default();
        let slow = Family { name: "b_seconds", help: "Slowness." };
        families.summary(&slow, &[("worker", "w"), ("upstream", "u")], 1.5, 3);
        let state = Family { name: "a_state", help: "Present state." };
        families.state_set(&state, &[("worker", "w\"7")], ("health", &["up", "gone"]), "gone");
        families.counter(&Family { name: "c_total", help: "Count." }, &[], value(7));
        let mut text = Vec::new();
        TextEncoder::new().encode(&families.into_all().collect::<Vec<_>>(), &mut text).unwrap();
        let lines = String::from_utf8(text).unwrap();
        let samples: Vec<_> = lines.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "a_state{health=\"up\",worker=\"w\\\"7\"} 0",
                "a_state{health=\"gone\",worker=\"w\\\"7\"} 1",
                "b_seconds_sum{upstream=\"u\",worker=\"w\"} 1.5",
                "b_seconds_count{upstream=\"u\",worker=\"w\"} 3",
                "c_total 7",
            ]
        );
        assert!(lines.contains("# TYPE b_seconds summary"));
    }
}
