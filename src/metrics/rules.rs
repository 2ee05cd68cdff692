//! Series of affinity rules. Rules are named by the config, which bounds their label. The `socket.io` rule is also
//! counted in the older series.

use prometheus::register_int_counter_vec_with_registry as counters;
use prometheus::{IntCounter, IntCounterVec};

use super::catalogue::Registrar;

/// Series of all rules together.
pub(crate) struct RuleMetrics(IntCounterVec);

/// The counters of one rule of one upstream.
pub struct RuleSeries {
    /// Number of sessions learned, from an answer or because a worker accepted an id that its client had made.
    pub learned: IntCounter,
    /// Number of refusals ("I do not know this session") by the session's own worker.
    pub refused: IntCounter,
    /// Number of sessions ended by a request that ends its session.
    pub ended: IntCounter,
}

impl RuleMetrics {
    pub(crate) fn new(r: &Registrar) -> prometheus::Result<Self> {
        Ok(Self(counters!(
            "stickyd_rule_total",
            "Sessions by affinity rule: learned, refused (by their own worker), ended (by one of their requests).",
            &["upstream", "rule", "event"],
            r
        )?))
    }

    pub(crate) fn of(&self, upstream: &str, rule: &str) -> RuleSeries {
        let event = |event| self.0.with_label_values(&[upstream, rule, event]);
        RuleSeries { learned: event("learned"), refused: event("refused"), ended: event("ended") }
    }
}
