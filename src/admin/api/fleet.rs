//! Answers about the fleet: its stickyds, what differs among them, and the Redis between them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fleet::members::Summary;

/// Answer to `GET /api/v1/fleet`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FleetAnswer {
    pub differences: Vec<String>,
    pub members: Vec<FleetMemberView>,
    pub name: String,
    pub redis: Vec<RedisView>,
}

/// One stickyd of the fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FleetMemberView {
    pub name: String,
    pub node: String,
    pub own: bool,
    /// What it shows of itself; absent if it has another secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
}

/// State of one Redis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RedisView {
    pub address: String,
    pub error: Option<String>,
    pub evicted: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub queue: usize,
    pub state: String,
}

/// Body of `POST /api/v1/fleet/orders`: a request that every stickyd executes, or one of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetOrderBody {
    /// Name of the only stickyd that is to execute it; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Body of the request; absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    pub path: String,
}

/// Answer to a request that was passed on to every stickyd of the fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FleetOrdersAnswer {
    pub answers: Vec<FleetReplyView>,
    pub asked: usize,
    pub silent: Vec<FleetSilentView>,
}

/// What one stickyd answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FleetReplyView {
    pub answer: Value,
    pub name: String,
    pub node: String,
    pub own: bool,
    pub status: u16,
}

/// A stickyd that did not answer, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetSilentView {
    pub name: String,
    pub node: String,
    /// Words that follow its name.
    pub why: String,
}
