//! What affinity rules did. Rules are named by the config, so that their label is bounded by it; those of `socket.io` are
//! in the older series, too.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use super::vec_or_empty;

/// The series of all rules.
pub(super) struct RuleMetrics(IntCounterVec);

/// The counters of one rule of one upstream.
pub struct RuleSeries {
    /// Ids learned: from an answer, or because a worker took what its client had made.
    pub learned: IntCounter,
    /// "I do not know this session", of the session's own worker.
    pub refused: IntCounter,
    /// Sessions ended by a request of their own.
    pub ended: IntCounter,
}

impl RuleMetrics {
    pub(super) fn new(r: &Registry) -> Self {
        Self(register!(
            r,
            IntCounterVec,
            "stickyd_rule_total",
            "Sessions by affinity rule: learned, refused (by the worker that had them), ended (by a request of their own).",
            &["upstream", "rule", "event"]
        ))
    }

    pub(super) fn of(&self, upstream: &str, rule: &str) -> RuleSeries {
        let event = |event| self.0.with_label_values(&[upstream, rule, event]);
        RuleSeries { learned: event("learned"), refused: event("refused"), ended: event("ended") }
    }
}
