//! Answers about one session: its pin, and where a request would go.

use serde::{Deserialize, Serialize};

/// Answer to `GET /api/v1/pins`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinAnswer {
    pub age_s: Option<u32>,
    pub drain_ends_in_s: Option<u64>,
    pub ended: bool,
    pub expires_in_s: Option<u64>,
    pub holds: u16,
    pub idle_s: Option<u64>,
    pub rule: Option<String>,
    /// Where it was found: `here`, or `redis` if another stickyd of the fleet has pinned it.
    pub source: String,
    pub ttl_s: u64,
    pub tunnel: bool,
    pub upstream: String,
    pub worker: Option<String>,
}

/// Answer to `GET /api/v1/explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainAnswer {
    pub cookie: String,
    pub if_it_died: Option<DecisionView>,
    pub now: DecisionView,
    pub rule: Option<String>,
    pub upstream: String,
}

/// The worker that a request would go to, and the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionView {
    pub state: Option<WorkerStateView>,
    pub why: String,
    pub words: String,
    pub worker: Option<String>,
}

/// State of a worker on each of its three axes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStateView {
    pub admin: String,
    pub ejected: bool,
    pub health: String,
    pub serves: bool,
    pub takes_new: bool,
}
