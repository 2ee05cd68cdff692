//! Answers of `/api/v1/events` and `/api/v1/history`.

use serde::{Deserialize, Serialize};
#[cfg(any(test, feature = "testing"))]
use serde_json::Number;

/// One event of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    pub at: String,
    pub id: u64,
    pub kind: String,
    pub listener: Option<String>,
    pub severity: String,
    pub text: String,
    pub upstream: Option<String>,
    pub worker: Option<String>,
}

/// Answer of `GET /api/v1/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsAnswer {
    pub events: Vec<EventView>,
    pub lost: u64,
    pub next: u64,
}

/// Answer of `GET /api/v1/history`. Numbers are as they were written, whole or not.
#[cfg(any(test, feature = "testing"))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryAnswer {
    pub count: usize,
    pub from: u64,
    pub gauges: Vec<String>,
    pub numbers: Vec<String>,
    pub range: String,
    pub step_s: u64,
    pub upstream_numbers: Vec<String>,
    pub upstreams: Vec<UpstreamHistory>,
    pub workers: Vec<WorkerHistory>,
}

/// The numbers of one upstream.
#[cfg(any(test, feature = "testing"))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpstreamHistory {
    pub columns: Vec<Vec<Option<Number>>>,
    pub serial: u32,
    pub upstream: String,
}

/// The numbers of one worker, or of all for which there is no memory.
#[cfg(any(test, feature = "testing"))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerHistory {
    pub columns: Vec<Vec<Option<Number>>>,
    pub maxima: Vec<Vec<Option<Number>>>,
    pub serial: u32,
    pub upstream: Option<String>,
    pub worker: Option<String>,
}
