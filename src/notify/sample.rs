//! A problem as tests need one: a worker that is down.

use super::incidents::{Problem, ProblemKey};
use crate::config::notify::Topic;

/// The problem that a worker of `app` is down.
pub(super) fn down(worker: &str, why: &str) -> Problem {
    Problem {
        key: ProblemKey {
            topic: Topic::Worker,
            event: "worker_down",
            upstream: "app".to_owned(),
            subject: worker.to_owned(),
        },
        hold: None,
        what: format!("app/{worker} is down"),
        many: "workers of app are down".to_owned(),
        why: why.to_owned(),
        sessions: 212,
        meaning: "3 of 4 workers of app take new sessions".to_owned(),
        todo: "stickyd workers app".to_owned(),
        mark: 1,
    }
}
