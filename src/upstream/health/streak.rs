//! What outcomes in a row mean: the state of a worker, and whether its check can pass at all. The code is pure: time is
//! an argument (ARCHITECTURE.md, invariant 12).

use crate::clock::Millis;
use crate::config::Health;
use crate::upstream::diagnostics::Rows;
use crate::upstream::worker::Checks;

/// The outcome of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckOutcome {
    /// The worker answered as expected.
    Passed,
    /// The worker sent a wrong response, or the connection broke.
    Failed,
    /// The worker did not answer in time.
    TimedOut,
    /// No process listens at the worker's address.
    Refused,
}

impl CheckOutcome {
    /// Returns the name of this outcome, as shown to operators.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::TimedOut => "timed out",
            Self::Refused => "refused",
        }
    }
}

/// How many outcomes in a row change the state of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreakRules {
    /// Number of passed checks in a row that make a worker up.
    pub(crate) rise: u32,
    /// Number of failed checks in a row that make a worker not up.
    pub(crate) fall: u32,
    /// Time at the start of a worker's life during which failed checks do not count, in milliseconds.
    pub(crate) grace_ms: u64,
}

impl From<&Health> for StreakRules {
    fn from(health: &Health) -> Self {
        let grace_ms = u64::try_from(health.start_grace.as_millis()).unwrap_or(u64::MAX);
        Self { rise: health.rise, fall: health.fall, grace_ms }
    }
}

impl StreakRules {
    /// Whether a life that began at `since_ms` is still in its start-up grace.
    pub(crate) fn in_grace(&self, now_ms: Millis, since_ms: Millis) -> bool {
        now_ms.since(since_ms) < self.grace_ms
    }
}

/// The numbers of equal outcomes in a row, and the state that they make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Streak {
    state: Checks,
    passed: u32,
    failed: u32,
    timed_out: u32,
    refused: u32,
    last_passed: bool,
}

/// Number of refused connects in a row after which no process is expected soon; an empty port of a range is then
/// checked less often.
const DESERTED: u32 = 10;

impl Streak {
    /// Continues from a state. A worker that was never checked counts as up until a check shows otherwise; one that was
    /// checked before a reload keeps its state (ARCHITECTURE.md, invariant 8).
    pub(crate) fn from(state: Checks) -> Self {
        Self { state, passed: 0, failed: 0, timed_out: 0, refused: 0, last_passed: true }
    }

    /// Adds an outcome at `now_ms` of a life that began at `since_ms`; returns the state after it.
    ///
    /// The grace forgives wrong or missing answers of a starting worker. It does not forgive a refused connect, because
    /// requests would be refused as well.
    pub(crate) fn add(
        &mut self,
        outcome: CheckOutcome,
        now_ms: Millis,
        since_ms: Millis,
        rules: &StreakRules,
    ) -> Checks {
        self.last_passed = outcome == CheckOutcome::Passed;
        self.refused = if outcome == CheckOutcome::Refused { self.refused.saturating_add(1) } else { 0 };
        match outcome {
            CheckOutcome::Passed => self.pass(rules.rise),
            CheckOutcome::Failed | CheckOutcome::TimedOut if rules.in_grace(now_ms, since_ms) => {}
            CheckOutcome::Failed | CheckOutcome::TimedOut | CheckOutcome::Refused => self.fail(outcome, rules.fall),
        }
        self.state
    }

    fn pass(&mut self, rise: u32) {
        (self.passed, self.failed, self.timed_out) = (self.passed.saturating_add(1), 0, 0);
        if self.passed >= rise {
            self.state = Checks::Passing;
        } else if self.state == Checks::TimingOut {
            self.state = Checks::Failing;
        }
    }

    fn fail(&mut self, outcome: CheckOutcome, fall: u32) {
        self.passed = 0;
        self.failed = self.failed.saturating_add(1);
        self.timed_out = if outcome == CheckOutcome::TimedOut { self.timed_out.saturating_add(1) } else { 0 };
        if self.timed_out >= fall {
            self.state = Checks::TimingOut;
        } else if self.failed >= fall || outcome == CheckOutcome::Refused {
            self.state = Checks::Failing;
        }
    }

    /// Returns the numbers of checks in a row that passed, that did not pass, and that timed out.
    pub(crate) fn rows(&self) -> Rows {
        Rows { passed: self.passed, failed: self.failed, timed_out: self.timed_out }
    }

    /// Whether the worker is between two states or in a bad one, so that it is checked again soon. This is not the case
    /// if connects have been refused for long.
    pub(crate) fn is_unsure(&self) -> bool {
        if self.refused >= DESERTED {
            return false;
        }
        self.state != Checks::Passing || self.failed > 0 || !self.last_passed
    }
}

/// Detects a check that can never pass: it has never passed, and the worker always gives the same wrong response `W`.
/// Time-outs and refused connects are not responses and change nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hopeless<W> {
    last: Option<W>,
    count: u32,
    over: bool,
}

impl<W: PartialEq> Hopeless<W> {
    /// Starts without any response.
    pub(crate) fn new() -> Self {
        Self { last: None, count: 0, over: false }
    }

    /// Records that the check has passed, so it can pass.
    pub(crate) fn passed(&mut self) {
        self.over = true;
    }

    /// Adds a wrong response. Returns `true` once, when the same one came `fall` × 3 times in a row.
    pub(crate) fn answered(&mut self, wrong: W, fall: u32) -> bool {
        self.count = if self.last.as_ref() == Some(&wrong) { self.count.saturating_add(1) } else { 1 };
        self.last = Some(wrong);
        let now = !self.over && self.count >= fall.saturating_mul(3);
        self.over |= now;
        now
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: StreakRules = StreakRules { rise: 2, fall: 3, grace_ms: 0 };

    #[test]
    fn an_empty_port_is_checked_less_often() {
        let mut streak = Streak::from(Checks::Passing);
        let mut unsure = |outcome| {
            streak.add(outcome, Millis::START, Millis::START, &RULES);
            streak.is_unsure()
        };
        assert!((1..DESERTED).all(|_| unsure(CheckOutcome::Refused)));
        assert!(!unsure(CheckOutcome::Refused) && !unsure(CheckOutcome::Refused));
        assert!(unsure(CheckOutcome::Passed), "a process has started, so the next check is soon");
    }

    fn states(outcomes: &[CheckOutcome]) -> Vec<Checks> {
        let mut streak = Streak::from(Checks::Passing);
        outcomes.iter().map(|&outcome| streak.add(outcome, Millis::START, Millis::START, &RULES)).collect()
    }

    #[test]
    fn rise_and_fall_change_the_state() {
        use CheckOutcome::{Failed, Passed, Refused, TimedOut};
        use Checks::{Failing as F, Passing as P, TimingOut as T};
        assert_eq!(states(&[Failed, Failed, Passed, Failed, Failed, Failed]), [P, P, P, P, P, F]);
        assert_eq!(states(&[Failed, Failed, Failed, Passed, Passed]), [P, P, F, F, P]);
        assert_eq!(states(&[TimedOut, TimedOut, TimedOut, Passed, Passed]), [P, P, T, F, P]);
        assert_eq!(states(&[TimedOut, Failed, TimedOut]), [P, P, F], "hung requires that no check is answered");
        assert_eq!(states(&[Refused, Passed, Passed]), [F, F, P]);
        assert_eq!(
            states(&[TimedOut, TimedOut, TimedOut, Failed]),
            [P, P, T, F],
            "a worker that answers wrongly is not hung"
        );
    }

    #[test]
    fn a_reload_keeps_a_bad_state() {
        let mut streak = Streak::from(Checks::TimingOut);
        assert_eq!(streak.add(CheckOutcome::TimedOut, Millis::START, Millis::START, &RULES), Checks::TimingOut);
        assert!(streak.is_unsure());
    }

    #[test]
    fn a_hopeless_check_is_reported_once_unless_it_passed() {
        let mut never = Hopeless::new();
        let said: Vec<_> = (0..10).map(|_| never.answered(404, 2)).collect();
        assert_eq!(said.iter().position(|said| *said), Some(5), "at the fall × 3rd response");
        assert_eq!(said.iter().filter(|said| **said).count(), 1);
        let mut mixed = Hopeless::new();
        assert!((0..100).all(|i| !mixed.answered(i % 2, 1)), "the wrong responses differ");
        let mut passed = Hopeless::new();
        passed.passed();
        assert!((0..100).all(|_| !passed.answered(503, 1)));
    }

    fn outcome() -> impl Strategy<Value = CheckOutcome> {
        prop_oneof![
            3 => Just(CheckOutcome::Passed),
            2 => Just(CheckOutcome::Failed),
            2 => Just(CheckOutcome::TimedOut),
            1 => Just(CheckOutcome::Refused)
        ]
    }

    fn state() -> impl Strategy<Value = Checks> {
        prop_oneof![Just(Checks::Passing), Just(Checks::Failing), Just(Checks::TimingOut)]
    }

    /// Returns the number of outcomes at the end for which `is` holds.
    fn row(outcomes: &[CheckOutcome], is: impl Fn(&CheckOutcome) -> bool) -> usize {
        outcomes.iter().rev().take_while(|outcome| is(outcome)).count()
    }

    proptest! {
        /// A failure inside the grace has no effect; everything else counts as without a grace.
        #[test]
        fn a_grace_forgives_failures_and_nothing_else(
            start in state(), rise in 1u32..5, fall in 1u32..5, grace_ms in 0u64..3_000, since_ms in 0u64..2_000,
            steps in prop::collection::vec((0u64..1_000, outcome()), 0..60),
        ) {
            let rules = StreakRules { rise, fall, grace_ms };
            let (mut with, mut without) = (Streak::from(start), Streak::from(start));
            // No check is made before the worker's life began.
            let (mut now_ms, mut before) = (since_ms, start);
            for (pause, outcome) in steps {
                now_ms += pause;
                let after = with.add(outcome, Millis::new(now_ms), Millis::new(since_ms), &rules);
                let failed = matches!(outcome, CheckOutcome::Failed | CheckOutcome::TimedOut);
                let forgiven = now_ms < since_ms + grace_ms && failed;
                if forgiven {
                    prop_assert_eq!(after, before);
                    prop_assert!(with.is_unsure(), "a starting worker is checked often");
                } else {
                    let plain = StreakRules { grace_ms: 0, ..rules };
                    prop_assert_eq!(after, without.add(outcome, Millis::new(now_ms), Millis::new(since_ms), &plain));
                }
                before = after;
            }
        }

        /// The state is the one that the rows at the end of the history give.
        #[test]
        fn a_state_changes_only_by_a_row(
            start in state(), rise in 1u32..5, fall in 1u32..5, outcomes in prop::collection::vec(outcome(), 1..60),
        ) {
            let rules = StreakRules { rise, fall, grace_ms: 0 };
            let (mut streak, mut before) = (Streak::from(start), start);
            for end in 1..=outcomes.len() {
                let seen = &outcomes[..end];
                let after = streak.add(seen[end - 1], Millis::START, Millis::START, &rules);
                let passed = row(seen, |o| *o == CheckOutcome::Passed);
                let failed = row(seen, |o| *o != CheckOutcome::Passed);
                let silent = row(seen, |o| *o == CheckOutcome::TimedOut);
                let refused = seen[end - 1] == CheckOutcome::Refused;
                let expected = if passed >= rise as usize {
                    Checks::Passing
                } else if silent >= fall as usize {
                    Checks::TimingOut
                } else if failed >= fall as usize || refused || (passed > 0 && before == Checks::TimingOut) {
                    Checks::Failing
                } else {
                    before
                };
                prop_assert_eq!(after, expected);
                prop_assert_eq!(streak.is_unsure(), after != Checks::Passing || failed > 0);
                before = after;
            }
        }
    }
}
