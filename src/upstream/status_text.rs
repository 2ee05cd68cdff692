//! Why a worker is in its present state: one sentence for each of health, admin state and ejection
//! (docs/reference/routing.md §8), for operators.

use super::diagnostics::LastCheck;
use super::worker::{Checks, SLOW_MS, Worker, WorkerHealth};
use crate::clock::Millis;
use crate::config::AdminState;

/// Explains the worker's health.
pub(crate) fn health(worker: &Worker) -> String {
    let check = worker.notes.check();
    match worker.health() {
        WorkerHealth::Gone if !worker.life.was_seen() => "no process has listened there".to_owned(),
        WorkerHealth::Gone => "connects are refused, and no connection to it is open".to_owned(),
        WorkerHealth::Leaving => {
            format!("connects are refused; {} to it still open", count(worker.life.established(), "connection"))
        }
        WorkerHealth::Hung if worker.checks() == Checks::TimingOut => {
            let row = check.map_or(0, |check| check.rows.timed_out);
            format!("it accepts connections but does not answer: {} in a row timed out", count(row, "check"))
        }
        WorkerHealth::Hung => format!(
            "it accepts connections but does not answer: {} waiting for more than {} s, and no answer came meanwhile",
            count(worker.slow.total(), "request"),
            SLOW_MS / 1_000
        ),
        WorkerHealth::Starting => starting(check.as_ref()),
        WorkerHealth::Up => match check {
            None => "not checked yet".to_owned(),
            Some(check) if check.rows.failed > 0 => {
                format!("still counted as up, but {}", bad_row(&check))
            }
            Some(_) => "its checks pass".to_owned(),
        },
    }
}

fn starting(check: Option<&LastCheck>) -> String {
    match check {
        None => "not enough checks have passed yet".to_owned(),
        Some(check) if check.rows.passed > 0 => {
            format!("it is recovering: {} of {} checks in a row have passed", check.rows.passed, check.rise)
        }
        Some(check) => bad_row(check),
    }
}

fn bad_row(check: &LastCheck) -> String {
    let detail = check.detail.as_deref().unwrap_or(check.outcome);
    format!("{} in a row did not pass; the last one: {detail}", count(check.rows.failed, "check"))
}

/// Explains where the worker's admin state was set.
pub(crate) fn admin(worker: &Worker) -> String {
    let admin = &worker.admin;
    let who = if admin.is_said() { "set at run time" } else { "set in the configuration file" };
    match admin.state() {
        AdminState::Ready if !admin.is_said() => "no other state is set".to_owned(),
        AdminState::Drain if admin.is_removed() => {
            "no longer in the configuration file; it serves its existing sessions".to_owned()
        }
        AdminState::Drain if admin.is_over() => format!("{who}; the grace is over"),
        AdminState::Ready | AdminState::Drain | AdminState::Maint => who.to_owned(),
    }
}

/// Explains whether and why the worker is ejected, or when it last was.
pub(crate) fn ejection(worker: &Worker, now_ms: Millis) -> String {
    let why = |word| match word {
        "connect" => "too many requests in a row got no connection",
        "broken" => "too many connections in a row broke before an answer",
        "timeout" => "too many requests in a row were not answered in time",
        _ => "too large a share of requests failed or was answered with 500, 502, 503 or 504",
    };
    match (worker.notes.ejection(), worker.eject.left_ms(now_ms)) {
        (Some(last), Some(left)) => format!("{}; back in {} s", why(last.why), left.div_ceil(1_000)),
        (Some(last), None) => {
            let ago = now_ms.since(last.at_ms) / 1_000;
            format!("not now; last {ago} s ago, for {} s: {}", last.for_ms.div_ceil(1_000), why(last.why))
        }
        (None, _) => "never".to_owned(),
    }
}

fn count(number: u32, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Address;
    use crate::cookie::WorkerId;
    use crate::metrics::Metrics;
    use crate::upstream::diagnostics::Rows;

    fn worker() -> Arc<Worker> {
        let series = Metrics::new().worker("app", "w");
        Worker::new("app", Address::Unix("/w".into()), "w".to_owned(), WorkerId(1), series)
    }

    fn checked(worker: &Worker, checks: Checks, outcome: &'static str, detail: Option<&str>, rows: Rows) {
        worker.set_checks(checks);
        worker.notes.checked(LastCheck {
            at_ms: Millis::new(1),
            outcome,
            detail: detail.map(str::to_owned),
            rows,
            rise: 2,
        });
    }

    #[test]
    fn health_is_explained_in_words() {
        let worker = worker();
        assert_eq!(health(&worker), "not checked yet");
        worker.note_refused();
        assert_eq!(health(&worker), "no process has listened there");
        worker.connected();
        checked(&worker, Checks::Passing, "passed", None, Rows { passed: 5, ..Rows::default() });
        assert_eq!(health(&worker), "its checks pass");
        let row = Rows { failed: 1, ..Rows::default() };
        checked(&worker, Checks::Passing, "failed", Some("status 503"), row);
        assert_eq!(health(&worker), "still counted as up, but 1 check in a row did not pass; the last one: status 503");
        checked(&worker, Checks::Failing, "timed out", None, Rows { failed: 3, ..Rows::default() });
        assert_eq!(health(&worker), "3 checks in a row did not pass; the last one: timed out");
        checked(&worker, Checks::Failing, "passed", None, Rows { passed: 1, ..Rows::default() });
        assert_eq!(health(&worker), "it is recovering: 1 of 2 checks in a row have passed");
        checked(&worker, Checks::TimingOut, "timed out", None, Rows { failed: 3, timed_out: 3, passed: 0 });
        assert_eq!(health(&worker), "it accepts connections but does not answer: 3 checks in a row timed out");
        let established = worker.connection();
        worker.note_refused();
        assert_eq!(health(&worker), "connects are refused; 1 connection to it still open");
        drop(established);
        assert_eq!(health(&worker), "connects are refused, and no connection to it is open");
    }

    #[test]
    fn ejections_are_explained_in_words() {
        let worker = worker();
        assert_eq!(ejection(&worker, Millis::new(1)), "never");
        worker.notes.ejected("connect", Millis::new(5_000), 10_000);
        assert!(
            ejection(&worker, Millis::new(20_000)).starts_with("not now; last 15 s ago, for 10 s: too many requests")
        );
        assert_eq!(admin(&worker), "no other state is set");
    }
}
