//! Series of the answers that clients got: by upstream, status class, and who wrote the answer.
//!
//! Left out: answers of the h2 crate itself to heads that are too large, which stickyd does not see.

use prometheus::register_int_counter_vec_with_registry as counters;
use prometheus::{IntCounter, IntCounterVec};

use super::catalogue::Registrar;

/// Values of the `class` label.
pub(super) const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Value of the `upstream` label for answers to requests that were routed to none.
pub(super) const NO_UPSTREAM: &str = "-";

/// Who wrote an answer; the `by` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnsweredBy {
    /// A worker wrote the answer.
    Worker,
    /// The answer is stickyd's own.
    Stickyd,
}

impl AnsweredBy {
    const ALL: [Self; 2] = [Self::Worker, Self::Stickyd];

    fn word(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Stickyd => "stickyd",
        }
    }
}

/// Resolved counters of the answers of one upstream.
pub struct ResponseSeries([[IntCounter; CLASSES.len()]; AnsweredBy::ALL.len()]);

impl ResponseSeries {
    /// Counts one answer to a client.
    pub fn count(&self, by: AnsweredBy, status: u16) {
        if let Some(counter) = self.0.get(by as usize).and_then(|classes| classes.get(class_of(status)?)) {
            counter.inc();
        }
    }
}

/// Returns the place of a status in [`CLASSES`].
pub(super) fn class_of(status: u16) -> Option<usize> {
    usize::from(status / 100).checked_sub(1).filter(|class| *class < CLASSES.len())
}

/// Series of the answers of all upstreams.
pub(crate) struct ResponsesSeries {
    all: IntCounterVec,
    /// Answers to requests that were not routed to an upstream.
    pub(crate) unrouted: ResponseSeries,
}

impl ResponsesSeries {
    pub(crate) fn new(r: &Registrar) -> prometheus::Result<Self> {
        let all = counters!(
            "stickyd_responses_total",
            "Answers to clients by status class, and by who wrote them: a worker or stickyd itself; the upstream is - \
             for requests refused before they had one. Tunnels count with the status that opened them.",
            &["upstream", "class", "by"],
            r
        )?;
        let unrouted = resolve(&all, NO_UPSTREAM);
        Ok(Self { all, unrouted })
    }

    /// Resolves the counters of one upstream.
    pub(super) fn upstream(&self, name: &str) -> ResponseSeries {
        resolve(&self.all, name)
    }
}

fn resolve(all: &IntCounterVec, upstream: &str) -> ResponseSeries {
    ResponseSeries(AnsweredBy::ALL.map(|by| CLASSES.map(|class| all.with_label_values(&[upstream, class, by.word()]))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_class() {
        for (status, class) in [(100, Some("1xx")), (204, Some("2xx")), (308, Some("3xx")), (499, Some("4xx"))] {
            assert_eq!(class_of(status).map(|class| CLASSES[class]), class, "{status}");
        }
        for status in [0, 99, 600, 999] {
            assert_eq!(class_of(status), None, "{status}");
        }
    }
}
