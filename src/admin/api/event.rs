//! Answers of `/api/v1/events`.

use serde::{Deserialize, Serialize};

/// One event.
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
