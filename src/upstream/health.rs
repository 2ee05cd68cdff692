//! Active health checks: one task per worker, on the control thread, so that a busy data thread never makes a worker
//! look unhealthy.
//!
//! A check (`checks`) passes, fails, times out or is refused; `rise` or `fall` such outcomes in a row change the state
//! of the worker (`streak`). A refused connect counts at once: no process listens, and a second check would not change
//! that. While a worker's state is unsure, it is checked more often, and for the `start_grace` of its life, failed and
//! timed-out checks do not count. A check that never passes is explained once in the log (`words`). Ejection from live
//! traffic is not part of this module (see `eject`).

mod checks;
mod client;
pub(crate) mod engine;
pub(crate) mod explanation;
mod streak;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::diagnostics;
use super::worker::{self, Worker};
use crate::clock;
use crate::config::Health;
use crate::events::tell;
use checks::Memory;
use client::Fault;
use explanation::WrongAnswer;
use streak::{CheckOutcome, Hopeless, Streak, StreakRules};

/// Time that a check in progress has to end when checks are stopped, because it may have a session to close.
const LAST: Duration = Duration::from_millis(200);

/// Checks one worker repeatedly until `stop`.
pub(crate) async fn watch(worker: Arc<Worker>, health: Health, stop: CancellationToken) {
    let mut watch = HealthWatch::new(worker, health);
    // The jitter keeps a hundred workers from being checked within the same millisecond.
    let first = tokio::time::sleep(jitter(watch.health.interval.min(Duration::from_secs(1))));
    if stop.run_until_cancelled(first).await.is_none() {
        return;
    }
    while let Some(checked) = watch.check(&stop).await {
        watch.note(checked);
        let Health { interval, fast_interval, .. } = watch.health;
        let pause = if watch.streak.is_unsure() { fast_interval } else { interval };
        // A refused connect of a request triggers the next check at once: only checks notice soon that the worker is
        // back.
        let pause = tokio::time::timeout(pause.mul_f64(0.9) + jitter(pause / 5), watch.worker.refusal());
        if stop.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

/// One worker and the results of its checks.
struct HealthWatch {
    worker: Arc<Worker>,
    health: Health,
    memory: Memory,
    streak: Streak,
    hopeless: Hopeless<WrongAnswer>,
    /// The state before a change that was not logged because the worker was starting.
    unsaid: Option<worker::WorkerHealth>,
}

impl HealthWatch {
    fn new(worker: Arc<Worker>, health: Health) -> Self {
        let streak = Streak::from(worker.checks());
        Self { worker, health, memory: Memory::new(), streak, hopeless: Hopeless::new(), unsaid: None }
    }

    /// Makes one check; `None` once checks are to stop.
    async fn check(&mut self, stop: &CancellationToken) -> Option<Result<(), Fault>> {
        let mut check = pin!(checks::check(&self.worker, &self.health, &mut self.memory));
        tokio::select! {
            biased;
            checked = &mut check => return Some(checked),
            () = stop.cancelled() => {}
        }
        let _ = tokio::time::timeout(LAST, check).await;
        None
    }

    fn note(&mut self, checked: Result<(), Fault>) {
        let (worker, rules) = (&self.worker, StreakRules::from(&self.health));
        let (now, since) = (clock::now_ms(), worker.since_ms());
        let outcome = outcome(&checked);
        let quiet = outcome != CheckOutcome::Passed && rules.in_grace(now, since);
        let mut before = worker.health();
        if outcome == CheckOutcome::Refused {
            if quiet {
                worker.note_refused();
            } else {
                worker.connect_refused();
                before = worker.health();
            }
        }
        worker.set_checks(self.streak.add(outcome, now, since, &rules));
        worker.notes.checked(diagnostics::LastCheck {
            at_ms: now,
            outcome: outcome.word(),
            detail: checked.as_ref().err().and_then(detail),
            rows: self.streak.rows(),
            rise: self.health.rise,
        });
        let after = worker.health();
        if quiet {
            self.unsaid.get_or_insert(before);
            return;
        }
        let before = self.unsaid.take().unwrap_or(before);
        // A recovery needs no attention.
        match (before == after, after) {
            (true, _) => {}
            (false, worker::WorkerHealth::Up) => {
                tell!(worker.series.events, WorkerUp, info,
                    upstream = %worker.upstream, worker = %worker.name, from = before.word(),
                    to = after.word(), check = outcome.word(), "worker changed state");
            }
            (false, _) => {
                tell!(worker.series.events, WorkerDown, warn,
                    upstream = %worker.upstream, worker = %worker.name, from = before.word(),
                    to = after.word(), check = outcome.word(), "worker changed state");
            }
        }
        self.explain(checked);
    }

    /// Logs once how to fix the check, if it can never pass.
    fn explain(&mut self, checked: Result<(), Fault>) {
        let (kind, worker) = (&self.health.kind, &self.worker);
        match checked {
            Ok(()) => self.hopeless.passed(),
            Err(Fault::Wrong(what, said)) if self.hopeless.answered(what, self.health.fall) => {
                tell!(worker.series.events, Advice, warn, upstream = %worker.upstream, worker = %worker.name,
                    expected = explanation::expected(kind), came = explanation::came(what, &said),
                    advice = %explanation::advice(kind, what, &said), "worker has never passed its health check");
            }
            Err(_) => {}
        }
    }
}

/// Returns what was received instead of what the check expects, if the outcome does not say it all.
fn detail(fault: &Fault) -> Option<String> {
    match fault {
        Fault::Wrong(what, said) => Some(explanation::came(*what, said)),
        Fault::Unreachable => Some("the connection could not be made".to_owned()),
        Fault::Refused | Fault::TimedOut => None,
    }
}

fn outcome(checked: &Result<(), Fault>) -> CheckOutcome {
    match checked {
        Ok(()) => CheckOutcome::Passed,
        Err(Fault::Refused) => CheckOutcome::Refused,
        Err(Fault::TimedOut) => CheckOutcome::TimedOut,
        Err(Fault::Unreachable | Fault::Wrong(..)) => CheckOutcome::Failed,
    }
}

/// Returns a random duration between zero and `span`.
pub(crate) fn jitter(span: Duration) -> Duration {
    #[allow(clippy::cast_precision_loss, reason = "a random fraction needs no more than 53 bits")]
    let part = (crate::random::u64() >> 11) as f64 / (1u64 << 53) as f64;
    span.mul_f64(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_inside_its_span() {
        for _ in 0..1_000 {
            assert!(jitter(Duration::from_millis(10)) <= Duration::from_millis(10));
        }
    }
}
